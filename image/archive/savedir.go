package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/layerfs/layerfs/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// SaveDir writes images into a directory as an OCI layout. A layout that is there gets
// them in addition; a name that it has already moves. Its index.json is replaced last,
// so at any time the directory is a sound layout.
func SaveDir(ctx context.Context, store *image.Store, layers image.Layers, dir string, items []Item, o SaveOptions) ([]Saved, error) {
	if o.TempDir == "" {
		o.TempDir = dir
	}
	saved, err := saveDir(ctx, store, layers, dir, items, o)
	if err != nil {
		return nil, fmt.Errorf("save images to %s: %w", dir, err)
	}
	return saved, nil
}

func saveDir(ctx context.Context, store *image.Store, layers image.Layers, dir string, items []Item, o SaveOptions) (_ []Saved, err error) {
	if o.Format == Docker {
		return nil, invalid("a docker archive is a tar, not a directory")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	old, err := oldEntries(root)
	if err != nil {
		return nil, err
	}
	c, saved, err := compose(ctx, store, layers, items, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	entries := merge(old, c.entries)
	index, err := image.EncodeLayoutIndex(entries)
	if err != nil {
		return nil, err
	}
	c.addBytes(ocispec.ImageIndexFile, index)
	// A directory is read as a layout by all tools; what is for old versions of Docker
	// would have to be merged too.
	delete(c.members, manifestFile)
	names := slices.Sorted(maps.Keys(c.members))
	for _, name := range names {
		if name == ocispec.ImageIndexFile {
			continue
		}
		if err := c.writeFile(ctx, root, name); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := c.writeFile(ctx, root, ocispec.ImageIndexFile); err != nil {
		return nil, fmt.Errorf("write %s: %w", ocispec.ImageIndexFile, err)
	}
	return saved, nil
}

// oldEntries reads the index.json of a layout that is there, and refuses a directory
// that holds something else.
func oldEntries(root *os.Root) ([]ocispec.Descriptor, error) {
	d := dirOpener{root}
	s := &randomSource{opener: d, meter: &meter{}}
	layout, err := s.read(context.Background(), ocispec.ImageLayoutFile, image.MaxRecord)
	if isMissing(err) {
		f, err := root.Open(".")
		if err != nil {
			return nil, err
		}
		_, err = f.Readdirnames(1)
		if cerr := f.Close(); cerr != nil {
			return nil, cerr
		}
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err == nil {
			err = fmt.Errorf("directory is neither empty nor an OCI layout: %w", fs.ErrExist)
		}
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	if err := image.CheckLayout(layout); err != nil {
		return nil, err
	}
	index, err := s.read(context.Background(), ocispec.ImageIndexFile, image.MaxLayoutIndex)
	if isMissing(err) {
		return nil, nil // a layout of which no more was written
	}
	if err != nil {
		return nil, err
	}
	x, err := image.ParseLayoutIndex(index)
	if err != nil {
		return nil, err
	}
	return x.Manifests, nil
}

// merge puts new entries after the old ones that they do not replace.
func merge(old, added []ocispec.Descriptor) []ocispec.Descriptor {
	all := slices.DeleteFunc(slices.Clone(old), func(o ocispec.Descriptor) bool {
		return slices.ContainsFunc(added, func(a ocispec.Descriptor) bool {
			whole := a.Annotations[image.AnnotationImageName]
			name := a.Annotations[ocispec.AnnotationRefName]
			if name == "" {
				return a.Digest == o.Digest
			}
			other := o.Annotations[image.AnnotationImageName]
			return o.Annotations[ocispec.AnnotationRefName] == name && (other == "" || other == whole)
		})
	})
	return distinguish(append(all, added...))
}

// writeFile writes a member under another name first. A blob that is there in its size
// is left as it is.
func (c *composer) writeFile(ctx context.Context, root *os.Root, name string) (err error) {
	m := c.members[name]
	dirs := parents(name)
	if len(dirs) > 0 {
		if info, err := root.Stat(name); err == nil && info.Mode().IsRegular() && info.Size() == m.size {
			return nil
		}
		if err := root.MkdirAll(dirs[len(dirs)-1], 0o755); err != nil {
			return err
		}
	}
	temp := ".save-" + rand.Text()
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if rerr := root.Remove(temp); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	err = c.write(ctx, name, m, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return root.Rename(temp, name)
}
