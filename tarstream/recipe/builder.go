package recipe

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"

	"github.com/klauspost/compress/zstd"
	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
)

// Extent is a part of a file's contents, in bytes.
type Extent struct{ Offset, Length int64 }

// ObjectRef names an object and its size in bytes.
type ObjectRef struct {
	ID   tree.ObjectID
	Size int64
}

// Note says of a path why it is not in a layer as it was.
type Note struct {
	Path tree.Path
	Text string
}

// Built is a finished recipe in memory, not yet written.
type Built struct {
	DiffID  digest.Digest
	TarSize int64       // bytes
	Entries int         // members of the tar
	Layer   *tree.Node  // what the layer says, every file with its object or inline contents
	Objects []ObjectRef // distinct, in the order of the tar
	Notes   []Note      // what could not be taken into the layer as it is

	diffID   [32]byte
	sections [][]frame
}

// Builder puts a recipe together from the parts of a tar, given in order. It is not
// safe for concurrent use. An error is remembered and returned by [Builder.Finish].
type Builder struct {
	enc      *zstd.Encoder
	sections [knownSections + 1]section
	objects  []*tree.Inode // of each object in the stream, in order
	contents []contentsRef
	inline   map[*tree.Inode]int
	inlines  int
	pending  []pendingInline // in the frame being filled
	zeros    uint64          // not yet written as an operation
	size     int64
	extents  int
	err      error
}

type contentsRef struct {
	inline  bool
	extents []Extent
}

type pendingInline struct {
	ino        *tree.Inode
	start, end int
}

// NewBuilder returns an empty Builder. It fails only when the compressor cannot be
// set up.
func NewBuilder() (*Builder, error) {
	enc, err := newEncoder()
	if err != nil {
		return nil, fmt.Errorf("set up recipe compression: %w", err)
	}
	b := &Builder{enc: enc, inline: make(map[*tree.Inode]int)}
	for i := sectionStream; i <= sectionIndex; i++ {
		b.sections[i].enc = enc
	}
	return b, nil
}

// Size returns the bytes of the tar so far.
func (b *Builder) Size() int64 { return b.size }

// Err returns the first error, such as a limit that was exceeded.
func (b *Builder) Err() error { return b.err }

