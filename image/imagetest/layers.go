// Package imagetest has what tests of images need: layers kept as plain tars in a
// directory, and a way to make small layers.
package imagetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layers implements image.Layers: each layer is a tar file named by its DiffID, and
// compressed blobs are kept as they came.
type Layers struct {
	dir   string
	blobs image.Blobs

	mu       sync.Mutex
	byDiffID map[digest.Digest]image.Layer
	byBlob   map[digest.Digest]image.Layer
	imports  int
	remakes  bool
}

var _ image.Layers = (*Layers)(nil)

// NewLayers keeps layers in dir, and their compressed blobs in blobs, or nowhere when
// that is nil.
func NewLayers(dir string, blobs image.Blobs) *Layers {
	return &Layers{dir: dir, blobs: blobs, byDiffID: make(map[digest.Digest]image.Layer), byBlob: make(map[digest.Digest]image.Layer)}
}

// Imports returns how often Import was called.
func (l *Layers) Imports() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.imports
}

// RemakeBlobs lets blobs that are not kept be made again, as Compress makes them.
func (l *Layers) RemakeBlobs() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remakes = true
}

// DiffIDs returns all layers, sorted.
func (l *Layers) DiffIDs() []digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.byDiffID))
}

func (l *Layers) file(d digest.Digest) string { return filepath.Join(l.dir, d.Encoded()+".tar") }

// Import implements image.Layers.
func (l *Layers) Import(ctx context.Context, r io.Reader, e image.LayerExpect) (_ image.Layer, err error) {
	l.mu.Lock()
	l.imports++
	l.mu.Unlock()
	f, err := os.CreateTemp(l.dir, "import-*")
	if err != nil {
		return image.Layer{}, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.RemoveAll(f.Name())) }()

	blob := sha256.New()
	var kept cas.Writer
	var batch cas.Batch
	var to io.Writer = blob
	if l.blobs != nil {
		if batch, err = l.blobs.Begin(ctx); err != nil {
			return image.Layer{}, err
		}
		defer func() { err = errors.Join(err, batch.Close()) }()
		if kept, err = batch.Create(ctx, cas.Expect{Size: -1}); err != nil {
			return image.Layer{}, err
		}
		defer func() { err = errors.Join(err, kept.Close()) }()
		to = io.MultiWriter(blob, kept)
	}
	counted := &counter{r: io.TeeReader(cas.NewVerifiedReader(r, cas.Expect{Digest: e.Blob, Size: e.BlobSize}), to)}
	z, format, err := compress.NewReader(counted, compress.Limits{})
	if err != nil {
		return image.Layer{}, err
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	diff := sha256.New()
	size, err := io.Copy(io.MultiWriter(f, diff), z)
	if err != nil {
		return image.Layer{}, err
	}
	layer := image.Layer{
		DiffID: digest.NewDigest(digest.SHA256, diff), Size: size,
		Blob: digest.NewDigest(digest.SHA256, blob), BlobSize: counted.n, MediaType: e.MediaType,
	}
	if e.DiffID != "" && e.DiffID != layer.DiffID {
		return image.Layer{}, fmt.Errorf("tar has the digest %s, not %s: %w", layer.DiffID, e.DiffID, cas.ErrCorrupt)
	}
	if err := checkTar(f); err != nil {
		return image.Layer{}, err
	}
	switch format {
	case compress.Gzip:
		layer.MediaType = ocispec.MediaTypeImageLayerGzip
	case compress.Zstd:
		layer.MediaType = ocispec.MediaTypeImageLayerZstd
	case compress.None:
		layer.MediaType = ocispec.MediaTypeImageLayer
	default:
		layer.MediaType = ""
	}
	if kept != nil && format != compress.None {
		if _, err := kept.Commit(ctx); err != nil {
			return image.Layer{}, err
		}
		if err := batch.Publish(ctx); err != nil {
			return image.Layer{}, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := os.Rename(f.Name(), l.file(layer.DiffID)); err != nil {
		return image.Layer{}, err
	}
	l.byDiffID[layer.DiffID] = layer
	l.byBlob[layer.Blob] = layer
	return layer, nil
}

func checkTar(f *os.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	t := tar.NewReader(f)
	for {
		_, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read layer: %w: %w", err, fs.ErrInvalid)
		}
	}
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// Stat implements image.Layers.
func (l *Layers) Stat(_ context.Context, diffID digest.Digest) (image.Layer, error) {
	return l.find(l.byDiffID, diffID)
}

// ByBlob implements image.Layers.
func (l *Layers) ByBlob(_ context.Context, blob digest.Digest) (image.Layer, error) {
	return l.find(l.byBlob, blob)
}

func (l *Layers) find(in map[digest.Digest]image.Layer, d digest.Digest) (image.Layer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	layer, ok := in[d]
	if !ok {
		return image.Layer{}, fmt.Errorf("layer %s: %w", d, fs.ErrNotExist)
	}
	return layer, nil
}

// WriteTar implements image.Layers.
func (l *Layers) WriteTar(_ context.Context, diffID digest.Digest, w io.Writer) (err error) {
	f, err := os.Open(l.file(diffID))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(w, f)
	return err
}

// Remakes implements image.Layers.
func (l *Layers) Remakes(_ context.Context, blob digest.Digest) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	layer, ok := l.byBlob[blob]
	return ok && l.remakes && layer.Blob != layer.DiffID, nil
}

// WriteBlob implements image.Layers.
func (l *Layers) WriteBlob(ctx context.Context, blob digest.Digest, w io.Writer) error {
	layer, err := l.find(l.byBlob, blob)
	if err != nil {
		return err
	}
	format := compress.Gzip
	if layer.MediaType == ocispec.MediaTypeImageLayerZstd {
		format = compress.Zstd
	}
	z, err := compress.NewWriter(w, format, compress.DefaultLevel)
	if err != nil {
		return err
	}
	err = l.WriteTar(ctx, layer.DiffID, z)
	return errors.Join(err, z.Close())
}

// File is one entry of a tar made by Tar.
type File struct {
	Name, Body string
	Link       string // target of a symbolic link, when not empty
	HardLink   string // target of a hard link, when not empty
}

// Tar returns a tar of files; names that end in a slash are directories.
func Tar(files ...File) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: 0o644, Size: int64(len(f.Body)), Typeflag: tar.TypeReg}
		switch {
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		case f.HardLink != "":
			h.Typeflag, h.Linkname = tar.TypeLink, f.HardLink
		case f.Name[len(f.Name)-1] == '/':
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		must(w.WriteHeader(h))
		_, err := io.WriteString(w, f.Body)
		must(err)
	}
	must(w.Close())
	return b.Bytes()
}

// Compress returns data in a format.
func Compress(data []byte, f compress.Format) []byte {
	var b bytes.Buffer
	w, err := compress.NewWriter(&b, f, compress.DefaultLevel)
	must(err)
	_, err = w.Write(data)
	must(err)
	must(w.Close())
	return b.Bytes()
}

// must stops a test whose fixture cannot be made in memory, which has no other cause
// than a mistake in the test.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
