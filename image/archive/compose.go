package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// member is one file of an archive to write.
type member struct {
	size  int64
	write func(ctx context.Context, w io.Writer) error
}

// composer collects the members of an archive.
type composer struct {
	store  *image.Store
	layers image.Layers
	opts   SaveOptions
	meter  *meter

	members map[string]member
	entries []ocispec.Descriptor                 // of index.json
	docker  []dockerEntry                        // of manifest.json
	packed  map[digest.Digest]ocispec.Descriptor // DiffIDs of layers that were compressed
	temp    []*os.File                           // of packed layers
	tags    map[string]map[string]string         // of repositories: repository, tag, top layer
}

// close removes temporary files.
func (c *composer) close() error {
	var errs []error
	for _, f := range c.temp {
		errs = append(errs, f.Close(), os.Remove(f.Name()))
	}
	c.temp = nil
	return errors.Join(errs...)
}

func (c *composer) addBytes(name string, data []byte) {
	c.members[name] = member{int64(len(data)), func(_ context.Context, w io.Writer) error {
		_, err := w.Write(data)
		return err
	}}
}

// addBlob adds a blob of the store to a layout.
func (c *composer) addBlob(d ocispec.Descriptor) {
	c.members[blobName(d.Digest)] = member{d.Size, func(ctx context.Context, w io.Writer) (err error) {
		r, err := c.store.Blobs().Open(ctx, d.Digest)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		_, err = io.Copy(w, cas.NewVerifiedReader(io.NewSectionReader(r, 0, r.Size()), cas.Expect{Digest: d.Digest, Size: d.Size}))
		return err
	}}
}

// addLayerBlob adds a layer in the compressed form that a manifest names, if that is
// kept or can be made again.
func (c *composer) addLayerBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	there, err := c.hasBlob(ctx, d)
	if err == nil && !there {
		there, err = c.layers.Remakes(ctx, d.Digest)
	}
	if err != nil || !there {
		return false, err
	}
	c.addBlob(d)
	kept := c.members[blobName(d.Digest)].write
	c.members[blobName(d.Digest)] = member{d.Size, func(ctx context.Context, w io.Writer) error {
		err := kept(ctx, w)
		// Opening it failed: what is kept may be discarded at any time.
		if isMissing(err) {
			err = c.layers.WriteBlob(ctx, d.Digest, w)
		}
		return err
	}}
	return true, nil
}

// addTar adds a layer as a plain tar.
func (c *composer) addTar(name string, l image.Layer) {
	c.members[name] = member{l.Size, func(ctx context.Context, w io.Writer) error {
		return c.layers.WriteTar(ctx, l.DiffID, w)
	}}
}

// hasBlob reports whether the store has a blob, of that size.
func (c *composer) hasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	info, err := c.store.Blobs().Stat(ctx, d.Digest)
	if isMissing(err) {
		return false, nil
	}
	if err == nil && info.Size != d.Size {
		err = fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, info.Size, d.Size, cas.ErrCorrupt)
	}
	return err == nil, err
}

// addLayer adds a layer to a layout and returns how the manifest shall refer to it.
func (c *composer) addLayer(ctx context.Context, d ocispec.Descriptor, diffID digest.Digest) (ocispec.Descriptor, error) {
	if added, err := c.addLayerBlob(ctx, d); err != nil || added {
		return d, err
	}
	l, err := c.layers.Stat(ctx, diffID)
	if err != nil {
		return d, err
	}
	if c.opts.Compress != compress.None {
		return c.pack(ctx, l)
	}
	c.addTar(blobName(diffID), l)
	if d.Digest == diffID {
		return d, nil
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: l.Size}, nil
}

// pack compresses a layer into a temporary file, since its digest is its name.
func (c *composer) pack(ctx context.Context, l image.Layer) (ocispec.Descriptor, error) {
	if d, ok := c.packed[l.DiffID]; ok {
		return d, nil
	}
	f, err := os.CreateTemp(c.opts.TempDir, ".layer-*")
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	c.temp = append(c.temp, f)
	digester := digest.Canonical.Digester()
	z, err := compress.NewWriter(io.MultiWriter(f, digester.Hash()), c.opts.Compress, c.opts.Level)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	err = c.layers.WriteTar(ctx, l.DiffID, z)
	if err = errors.Join(err, z.Close()); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("compress layer %s: %w", l.DiffID, err)
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digester.Digest(), Size: size}
	if c.opts.Compress == compress.Zstd {
		d.MediaType = ocispec.MediaTypeImageLayerZstd
	}
	c.members[blobName(d.Digest)] = member{size, func(_ context.Context, w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(f, 0, size))
		return err
	}}
	c.packed[l.DiffID] = d
	return d, nil
}

// writeTar writes all members in the order of their names, with the same metadata for
// each, so that the same images give the same bytes.
func (c *composer) writeTar(ctx context.Context, w io.Writer) error {
	t := tar.NewWriter(w)
	epoch := time.Unix(0, 0)
	dirs := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(c.members)) {
		for _, dir := range parents(name) {
			if dirs[dir] {
				continue
			}
			dirs[dir] = true
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: epoch}); err != nil {
				return err
			}
		}
		m := c.members[name]
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: m.size, ModTime: epoch}); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		err := c.write(ctx, name, m, t)
		if err == nil {
			err = t.Flush()
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return t.Close()
}

// write writes one member and verifies its size.
func (c *composer) write(ctx context.Context, name string, m member, w io.Writer) error {
	out := &meteredWriter{ended: ctx.Err, w: w, meter: c.meter, p: Progress{Name: name, Total: m.size}}
	if err := m.write(ctx, out); err != nil {
		return err
	}
	if out.p.Done != m.size {
		return fmt.Errorf("%d bytes instead of %d: %w", out.p.Done, m.size, cas.ErrCorrupt)
	}
	out.report()
	return nil
}

// parents returns the directories above a member, the outermost first.
func parents(name string) []string {
	var dirs []string
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		dirs = append(dirs, dir)
	}
	slices.Reverse(dirs)
	return dirs
}
