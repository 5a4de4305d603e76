package erofs

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/layerfs/layerfs/tree"
)

// Options say how a tree is written.
type Options struct {
	// Namespace is where attributes for overlayfs go.
	Namespace Namespace

	// Layer writes the tree of one layer, to be stacked by overlayfs above others: its
	// nodes may be whiteouts (stored as character devices 0:0) and its directories
	// opaque (overlay.opaque=y) or implicit. EROFS knows no directory without
	// metadata, so the Inode of an implicit one must have been resolved from the
	// layers below, or be tree.Implied, before the tree is written.
	Layer bool

	// UUID identifies the file system. Overlayfs tells lowers apart by it when it
	// records where an upper file came from, so trees that may be stacked together
	// should have different ones, and one that stands for other content must not
	// have the same. Zero is allowed.
	UUID [16]byte
}

// Stats say what an image holds.
type Stats struct {
	Inodes       int   // in the image, one for each set of hard links
	Entries      int   // names in directories
	Directories  int   // inodes
	Files        int   // regular files, inodes
	Objects      int   // regular files whose content is an object
	InlineBytes  int64 // content of regular files in the image
	SharedXattrs int   // attributes kept once for several inodes
	Gaps         int64 // bytes lost so that no tail crosses a block
	Size         int64 // of the image in bytes, a multiple of BlockSize
}

// Write writes root as an EROFS image of Stats.Size bytes to w, in order and through
// one buffer. The same tree and options give the same bytes. A tree that breaks the
// contract of package tree or a limit of the format is refused with an error that
// names the path and wraps fs.ErrInvalid or [ErrNeedsMerge], before anything is
// written. Memory grows with the number of inodes, not with contents.
func Write(w io.Writer, root *tree.Node, opts Options) (Stats, error) {
	if opts.Namespace != Trusted && opts.Namespace != User {
		return Stats{}, fmt.Errorf("write tree: namespace %v: %w", opts.Namespace, fs.ErrInvalid)
	}
	l := newLayouter(opts)
	if err := l.plan(root); err != nil {
		return Stats{}, err
	}
	e := encoder{layouter: l, w: w, buf: make([]byte, 0, bufferSize)}
	e.super()
	e.inodes()
	e.sharedXattrs()
	e.blockData()
	e.flush()
	if e.err != nil {
		return Stats{}, fmt.Errorf("write tree: %w", e.err)
	}
	return l.stats, nil
}

// bufferSize is how much is written at once.
const bufferSize = 1 << 20

// encoder writes out what was planned. The first error sticks.
type encoder struct {
	*layouter
	w       io.Writer
	buf     []byte
	flushed int64 // bytes written before buf
	block   []dirent
	err     error
}

func (e *encoder) flush() {
	if e.flushed == 0 && len(e.buf) >= BlockSize {
		// All of the first block is known now, and the checksum is over it.
		sum := superChecksum(e.buf[superOffset:BlockSize])
		binary.LittleEndian.PutUint32(e.buf[superOffset+4:], sum)
	}
	if e.err == nil && len(e.buf) > 0 {
		_, e.err = e.w.Write(e.buf)
	}
	e.flushed += int64(len(e.buf))
	e.buf = e.buf[:0]
}

// superChecksum is the CRC-32C of the first block from the superblock on, whose
// checksum field is zero, without the final inversion.
func superChecksum(b []byte) uint32 {
	return ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
}

// room makes sure that n more bytes fit, n being at most bufferSize.
func (e *encoder) room(n int) {
	if len(e.buf)+n > cap(e.buf) {
		e.flush()
	}
}

func (e *encoder) str(s string) {
	for len(s) > 0 {
		e.room(1)
		n := min(len(s), cap(e.buf)-len(e.buf))
		e.buf = append(e.buf, s[:n]...)
		s = s[n:]
	}
}

