package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/imagetest"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func (w *world) save(t testing.TB, o SaveOptions, words ...string) ([]byte, []Saved) {
	t.Helper()
	items, err := Select(t.Context(), w.store, words)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	saved, err := Save(t.Context(), w.store, w.layers, &b, items, o)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), saved
}

// untar returns the members of a tar, and fails when they are not sorted.
func untar(t testing.TB, data []byte) map[string]string {
	t.Helper()
	members := map[string]string{}
	r := tar.NewReader(bytes.NewReader(data))
	last := ""
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return members
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name <= last {
			t.Errorf("%s comes after %s", h.Name, last)
		}
		last = h.Name
		if h.ModTime.Unix() != 0 || h.Uid != 0 || h.Gid != 0 || h.Uname != "" {
			t.Errorf("%s: metadata %+v", h.Name, h)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		members[h.Name] = string(body)
	}
}

func loaded(t testing.TB, members map[string]string, o LoadOptions) *world {
	t.Helper()
	w := newWorld(t)
	if _, err := loadFile(t, w, pack(members, false), o); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestSaveKeepsDigests(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip, compress.Zstd, compress.None)
	l := newLayout()
	d := l.image(f)
	l.name(d, "io.containerd.image.name", "one:v1")
	w := loaded(t, l.files(), LoadOptions{})
	data, saved := w.save(t, SaveOptions{}, "one:v1")
	again, _ := w.save(t, SaveOptions{}, "one:v1")
	if !bytes.Equal(data, again) {
		t.Error("saving twice gave different bytes")
	}
	if len(saved) != 1 || saved[0].Changed || saved[0].Target.Digest != d.Digest || saved[0].ID != digest.FromBytes(f.config) {
		t.Errorf("%+v", saved)
	}
	members := untar(t, data)
	for name, want := range l.files() {
		if strings.HasPrefix(name, "blobs/") && members[name] != want {
			t.Errorf("%s differs", name)
		}
	}
	for _, way := range ways {
		other := newWorld(t)
		delete(members, "blobs/")
		delete(members, "blobs/sha256/")
		if _, err := way.load(t, other, members, LoadOptions{}); err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		if im := checkImage(t, other, "one:v1", f); im.Manifest.Digest != d.Digest {
			t.Errorf("%s: manifest %s", way.name, im.Manifest.Digest)
		}
	}
}

// TestSaveWithoutBlobs saves an image whose compressed blobs were not kept.
func TestSaveWithoutBlobs(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip, compress.None)
	l := newLayout()
	d := l.image(f)
	l.name(d, "io.containerd.image.name", "one:v1")
	w := loaded(t, l.files(), LoadOptions{})
	if err := w.disk.Blobs().Remove(t.Context(), digest.FromBytes(f.blobs[0])); err != nil {
		t.Fatal(err)
	}
	for _, format := range []compress.Format{compress.None, compress.Gzip, compress.Zstd} {
		data, saved := w.save(t, SaveOptions{Compress: format, TempDir: w.dir}, "one:v1")
		if !saved[0].Changed || saved[0].Target.Digest == d.Digest || saved[0].ID != digest.FromBytes(f.config) {
			t.Errorf("%v: %+v", format, saved)
		}
		again, _ := w.save(t, SaveOptions{Compress: format, TempDir: w.dir}, "one:v1")
		if !bytes.Equal(data, again) {
			t.Errorf("%v: saving twice gave different bytes", format)
		}
		other := newWorld(t)
		if _, err := loadFile(t, other, data, LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		im := checkImage(t, other, "one:v1", f)
		want := map[compress.Format]string{
			compress.None: ocispec.MediaTypeImageLayer, compress.Gzip: ocispec.MediaTypeImageLayerGzip, compress.Zstd: ocispec.MediaTypeImageLayerZstd,
		}[format]
		for _, got := range im.Layers {
			if got.MediaType != want {
				t.Errorf("%v: layer of type %s", format, got.MediaType)
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(w.dir, ".layer-*"))
	if err != nil || len(left) > 0 {
		t.Error("temporary files are left:", left, err)
	}
}

// TestSaveMakesBlobsAgain saves an image, alone and in an index, whose compressed blobs
// were discarded but can be made again.
func TestSaveMakesBlobsAgain(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip, compress.Zstd, compress.None)
	l := newLayout()
	d := l.image(f)
	l.name(d, "io.containerd.image.name", "one:v1")
	index := l.blob(ocispec.MediaTypeImageIndex, encode(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d},
	}))
	l.name(index, "io.containerd.image.name", "all:v1")
	w := loaded(t, l.files(), LoadOptions{AllPlatforms: true})
	w.layers.RemakeBlobs()
	want, _ := w.save(t, SaveOptions{}, "one:v1", "all:v1")
	discard := func(n int) {
		if err := w.disk.Blobs().Remove(t.Context(), digest.FromBytes(f.blobs[n])); err != nil {
			t.Fatal(err)
		}
	}
	discard(0)
	got, saved := w.save(t, SaveOptions{}, "one:v1", "all:v1")
	if !bytes.Equal(got, want) || saved[0].Changed || saved[1].Changed {
		t.Errorf("one blob discarded: saved %+v", saved)
	}
	items, err := Select(t.Context(), w.store, []string{"one:v1", "all:v1"})
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := compose(t.Context(), w.store, w.layers, items, SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	discard(1) // between the look and the writing
	var b bytes.Buffer
	if err := errors.Join(c.writeTar(t.Context(), &b), c.close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Error("a blob discarded meanwhile: other bytes")
	}
}

