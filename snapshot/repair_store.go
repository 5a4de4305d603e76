package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
)

// NewStoreSource returns a source that fetches from another store, which may be open for
// reading only and may be damaged itself: only what is sound is taken.
func NewStoreSource(from *Store) Source { return storeSource{from} }

type storeSource struct{ from *Store }

func (f storeSource) String() string { return f.from.disk.Root() }

func (f storeSource) Fetch(ctx context.Context, into *Store, lack *Lack) (err error) {
	ing, err := into.disk.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ing.Close()) }()
	var objects []tree.ObjectID
	var blobs []digest.Digest
	var layers []DiffID
	for id, size := range lack.Objects {
		if ok, err := f.object(ctx, ing, id, size); err != nil {
			return err
		} else if ok {
			objects = append(objects, id)
		}
	}
	for d := range lack.Blobs {
		if ok, err := f.blob(ctx, ing, d); err != nil {
			return err
		} else if ok {
			blobs = append(blobs, d)
		}
	}
	for d := range lack.Layers {
		if ok, err := f.layer(ctx, ing, d); err != nil {
			return err
		} else if ok {
			layers = append(layers, d)
		}
	}
	if err := ing.Publish(ctx); err != nil {
		return err
	}
	for _, id := range objects {
		delete(lack.Objects, id)
	}
	for _, d := range blobs {
		delete(lack.Blobs, d)
	}
	for _, d := range layers {
		delete(lack.Layers, d)
	}
	return nil
}

// notHere reports whether an error means that a source has not what is asked for, or not
// sound; another one is of the store that is repaired or of a disk.
func notHere(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) }

// object copies an object into the batch if the source has it.
func (f storeSource) object(ctx context.Context, ing *disk.Ingest, id tree.ObjectID, size int64) (ok bool, err error) {
	r, err := f.from.disk.OpenObject(ctx, id)
	if err != nil {
		if notHere(err) {
			err = nil
		}
		return false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.Size() != size {
		return false, nil
	}
	w, err := ing.CreateObject(ctx, size)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	got, err := copyObject(w, io.NewSectionReader(r, 0, size))
	if err != nil || got != id {
		return false, err
	}
	return true, w.Commit(id)
}

// copyObject copies contents, blocks of zeros as holes, and returns their id.
func copyObject(w cas.ObjectWriter, r io.Reader) (id tree.ObjectID, err error) {
	buf, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	h := sha256.New()
	for {
		n, err := io.ReadFull(r, buf)
		h.Write(buf[:n])
		if bytes.Equal(buf[:n], zeros[:n]) {
			if serr := w.Skip(int64(n)); serr != nil {
				return id, serr
			}
		} else if _, werr := w.Write(buf[:n]); werr != nil {
			return id, werr
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			h.Sum(id[:0])
			return id, nil
		}
		if err != nil {
			return id, err
		}
	}
}

func (f storeSource) blob(ctx context.Context, ing *disk.Ingest, d digest.Digest) (ok bool, err error) {
	r, err := f.from.disk.Blobs().Open(ctx, d)
	if err != nil {
		if notHere(err) {
			err = nil
		}
		return false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := ing.Blobs().Create(ctx, cas.Expect{Digest: d, Size: r.Size()})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if _, err := io.Copy(w, io.NewSectionReader(r, 0, r.Size())); err != nil {
		return false, err
	}
	if _, err := w.Commit(ctx); err != nil {
		if errors.Is(err, cas.ErrCorrupt) {
			err = nil // the source's is damaged too
		}
		return false, err
	}
	return true, nil
}

// layer copies a recipe and those of its objects that are lacking; without all of them,
// nothing is gained.
func (f storeSource) layer(ctx context.Context, ing *disk.Ingest, d DiffID) (ok bool, err error) {
	rec, closer, err := f.from.OpenLayer(ctx, d)
	if err != nil {
		if notHere(err) {
			err = nil
		}
		return false, err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	objects, err := soundObjects(ctx, rec)
	if err != nil || objects == nil {
		return false, err
	}
	for _, o := range objects {
		if ing.Has(o.ID) {
			continue
		}
		if ok, err := f.object(ctx, ing, o.ID, o.Size); err != nil || !ok {
			return false, err
		}
	}
	r, err := f.from.disk.OpenRecord(layerName(d))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	err = ing.PutRecord(ctx, layerName(d), func(w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(r, 0, r.Size()))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("store recipe of layer %s: %w", d, err)
	}
	return true, nil
}

// soundObjects verifies a recipe and returns its objects, nil when it is damaged.
func soundObjects(ctx context.Context, rec *recipe.Recipe) ([]recipe.ObjectRef, error) {
	if err := rec.Verify(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, nil // a source may be damaged
	}
	objects, err := rec.Objects()
	if objects == nil {
		objects = []recipe.ObjectRef{}
	}
	return objects, err
}
