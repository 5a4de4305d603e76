package tarstream

import (
	"bytes"

	"github.com/layerfs/layerfs/tarstream/recipe"
)

// Old GNU sparse files: four extents in the header, and 21 in each block that follows
// as long as a flag says so (GNU tar manual, "Storing Sparse Files").
const (
	oldSparseAt       = 386
	oldSparseCount    = 4
	oldSparseMore     = 482
	oldRealSizeAt     = 483
	oldExtensionCount = 21
	oldExtensionMore  = 504
	oldExtentSize     = 24
)

func oldExtents(dst []recipe.Extent, p []byte, count int) ([]recipe.Extent, error) {
	for i := range count {
		e := p[i*oldExtentSize : (i+1)*oldExtentSize]
		if e[0] == 0 {
			break
		}
		offset, err1 := number(e[:12])
		length, err2 := number(e[12:])
		if err1 != nil || err2 != nil {
			return nil, invalid("sparse map holds % x", e)
		}
		dst = append(dst, recipe.Extent{Offset: offset, Length: length})
	}
	return dst, nil
}

// oldSparse reads the map of an old GNU sparse member, whose header block is h.
func (p *parser) oldSparse(h block) ([]recipe.Extent, int64, error) {
	real, err := number(h[oldRealSizeAt : oldRealSizeAt+12])
	if err != nil {
		return nil, 0, err
	}
	extents, err := oldExtents(nil, h[oldSparseAt:], oldSparseCount)
	for more := h[oldSparseMore] != 0; more && err == nil; {
		var ext []byte
		if ext, err = p.in.exactly(blockSize); err != nil {
			break
		}
		p.raw(ext)
		if extents, err = oldExtents(extents, ext, oldExtensionCount); err == nil && len(extents) > MaxExtents {
			err = invalid("more than %d extents", MaxExtents)
		}
		more = ext[oldExtensionMore] != 0
	}
	return extents, real, err
}

// newSparse reads the map that stands before the data of a PAX sparse 1.0 member:
// decimal numbers on lines of their own, the count of extents first, padded to a
// block. It returns how many bytes of the data it took.
func (p *parser) newSparse(stored int64) ([]recipe.Extent, int64, error) {
	var extents []recipe.Extent
	var taken int64
	var line []byte
	count, offset := int64(-1), int64(-1)
	for {
		if taken+blockSize > stored {
			return nil, 0, invalid("sparse map exceeds the data of %d bytes", stored)
		}
		b, err := p.in.exactly(blockSize)
		if err != nil {
			return nil, 0, err
		}
		p.raw(b)
		taken += blockSize
		for {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				line = append(line, b...)
				break
			}
			v, err := decimal(string(append(line, b[:i]...)))
			line, b = line[:0], b[i+1:]
			if err != nil || v < 0 {
				return nil, 0, invalid("sparse map holds something that is not a number")
			}
			switch {
			case count < 0:
				if count = v; count > MaxExtents {
					return nil, 0, invalid("%d extents, limit %d", count, MaxExtents)
				}
			case offset < 0:
				offset = v
			default:
				extents = append(extents, recipe.Extent{Offset: offset, Length: v})
				offset = -1
			}
			if int64(len(extents)) == count {
				return extents, taken, nil
			}
		}
		if len(line) > 20 {
			return nil, 0, invalid("sparse map holds something that is not a number")
		}
	}
}

// checkExtents verifies a sparse map against the size of the file and the bytes of
// data that are stored. It returns the extents that have data, adjacent ones joined.
func checkExtents(extents []recipe.Extent, real, stored int64) ([]recipe.Extent, error) {
	out := make([]recipe.Extent, 0, len(extents))
	var end, sum int64
	for _, e := range extents {
		if e.Offset < end || e.Length < 0 || e.Offset > real || e.Length > real-e.Offset {
			return nil, invalid("sparse map: extent of %d bytes at %d after byte %d in a file of %d bytes", e.Length, e.Offset, end, real)
		}
		end = e.Offset + e.Length
		sum += e.Length
		if e.Length == 0 {
			continue
		}
		if n := len(out); n > 0 && out[n-1].Offset+out[n-1].Length == e.Offset {
			out[n-1].Length += e.Length
			continue
		}
		out = append(out, e)
	}
	if sum != stored {
		return nil, invalid("sparse map has %d bytes of data, the archive %d", sum, stored)
	}
	return out, nil
}
