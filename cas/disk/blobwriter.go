package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/layerfs/layerfs/cas"
	"github.com/opencontainers/go-digest"
)

// batch is an ingest seen as a batch of one space.
type batch struct {
	in *Ingest
	p  *Space
}

// Blobs returns the ingest as a batch of blobs. Publish and Close of the batch are those
// of the whole ingest.
func (in *Ingest) Blobs() cas.Batch { return &batch{in, in.s.Blobs()} }

func (b *batch) Publish(ctx context.Context) error { return b.in.Publish(ctx) }
func (b *batch) Close() error                      { return b.in.Close() }

// Create implements [cas.Batch].
func (b *batch) Create(ctx context.Context, e cas.Expect) (cas.Writer, error) {
	w, err := b.create(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", b.p.noun(), err)
	}
	return w, nil
}

func (b *batch) create(ctx context.Context, e cas.Expect) (cas.Writer, error) {
	v, err := cas.NewVerifier(e)
	if err != nil {
		return nil, err
	}
	if b.p.top == objectsDir && e.Digest == "" && e.Algorithm != "" && e.Algorithm != digest.SHA256 {
		return nil, fmt.Errorf("digest algorithm %s: objects are named by sha256: %w", e.Algorithm, fs.ErrInvalid)
	}
	w := &blobWriter{b: b, v: v}
	if e.Digest != "" {
		rel, err := b.p.path(e.Digest)
		if err != nil {
			return nil, err
		}
		known, err := b.in.awaitBlob(ctx, e.Digest, rel, e.Size)
		if err != nil {
			return nil, err
		}
		if known {
			return w, nil // nothing to store
		}
	}
	w.t, err = b.in.begin(ctx, 0o444)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// awaitBlob reports whether the store has content already. If not, it takes the lock of
// its digest, until the batch is published or closed, so that nobody else does the same
// work meanwhile. A batch waits for the lock only if the digest is above all those that
// it holds, which makes a deadlock between batches impossible; otherwise it goes on
// without, and the work may be done twice.
func (in *Ingest) awaitBlob(ctx context.Context, d digest.Digest, rel string, size int64) (known bool, err error) {
	in.gate.RLock()
	err = in.usable(ctx)
	in.gate.RUnlock()
	if err != nil {
		return false, err
	}
	if in.s.holds(rel, size) {
		return true, nil
	}
	wait := true
	in.mu.Lock()
	for held := range in.locks {
		wait = wait && rel > held
	}
	in.mu.Unlock()
	unlock, err := in.s.lockName(ctx, "blob:"+d.String(), wait)
	if errors.Is(err, errLocked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if in.s.holds(rel, size) {
		return true, unlock()
	}
	in.gate.RLock()
	defer in.gate.RUnlock()
	if err := in.usable(ctx); err != nil {
		return false, errors.Join(err, unlock())
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.locks[rel] = unlock
	return false, nil
}

// unlockBlobs lets others write the blobs of this batch. The caller holds in.mu.
func (in *Ingest) unlockBlobs() error {
	var errs []error
	for _, unlock := range in.locks {
		errs = append(errs, unlock())
	}
	clear(in.locks)
	return errors.Join(errs...)
}

// blobWriter writes content whose digest is computed on the way.
type blobWriter struct {
	b    *batch
	v    *cas.Verifier
	t    *tempFile // nil when the store has the content
	err  error     // a failed writer cannot be committed
	done bool
}

func (w *blobWriter) Write(p []byte) (int, error) {
	if w.done {
		return 0, fmt.Errorf("write %s: %w", w.b.p.noun(), fs.ErrClosed)
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.v.Write(p)
	if err == nil && w.t != nil {
		n, err = w.t.f.Write(p)
		w.b.in.wrote(n)
	}
	if err != nil {
		w.err = fmt.Errorf("write %s: %w", w.b.p.noun(), err)
	}
	return n, w.err
}

func (w *blobWriter) Commit(ctx context.Context) (cas.Info, error) {
	info, err := w.commit(ctx)
	if err != nil {
		return cas.Info{}, fmt.Errorf("commit %s: %w", w.b.p.noun(), err)
	}
	return info, nil
}

func (w *blobWriter) commit(ctx context.Context) (info cas.Info, err error) {
	switch {
	case w.done:
		return info, fs.ErrClosed
	case w.err != nil:
		return info, w.err
	}
	if info.Digest, info.Size, err = w.v.Sum(); err != nil {
		w.err = err
		return info, err
	}
	rel, err := w.b.p.path(info.Digest)
	if err != nil {
		return info, err
	}
	in := w.b.in
	in.gate.RLock()
	defer in.gate.RUnlock()
	if err := in.usable(ctx); err != nil {
		return info, err
	}
	w.done = true
	if w.t == nil {
		in.mu.Lock()
		in.found = append(in.found, rel)
		in.mu.Unlock()
		fi, err := in.s.root.Lstat(rel)
		if err != nil {
			return info, err
		}
		info.ModTime = fi.ModTime()
		return info, nil
	}
	fi, err := w.t.f.Stat()
	if err != nil {
		return info, errors.Join(err, w.t.discard())
	}
	info.ModTime = fi.ModTime()
	if err := w.t.finish(); err != nil {
		return info, err
	}
	if w.b.p.top == blobsDir {
		return info, in.addBlob(rel, info.Size, w.t.name)
	}
	id, err := objectID(info.Digest)
	if err != nil {
		return info, err
	}
	return info, in.addObject(objectRef{id, info.Size}, w.t.name)
}

func (w *blobWriter) Close() error {
	if w.done {
		return nil
	}
	w.done = true
	if w.t == nil {
		return nil
	}
	return w.t.discard()
}
