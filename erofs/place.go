package erofs

import (
	"fmt"
	"io/fs"
	"math/bits"
)

// place gives every inode its place, then every block.
func (l *layouter) place() error {
	off := int64(superOffset + superSize)
	var gaps []gap
	for i := range l.records {
		r := &l.records[i]
		l.shape(r)
		length := extendedSize + int64(r.body) + int64(r.tail)
		if r.flags&hasObject != 0 {
			length += chunkEntry * chunks(r.size)
		}
		var filled bool
		if r.off, gaps, filled = l.fillGap(gaps, length); filled {
			continue
		}
		if r.tail > 0 && (off+extendedSize-1)>>blockBits != (off+length-1)>>blockBits {
			// The tail has to lie in the block in which the inode ends, or kernels
			// before 5.19 refuse the inode.
			next := alignUp(off, BlockSize)
			if len(gaps) == maxGaps {
				gaps = l.closeGap(gaps, 0)
			}
			gaps = append(gaps, gap{off, next})
			if next-off < extendedSize {
				gaps = l.closeGap(gaps, len(gaps)-1)
			}
			off = next
		}
		r.off = off
		off = alignUp(off+length, inodeUnit)
	}
	for len(gaps) > 0 {
		gaps = l.closeGap(gaps, 0)
	}
	l.metaEnd = off
	l.sharedAt = alignUp(off, BlockSize)
	next := alignUp(l.sharedAt+l.attrs.sharedLen, BlockSize) >> blockBits
	for i := range l.records {
		r := &l.records[i]
		if n := ownBlocks(r); n > 0 {
			if next+n > MaxBlocks {
				break
			}
			r.block = uint32(next)
			next += n
		}
	}
	if next > MaxBlocks || l.metaEnd > MaxImage {
		return fmt.Errorf("write tree: image of more than %d blocks: %w", int64(MaxBlocks), fs.ErrInvalid)
	}
	l.blocks = next
	l.stats.SharedXattrs = l.attrs.shared
	l.stats.Size = next << blockBits
	return nil
}

// maxGaps is how many gaps are kept for inodes to come: with so few, an inode still
// lies near its siblings, and most gaps are filled.
const maxGaps = 16

// gap is a free place at the end of a block.
type gap struct{ off, end int64 }

// fillGap finds a place for an inode in the first gap that is large enough.
func (l *layouter) fillGap(gaps []gap, length int64) (int64, []gap, bool) {
	for i := range gaps {
		g := &gaps[i]
		if g.end-g.off < length {
			continue
		}
		at := g.off
		g.off = min(alignUp(at+length, inodeUnit), g.end)
		if g.end-g.off < extendedSize {
			gaps = l.closeGap(gaps, i)
		}
		return at, gaps, true
	}
	return 0, gaps, false
}

// closeGap gives up a gap.
func (l *layouter) closeGap(gaps []gap, i int) []gap {
	l.stats.Gaps += gaps[i].end - gaps[i].off
	return append(gaps[:i], gaps[i+1:]...)
}

// order lists the records by their place. Within a block they were placed in order.
func (l *layouter) order() []uint32 {
	starts := make([]uint32, l.metaEnd>>blockBits+2)
	for i := range l.records {
		starts[l.records[i].off>>blockBits+1]++
	}
	for i := 1; i < len(starts); i++ {
		starts[i] += starts[i-1]
	}
	order := make([]uint32, len(l.records))
	for i := range l.records {
		at := &starts[l.records[i].off>>blockBits]
		order[*at] = uint32(i)
		*at++
	}
	return order
}

// shape decides the layout of an inode's data.
func (l *layouter) shape(r *record) {
	if r.flags&hasObject != 0 {
		r.layout = chunkBased
		l.chunked = true
		return
	}
	if r.node != nil {
		r.size = dirSize(r.node)
	}
	tail := r.size & (BlockSize - 1)
	if tail > 0 && extendedSize+int64(r.body)+tail <= BlockSize {
		r.layout = flatInline
		r.tail = uint16(tail)
	}
}

// ownBlocks is how many whole blocks an inode has for itself.
func ownBlocks(r *record) int64 {
	switch {
	case r.layout == chunkBased:
		return 0
	case r.layout == flatInline:
		return r.size >> blockBits
	default:
		return (r.size + BlockSize - 1) >> blockBits
	}
}

// chunkBits is the log2 of the blocks in a chunk, chosen so that a file is one chunk
// where that is possible.
func chunkBits(size int64) int {
	return min(max(bits.Len64(uint64(size-1))-blockBits, 0), maxChunkBits)
}

// chunks is how many chunks a file has.
func chunks(size int64) int64 {
	shift := chunkBits(size) + blockBits
	return int64((uint64(size) + 1<<shift - 1) >> shift)
}
