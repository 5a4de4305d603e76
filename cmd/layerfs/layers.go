package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageLayers gives images their layers from the layer graph. What it imports stays
// kept from collection while its session is open.
type imageLayers struct {
	store   *snapshot.Store
	session *snapshot.Session
	// mountable refuses a layer that cannot be mounted by itself.
	mountable bool
}

var _ image.Layers = (*imageLayers)(nil)

func (l *imageLayers) Import(ctx context.Context, r io.Reader, e image.LayerExpect) (image.Layer, error) {
	expect := snapshot.LayerExpect{Blob: e.Blob, BlobSize: e.BlobSize, MediaType: e.MediaType}
	if e.DiffID != "" {
		var err error
		if expect.DiffID, err = snapshot.ParseDiffID(e.DiffID.String()); err != nil {
			return image.Layer{}, err
		}
	}
	layer, blob, err := l.store.ImportLayer(ctx, l.session, r, expect)
	if err == nil && l.mountable {
		_, err = l.store.Stack(ctx, []snapshot.DiffID{layer.DiffID}, snapshot.StackOptions{})
	}
	if err != nil {
		return image.Layer{}, err
	}
	return imageLayer(layer, blob), nil
}

func (l *imageLayers) Stat(ctx context.Context, diffID digest.Digest) (image.Layer, error) {
	layer, err := l.store.FindLayer(ctx, l.session, snapshot.DiffID(diffID))
	if err != nil {
		return image.Layer{}, err
	}
	return imageLayer(layer, snapshot.Blob{}), nil
}

func (l *imageLayers) ByBlob(ctx context.Context, d digest.Digest) (image.Layer, error) {
	layer, blob, err := l.store.FindBlob(ctx, l.session, d)
	if err != nil {
		return image.Layer{}, err
	}
	return imageLayer(layer, blob), nil
}

func (l *imageLayers) WriteTar(ctx context.Context, diffID digest.Digest, w io.Writer) error {
	return l.store.WriteTar(ctx, snapshot.DiffID(diffID), w)
}

func (l *imageLayers) Remakes(ctx context.Context, blob digest.Digest) (bool, error) {
	return l.store.RemakesBlob(ctx, blob)
}

func (l *imageLayers) WriteBlob(ctx context.Context, blob digest.Digest, w io.Writer) error {
	return l.store.WriteBlob(ctx, blob, w)
}

func imageLayer(l snapshot.Layer, b snapshot.Blob) image.Layer {
	out := image.Layer{DiffID: digest.Digest(l.DiffID), Size: l.TarSize, Blob: b.Digest, BlobSize: b.Size, MediaType: b.MediaType}
	if out.Blob == "" {
		out.Blob, out.BlobSize = out.DiffID, out.Size
	}
	return out
}

// resolved is an image that a word on the command line was found to mean.
type resolved struct {
	*image.Image
	ref    string // its familiar name, or its digest
	layers []snapshot.DiffID
	digest digest.Digest // of the manifest
	word   string        // the last part of its name, for naming what is made from it
}

// imageStore opens the images of the store.
func (a *app) imageStore(ctx context.Context) (*image.Store, error) {
	if _, err := a.store(ctx); err != nil {
		return nil, err
	}
	if a.imgs == nil {
		opts := image.Options{Logger: a.logger(), Now: a.now}
		for _, below := range a.disk.Additional() {
			opts.Shared = append(opts.Shared, below)
		}
		a.imgs = image.NewStore(a.disk, a.disk.Blobs(), opts)
	}
	return a.imgs, nil
}

// image finds an image by name, id or digest.
func (a *app) image(ctx context.Context, word string) (*resolved, error) {
	store, err := a.imageStore(ctx)
	if err != nil {
		return nil, err
	}
	im, err := store.ResolveAlone(ctx, word, nil)
	if err != nil {
		return nil, hint(err, imagesHint)
	}
	r := &resolved{Image: im, digest: im.Manifest.Digest, ref: im.Manifest.Digest.String(), word: short(im.ID().String())}
	if len(im.Names) > 0 {
		r.ref, r.word = im.Names[0].Familiar(), path.Base(im.Names[0].Path())
	}
	for _, d := range im.DiffIDs() {
		id, err := snapshot.ParseDiffID(d.String())
		if err != nil {
			return nil, err
		}
		r.layers = append(r.layers, id)
	}
	return r, nil
}

// What a user can do about a name that is not there.
const (
	imagesHint    = `"layerfs images" lists the names`
	snapshotsHint = `"layerfs snapshots" lists the names`
)

// hint adds to an error that something is not there what to do about it.
func hint(err error, todo string) error {
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, cas.ErrCorrupt) {
		return fmt.Errorf("%w; %s", err, todo)
	}
	return err
}

// imageIfNoSnapshot finds an image by a word that no snapshot has.
func (a *app) imageIfNoSnapshot(ctx context.Context, word string) (*resolved, error) {
	img, err := a.image(ctx, word)
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, cas.ErrCorrupt) {
		return nil, fmt.Errorf("no snapshot of that name: %w", err)
	}
	return img, err
}

// statSnapshot finds a snapshot by its name or by that of the container on it.
func (a *app) statSnapshot(ctx context.Context, word string) (*snapshot.Record, error) {
	s, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	key, err := snapshot.ParseKey(word)
	if err != nil {
		return nil, err
	}
	rec, err := s.Stat(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		if rec, err := a.containerSnapshot(ctx, word); rec != nil || err != nil {
			return rec, err
		}
		return nil, hint(fmt.Errorf("no snapshot named %s: %w", word, fs.ErrNotExist), snapshotsHint)
	}
	return rec, err
}

// openManifest reads the image of a manifest or an index that is known by its digest
// only.
func (a *app) openManifest(ctx context.Context, store *image.Store, d digest.Digest) (_ *image.Image, err error) {
	r, err := a.disk.Blobs().Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer join(&err, r.Close)
	if r.Size() > image.MaxManifest {
		return nil, fmt.Errorf("manifest %s of %d bytes, limit %d: %w", d, r.Size(), image.MaxManifest, fs.ErrInvalid)
	}
	data, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		return nil, err
	}
	mediaType, err := image.DetectMediaType(data)
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: r.Size()}, nil)
}

// snapshotNamed finds a snapshot, or that of a container, by a word that may also mean an
// image; nil when there is none of that name.
func (a *app) snapshotNamed(ctx context.Context, word string) (*snapshot.Record, error) {
	s, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	key, err := snapshot.ParseKey(word)
	if err != nil {
		return nil, nil //nolint:nilerr // a word that cannot be a snapshot's name means an image
	}
	rec, err := s.Stat(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return a.containerSnapshot(ctx, word)
	}
	return rec, err
}

// reader opens what a word means, a snapshot or an image, for reading without mounting.
func (a *app) reader(ctx context.Context, word string) (*snapshot.Reader, error) {
	rec, err := a.snapshotNamed(ctx, word)
	if err != nil {
		return nil, err
	}
	if rec != nil {
		if err := a.enter(); err != nil {
			return nil, err
		}
		return a.snaps.OpenSnapshot(ctx, rec.Key)
	}
	img, err := a.imageIfNoSnapshot(ctx, word)
	if err != nil {
		return nil, err
	}
	return a.snaps.OpenStack(ctx, img.layers)
}
