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
	err = errors.Join(
		addFile(t, "oci-layout", strings.NewReader(layoutVersion), int64(len(layoutVersion))),
		addFile(t, "index.json", bytes.NewReader(doc), int64(len(doc))))
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
			err = addFile(t, "blobs/sha256/"+filepath.Base(name), blob, info.Size())
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

// madeUpArchive is an image of layers of small files of random contents as a docker
// archive, which every engine reads: so many layers with so many files each. The same
// arguments give the same bytes. The tag tells sizes apart.
func (b *bench) madeUpArchive(name string, tag, layers, files int) (_ archive, err error) {
	a := archive{image: name, form: dockerArchive, ref: fmt.Sprintf("example.org/%s-%d:latest", name, tag)}
	a.file = filepath.Join(b.work, fmt.Sprintf("%s-%d.tar", name, tag))
	f, err := os.Create(a.file)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := tar.NewWriter(f)
	var diffIDs, names []string
	random := rand.NewChaCha8([32]byte{1: byte(layers), 2: byte(files), 3: byte(files >> 8)})
	for i := range layers {
		name, err := addLayer(out, b.work, func(w io.Writer) error { return madeUpLayer(w, random, i, files) })
		if err != nil {
			return a, err
		}
		diffIDs, names = append(diffIDs, "sha256:"+name), append(names, name+".tar")
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return a, err
	}
	id := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]map[string]any{{"Config": id, "RepoTags": []string{a.ref}, "Layers": names}})
	if err != nil {
		return a, err
	}
	return a, errors.Join(addFile(out, id, bytes.NewReader(config), int64(len(config))),
		addFile(out, "manifest.json", bytes.NewReader(manifest), int64(len(manifest))), out.Close())
}

// addLayer adds what write writes to an archive, under the name of its SHA-256, which it
// returns. The tar goes through a file in dir, not through memory.
func addLayer(out *tar.Writer, dir string, write func(w io.Writer) error) (name string, err error) {
	f, err := os.CreateTemp(dir, "layer")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	h := sha256.New()
	if err := write(io.MultiWriter(f, h)); err != nil {
		return "", err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return "", err
	}
	name = hex.EncodeToString(h.Sum(nil))
	return name, addFile(out, name+".tar", io.NewSectionReader(f, 0, size), size)
}

func addFile(out *tar.Writer, name string, r io.Reader, size int64) error {
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(out, r)
	return err
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
