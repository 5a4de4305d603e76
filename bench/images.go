package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/layerfs/layerfs/internal/testimage"
)

// form is one way in which a real image comes, with its layers as files.
type form struct {
	name   string
	input  string   // for load: a file or a directory
	layers []string // bottom first, compressed or not
}

// archive is a form of an image as one file, which every engine is given.
type archive struct {
	image, form string
	ref         string // the name that it gives the image
	file        string
	layers      []string // the same layers as files
	extracted   string   // directory with what the layers extract to
}

// archive returns an image in a form as a file, and makes it when it is not there yet.
// Layouts become archives in the directory of this run.
func (b *bench) archive(ctx context.Context, image, name string) (archive, error) {
	all, err := forms(ctx, image)
	if err != nil {
		return archive{}, err
	}
	a := archive{image: image, form: name, ref: "example.org/" + image + ":latest"}
	for _, f := range all {
		if f.name == name {
			a.file, a.layers = f.input, f.layers
		}
	}
	if a.extracted, err = testimage.BuildExtracted(ctx, image); err != nil {
		return a, err
	}
	if name == "docker-archive" {
		return a, nil
	}
	layout := a.file
	a.file = filepath.Join(b.work, image+"-"+name+".tar")
	if _, err := os.Stat(a.file); err == nil {
		return a, nil
	}
	return a, packLayout(layout, a.file, a.ref)
}

// packLayout writes an OCI layout with one image as an archive in which the image has a
// full name, in the two ways in which engines look for one.
func packLayout(layout, file, ref string) (err error) {
	var x index
	if err := readJSON(filepath.Join(layout, "index.json"), &x); err != nil {
		return err
	}
	x.Manifests[0].Annotations = map[string]string{"org.opencontainers.image.ref.name": ref, "io.containerd.image.name": ref}
	doc, err := json.Marshal(x)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	t := tar.NewWriter(f)
	add := func(name string, r io.Reader, size int64) error {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		_, err := io.Copy(t, r)
		return err
	}
	err = errors.Join(
		add("oci-layout", strings.NewReader(layoutVersion), int64(len(layoutVersion))),
		add("index.json", bytes.NewReader(doc), int64(len(doc))))
	if err != nil {
		return err
	}
	blobs, err := filepath.Glob(filepath.Join(layout, "blobs", "sha256", "*"))
	if err != nil {
		return err
	}
	for _, name := range blobs {
		blob, err := os.Open(name)
		if err != nil {
			return err
		}
		info, err := blob.Stat()
		if err == nil {
			err = add("blobs/sha256/"+filepath.Base(name), blob, info.Size())
		}
		if err := errors.Join(err, blob.Close()); err != nil {
			return err
		}
	}
	return t.Close()
}

const layoutVersion = `{"imageLayoutVersion":"1.0.0"}`

