package tarstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// PackOptions are the options of [Pack].
type PackOptions struct {
	Source    cas.ObjectSource // opens the objects that the layer names already; nil when it names none
	InlineMax int              // as for Import
	Workers   int              // as for Import
	Clamp     time.Time        // later modification times become this; zero: none
}

// smallContent is the size below which contents are put together with headers in one
// slab. Above, a file may be sparse.
const smallContent = sparseMin

// Pack makes a layer of a layer tree: the tar that it computes the DiffID of is
// canonical, that is, it depends on the tree and the contents alone, and is nowhere
// written. Contents with an object are read through opts.Source only for that digest;
// contents that contents opens are read, hashed and put into sink. The layer tree is
// not changed: the result has its own, with all contents known. What a tar cannot hold
// is left out and listed in the result's Notes.
//
// A canonical tar has its members in the order of a walk, whiteouts first in each
// directory, hard links after the file's first name, those to files of other layers
// before everything else. It is USTAR with PAX headers where they are needed; two
// blocks of zeros end it.
func Pack(ctx context.Context, layer *tree.Node, contents Contents, sink cas.ObjectSink, opts PackOptions) (*recipe.Built, error) {
	if layer == nil || !layer.IsDir() {
		return nil, invalid("pack layer: its root is not a directory")
	}
	b, err := recipe.NewBuilder()
	if err != nil {
		return nil, err
	}
	norm := newNormal(true, clampTime(opts.Clamp))
	root := norm.node(layer, "")
	pipe := newPipeline(ctx, sink, opts.Workers)
	p := &packer{
		pipe:     pipe,
		recipe:   b,
		contents: contents,
		source:   opts.Source,
		origin:   norm.origin,
		inline:   inlineMax(opts.InlineMax),
		notes:    norm.skipped,
	}
	walk := newCanonical(root, p.emit)
	err = walk.links(root)
	if err == nil {
		err = walk.visit(root, "")
	}
	if err == nil {
		p.literal(zeroBlock[:])
		p.literal(zeroBlock[:])
		err = b.Err()
	}
	p.flush()
	if p.cur != nil {
		p.cur.release()
	}
	if err = pipe.finish(err); err != nil {
		return nil, errors.Join(fmt.Errorf("pack layer: %w", err), b.Close())
	}
	built, err := b.Finish(pipe.sum, walk.entries, func() (*tree.Node, error) { return root, nil })
	if err != nil {
		return nil, fmt.Errorf("pack layer: %w", err)
	}
	built.Notes = p.notes
	return built, nil
}

func clampTime(t time.Time) *tree.Time {
	if t.IsZero() {
		return nil
	}
	return &tree.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// packer is the producer of a pack's pipeline.
type packer struct {
	pipe     *pipeline
	recipe   *recipe.Builder
	contents Contents
	source   cas.ObjectSource
	origin   map[*tree.Inode]*tree.Inode
	inline   int64
	notes    []recipe.Note

	cur        *slab // headers and small contents
	start, end int   // of what was put there and not handed over
	scratch    []byte
}

// room returns n contiguous bytes to fill, and counts them as filled.
func (p *packer) room(n int) []byte {
	if p.cur == nil || len(p.cur.buf)-p.end < n {
		p.flush()
		if p.cur != nil {
			p.cur.release()
		}
		p.cur = p.pipe.pool.take(n, nil)
		p.start, p.end = 0, 0
	}
	p.end += n
	return p.cur.buf[p.end-n : p.end]
}

// flush hands what was filled to the tar's digest.
func (p *packer) flush() {
	if p.end > p.start {
		p.cur.retain()
		p.pipe.passed(p.cur, p.cur.buf[p.start:p.end])
		p.start = p.end
	}
}

// direct hands a part of another slab to the tar's digest.
func (p *packer) direct(s *slab, data []byte) {
	p.flush()
	s.retain()
	p.pipe.passed(s, data)
}

func (p *packer) literal(b []byte) {
	p.recipe.Literal(b)
	for len(b) > 0 {
		n := min(len(b), slabSize)
		copy(p.room(n), b[:n])
		b = b[n:]
	}
}

func (p *packer) emit(m *member, at tree.Path, ino *tree.Inode) error {
	if p.pipe.ctx.Err() != nil {
		return context.Cause(p.pipe.ctx)
	}
	offset := p.recipe.Size()
	if ino == nil {
		p.header(m)
		return p.recipe.Err()
	}
	err := p.file(m, at, ino, offset)
	if err == nil {
		p.literal(zeroBlock[:-m.stored()&(blockSize-1)])
		err = p.recipe.Err()
	}
	if err != nil {
		return &EntryError{Name: m.name, Offset: offset, Err: err}
	}
	return nil
}

func (p *packer) header(m *member) {
	p.scratch = m.appendHeader(p.scratch[:0])
	p.literal(p.scratch)
}

func (p *packer) file(m *member, at tree.Path, ino *tree.Inode, offset int64) (err error) {
	if ino.Size > MaxFile {
		return invalid("file of %d bytes, limit %d", ino.Size, int64(MaxFile))
	}
	var c content
	known := !ino.Object.IsZero()
	switch {
	case ino.Inline != "":
		if done, err := p.inlined(m, ino); done || err != nil {
			return err
		}
		c, ino.Inline = inlineContent{strings.NewReader(ino.Inline)}, ""
	case known:
		c, err = openObject(p.pipe.ctx, p.source, ino)
	default:
		c, err = openContents(p.pipe.ctx, p.contents, at, p.origin[ino])
	}
	if err != nil {
		return err
	}
	defer func() {
		if cerr := c.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close contents: %w", cerr)
		}
	}()
	f := packFile{packer: p, m: m, at: at, ino: ino, c: c, known: known, offset: offset}
	switch {
	case ino.Size < smallContent:
		return f.small()
	case ino.Size <= maxWhole:
		return f.whole()
	default:
		return f.large()
	}
}