// fill writes n times the byte c.
func (e *encoder) fill(c byte, n int64) {
	for n > 0 {
		e.room(1)
		k := int(min(n, int64(cap(e.buf)-len(e.buf))))
		at := len(e.buf)
		e.buf = e.buf[:at+k]
		part := e.buf[at:]
		if c == 0 {
			clear(part)
		} else {
			for i := range part {
				part[i] = c
			}
		}
		n -= int64(k)
	}
}

// seek pads with zeros up to an offset in the image.
func (e *encoder) seek(off int64) {
	if n := off - e.flushed - int64(len(e.buf)); n > 0 {
		e.fill(0, n)
	}
}

// align pads to the next multiple of n, which divides BlockSize.
func (e *encoder) align(n int64) {
	e.seek(alignUp(e.flushed+int64(len(e.buf)), n))
}

func (e *encoder) super() {
	e.seek(superOffset)
	e.fill(0, superSize)
	b := e.buf[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[8:], compatChecksum|compatMTime|compatXattrFilter)
	b[12] = blockBits
	le.PutUint16(b[14:], uint16(e.records[0].off/inodeUnit))
	le.PutUint64(b[16:], uint64(len(e.records)))
	// The build time at 24 is that of compact inodes, of which there are none.
	le.PutUint32(b[36:], uint32(e.blocks))
	le.PutUint32(b[40:], 0) // inodes are counted from the start of the image
	le.PutUint32(b[44:], uint32(e.sharedAt>>blockBits))
	copy(b[48:64], e.opts.UUID[:])
	copy(b[64:80], e.volume())
	if e.chunked {
		le.PutUint32(b[80:], incompatChunked)
	}
}

func (e *encoder) volume() string {
	switch {
	case e.opts.Layer && e.opts.Namespace == User:
		return volumeLayerUser
	case e.opts.Layer:
		return volumeLayer
	case e.opts.Namespace == User:
		return volumeStackUser
	default:
		return volumeStack
	}
}

// storedType is the type an inode has on disk.
func (r *record) storedType() tree.Type {
	if r.flags&wasChar != 0 {
		return tree.Regular
	}
	return r.ino.Type
}

func (e *encoder) inodes() {
	for _, i := range e.order() {
		r := &e.records[i]
		e.seek(r.off)
		e.room(extendedSize)
		e.buf = e.putInode(e.buf, r, i)
		if r.body > 0 {
			e.xattrs(r)
		}
		switch {
		case r.layout == chunkBased:
			e.fill(0xff, chunkEntry*chunks(r.size)) // null addresses: holes
		case r.tail == 0:
		case r.node != nil:
			e.dirData(i, r.size>>blockBits, true)
		default:
			data := r.content()
			e.str(data[len(data)-int(r.tail):])
		}
	}
}

// content is the data of a file or link.
func (r *record) content() string {
	if r.ino.Type == tree.Symlink {
		return r.ino.Link
	}
	return r.ino.Inline
}

// putInode appends the extended form of an inode.
func (e *encoder) putInode(b []byte, r *record, number uint32) []byte {
	ino := r.ino
	var raw [extendedSize]byte
	le := binary.LittleEndian
	le.PutUint16(raw[0:], 1|uint16(r.layout)<<1)
	if r.body > 0 {
		le.PutUint16(raw[2:], uint16((r.body-xattrHeader)/4+1))
	}
	le.PutUint16(raw[4:], modeOf(r.storedType())|ino.Mode)
	le.PutUint64(raw[8:], uint64(r.size))
	switch {
	case r.layout == chunkBased:
		le.PutUint16(raw[16:], uint16(chunkBits(r.size)))
	case ino.Type == tree.CharDevice || ino.Type == tree.BlockDevice:
		le.PutUint32(raw[16:], encodeDevice(ino.Rdev))
	default:
		le.PutUint32(raw[16:], r.block)
	}
	le.PutUint32(raw[20:], number+1)
	le.PutUint32(raw[24:], ino.UID)
	le.PutUint32(raw[28:], ino.GID)
	le.PutUint64(raw[32:], uint64(ino.MTime.Sec))
	le.PutUint32(raw[40:], ino.MTime.Nsec)
	le.PutUint32(raw[44:], r.nlink)
	return append(b, raw[:]...)
}

