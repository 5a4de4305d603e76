package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Format is the kind of archive to write, a closed set.
type Format uint8

// The formats.
const (
	// OCI is an OCI image layout. As a tar it has a manifest.json besides, so that
	// Docker versions that do not read layouts load it too.
	OCI Format = iota + 1
	// Docker is the archive that `docker save` wrote before it wrote layouts: plain
	// tars and no manifests, which every tool reads.
	Docker
)

// String returns the name that people give to the format.
func (f Format) String() string {
	switch f {
	case OCI:
		return "oci"
	case Docker:
		return "docker"
	default:
		return fmt.Sprintf("Format(%d)", uint8(f))
	}
}

// ParseFormat is the inverse of String; an error wraps fs.ErrInvalid.
func ParseFormat(s string) (Format, error) {
	switch s {
	case "oci", "oci-archive":
		return OCI, nil
	case "docker", "docker-archive":
		return Docker, nil
	}
	return 0, invalid("archive format %.50q is neither oci nor docker", s)
}

// SaveOptions of Save. The zero SaveOptions writes an OCI archive.
type SaveOptions struct {
	Format Format // OCI when 0
	// Compress compresses, in an OCI archive, layers that were not kept as compressed
	// blobs, as Gzip or Zstd; such an image gets a new manifest digest. With None they
	// are written as plain tars, and the digest of a manifest that has them as plain
	// tars stays.
	Compress compress.Format
	Level    compress.Level
	// TempDir is where compressed layers wait for their digest to be known. It must be
	// given with Compress, and is left as it was.
	TempDir string
	// Platform to write of an image for several; nil for all that are stored completely,
	// or else that of this machine.
	Platform *ocispec.Platform
	Progress func(Progress) // called for each member that is written; may be nil
}

// Item is one image to save.
type Item struct {
	Names  []reference.Reference // to write with it, with tags; may be none
	Target ocispec.Descriptor
}

// Saved is one image as it was written.
type Saved struct {
	Names  []reference.Reference
	Target ocispec.Descriptor // as written; for a docker archive, which has no manifest, as stored
	ID     digest.Digest      // of the image, or of that of the platform written
	// Changed: the digest of what was written is not that of the item's Target, because
	// a layer is no longer there in the form that the manifest names, or because only
	// one platform of several was written.
	Changed bool
}

// Select finds images to save by the words that people use for them. A word that is a
// name is written with the image; the same image under several names is one item.
func Select(ctx context.Context, store *image.Store, words []string) ([]Item, error) {
	var items []Item
	for _, word := range words {
		m, err := store.Find(ctx, word)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(items, func(it Item) bool { return it.Target.Digest == m.Target.Digest })
		if i < 0 {
			i = len(items)
			items = append(items, Item{Target: m.Target})
		}
		if !m.ByName {
			continue
		}
		name, err := reference.ParseTagged(word)
		if err != nil {
			return nil, err
		}
		if name = name.WithoutTag(); !slices.Contains(items[i].Names, name) {
			items[i].Names = append(items[i].Names, name)
		}
	}
	return items, nil
}

// Save writes images as a tar. The same images give the same bytes. Blobs are verified
// while they are written; when Save fails, what was written is not an archive.
func Save(ctx context.Context, store *image.Store, layers image.Layers, w io.Writer, items []Item, o SaveOptions) ([]Saved, error) {
	c, saved, err := compose(ctx, store, layers, items, o)
	if err != nil {
		return nil, fmt.Errorf("save images: %w", err)
	}
	err = c.writeTar(ctx, w)
	if err = errors.Join(err, c.close()); err != nil {
		return nil, fmt.Errorf("save images: %w", err)
	}
	return saved, nil
}

// compose collects what an archive consists of, before anything is written.
func compose(ctx context.Context, store *image.Store, layers image.Layers, items []Item, o SaveOptions) (_ *composer, _ []Saved, err error) {
	if o.Format == 0 {
		o.Format = OCI
	}
	switch {
	case o.Compress != compress.None && o.Format == Docker:
		return nil, nil, invalid("layers of a docker archive are plain tars")
	case o.Compress != compress.None && o.TempDir == "":
		return nil, nil, invalid("no directory for temporary files is given")
	case len(items) == 0:
		return nil, nil, invalid("no image is given")
	}
	c := &composer{
		store: store, layers: layers, opts: o, meter: &meter{report: o.Progress},
		members: make(map[string]member), packed: make(map[digest.Digest]ocispec.Descriptor),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	var saved []Saved
	for _, it := range items {
		var s Saved
		switch o.Format {
		case OCI:
			s, err = c.addLayout(ctx, it)
		case Docker:
			s, err = c.addDocker(ctx, it)
		default:
			err = invalid("archive format %v", o.Format)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("image %s: %w", itemLabel(it), err)
		}
		saved = append(saved, s)
	}
	return c, saved, c.finish()
}

func itemLabel(it Item) string {
	if len(it.Names) > 0 {
		return it.Names[0].Familiar()
	}
	return string(it.Target.Digest)
}
