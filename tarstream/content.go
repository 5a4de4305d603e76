package tarstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// When a file is written as sparse. It depends on the contents alone, so that the
// same tree gives the same tar wherever its contents are stored and however.
const (
	holeUnit  = 4096    // holes begin and end at multiples of this many bytes, or at the end
	holeMin   = 1 << 16 // runs of zeros shorter than this are data
	sparseMin = 1 << 20 // a file is sparse when its holes have at least this many bytes
)

// Contents opens the contents of files that have neither inline contents nor an
// object yet. The reader gives the bytes from the start; the caller closes it. Contents
// above 16 MiB are read twice, once to look for zeros: a reader that is also an
// io.ReaderAt spares opening it again, and one that is also an io.Seeker with Linux's
// SEEK_DATA, as *os.File, spares reading its holes.
type Contents interface {
	OpenContent(ctx context.Context, p tree.Path, ino *tree.Inode) (io.ReadCloser, error)
}

// content is opened contents with random access.
type content interface {
	io.ReaderAt
	io.Closer
}

type inlineContent struct{ *strings.Reader }

func (inlineContent) Close() error { return nil }

// openObject opens an object and verifies its size.
func openObject(ctx context.Context, src cas.ObjectSource, ino *tree.Inode) (content, error) {
	if src == nil {
		return nil, fmt.Errorf("open object %s: no source of objects: %w", ino.Object.Digest(), errors.ErrUnsupported)
	}
	o, err := src.OpenObject(ctx, ino.Object)
	if err != nil {
		return nil, fmt.Errorf("open object %s: %w", ino.Object.Digest(), err)
	}
	if o.Size() != ino.Size {
		err := fmt.Errorf("object %s has %d bytes instead of %d: %w", ino.Object.Digest(), o.Size(), ino.Size, cas.ErrCorrupt)
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// openContents opens what a Contents has. A reader without random access is opened
// again to go backwards.
func openContents(ctx context.Context, c Contents, p tree.Path, ino *tree.Inode) (content, error) {
	if c == nil {
		return nil, fmt.Errorf("open contents: nobody has them: %w", errors.ErrUnsupported)
	}
	open := func() (io.ReadCloser, error) {
		r, err := c.OpenContent(ctx, p, ino)
		if err != nil {
			return nil, fmt.Errorf("open contents: %w", err)
		}
		return r, nil
	}
	r, err := open()
	if err != nil {
		return nil, err
	}
	if at, ok := r.(content); ok {
		return at, nil
	}
	return &sequential{open: open, r: r}, nil
}

// sequential gives random access to a reader, cheap as long as it goes forward.
type sequential struct {
	open func() (io.ReadCloser, error)
	r    io.ReadCloser
	pos  int64
}

func (s *sequential) Close() error { return s.r.Close() }

func (s *sequential) ReadAt(p []byte, off int64) (int, error) {
	if off < s.pos {
		r, err := s.open()
		if err != nil {
			return 0, err
		}
		err = s.r.Close()
		s.r, s.pos = r, 0
		if err != nil {
			return 0, err
		}
	}
	for s.pos < off {
		n, err := io.CopyN(io.Discard, s.r, off-s.pos)
		s.pos += n
		if err != nil {
			return 0, err
		}
	}
	n, err := io.ReadFull(s.r, p)
	s.pos += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// readFull fills p. Contents that end early, because they shrank after the layer's
// tree was made, are filled up with zeros, as GNU tar does; short tells.
func readFull(r io.ReaderAt, p []byte, off int64) (short bool, err error) {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return false, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		clear(p[n:])
		return true, nil
	}
	return false, fmt.Errorf("read contents at %d: %w", off, err)
}

// holes collects the data of a file as extents.
type holes struct {
	extents []recipe.Extent
	size    int64
	pos     int64 // everything before is known
	run     int64 // so many zeros are before pos
}

// scan looks at the next bytes, which begin at a multiple of holeUnit.
func (h *holes) scan(p []byte) {
	for len(p) > 0 {
		unit := p[:min(len(p), holeUnit)]
		p = p[len(unit):]
		if allZero(unit) {
			h.zeros(int64(len(unit)))
		} else {
			h.data(int64(len(unit)))
		}
	}
}

func (h *holes) zeros(n int64) {
	h.run += n
	h.pos += n
}

func (h *holes) data(n int64) {
	last := len(h.extents) - 1
	switch {
	case last >= 0 && h.run < holeMin:
		h.extents[last].Length += h.run + n
	case h.run < holeMin:
		h.extents = append(h.extents, recipe.Extent{Offset: 0, Length: h.run + n})
	default:
		h.extents = append(h.extents, recipe.Extent{Offset: h.pos, Length: n})
	}
	h.run = 0
	h.pos += n
}

// result returns the extents of a file that is worth being sparse, else nil.
func (h *holes) result() []recipe.Extent {
	if h.run > 0 && h.run < holeMin {
		h.data(0)
	}
	data := int64(0)
	for _, e := range h.extents {
		data += e.Length
	}
	if h.size-data < sparseMin || len(h.extents) >= MaxExtents {
		return nil
	}
	if h.extents == nil {
		return []recipe.Extent{}
	}
	return h.extents
}

func allZero(p []byte) bool {
	// Most units differ from zero in their first bytes.
	for len(p) > blockSize {
		if !isZero(p[:blockSize]) {
			return false
		}
		p = p[blockSize:]
	}
	return isZero(p)
}

// Linux's lseek(2), SEEK_DATA.
const seekData = 3

// findHoles reads contents of size bytes to find their holes.
func findHoles(ctx context.Context, r io.ReaderAt, size int64, buf []byte) ([]recipe.Extent, error) {
	h := holes{size: size}
	seeker, seekable := r.(io.Seeker)
	buf = buf[:len(buf)/holeUnit*holeUnit]
	for h.pos < size {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if seekable {
			// A seeker that does not know it, or is at a last hole, returns an error.
			at, err := seeker.Seek(h.pos, seekData)
			if err == nil && at > h.pos {
				if at = min(at, size) / holeUnit * holeUnit; at > h.pos {
					h.zeros(at - h.pos)
				}
			}
			seekable = err == nil
		}
		p := buf[:min(int64(len(buf)), size-h.pos)]
		if _, err := readFull(r, p, h.pos); err != nil {
			return nil, err
		}
		h.scan(p)
	}
	return h.result(), nil
}