func (b *Builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// Literal appends bytes of the tar that are kept in the recipe.
func (b *Builder) Literal(p []byte) {
	b.size += int64(len(p))
	// Headers end in zeros, which are cheaper said than compressed.
	n := len(p)
	for n > 0 && p[n-1] == 0 {
		n--
	}
	if len(p)-n < 16 {
		n = len(p)
	}
	tail := len(p) - n
	p = p[:n]
	if n > 0 {
		b.flushZeros()
	}
	s := &b.sections[sectionStream]
	for len(p) > 0 {
		s.room(min(len(p)+binary.MaxVarintLen64, 1<<16))
		n := min(len(p), frameFill-binary.MaxVarintLen64-len(s.buf))
		s.buf = binary.AppendUvarint(s.buf, uint64(n)<<2|opLiteral)
		s.buf = append(s.buf, p[:n]...)
		p = p[n:]
	}
	b.zeros += uint64(tail)
	b.checkStored()
}

// Zeros appends n zero bytes.
func (b *Builder) Zeros(n int64) {
	b.size += n
	b.zeros += uint64(n)
}

func (b *Builder) flushZeros() {
	if b.zeros > 0 {
		b.op(b.zeros, opZeros)
		b.zeros = 0
	}
}

func (b *Builder) op(n uint64, kind uint64) {
	s := &b.sections[sectionStream]
	s.room(binary.MaxVarintLen64)
	s.buf = binary.AppendUvarint(s.buf, n<<2|kind)
}

func (b *Builder) content(size int64, inline bool, extents []Extent) {
	b.flushZeros()
	b.op(1, opContents)
	b.contents = append(b.contents, contentsRef{inline, extents})
	if extents == nil {
		b.size += size
		return
	}
	for _, e := range extents {
		b.size += e.Length
	}
	if b.extents += len(extents); b.extents > MaxExtents {
		b.fail(fmt.Errorf("more than %d extents of sparse files in a layer: %w", MaxExtents, fs.ErrInvalid))
	}
}

// Object appends contents that are an object of ino.Size bytes: all of them, or when
// extents is not nil only those parts, which are in order, not empty, and within the
// contents. The caller sets ino.Object before Finish.
func (b *Builder) Object(ino *tree.Inode, extents []Extent) {
	b.content(ino.Size, false, extents)
	b.objects = append(b.objects, ino)
}

// Inline appends contents that the recipe itself holds: data, 1 to MaxInline bytes,
// of which the tar has all, or when extents is not nil only those parts. Ino.Inline,
// unless set already, is set to a copy of data at the latest by Finish. It reports false, having done
// nothing, when the recipe holds too much already; the contents then must be an
// object.
func (b *Builder) Inline(ino *tree.Inode, data []byte, extents []Extent) bool {
	if !b.HasRoom(len(data)) {
		return false
	}
	s := &b.sections[sectionInline]
	if len(s.buf)+len(data)+binary.MaxVarintLen32 > frameFill {
		b.flushInline()
	}
	s.buf = binary.AppendUvarint(s.buf, uint64(len(data)))
	if ino.Inline == "" {
		b.pending = append(b.pending, pendingInline{ino, len(s.buf), len(s.buf) + len(data)})
	}
	s.buf = append(s.buf, data...)
	b.inline[ino] = b.inlines
	b.inlines++
	b.content(int64(len(data)), true, extents)
	return true
}

// HasRoom reports whether n bytes may be given to Inline.
func (b *Builder) HasRoom(n int) bool {
	s := &b.sections[sectionInline]
	return n > 0 && n <= MaxInline && s.rawSum+int64(len(s.buf)+n+binary.MaxVarintLen32) <= MaxInlineSum
}

// flushInline ends a frame of inline contents and gives the inodes their strings, all
// of them parts of one.
func (b *Builder) flushInline() {
	s := &b.sections[sectionInline]
	all := string(s.buf)
	for _, p := range b.pending {
		p.ino.Inline = all[p.start:p.end]
	}
	b.pending = b.pending[:0]
	s.flush()
	b.checkStored()
}

func (b *Builder) checkStored() {
	var sum int64
	for i := range b.sections {
		sum += b.sections[i].stored
	}
	if sum > MaxStored {
		b.fail(fmt.Errorf("the recipe of the layer is larger than %d bytes: %w", MaxStored, fs.ErrInvalid))
	}
}

// Close releases the compressor of a Builder that is not going to be finished.
func (b *Builder) Close() error { return b.enc.Close() }

// Finish ends the recipe. Layer is what the tar amounts to; its files are those that
// were given to Object and Inline, or empty.
func (b *Builder) Finish(diffID [32]byte, entries int, layer func() (*tree.Node, error)) (_ *Built, err error) {
	defer func() {
		if cerr := b.enc.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("end recipe compression: %w", cerr)
		}
	}()
	b.flushZeros()
	b.sections[sectionStream].flush()
	b.flushInline()
	if b.size > MaxTar {
		b.fail(fmt.Errorf("tar of %d bytes, limit %d: %w", b.size, int64(MaxTar), fs.ErrInvalid))
	}
	if entries > MaxEntries {
		b.fail(fmt.Errorf("tar of %d entries, limit %d: %w", entries, MaxEntries, fs.ErrInvalid))
	}
	if b.err != nil {
		return nil, b.err
	}
	objects, number := b.writeContents()
	built := &Built{
		DiffID:  tree.ObjectID(diffID).Digest(),
		TarSize: b.size,
		Entries: entries,
		Objects: objects,
		diffID:  diffID,
	}
	if built.Layer, err = layer(); err != nil {
		return nil, err
	}
	index, err := encodeIndex(built.Layer, number, b.inline)
	if err != nil {
		return nil, err
	}
	b.sections[sectionIndex].write(index)
	b.sections[sectionIndex].flush()
	if b.sections[sectionContents].rawSum > MaxContents {
		return nil, fmt.Errorf("the list of the layer's contents exceeds %d bytes: %w", MaxContents, fs.ErrInvalid)
	}
	if b.checkStored(); b.err != nil {
		return nil, b.err
	}
	for i := sectionObjects; i <= sectionIndex; i++ {
		built.sections = append(built.sections, b.sections[i].frames)
	}
	if n := len(appendDirectory(nil, built.sections)); n > MaxDirectory {
		return nil, fmt.Errorf("the recipe of the layer has a directory of %d bytes, limit %d: %w", n, MaxDirectory, fs.ErrInvalid)
	}
	return built, nil
}

