package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
)

// CreateObject implements [cas.ObjectSink]. Writing or skipping beyond size fails and
// wraps [cas.ErrCorrupt], and so does committing less.
func (in *Ingest) CreateObject(ctx context.Context, size int64) (cas.ObjectWriter, error) {
	if size < 0 {
		return nil, fmt.Errorf("create object of %d bytes: %w", size, fs.ErrInvalid)
	}
	t, err := in.begin(ctx, 0o444)
	if err != nil {
		return nil, fmt.Errorf("create object: %w", err)
	}
	// The size is set first, so that what is skipped at the end is there as a hole.
	if err := t.f.Truncate(size); err != nil {
		return nil, errors.Join(fmt.Errorf("create object: %w", err), t.discard())
	}
	return &objectWriter{t: t, size: size}, nil
}

type objectWriter struct {
	t    *tempFile
	size int64
	pos  int64
	err  error // a failed writer cannot be committed
	done bool
}

var _ cas.ObjectWriter = (*objectWriter)(nil)

func (w *objectWriter) room(n int64) error {
	switch {
	case w.done:
		return fmt.Errorf("write object: %w", fs.ErrClosed)
	case w.err != nil:
		return w.err
	case n < 0 || n > w.size-w.pos:
		w.err = fmt.Errorf("write object: more bytes than the expected %d: %w", w.size, cas.ErrCorrupt)
	}
	return w.err
}

func (w *objectWriter) Write(p []byte) (int, error) {
	if err := w.room(int64(len(p))); err != nil {
		return 0, err
	}
	n, err := w.t.f.WriteAt(p, w.pos)
	w.t.in.wrote(n)
	w.pos += int64(n)
	if err != nil {
		w.err = fmt.Errorf("write object: %w", err)
	}
	return n, w.err
}

func (w *objectWriter) Skip(n int64) error {
	if err := w.room(n); err != nil {
		return err
	}
	w.pos += n
	return nil
}

func (w *objectWriter) Commit(id tree.ObjectID) error {
	if err := w.room(0); err != nil {
		return err
	}
	if id.IsZero() {
		return fmt.Errorf("commit object: no id: %w", fs.ErrInvalid)
	}
	if w.pos != w.size {
		return fmt.Errorf("commit object %s: %d bytes instead of %d: %w", id.Digest(), w.pos, w.size, cas.ErrCorrupt)
	}
	in := w.t.in
	in.gate.RLock()
	defer in.gate.RUnlock()
	w.done = true
	err := w.t.finish()
	if err == nil {
		err = in.addObject(objectRef{id, w.size}, w.t.name)
	}
	if err != nil {
		return fmt.Errorf("commit object %s: %w", id.Digest(), err)
	}
	return nil
}

func (w *objectWriter) Close() error {
	if w.done {
		return nil
	}
	w.done = true
	return w.t.discard()
}
