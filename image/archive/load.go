package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/layerfs/layerfs/tarstream/compress"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// LoadOptions of Load. The zero LoadOptions is ready for use.
type LoadOptions struct {
	// Name is for images whose archive gives them no whole name: its repository for
	// one with a tag only (as skopeo and umoci write them), all of it for the only
	// image of an archive when that has no name at all, or a tag only and Name has one
	// too. Without it, a tag alone is taken for a name, and an image without a name is
	// kept unnamed.
	Name reference.Reference
	// Platform to take from an image of several; that of this machine when nil.
	Platform *ocispec.Platform
	// AllPlatforms takes all that the archive holds.
	AllPlatforms bool
	// Force reads layers even if they are stored already.
	Force bool
	// Source is noted with the names; may be "".
	Source string
	// Verify is asked for every image, after its layers are stored and before anything
	// has a name; its error ends the load. May be nil.
	Verify func(ctx context.Context, im *image.Image) error
	// Workers is how many layers are imported side by side; when 0, as many as there
	// are processors, at most 4.
	Workers int
	// Limits of a compressed archive.
	Limits compress.Limits
	// Progress is called for each member that is read, from several goroutines; may be
	// nil.
	Progress func(Progress)
	Logger   *slog.Logger // discards when nil
}

// Loaded is one image that an archive held.
type Loaded struct {
	Names  []reference.Reference // none for an unnamed image
	Target ocispec.Descriptor    // manifest or index
	// Images of Target, one for each platform that was taken.
	Images []*image.Image
}

func (o LoadOptions) withDefaults() LoadOptions {
	if o.Workers <= 0 {
		o.Workers = min(4, runtime.GOMAXPROCS(0))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Load loads all images of an archive, given by the name of a file or a directory. The
// caller holds off garbage collection meanwhile. What is wrong with the archive itself
// wraps fs.ErrInvalid and names the image, the layer and the member.
func Load(ctx context.Context, store *image.Store, layers image.Layers, name string, o LoadOptions) ([]Loaded, error) {
	o = o.withDefaults()
	loaded, err := loadPath(ctx, store, layers, name, o)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	return loaded, nil
}

func loadPath(ctx context.Context, store *image.Store, layers image.Layers, name string, o LoadOptions) ([]Loaded, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	m := &meter{report: o.Progress}
	switch {
	case info.IsDir():
		if err := f.Close(); err != nil {
			return nil, err
		}
		root, err := os.OpenRoot(name)
		if err != nil {
			return nil, err
		}
		return loadFrom(ctx, store, &randomSource{dirOpener{root}, layers, m}, layers, o)
	case info.Mode().IsRegular():
		format, err := detect(f)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if format == compress.None {
			t, err := openTar(ctx, f)
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return loadFrom(ctx, store, &randomSource{t, layers, m}, layers, o)
		}
	}
	loaded, err := loadStream(ctx, store, layers, f, o)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return loaded, f.Close()
}

// detect looks at how a file begins and goes back to its start.
func detect(f *os.File) (compress.Format, error) {
	head := make([]byte, compress.DetectSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return compress.None, err
	}
	return compress.Detect(head[:n]), nil
}

// LoadReader loads all images of a tar, compressed or not, from front to back.
func LoadReader(ctx context.Context, store *image.Store, layers image.Layers, r io.Reader, o LoadOptions) ([]Loaded, error) {
	loaded, err := loadStream(ctx, store, layers, r, o.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("load archive: %w", err)
	}
	return loaded, nil
}

func loadStream(ctx context.Context, store *image.Store, layers image.Layers, r io.Reader, o LoadOptions) (_ []Loaded, err error) {
	z, _, err := compress.NewReader(r, o.Limits)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	s, err := readStream(ctx, z, layers, o.Force, &meter{report: o.Progress})
	if err != nil {
		return nil, err
	}
	return loadFrom(ctx, store, s, layers, o)
}

// loadFrom plans from the documents, imports the layers, stores the documents and then
// gives the names. It closes src.
func loadFrom(ctx context.Context, store *image.Store, src source, layers image.Layers, o LoadOptions) (_ []Loaded, err error) {
	defer func() { err = errors.Join(err, src.close()) }()
	p := newPlan(src, o)
	if err := p.read(ctx); err != nil {
		return nil, err
	}
	if len(p.targets) == 0 {
		return nil, fmt.Errorf("archive holds no image: %w", fs.ErrInvalid)
	}
	if err := p.importLayers(ctx, layers); err != nil {
		return nil, err
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	if err := p.store(ctx, store); err != nil {
		return nil, err
	}
	return p.name(ctx, store)
}