// forms returns the forms of one of the images of internal/testimage, making what is
// not there yet.
func forms(ctx context.Context, image string) ([]form, error) {
	dir, err := testimage.Build(ctx, image)
	if err != nil {
		return nil, err
	}
	all := []form{
		{name: "docker-archive", input: filepath.Join(dir, "docker.tar")},
		{name: "oci-gzip", input: filepath.Join(dir, "oci-gzip")},
		{name: "oci-zstd", input: filepath.Join(dir, "oci-zstd")},
	}
	for i, f := range all {
		if f.name == "docker-archive" {
			all[i].layers, err = filepath.Glob(filepath.Join(dir, "layers", "*.tar"))
		} else {
			all[i].layers, err = layoutLayers(f.input)
		}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	Manifests     []descriptor `json:"manifests"`
}

func blobFile(layout, digest string) string {
	return filepath.Join(layout, "blobs", "sha256", digest[len("sha256:"):])
}

// layoutLayers returns the files of the layers of the only image in an OCI layout.
func layoutLayers(layout string) ([]string, error) {
	var x index
	if err := readJSON(filepath.Join(layout, "index.json"), &x); err != nil {
		return nil, err
	}
	var m manifest
	if err := readJSON(blobFile(layout, x.Manifests[0].Digest), &m); err != nil {
		return nil, err
	}
	var files []string
	for _, l := range m.Layers {
		files = append(files, blobFile(layout, l.Digest))
	}
	return files, nil
}

func readJSON(name string, v any) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// madeUp writes an OCI layout with layers of small files of random contents: so many
// layers with so many files each. The same arguments give the same bytes.
func madeUp(layout, name string, layers, files int) error {
	if err := os.MkdirAll(filepath.Join(layout, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	put := func(mediaType string, data []byte) (descriptor, error) {
		return putBlob(layout, mediaType, func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
	}
	m := manifest{SchemaVersion: 2, MediaType: "application/vnd.oci.image.manifest.v1+json"}
	var diffIDs []string
	random := rand.NewChaCha8([32]byte{1: byte(layers), 2: byte(files), 3: byte(files >> 8)})
	for i := range layers {
		l, err := putBlob(layout, "layer.v1.tar", func(w io.Writer) error { return madeUpLayer(w, random, i, files) })
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, l)
		diffIDs = append(diffIDs, l.Digest)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return err
	}
	if m.Config, err = put("config.v1+json", config); err != nil {
		return err
	}
	doc, err := json.Marshal(m)
	if err != nil {
		return err
	}
	d, err := put("manifest.v1+json", doc)
	if err != nil {
		return err
	}
	d.Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
	x, err := json.Marshal(index{SchemaVersion: 2, Manifests: []descriptor{d}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(layout, "index.json"), x, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(layout, "oci-layout"), []byte(layoutVersion), 0o644)
}

// putBlob writes a blob of a layout without holding it in memory.
func putBlob(layout, mediaType string, write func(w io.Writer) error) (_ descriptor, err error) {
	f, err := os.CreateTemp(layout, "blob")
	if err != nil {
		return descriptor{}, err
	}
	h := sha256.New()
	err = errors.Join(write(io.MultiWriter(f, h)), f.Close())
	if err != nil {
		return descriptor{}, err
	}
	info, err := os.Stat(f.Name())
	if err != nil {
		return descriptor{}, err
	}
	d := descriptor{MediaType: "application/vnd.oci.image." + mediaType, Digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), Size: info.Size()}
	return d, os.Rename(f.Name(), blobFile(layout, d.Digest))
}

// madeUpArchive is an image of made-up layers as a docker archive, which every engine
// reads; where there is no skopeo to write one, as a layout. The tag tells sizes apart.
func (b *bench) madeUpArchive(ctx context.Context, name string, tag, layers, files int) (archive, error) {
	a := archive{image: name, form: "docker-archive", ref: fmt.Sprintf("example.org/%s-%d:latest", name, tag)}
	layout := filepath.Join(b.work, fmt.Sprintf("%s-%d", name, tag))
	if err := madeUp(layout, a.ref, layers, files); err != nil {
		return a, err
	}
	a.file = layout + ".tar"
	if _, err := exec.LookPath("skopeo"); err != nil {
		a.form, a.file = "oci", layout
		return a, nil //nolint:nilerr // then it stays a layout
	}
	if _, err := output(ctx, "skopeo", "--insecure-policy", "copy", "-q", "oci:"+layout, "docker-archive:"+a.file+":"+a.ref); err != nil {
		return a, err
	}
	return a, os.RemoveAll(layout)
}

// madeUpName is the path of file n of a layer, in directories of 100.
func madeUpName(layer, n int) string { return fmt.Sprintf("layer%d/%03d/%02d", layer, n/100, n%100) }

func madeUpLayer(w io.Writer, random *rand.ChaCha8, layer, files int) error {
	t := tar.NewWriter(w)
	data := make([]byte, 8<<10)
	sizes := rand.New(random)
	for n := range files {
		// Half of the files are small enough for any inline threshold, as in real images.
		size := 64 + sizes.IntN(1<<10)
		if n%2 == 0 {
			size = 2<<10 + sizes.IntN(6<<10)
		}
		if _, err := random.Read(data[:size]); err != nil {
			return err
		}
		err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: madeUpName(layer, n), Mode: 0o644, Size: int64(size)})
		if err != nil {
			return err
		}
		if _, err := t.Write(data[:size]); err != nil {
			return err
		}
	}
	return t.Close()
}