// inlined handles contents that are inline and stay so.
func (p *packer) inlined(m *member, ino *tree.Inode) (bool, error) {
	if int64(len(ino.Inline)) != ino.Size {
		return false, invalid("file of %d bytes with %d bytes inline", ino.Size, len(ino.Inline))
	}
	if ino.Size > recipe.MaxInline || !p.recipe.HasRoom(int(ino.Size)) {
		return false, nil
	}
	p.header(m)
	data := p.room(len(ino.Inline))
	copy(data, ino.Inline)
	p.recipe.Inline(ino, data, nil)
	return true, nil
}

// packFile is a file whose contents are read.
type packFile struct {
	*packer
	m      *member
	at     tree.Path
	ino    *tree.Inode
	c      content
	known  bool // it is an object already
	offset int64
	short  bool // the contents ended early
}

func (f *packFile) read(p []byte, off int64) error {
	short, err := readFull(f.c, p, off)
	if err != nil || !short {
		return err
	}
	if f.known {
		return fmt.Errorf("object %s ends before byte %d: %w", f.ino.Object.Digest(), off+int64(len(p)), cas.ErrCorrupt)
	}
	if !f.short {
		f.short = true
		f.notes = append(f.notes, recipe.Note{Path: f.at, Text: "shrank while it was read and is filled up with zeros"})
	}
	return nil
}

// small reads contents into the slab of the headers.
func (f *packFile) small() error {
	f.header(f.m)
	data := f.room(int(f.ino.Size))
	if err := f.read(data, 0); err != nil {
		return err
	}
	if f.put(data) {
		// What is before them goes first, and what comes begins behind them.
		f.end -= len(data)
		f.flush()
		f.end += len(data)
		f.start = f.end
		f.pipe.storePassed(f.cur, data, f.ino, f.m.name, f.offset)
	}
	return nil
}

// put gives contents that were read in one piece, and are not sparse, to the recipe, and
// reports whether the sink is to have them too.
func (f *packFile) put(data []byte) bool {
	if !f.known && f.ino.Size <= f.inline && f.recipe.Inline(f.ino, data, nil) {
		return false
	}
	f.recipe.Object(f.ino, nil)
	return !f.known
}

// whole reads contents into a slab of their own.
func (f *packFile) whole() error {
	s := f.pipe.pool.take(int(f.ino.Size), f.cur)
	defer s.release()
	data := s.buf[:f.ino.Size]
	if err := f.read(data, 0); err != nil {
		return err
	}
	h := holes{size: f.ino.Size}
	h.scan(data)
	f.m.extents = h.result()
	f.header(f.m)
	if f.m.extents == nil {
		if !f.put(data) {
			f.direct(s, data)
			return nil
		}
		f.flush()
		f.pipe.storePassed(s, data, f.ino, f.m.name, f.offset)
		return nil
	}
	return f.sparse(func(off, limit int64) (*slab, []byte, error) {
		s.retain()
		return s, data[off : off+limit], nil
	})
}

// large looks for holes first and then reads contents piece by piece.
func (f *packFile) large() (err error) {
	s := f.pipe.pool.take(slabSize, f.cur)
	f.m.extents, err = findHoles(f.pipe.ctx, f.c, f.ino.Size, s.buf)
	s.release()
	if err != nil {
		return err
	}
	f.header(f.m)
	return f.sparse(func(off, limit int64) (*slab, []byte, error) {
		s := f.pipe.pool.take(slabSize, f.cur)
		data := s.buf[:min(limit, slabSize)]
		if err := f.read(data, off); err != nil {
			s.release()
			return nil, nil, err
		}
		return s, data, nil
	})
}

// sparse streams contents, all of them or their extents. Next returns bytes at an
// offset, at most so many, with a reference to their slab.
func (f *packFile) sparse(next func(off, limit int64) (*slab, []byte, error)) error {
	f.recipe.Object(f.ino, f.m.extents)
	extents := f.m.extents
	if extents == nil {
		extents = []recipe.Extent{{Offset: 0, Length: f.ino.Size}}
	}
	var s *stream
	switch {
	case f.known:
	case f.m.extents == nil:
		s = f.pipe.streamPassed(f.ino, f.m.name, f.offset)
	default:
		s = f.pipe.stream(f.ino, f.m.name, f.offset)
	}
	if s != nil {
		defer s.end()
	}
	end := int64(0)
	for _, e := range extents {
		if s != nil && e.Offset > end {
			s.hole(e.Offset - end)
		}
		end = e.Offset + e.Length
		for off := e.Offset; off < end; {
			if f.pipe.ctx.Err() != nil {
				return context.Cause(f.pipe.ctx)
			}
			from, data, err := next(off, end-off)
			if err != nil {
				return err
			}
			if s == nil || s.sum == nil {
				f.direct(from, data)
			} else {
				f.flush()
			}
			if s != nil {
				s.add(from, data)
			}
			from.release()
			off += int64(len(data))
		}
	}
	if s != nil && end < f.ino.Size {
		s.hole(f.ino.Size - end)
	}
	return nil
}