func TestSaveDocker(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip, compress.None)
	g := newFixture("two", "amd64")
	l := newLayout()
	d := l.image(f)
	l.name(d, "io.containerd.image.name", "one:v1")
	l.name(d, "io.containerd.image.name", "registry.example/one:v2")
	l.name(l.image(g), "io.containerd.image.name", "two:latest")
	w := loaded(t, l.files(), LoadOptions{})
	data, _ := w.save(t, SaveOptions{Format: Docker}, "one:v1", "registry.example/one:v2", "two", string(digest.FromBytes(f.config)))
	members := untar(t, data)
	config := digest.FromBytes(f.config).Encoded() + ".json"
	var layers []string
	for _, b := range f.tars {
		name := digest.FromBytes(b).Encoded() + ".tar"
		layers = append(layers, name)
		if members[name] != string(b) {
			t.Errorf("%s is not the plain tar", name)
		}
	}
	if members[config] != string(f.config) {
		t.Error("config differs")
	}
	var entries []dockerEntry
	if err := json.Unmarshal([]byte(members["manifest.json"]), &entries); err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 || entries[0].Config != config || !slices.Equal(entries[0].Layers, layers) ||
		!slices.Equal(entries[0].RepoTags, []string{"one:v1", "registry.example/one:v2"}) || len(entries[1].Layers) != 0 {
		t.Errorf("manifest.json: %+v", entries)
	}
	if want := `{"one":{"v1":"` + strings.TrimSuffix(layers[1], ".tar") + `"},"registry.example/one":{"v2":"` + strings.TrimSuffix(layers[1], ".tar") + `"}}` + "\n"; members["repositories"] != want {
		t.Errorf("repositories: %s", members["repositories"])
	}
	other := newWorld(t)
	if _, err := loadFile(t, other, data, LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	checkImage(t, other, "registry.example/one:v2", f)
	checkImage(t, other, "two", g)
}

