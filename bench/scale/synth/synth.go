// Package synth fills stores with any number of images, without making the images first:
// to measure what grows with a store.
package synth

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/tarstream"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Size says how much to make. Nothing of two images is the same.
type Size struct {
	Images  int
	Layers  int // of an image
	Objects int // of a layer, 64 bytes each
}

// batch is how many images are published together: the records of one ingest are limited.
const batch = 200

// Name returns the name of the i'th image: a hundred in one directory.
func Name(i int) string { return fmt.Sprintf("synth%03d/image%05d:1", i/100, i) }

// Fill puts images into a store. Trees are made for every treeEach'th of them, all when
// it is 1. progress is called with the number of images that are there; it may be nil.
func Fill(ctx context.Context, d *disk.Store, size Size, treeEach int, progress func(int)) error {
	images := image.NewStore(d, d.Blobs(), image.Options{})
	snaps, err := snapshot.New(d, snapshot.Options{})
	if err != nil {
		return err
	}
	for first := 0; first < size.Images; first += batch {
		last := min(first+batch, size.Images)
		if err := fill(ctx, d, images, snaps, size, first, last, treeEach); err != nil {
			return err
		}
		if progress != nil {
			progress(last)
		}
	}
	return nil
}

func fill(ctx context.Context, d *disk.Store, images *image.Store, snaps *snapshot.Store, size Size, first, last, treeEach int) (err error) {
	ing, err := d.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ing.Close()) }()
	var docs []image.Document
	var refs []image.Ref
	var stacks [][]snapshot.DiffID
	for i := first; i < last; i++ {
		layers, sizes, err := putLayers(ctx, ing, size, i)
		if err != nil {
			return err
		}
		config, manifest, err := documents(layers, sizes)
		if err != nil {
			return err
		}
		name, err := reference.ParseTagged(Name(i))
		if err != nil {
			return err
		}
		docs = append(docs, config, manifest)
		refs = append(refs, image.Ref{Name: name, Target: manifest.Descriptor})
		if i%treeEach == 0 {
			stacks = append(stacks, layers)
		}
	}
	if err := ing.Publish(ctx); err != nil {
		return err
	}
	for _, s := range stacks {
		if _, err := snaps.Stack(ctx, s, snapshot.StackOptions{}); err != nil {
			return err
		}
	}
	if err := images.PutDocuments(ctx, docs); err != nil {
		return err
	}
	return images.SetRefs(ctx, refs...)
}

// putLayers puts the layers of the i'th image into the batch.
func putLayers(ctx context.Context, ing *disk.Ingest, size Size, i int) (layers []snapshot.DiffID, sizes []int64, err error) {
	for l := range size.Layers {
		data, err := Tar(fmt.Sprintf("%d-%d", i, l), size.Objects)
		if err != nil {
			return nil, nil, err
		}
		built, err := tarstream.Import(ctx, bytes.NewReader(data), ing, tarstream.ImportOptions{InlineMax: 1, Workers: 1})
		if err != nil {
			return nil, nil, err
		}
		d := snapshot.DiffID(built.DiffID)
		err = ing.PutRecord(ctx, "layers/sha256/"+strings.TrimPrefix(d.String(), "sha256:"), func(w io.Writer) error {
			_, err := built.WriteTo(w)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		layers, sizes = append(layers, d), append(sizes, int64(len(data)))
	}
	return layers, sizes, nil
}

// Tar returns a layer with that many files of 64 bytes, which differ from word to word.
func Tar(word string, files int) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for f := range files {
		text := fmt.Sprintf("%-64.64s", fmt.Sprintf("file %d of layer %s", f, word))
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("f%s-%d", word, f), Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(1_600_000_000, 0)})
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		if err != nil {
			return nil, err
		}
	}
	return b.Bytes(), errors.Join(w.Close())
}

func documents(layers []snapshot.DiffID, sizes []int64) (config, manifest image.Document, err error) {
	c := ocispec.Image{Platform: image.HostPlatform(), RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i, d := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.Digest(d))
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(d), Size: sizes[i]})
	}
	data, err := json.Marshal(c)
	if err != nil {
		return config, manifest, err
	}
	config = image.NewDocument(ocispec.MediaTypeImageConfig, data)
	m.Config = config.Descriptor
	data, err = json.Marshal(m)
	return config, image.NewDocument(ocispec.MediaTypeImageManifest, data), err
}
