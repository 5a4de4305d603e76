package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// This file reads what save writes, and writes what load reads, without any code of
// layerfs: the documents as their specifications have them, on top of archive/tar.

// member is one file of an archive: its digest, and its bytes when they are few.
type member struct {
	sum  string // "sha256:…"
	size int64
	data []byte // nil above maxDocument
}

const maxDocument = 1 << 20

func readMember(r io.Reader) (member, error) {
	h := sha256.New()
	var head bytes.Buffer
	n, err := io.Copy(h, io.TeeReader(io.LimitReader(r, maxDocument), &head))
	if err != nil {
		return member{}, err
	}
	rest, err := io.Copy(h, r)
	m := member{sum: "sha256:" + hex.EncodeToString(h.Sum(nil)), size: n + rest}
	if rest == 0 {
		m.data = head.Bytes()
	}
	return m, err
}

// readTar reads all files of a tar.
func readTar(t testing.TB, r io.Reader) map[string]member {
	t.Helper()
	members := map[string]member{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return members
		}
		if err == nil && h.Typeflag == tar.TypeReg {
			members[strings.TrimPrefix(h.Name, "./")], err = readMember(tr)
		}
		if err != nil {
			t.Fatalf("read archive: %v", err)
		}
	}
}

// readArchive reads all files of a tar file or a directory.
func readArchive(t testing.TB, name string) map[string]member {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	if st, err := f.Stat(); err != nil {
		t.Fatal(err)
	} else if !st.IsDir() {
		return readTar(t, f)
	}
	members := map[string]member{}
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(name, path)
		if err == nil {
			members[rel], err = readMember(f)
		}
		return errors.Join(err, f.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	return members
}

// savedImage is what the documents of an archive say of its only image.
type savedImage struct {
	manifest string // "" in a docker archive
	config   string // the image id
	layers   []string
	types    []string // of the layers
	diffIDs  []string
	names    []string
}

// readOCI reads the only image of an OCI layout, and fails the test unless every blob has
// the digest that is its name.
func readOCI(t testing.TB, members map[string]member) savedImage {
	t.Helper()
	for name, m := range members {
		if alg, encoded, ok := strings.Cut(strings.TrimPrefix(name, "blobs/"), "/"); ok && alg+":"+encoded != m.sum {
			t.Errorf("%s has digest %s", name, m.sum)
		}
	}
	var layout ocispec.ImageLayout
	decode(t, members, "oci-layout", &layout)
	if layout.Version != ocispec.ImageLayoutVersion {
		t.Errorf("layout has version %q, want %q", layout.Version, ocispec.ImageLayoutVersion)
	}
	var idx ocispec.Index
	decode(t, members, "index.json", &idx)
	if len(idx.Manifests) != 1 {
		t.Fatalf("layout has %d manifests, want one", len(idx.Manifests))
	}
	var m ocispec.Manifest
	im := savedImage{manifest: idx.Manifests[0].Digest.String(), names: []string{idx.Manifests[0].Annotations[ocispec.AnnotationRefName]}}
	decodeBlob(t, members, idx.Manifests[0], &m)
	for _, l := range m.Layers {
		blob(t, members, l)
		im.layers = append(im.layers, l.Digest.String())
		im.types = append(im.types, l.MediaType)
	}
	var c ocispec.Image
	decodeBlob(t, members, m.Config, &c)
	im.config = m.Config.Digest.String()
	im.diffIDs = diffIDs(c)
	return im
}

// readDocker reads the only image of a docker archive.
func readDocker(t testing.TB, members map[string]member) savedImage {
	t.Helper()
	var list []struct {
		Config           string
		RepoTags, Layers []string
	}
	decode(t, members, "manifest.json", &list)
	if len(list) != 1 {
		t.Fatalf("archive has %d images, want one", len(list))
	}
	var c ocispec.Image
	decode(t, members, list[0].Config, &c)
	im := savedImage{config: members[list[0].Config].sum, diffIDs: diffIDs(c), names: list[0].RepoTags}
	for _, l := range list[0].Layers {
		m, ok := members[l]
		if !ok {
			t.Errorf("layer %s is not in the archive", l)
		}
		im.layers = append(im.layers, m.sum)
	}
	return im
}

func diffIDs(c ocispec.Image) []string {
	var ids []string
	for _, d := range c.RootFS.DiffIDs {
		ids = append(ids, d.String())
	}
	return ids
}

func decode(t testing.TB, members map[string]member, name string, into any) {
	t.Helper()
	if err := json.Unmarshal(members[name].data, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func blob(t testing.TB, members map[string]member, d ocispec.Descriptor) string {
	t.Helper()
	name := "blobs/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded()
	if m, ok := members[name]; !ok || m.size != d.Size {
		t.Errorf("%s has %d bytes, the descriptor says %d", name, m.size, d.Size)
	}
	return name
}

func decodeBlob(t testing.TB, members map[string]member, d ocispec.Descriptor, into any) {
	t.Helper()
	decode(t, members, blob(t, members, d), into)
}

// wantEqual compares what two tools say of one thing.
func wantEqual[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// newArchive writes a docker archive of layers, plain tars, and returns its path.
func newArchive(t testing.TB, name string, layers ...io.ReadSeeker) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "made.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	err = writeArchive(f, name, layers)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

func writeArchive(f io.Writer, name string, layers []io.ReadSeeker) error {
	w := tar.NewWriter(f)
	var members []string
	var ids []digest.Digest
	for i, l := range layers {
		h := sha256.New()
		size, err := io.Copy(h, l)
		if err != nil {
			return err
		}
		if _, err := l.Seek(0, io.SeekStart); err != nil {
			return err
		}
		members = append(members, fmt.Sprintf("%d.tar", i))
		ids = append(ids, digest.NewDigest(digest.SHA256, h))
		if err := w.WriteHeader(&tar.Header{Name: members[i], Mode: 0o644, Size: size}); err != nil {
			return err
		}
		if _, err := io.Copy(w, l); err != nil {
			return err
		}
	}
	config := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: ids}}
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Labels = map[string]string{ocispec.AnnotationTitle: path.Base(strings.TrimSuffix(name, ":latest"))}
	put := func(name string, doc any) error {
		data, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		err = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))})
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	}
	return errors.Join(
		put("config.json", config),
		put("manifest.json", []any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": members}}),
		w.Close())
}

// fileLayers opens plain tars.
func fileLayers(t testing.TB, names ...string) []io.ReadSeeker {
	t.Helper()
	var layers []io.ReadSeeker
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() }) // only read
		layers = append(layers, f)
	}
	return layers
}

// layerOf makes a plain tar.
func layerOf(t testing.TB, fill func(w *tar.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(fill(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// filesLayer makes a layer of directories (names that end in a slash) and files.
func filesLayer(t testing.TB, files map[string]string) []byte {
	t.Helper()
	return layerOf(t, func(w *tar.Writer) error {
		var errs []error
		for _, name := range slices.Sorted(maps.Keys(files)) {
			h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
			if strings.HasSuffix(name, "/") {
				h.Mode, h.Typeflag = 0o755, tar.TypeDir
			}
			errs = append(errs, w.WriteHeader(h))
			_, err := io.WriteString(w, files[name])
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
