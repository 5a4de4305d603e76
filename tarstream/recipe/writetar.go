package recipe

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
)

// The tar is put together in chunks that go through three stages at once: reading,
// hashing, writing.
const (
	chunkSize  = 256 << 10
	chunkCount = 6
)

// WriteTar writes the layer's tar, byte for byte as it was. It compares the size of
// each object and at the end the DiffID; a mismatch is an error that wraps
// cas.ErrCorrupt, and then the last part of the tar is not written, so that w never
// gets a whole archive that is wrong. An object that src does not have is an error
// that names it and wraps fs.ErrNotExist.
func (r *Recipe) WriteTar(ctx context.Context, w io.Writer, src cas.ObjectSource) error {
	if err := r.writeTar(ctx, w, src); err != nil {
		return fmt.Errorf("write tar of layer %s: %w", r.DiffID(), err)
	}
	return nil
}

func (r *Recipe) writeTar(ctx context.Context, w io.Writer, src cas.ObjectSource) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &tarWriter{
		ctx:    ctx,
		rec:    r,
		src:    src,
		free:   make(chan []byte, chunkCount),
		filled: make(chan []byte, chunkCount),
		left:   r.tarSize,
	}
	for range chunkCount {
		t.free <- make([]byte, 0, chunkSize)
	}
	produced := make(chan error, 1)
	go func() {
		defer close(t.filled)
		produced <- t.produce()
	}()
	hashed := make(chan []byte, chunkCount)
	sum := make(chan [32]byte, 1)
	go func() {
		defer close(hashed)
		h := sha256.New()
		for b := range t.filled {
			h.Write(b)
			hashed <- b
		}
		sum <- [32]byte(h.Sum(nil))
	}()

	// The writer stays one chunk behind, until the hash is known to be right.
	var last []byte
	var werr error
	for b := range hashed {
		if last != nil {
			if werr == nil {
				if _, werr = w.Write(last); werr != nil {
					cancel()
				}
			}
			t.free <- last[:0]
		}
		last = b
	}
	perr := <-produced
	if werr != nil {
		return werr
	}
	if perr != nil {
		return perr
	}
	if got := <-sum; got != r.diffID {
		return fmt.Errorf("the objects and the recipe give a tar with digest %s: %w", tree.ObjectID(got).Digest(), cas.ErrCorrupt)
	}
	_, err := w.Write(last)
	return err
}

// tarWriter is the first stage: it interprets the stream section.
type tarWriter struct {
	ctx    context.Context //nolint:containedctx // lives for one call of WriteTar
	rec    *Recipe
	src    cas.ObjectSource
	free   chan []byte
	filled chan []byte
	cur    []byte
	left   int64

	objects  []ObjectRef
	inline   []string
	contents []byte
	next     int // first object not named yet
	ahead    *ahead
}

func (t *tarWriter) produce() (err error) {
	if t.objects, err = t.rec.Objects(); err != nil {
		return err
	}
	if t.inline, err = t.rec.inlineContents(); err != nil {
		return err
	}
	if t.contents, err = t.rec.frames(sectionContents); err != nil {
		return err
	}
	t.ahead = openAhead(t.ctx, t.src, t.objects)
	defer func() {
		if cerr := t.ahead.close(); err == nil && cerr != nil {
			err = fmt.Errorf("close object: %w", cerr)
		}
	}()
	for _, p := range t.rec.places[sectionStream] {
		ops := make([]byte, p.raw)
		if err := t.rec.decode(p, ops); err != nil {
			return err
		}
		if err := t.run(ops); err != nil {
			return err
		}
	}
	if t.left != 0 {
		return corrupt("stream: %d bytes of the tar are missing", t.left)
	}
	if len(t.contents) != 0 {
		return corrupt("stream: contents are left over")
	}
	return t.send()
}

func (t *tarWriter) run(ops []byte) error {
	for len(ops) > 0 {
		v, k := binary.Uvarint(ops)
		if k <= 0 {
			return corrupt("stream: malformed operation")
		}
		ops = ops[k:]
		n := v >> 2
		switch v & 3 {
		case opLiteral:
			if n > uint64(len(ops)) {
				return corrupt("stream: literal of %d bytes, %d are left", n, len(ops))
			}
			if err := t.write(text(ops[:n])); err != nil {
				return err
			}
			ops = ops[n:]
		case opZeros:
			if n > math.MaxInt64 {
				return corrupt("stream: %d zeros", n)
			}
			if err := t.zeros(int64(n)); err != nil {
				return err
			}
		case opContents:
			for range n {
				if err := t.content(); err != nil {
					return err
				}
			}
		default:
			return corrupt("stream: unknown operation")
		}
	}
	return nil
}

// space returns the free part of the current chunk, never empty.
func (t *tarWriter) space() ([]byte, error) {
	if t.cur != nil && len(t.cur) == cap(t.cur) {
		if err := t.send(); err != nil {
			return nil, err
		}
	}
	if t.cur == nil {
		select {
		case t.cur = <-t.free:
		case <-t.ctx.Done():
			return nil, context.Cause(t.ctx)
		}
	}
	return t.cur[len(t.cur):cap(t.cur)], nil
}

func (t *tarWriter) send() error {
	if err := t.ctx.Err(); err != nil {
		return context.Cause(t.ctx)
	}
	if len(t.cur) > 0 {
		t.filled <- t.cur // never blocks: there are as many places as chunks
		t.cur = nil
	}
	return nil
}

