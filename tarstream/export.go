package tarstream

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// WriteOptions are the options of [WriteTree].
type WriteOptions struct {
	Clamp time.Time // later modification times become this (SOURCE_DATE_EPOCH); zero: none
}

// exportBuffer is how many bytes go to the writer at once.
const exportBuffer = 1 << 20

// WriteTree writes the canonical tar of a merged tree, as described at [Pack]: the
// same tree gives the same bytes. Objects are read through src. Sockets are left out,
// since a tar cannot hold them.
func WriteTree(ctx context.Context, w io.Writer, root *tree.Node, src cas.ObjectSource, opts WriteOptions) error {
	if root == nil || !root.IsDir() {
		return invalid("write tree: its root is not a directory")
	}
	x := &exporter{ctx: ctx, w: w, src: src, buf: make([]byte, 0, exportBuffer)}
	clamped := newNormal(false, clampTime(opts.Clamp)).node(root, "")
	clamped.Implicit = false
	walk := newCanonical(clamped, x.emit)
	err := walk.visit(clamped, "")
	if err == nil {
		err = x.write(zeroBlock[:])
	}
	if err == nil {
		err = x.write(zeroBlock[:])
	}
	if err == nil {
		err = x.flush()
	}
	if err != nil {
		return fmt.Errorf("write tree: %w", err)
	}
	return nil
}

type exporter struct {
	ctx     context.Context //nolint:containedctx // lives for one call of WriteTree
	w       io.Writer
	src     cas.ObjectSource
	buf     []byte
	scan    []byte
	scratch []byte
}

func (x *exporter) flush() error {
	if err := x.ctx.Err(); err != nil {
		return context.Cause(x.ctx)
	}
	_, err := x.w.Write(x.buf)
	x.buf = x.buf[:0]
	return err
}

func (x *exporter) write(p []byte) error {
	for len(p) > 0 {
		if len(x.buf) == cap(x.buf) {
			if err := x.flush(); err != nil {
				return err
			}
		}
		n := copy(x.buf[len(x.buf):cap(x.buf)], p)
		x.buf = x.buf[:len(x.buf)+n]
		p = p[n:]
	}
	return nil
}

func (x *exporter) emit(m *member, _ tree.Path, ino *tree.Inode) error {
	var err error
	if ino == nil {
		err = x.header(m)
	} else if err = x.file(m, ino); err == nil {
		err = x.write(zeroBlock[:-m.stored()&(blockSize-1)])
	}
	if err != nil {
		return fmt.Errorf("%q: %w", m.name, err)
	}
	return nil
}

func (x *exporter) header(m *member) error {
	x.scratch = m.appendHeader(x.scratch[:0])
	return x.write(x.scratch)
}

func (x *exporter) file(m *member, ino *tree.Inode) (err error) {
	var c content = inlineContent{strings.NewReader(ino.Inline)}
	if !ino.Object.IsZero() {
		if c, err = openObject(x.ctx, x.src, ino); err != nil {
			return err
		}
	} else if int64(len(ino.Inline)) != ino.Size {
		return invalid("its contents are not known")
	}
	defer func() {
		if cerr := c.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close contents: %w", cerr)
		}
	}()
	if ino.Size >= smallContent {
		if x.scan == nil {
			x.scan = make([]byte, exportBuffer)
		}
		if m.extents, err = findHoles(x.ctx, c, ino.Size, x.scan); err != nil {
			return err
		}
	}
	if err := x.header(m); err != nil {
		return err
	}
	extents := m.extents
	if extents == nil {
		extents = []recipe.Extent{{Offset: 0, Length: ino.Size}}
	}
	for _, e := range extents {
		if err := x.copy(c, e, ino); err != nil {
			return err
		}
	}
	return nil
}

func (x *exporter) copy(c content, e recipe.Extent, ino *tree.Inode) error {
	for e.Length > 0 {
		if len(x.buf) == cap(x.buf) {
			if err := x.flush(); err != nil {
				return err
			}
		}
		p := x.buf[len(x.buf):min(int64(cap(x.buf)), int64(len(x.buf))+e.Length)]
		short, err := readFull(c, p, e.Offset)
		if err != nil {
			return err
		}
		if short {
			return fmt.Errorf("object %s ends before byte %d: %w", ino.Object.Digest(), e.Offset+int64(len(p)), cas.ErrCorrupt)
		}
		x.buf = x.buf[:len(x.buf)+len(p)]
		e.Offset += int64(len(p))
		e.Length -= int64(len(p))
	}
	return nil
}