func TestSaveMultiArch(t *testing.T) {
	l, index, _, arm := multiArch()
	l.name(index, "io.containerd.image.name", "multi:v1")
	all := loaded(t, l.files(), LoadOptions{AllPlatforms: true})
	data, saved := all.save(t, SaveOptions{}, "multi:v1")
	if saved[0].Changed || saved[0].Target.Digest != index.Digest {
		t.Errorf("whole index: %+v", saved)
	}
	members := untar(t, data)
	for name, want := range l.files() {
		if strings.HasPrefix(name, "blobs/") && members[name] != want {
			t.Errorf("%s differs", name)
		}
	}
	p, err := image.ParsePlatform("linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	_, saved = all.save(t, SaveOptions{Platform: &p}, "multi:v1")
	if !saved[0].Changed || saved[0].ID != digest.FromBytes(arm.config) {
		t.Errorf("one platform of several: %+v", saved)
	}
	part := loaded(t, l.files(), LoadOptions{Platform: &p})
	_, saved = part.save(t, SaveOptions{}, "multi:v1")
	if !saved[0].Changed || saved[0].ID != digest.FromBytes(arm.config) {
		t.Errorf("index of which a part is stored: %+v", saved)
	}
}

// TestSaveSameTag has two images with one tag, which a layout can tell apart only by
// their whole names.
func TestSaveSameTag(t *testing.T) {
	f, g := newFixture("one", "amd64", compress.Gzip), newFixture("two", "amd64", compress.Gzip)
	l := newLayout()
	l.name(l.image(f), "io.containerd.image.name", "one:latest")
	l.name(l.image(g), "io.containerd.image.name", "two:latest")
	w := loaded(t, l.files(), LoadOptions{})
	data, _ := w.save(t, SaveOptions{}, "one", "two")
	x, err := image.ParseLayoutIndex([]byte(untar(t, data)["index.json"]))
	if err != nil {
		t.Fatal(err)
	}
	if got := x.Manifests[1].Annotations[ocispec.AnnotationRefName]; got != "docker.io/library/two:latest" {
		t.Error(got)
	}
	data, _ = w.save(t, SaveOptions{}, "one")
	if x, err = image.ParseLayoutIndex([]byte(untar(t, data)["index.json"])); err != nil || x.Manifests[0].Annotations[ocispec.AnnotationRefName] != "latest" {
		t.Error(x, err)
	}
}

func TestSaveDir(t *testing.T) {
	f, g := newFixture("one", "amd64", compress.Gzip), newFixture("two", "amd64", compress.Gzip)
	l := newLayout()
	l.name(l.image(f), "io.containerd.image.name", "one:v1")
	l.name(l.image(g), "io.containerd.image.name", "two:v1")
	w := loaded(t, l.files(), LoadOptions{})
	dir := filepath.Join(t.TempDir(), "layout")
	for _, word := range []string{"one:v1", "two:v1", "two:v1"} {
		items, err := Select(t.Context(), w.store, []string{word})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := SaveDir(t.Context(), w.store, w.layers, dir, items, SaveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	other := newWorld(t)
	loaded, err := Load(t.Context(), other.store, other.layers, dir, LoadOptions{})
	if err != nil || len(loaded) != 2 {
		t.Fatal(loaded, err)
	}
	checkImage(t, other, "one:v1", f)
	checkImage(t, other, "two:v1", g)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("%d entries in the layout: %v, %v", len(entries), entries, err)
	}

	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	items := []Item{{Target: loaded[0].Target}}
	if _, err := SaveDir(t.Context(), other.store, other.layers, full, items, SaveOptions{}); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
}

func TestSaveFails(t *testing.T) {
	f := newFixture("one", "amd64", compress.None)
	w := loaded(t, docker(f, "one:v1"), LoadOptions{})
	items, err := Select(t.Context(), w.store, []string{"one:v1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Select(t.Context(), w.store, []string{"two"}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, o := range []SaveOptions{
		{Format: Docker, Compress: compress.Gzip}, {Compress: compress.Gzip}, {Format: 9}, {Compress: compress.Bzip2, TempDir: w.dir},
	} {
		if _, err := Save(t.Context(), w.store, w.layers, io.Discard, items, o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	if err := os.Remove(filepath.Join(w.dir, "layers", digest.FromBytes(f.tars[0]).Encoded()+".tar")); err != nil {
		t.Fatal(err)
	}
	if _, err := Save(t.Context(), w.store, w.layers, io.Discard, items, SaveOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Save(canceled, w.store, w.layers, io.Discard, items, SaveOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestImport(t *testing.T) {
	root := imagetest.Tar(imagetest.File{Name: "bin/"}, imagetest.File{Name: "bin/true", Body: "x"})
	for _, format := range []compress.Format{compress.None, compress.Gzip, compress.Zstd} {
		t.Run(format.String(), func(t *testing.T) {
			w := newWorld(t)
			o := ImportOptions{CommitOptions: image.CommitOptions{
				Names: []reference.Reference{ref("mini:v1")}, Changes: []string{`CMD ["/bin/true"]`, "ENV A=b"}, Source: "root.tar",
			}}
			im, err := Import(t.Context(), w.store, w.layers, bytes.NewReader(imagetest.Compress(root, format)), o)
			if err != nil {
				t.Fatal(err)
			}
			got, err := w.store.Resolve(t.Context(), "mini:v1", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got.ID() != im.ID() || !slices.Equal(got.DiffIDs(), []digest.Digest{digest.FromBytes(root)}) {
				t.Errorf("%+v", got)
			}
			c := got.Config
			if !slices.Equal(c.Config.Cmd, []string{"/bin/true"}) || !slices.Equal(c.Config.Env, []string{"A=b"}) || c.OS == "" || c.Architecture == "" {
				t.Errorf("%+v", c)
			}
			if len(c.History) != 1 || c.History[0].Comment != "Imported from root.tar" || c.History[0].EmptyLayer {
				t.Errorf("%+v", c.History)
			}
			data, _ := w.save(t, SaveOptions{}, "mini:v1")
			other := newWorld(t)
			if _, err := loadFile(t, other, data, LoadOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	w := newWorld(t)
	for _, data := range []string{"", "no tar", strings.Repeat("no tar", 1000)} {
		if _, err := Import(t.Context(), w.store, w.layers, strings.NewReader(data), ImportOptions{}); err == nil {
			t.Errorf("%.20q was imported", data)
		}
	}
	if _, err := Import(t.Context(), w.store, w.layers, bytes.NewReader(root), ImportOptions{CommitOptions: image.CommitOptions{Changes: []string{"RUN x"}}}); !errors.Is(err, fs.ErrInvalid) || w.layers.Imports() != 2 {
		t.Errorf("mistake in a change: %v, %d imports", err, w.layers.Imports())
	}
}