// take counts n bytes that are about to be written.
func (t *tarWriter) take(n int64) error {
	if n < 0 || n > t.left {
		return corrupt("stream: more than %d bytes", t.rec.tarSize)
	}
	t.left -= n
	return nil
}

func (t *tarWriter) write(s string) error {
	if err := t.take(int64(len(s))); err != nil {
		return err
	}
	for len(s) > 0 {
		dst, err := t.space()
		if err != nil {
			return err
		}
		n := copy(dst, s)
		t.cur = t.cur[:len(t.cur)+n]
		s = s[n:]
	}
	return nil
}

func (t *tarWriter) zeros(n int64) error {
	if err := t.take(n); err != nil {
		return err
	}
	for n > 0 {
		dst, err := t.space()
		if err != nil {
			return err
		}
		k := int(min(n, int64(len(dst))))
		clear(dst[:k])
		t.cur = t.cur[:len(t.cur)+k]
		n -= int64(k)
	}
	return nil
}

func (t *tarWriter) uvarint() (uint64, error) {
	v, k := binary.Uvarint(t.contents)
	if k <= 0 {
		return 0, corrupt("stream: more contents than listed")
	}
	t.contents = t.contents[k:]
	return v, nil
}

// content writes the next contents of the contents section.
func (t *tarWriter) content() error {
	v, err := t.uvarint()
	if err != nil {
		return err
	}
	sparse := v&1 != 0
	v >>= 1
	if v == 0 {
		if len(t.inline) == 0 {
			return corrupt("stream: more inline contents than there are")
		}
		s := t.inline[0]
		t.inline = t.inline[1:]
		return t.parts(int64(len(s)), sparse, func(off, n int64) error { return t.write(s[off : off+n]) })
	}
	if v == 1 {
		if t.next == len(t.objects) {
			return corrupt("stream: more objects than there are")
		}
		t.next++
		return t.nextObject(t.objects[t.next-1], sparse)
	}
	k := v - 2
	if k >= uint64(t.next) {
		return corrupt("stream: object %d is unknown at this place", k)
	}
	ref := t.objects[k]
	o, err := t.src.OpenObject(t.ctx, ref.ID)
	if err != nil {
		return fmt.Errorf("open object %s: %w", ref.ID.Digest(), err)
	}
	return t.object(opened{r: o}, ref, sparse, o.Close)
}

// nextObject writes an object when it is named first, which is the order in which they
// are opened ahead.
func (t *tarWriter) nextObject(ref ObjectRef, sparse bool) error {
	o, err := t.ahead.next(t.ctx)
	if err != nil {
		return err
	}
	if o.err != nil {
		return errors.Join(fmt.Errorf("open object %s: %w", ref.ID.Digest(), o.err), t.ahead.done(o))
	}
	return t.object(o, ref, sparse, func() error { return t.ahead.done(o) })
}

func (t *tarWriter) object(o opened, ref ObjectRef, sparse bool, done func() error) (err error) {
	if o.r.Size() != ref.Size {
		err = fmt.Errorf("object %s has %d bytes instead of %d: %w", ref.ID.Digest(), o.r.Size(), ref.Size, cas.ErrCorrupt)
	} else {
		err = t.parts(ref.Size, sparse, func(off, n int64) error { return t.read(o, ref, off, n) })
	}
	if cerr := done(); err == nil && cerr != nil {
		err = fmt.Errorf("close object %s: %w", ref.ID.Digest(), cerr)
	}
	return err
}

func (t *tarWriter) read(o opened, ref ObjectRef, off, n int64) error {
	if err := t.take(n); err != nil {
		return err
	}
	for n > 0 {
		dst, err := t.space()
		if err != nil {
			return err
		}
		dst = dst[:min(n, int64(len(dst)))]
		var k int
		if off < int64(len(o.head)) {
			k = copy(dst, o.head[off:])
			dst = dst[:k]
		} else {
			k, err = o.r.ReadAt(dst, off)
		}
		if k < len(dst) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read object %s at %d: %w", ref.ID.Digest(), off, err)
		}
		t.cur = t.cur[:len(t.cur)+k]
		off += int64(k)
		n -= int64(k)
	}
	return nil
}

// parts calls fn for the parts of contents that are in the tar.
func (t *tarWriter) parts(size int64, sparse bool, fn func(off, n int64) error) error {
	if !sparse {
		return fn(0, size)
	}
	count, err := t.uvarint()
	if err != nil {
		return err
	}
	end := uint64(0)
	for range count {
		gap, err := t.uvarint()
		if err != nil {
			return err
		}
		n, err := t.uvarint()
		if err != nil {
			return err
		}
		left := uint64(size) - end
		if n == 0 || gap > left || n > left-gap {
			return corrupt("stream: extents exceed the %d bytes of the file", size)
		}
		if err := fn(int64(end+gap), int64(n)); err != nil {
			return err
		}
		end += gap + n
	}
	return nil
}

// Verify reads the whole recipe and checks everything that can be checked without the
// objects: every checksum, and that the index decodes.
func (r *Recipe) Verify(ctx context.Context) error {
	for kind := sectionObjects; kind <= sectionIndex; kind++ {
		buf := make([]byte, MaxFrame)
		for _, p := range r.places[kind] {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := r.decode(p, buf[:p.raw]); err != nil {
				return err
			}
		}
	}
	_, err := r.Layer()
	return err
}