// writeContents fills the objects and contents sections and returns the distinct
// objects with their numbers.
func (b *Builder) writeContents() ([]ObjectRef, map[tree.ObjectID]int) {
	number := make(map[tree.ObjectID]int, len(b.objects))
	objects := make([]ObjectRef, 0, len(b.objects))
	table, list := &b.sections[sectionObjects], &b.sections[sectionContents]
	var scratch []byte
	next := 0
	for _, c := range b.contents {
		var v uint64
		if !c.inline {
			ino := b.objects[next]
			next++
			if k, ok := number[ino.Object]; ok {
				v = uint64(k) + 2
			} else {
				v = 1
				number[ino.Object] = len(objects)
				objects = append(objects, ObjectRef{ino.Object, ino.Size})
				table.room(objectEntry)
				table.buf = append(table.buf, ino.Object[:]...)
				table.buf = binary.LittleEndian.AppendUint64(table.buf, uint64(ino.Size))
			}
		}
		v <<= 1
		if c.extents != nil {
			v |= 1
		}
		scratch = binary.AppendUvarint(scratch[:0], v)
		if c.extents != nil {
			scratch = binary.AppendUvarint(scratch, uint64(len(c.extents)))
			end := int64(0)
			for _, e := range c.extents {
				scratch = binary.AppendUvarint(scratch, uint64(e.Offset-end))
				scratch = binary.AppendUvarint(scratch, uint64(e.Length))
				end = e.Offset + e.Length
			}
		}
		list.write(scratch)
	}
	table.flush()
	list.flush()
	return objects, number
}

// WriteTo writes the recipe. It may be called more than once and always writes the
// same bytes.
func (b *Built) WriteTo(w io.Writer) (int64, error) {
	head := make([]byte, 0, headerSize)
	head = append(head, magic...)
	head = binary.LittleEndian.AppendUint32(head, version)
	head = append(head, 0, 0, 0, 0, 0, 0, 0, 0)
	head = append(head, b.diffID[:]...)
	head = binary.LittleEndian.AppendUint64(head, uint64(b.TarSize))
	head = binary.LittleEndian.AppendUint64(head, uint64(b.Entries))
	head = append(head, 0, 0, 0, 0, 0, 0, 0, 0)
	head = binary.LittleEndian.AppendUint32(head, checksum(head))

	var sum int64
	put := func(p []byte) error {
		n, err := w.Write(p)
		sum += int64(n)
		if err != nil {
			return fmt.Errorf("write recipe: %w", err)
		}
		return nil
	}
	if err := put(head); err != nil {
		return sum, err
	}
	for _, frames := range b.sections {
		for _, f := range frames {
			if err := put(f.stored); err != nil {
				return sum, err
			}
		}
	}
	dir := appendDirectory(nil, b.sections)
	foot := make([]byte, 0, footerSize)
	foot = binary.LittleEndian.AppendUint64(foot, uint64(sum))
	foot = binary.LittleEndian.AppendUint32(foot, uint32(len(dir)))
	foot = binary.LittleEndian.AppendUint32(foot, checksum(dir))
	foot = binary.LittleEndian.AppendUint64(foot, uint64(sum+int64(len(dir))+footerSize))
	foot = binary.LittleEndian.AppendUint32(foot, checksum(foot))
	foot = append(foot, endMagic...)
	if err := put(dir); err != nil {
		return sum, err
	}
	err := put(foot)
	return sum, err
}

// Size returns the bytes that WriteTo writes.
func (b *Built) Size() int64 {
	n, err := b.WriteTo(io.Discard)
	if err != nil {
		return 0
	}
	return n
}