// xattrs writes what lies behind an inode with attributes: header, numbers of the
// shared ones, the others.
func (e *encoder) xattrs(r *record) {
	t := &e.attrs
	filter := ^uint32(0)
	shared := 0
	var set []attr
	if r.attrs >= 0 {
		s := &t.sets[r.attrs]
		filter = s.filter
		shared = int(s.shared)
		set = t.all[s.from:s.to]
	}
	object := r.flags&hasObject != 0
	if object {
		filter &^= t.metacopyFilter | t.redirectFilter
		shared++
	}
	e.room(xattrHeader + 4*MaxShared)
	le := binary.LittleEndian
	e.buf = le.AppendUint32(e.buf, filter)
	e.buf = append(e.buf, byte(shared), 0, 0, 0, 0, 0, 0, 0)
	if object {
		e.buf = le.AppendUint32(e.buf, uint32(t.metacopyAt))
	}
	for i := range set {
		if set[i].shared {
			e.buf = le.AppendUint32(e.buf, uint32(t.uniques[set[i].unique].at))
		}
	}
	if object {
		e.redirect(r.ino.Object)
	}
	for i := range set {
		if !set[i].shared {
			e.attr(&t.uniques[set[i].unique])
		}
	}
}

// redirect writes the attribute that names an object, as attr would.
func (e *encoder) redirect(id tree.ObjectID) {
	e.room(int(e.objectXLn))
	e.buf = append(e.buf, byte(len(overlayRedirect)), e.opts.Namespace.index(), redirectLen, 0)
	e.buf = append(e.buf, overlayRedirect...)
	e.buf = append(e.buf, '/')
	e.buf = hex.AppendEncode(e.buf, id[:1])
	e.buf = append(e.buf, '/')
	e.buf = hex.AppendEncode(e.buf, id[1:])
	e.align(4)
}

func (e *encoder) attr(u *unique) {
	e.room(xattrEntry)
	e.buf = append(e.buf, byte(len(u.name)), u.index, byte(len(u.value)), byte(len(u.value)>>8))
	e.str(u.name)
	e.str(u.value)
	e.align(4)
}

func (e *encoder) sharedXattrs() {
	e.seek(e.sharedAt)
	if e.stats.Objects > 0 {
		e.attr(&unique{index: e.opts.Namespace.index(), name: overlayMetacopy})
	}
	for _, at := range e.attrs.area {
		e.attr(&e.attrs.uniques[at])
	}
}

// blockData writes the whole blocks of all inodes.
func (e *encoder) blockData() {
	for i := range e.records {
		r := &e.records[i]
		n := ownBlocks(r)
		if n == 0 {
			continue
		}
		e.seek(int64(r.block) << blockBits)
		if r.node != nil {
			e.dirData(uint32(i), n, false)
			continue
		}
		data := r.content()
		e.str(data[:min(int64(len(data)), n<<blockBits)])
	}
	e.seek(e.blocks << blockBits)
}

// dirData writes the first n blocks of a directory, or what follows them.
func (e *encoder) dirData(dir uint32, n int64, tail bool) {
	it := names{children: e.records[dir].node.Children}
	for k := int64(0); ; k++ {
		if !tail && k == n {
			return
		}
		e.block = it.dirBlock(e.block)
		if len(e.block) == 0 {
			return
		}
		if tail && k < n {
			continue
		}
		e.room(BlockSize)
		e.buf = e.putDirBlock(e.buf, dir, e.block)
		if !tail {
			e.align(BlockSize)
		}
	}
}
