package archive

import (
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

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/imagetest"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// world is a store with layers.
type world struct {
	dir    string
	disk   *disk.Store
	store  *image.Store
	layers *imagetest.Layers
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	d, err := disk.Open(context.Background(), filepath.Join(dir, "store"), disk.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	tars := filepath.Join(dir, "layers")
	if err := os.Mkdir(tars, 0o700); err != nil {
		t.Fatal(err)
	}
	return &world{dir, d, image.NewStore(d, d.Blobs(), image.Options{}), imagetest.NewLayers(tars, d.Blobs())}
}

// names returns all refs with what they point to, as lines.
func (w *world) names(t testing.TB) string {
	t.Helper()
	refs, err := w.store.Refs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range refs {
		name := "<none>"
		if !r.Name.IsZero() {
			name = r.Name.String()
		}
		b.WriteString(name + " " + string(r.Target.Digest) + "\n")
	}
	return b.String()
}

func (w *world) tar(t testing.TB, d digest.Digest) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := w.layers.WriteTar(t.Context(), d, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fixture is one image made by hand.
type fixture struct {
	tars   [][]byte // plain layers
	blobs  [][]byte // the layers as the manifest has them
	config []byte
}

// newFixture makes an image; each format is one layer compressed that way.
func newFixture(seed string, platform string, formats ...compress.Format) *fixture {
	f := &fixture{}
	c := image.Config{OS: "linux", Architecture: platform, RootFS: image.RootFS{Type: "layers"}}
	c.Config.Cmd = image.Args{"/bin/" + seed}
	for i, format := range formats {
		tar := imagetest.Tar(imagetest.File{Name: "etc/"}, imagetest.File{Name: "etc/" + seed, Body: strings.Repeat(seed+string(rune('a'+i)), 2000)})
		f.tars = append(f.tars, tar)
		f.blobs = append(f.blobs, imagetest.Compress(tar, format))
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(tar))
	}
	f.config = encode(c)
	return f
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func (f *fixture) manifest() ocispec.Manifest {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(ocispec.MediaTypeImageConfig, f.config),
	}
	for _, b := range f.blobs {
		m.Layers = append(m.Layers, describe(image.LayerMediaType(b), b))
	}
	return m
}

// layout is the members of an OCI layout.
type layout struct {
	members map[string]string
	index   ocispec.Index
}

func newLayout() *layout {
	return &layout{
		members: map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`},
		index:   ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}},
	}
}

func (l *layout) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := describe(mediaType, data)
	l.members[blobName(d.Digest)] = string(data)
	return d
}

// image puts a fixture's blobs and manifest in.
func (l *layout) image(f *fixture) ocispec.Descriptor {
	l.blob(ocispec.MediaTypeImageConfig, f.config)
	for _, b := range f.blobs {
		l.blob("", b)
	}
	return l.blob(ocispec.MediaTypeImageManifest, encode(f.manifest()))
}

func (l *layout) name(d ocispec.Descriptor, annotations ...string) {
	d.Annotations = map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		d.Annotations[annotations[i]] = annotations[i+1]
	}
	l.index.Manifests = append(l.index.Manifests, d)
}

func (l *layout) files() map[string]string {
	l.members["index.json"] = string(encode(l.index))
	return l.members
}

// docker returns the members of a docker archive.
func docker(f *fixture, tags ...string) map[string]string {
	m := map[string]string{}
	e := dockerEntry{Config: digest.FromBytes(f.config).Encoded() + ".json", RepoTags: tags}
	m[e.Config] = string(f.config)
	for i, b := range f.blobs {
		name := digest.FromBytes(f.tars[i]).Encoded() + "/layer.tar"
		m[name] = string(b)
		e.Layers = append(e.Layers, name)
	}
	m["manifest.json"] = string(encode([]dockerEntry{e}))
	return m
}

// pack makes a tar of members in the order of their names, or against it.
func pack(members map[string]string, backwards bool) []byte {
	var files []imagetest.File
	for name, body := range members {
		f := imagetest.File{Name: name, Body: body}
		if target, ok := strings.CutPrefix(body, "-> "); ok {
			f.Body, f.Link = "", target
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b imagetest.File) int {
		if backwards {
			a, b = b, a
		}
		return strings.Compare(a.Name, b.Name)
	})
	return imagetest.Tar(files...)
}

// way is a form in which the same members reach Load.
type way struct {
	name string
	load func(t testing.TB, w *world, members map[string]string, o LoadOptions) ([]Loaded, error)
}

func loadFile(t testing.TB, w *world, data []byte, o LoadOptions) ([]Loaded, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(context.Background(), w.store, w.layers, name, o)
}

var ways = []way{
	{"directory", func(t testing.TB, w *world, members map[string]string, o LoadOptions) ([]Loaded, error) {
		dir := t.TempDir()
		for name, body := range members {
			full := filepath.Join(dir, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
				t.Fatal(err)
			}
			if target, ok := strings.CutPrefix(body, "-> "); ok {
				if err := os.Symlink(target, full); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(full, []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return Load(context.Background(), w.store, w.layers, dir, o)
	}},
	{"file", func(t testing.TB, w *world, members map[string]string, o LoadOptions) ([]Loaded, error) {
		return loadFile(t, w, pack(members, false), o)
	}},
	{"stream", func(_ testing.TB, w *world, members map[string]string, o LoadOptions) ([]Loaded, error) {
		return LoadReader(context.Background(), w.store, w.layers, io.MultiReader(bytes.NewReader(pack(members, false))), o)
	}},
	{"stream backwards", func(_ testing.TB, w *world, members map[string]string, o LoadOptions) ([]Loaded, error) {
		return LoadReader(context.Background(), w.store, w.layers, bytes.NewReader(pack(members, true)), o)
	}},
	{"gzip", func(t testing.TB, w *world, members map[string]string, o LoadOptions) ([]Loaded, error) {
		return loadFile(t, w, imagetest.Compress(pack(members, false), compress.Gzip), o)
	}},
	{"zstd stream", func(_ testing.TB, w *world, members map[string]string, o LoadOptions) ([]Loaded, error) {
		return LoadReader(context.Background(), w.store, w.layers, bytes.NewReader(imagetest.Compress(pack(members, true), compress.Zstd)), o)
	}},
}

func ref(s string) reference.Reference {
	r, err := reference.Parse(s)
	if err != nil {
		panic(err)
	}
	return r
}

// checkImage verifies that a name leads to the image with its layers.
func checkImage(t *testing.T, w *world, word string, f *fixture) *image.Image {
	t.Helper()
	im, err := w.store.Resolve(t.Context(), word, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(im.RawConfig, f.config) || im.ID() != digest.FromBytes(f.config) {
		t.Errorf("%s: config is not the one that was loaded", word)
	}
	for i, d := range im.DiffIDs() {
		if !bytes.Equal(w.tar(t, d), f.tars[i]) {
			t.Errorf("%s: layer %d differs", word, i+1)
		}
	}
	if len(im.DiffIDs()) != len(f.tars) {
		t.Errorf("%s: %d layers", word, len(im.DiffIDs()))
	}
	return im
}

func TestLoadLayout(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip, compress.Zstd, compress.None)
	g := newFixture("two", "amd64", compress.Gzip)
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			w := newWorld(t)
			l := newLayout()
			d := l.image(f)
			l.name(d, "org.opencontainers.image.ref.name", "latest", "io.containerd.image.name", "docker.io/library/one:latest")
			l.name(d, "org.opencontainers.image.ref.name", "me/one:v1")
			l.name(l.image(g), "org.opencontainers.image.ref.name", "v2")
			loaded, err := way.load(t, w, l.files(), LoadOptions{Name: ref("registry.example/two")})
			if err != nil {
				t.Fatal(err)
			}
			if len(loaded) != 2 || len(loaded[0].Names) != 2 || len(loaded[1].Names) != 1 {
				t.Fatalf("%+v", loaded)
			}
			im := checkImage(t, w, "one", f)
			if im.Manifest.Digest != d.Digest {
				t.Errorf("manifest %s, loaded %s", im.Manifest.Digest, d.Digest)
			}
			checkImage(t, w, "me/one:v1", f)
			checkImage(t, w, "registry.example/two:v2", g)
			checkImage(t, w, im.ID().Encoded()[:10], f)

			imports := w.layers.Imports()
			if _, err := way.load(t, w, l.files(), LoadOptions{}); err != nil {
				t.Fatal(err)
			}
			if n := w.layers.Imports(); n != imports {
				t.Errorf("loading again imported %d layers again", n-imports)
			}
			if _, err := way.load(t, w, l.files(), LoadOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
			if n := w.layers.Imports(); n != imports+4 {
				t.Errorf("forced to import again, imported %d of 4 layers", n-imports)
			}
		})
	}
}

func TestLoadDocker(t *testing.T) {
	f := newFixture("one", "amd64", compress.None, compress.None, compress.Gzip)
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			w := newWorld(t)
			loaded, err := way.load(t, w, docker(f, "one:latest", "localhost:5000/one:v1"), LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(loaded) != 1 || len(loaded[0].Names) != 2 || loaded[0].Images[0].ID() != digest.FromBytes(f.config) {
				t.Fatalf("%+v", loaded)
			}
			im := checkImage(t, w, "localhost:5000/one:v1", f)
			if got := im.Layers[0]; got.Digest != im.DiffIDs()[0] || got.MediaType != ocispec.MediaTypeImageLayer {
				t.Errorf("plain layer is %+v in the manifest", got)
			}
			if got := im.Layers[2]; got.Digest != digest.FromBytes(f.blobs[2]) || got.MediaType != ocispec.MediaTypeImageLayerGzip {
				t.Errorf("compressed layer is %+v in the manifest", got)
			}
		})
	}
}

// TestLoadLegacyDocker has what Docker wrote from 1.10 to 24: a directory for each
// layer with json and VERSION, links in place of layers that are there already, a
// repositories file, and several images.
func TestLoadLegacyDocker(t *testing.T) {
	f := newFixture("one", "amd64", compress.None, compress.None)
	c := image.Config{OS: "linux", Architecture: "amd64", RootFS: image.RootFS{Type: "layers"}}
	first := digest.FromBytes(f.tars[0])
	c.RootFS.DiffIDs = []digest.Digest{first, first, digest.FromBytes(f.tars[1])}
	g := &fixture{tars: [][]byte{f.tars[0], f.tars[0], f.tars[1]}, config: encode(c)}
	id := func(n string) string { return strings.Repeat(n, 64) }
	members := map[string]string{
		digest.FromBytes(f.config).Encoded() + ".json": string(f.config),
		digest.FromBytes(g.config).Encoded() + ".json": string(g.config),
		"repositories": `{"one":{"latest":"` + id("b") + `"}}`,
		"manifest.json": string(encode([]dockerEntry{
			{digest.FromBytes(f.config).Encoded() + ".json", []string{"one:latest"}, []string{id("a") + "/layer.tar", id("b") + "/layer.tar"}},
			{digest.FromBytes(g.config).Encoded() + ".json", []string{"two:latest", "<none>:<none>"}, []string{id("a") + "/layer.tar", id("c") + "/layer.tar", "./" + id("d") + "/layer.tar"}},
		})),
		id("a") + "/layer.tar": string(f.tars[0]),
		id("b") + "/layer.tar": string(f.tars[1]),
		id("c") + "/layer.tar": "-> ../" + id("a") + "/layer.tar",
		id("d") + "/layer.tar": "-> ../" + id("b") + "/layer.tar",
	}
	for _, n := range []string{"a", "b", "c", "d"} {
		members[id(n)+"/VERSION"] = "1.0"
		members[id(n)+"/json"] = `{"id":"` + id(n) + `"}`
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			w := newWorld(t)
			if _, err := way.load(t, w, members, LoadOptions{}); err != nil {
				t.Fatal(err)
			}
			checkImage(t, w, "one", f)
			checkImage(t, w, "two", g)
		})
	}
}

// TestLoadDocker25 has what Docker writes since 25: an OCI layout and a manifest.json
// in one archive.
func TestLoadDocker25(t *testing.T) {
	f := newFixture("one", "amd64", compress.None, compress.Gzip)
	l := newLayout()
	d := l.image(f)
	l.name(d)
	e := dockerEntry{Config: blobName(digest.FromBytes(f.config)), RepoTags: []string{"one:v1"}}
	for _, b := range f.blobs {
		e.Layers = append(e.Layers, blobName(digest.FromBytes(b)))
	}
	members := l.files()
	members["manifest.json"] = string(encode([]dockerEntry{e}))
	members["repositories"] = `{"one":{"v1":"x"}}`
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			w := newWorld(t)
			if _, err := way.load(t, w, members, LoadOptions{}); err != nil {
				t.Fatal(err)
			}
			if im := checkImage(t, w, "one:v1", f); im.Manifest.Digest != d.Digest {
				t.Errorf("manifest %s, loaded %s", im.Manifest.Digest, d.Digest)
			}
		})
	}
}

func TestLoadSkopeoDir(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip, compress.None)
	m := encode(f.manifest())
	members := map[string]string{
		"version": "Directory Transport Version: 1.1\n", "manifest.json": string(m),
		digest.FromBytes(f.config).Encoded():   string(f.config),
		digest.FromBytes(f.blobs[0]).Encoded(): string(f.blobs[0]),
		digest.FromBytes(f.blobs[1]).Encoded(): string(f.blobs[1]),
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			w := newWorld(t)
			if _, err := way.load(t, w, members, LoadOptions{Name: ref("one:dir")}); err != nil {
				t.Fatal(err)
			}
			if im := checkImage(t, w, "one:dir", f); im.Manifest.Digest != digest.FromBytes(m) {
				t.Errorf("manifest %s", im.Manifest.Digest)
			}
		})
	}
}

func TestLoadUnnamed(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip)
	w := newWorld(t)
	l := newLayout()
	d := l.image(f)
	l.name(d)
	loaded, err := loadFile(t, w, pack(l.files(), false), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded[0].Names) != 0 || w.names(t) != "<none> "+string(d.Digest)+"\n" {
		t.Fatal(w.names(t))
	}
	checkImage(t, w, string(d.Digest), f)
	// A name ends the record of the unnamed image.
	if _, err := loadFile(t, w, pack(l.files(), false), LoadOptions{Name: ref("one")}); err != nil {
		t.Fatal(err)
	}
	if got := w.names(t); got != "docker.io/library/one:latest "+string(d.Digest)+"\n" {
		t.Fatal(got)
	}
}

// multiArch is an index with two platforms and an attestation.
func multiArch() (l *layout, index ocispec.Descriptor, amd, arm *fixture) {
	l = newLayout()
	amd, arm = newFixture("amd", "amd64", compress.Gzip), newFixture("arm", "arm64", compress.Gzip)
	x := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for arch, f := range map[string]*fixture{"amd64": amd, "arm64": arm} {
		d := l.image(f)
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		x.Manifests = append(x.Manifests, d)
	}
	slices.SortFunc(x.Manifests, func(a, b ocispec.Descriptor) int {
		return strings.Compare(a.Platform.Architecture, b.Platform.Architecture)
	})
	attestation := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: l.blob(ocispec.MediaTypeImageConfig, []byte(`{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":["`+string(digest.FromString("x"))+`"]}}`)),
		Layers: []ocispec.Descriptor{l.blob("application/vnd.in-toto+json", []byte(`{"_type":"x"}`))},
	}
	d := l.blob(ocispec.MediaTypeImageManifest, encode(attestation))
	d.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	x.Manifests = append(x.Manifests, d)
	index = l.blob(ocispec.MediaTypeImageIndex, encode(x))
	return l, index, amd, arm
}

func TestLoadMultiArch(t *testing.T) {
	platform := func(s string) *ocispec.Platform {
		p, err := image.ParsePlatform(s)
		if err != nil {
			t.Fatal(err)
		}
		return &p
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			l, index, amd, arm := multiArch()
			l.name(index, "io.containerd.image.name", "multi:v1")
			w := newWorld(t)
			loaded, err := way.load(t, w, l.files(), LoadOptions{Platform: platform("arm64")})
			if err != nil {
				t.Fatal(err)
			}
			if len(loaded) != 1 || loaded[0].Target.Digest != index.Digest || len(loaded[0].Images) != 1 {
				t.Fatalf("%+v", loaded)
			}
			// The only one that is there is meant even where it is not this machine's.
			checkImage(t, w, "multi:v1", arm)
			checkImage(t, w, string(digest.FromBytes(arm.config)), arm)
			if _, err := w.store.Resolve(t.Context(), "multi:v1", platform("amd64")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("platform that was not loaded: %v", err)
			}
			if err := w.store.Roots(t.Context(), func(image.Root) error { return nil }); err != nil {
				t.Errorf("roots of an index of which a part is there: %v", err)
			}
			if _, err := way.load(t, w, l.files(), LoadOptions{Platform: platform("riscv64")}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "linux/amd64 linux/arm64") {
				t.Errorf("platform that the archive has not: %v", err)
			}

			all := newWorld(t)
			loaded, err = way.load(t, all, l.files(), LoadOptions{AllPlatforms: true})
			if err != nil {
				t.Fatal(err)
			}
			if len(loaded[0].Images) != 2 {
				t.Fatalf("%d images", len(loaded[0].Images))
			}
			for arch, f := range map[string]*fixture{"linux/amd64": amd, "arm64": arm} {
				im, err := all.store.Resolve(t.Context(), "multi:v1", platform(arch))
				if err != nil || im.ID() != digest.FromBytes(f.config) {
					t.Errorf("%s: %v", arch, err)
				}
			}
			if _, err := all.disk.Blobs().Stat(t.Context(), digest.FromString(`{"_type":"x"}`)); err != nil {
				t.Errorf("attestation: %v", err)
			}
		})
	}
}

// TestLoadUnderAnotherName loads layouts whose images have a tag only.
func TestLoadUnderAnotherName(t *testing.T) {
	f, g := newFixture("one", "amd64", compress.Gzip), newFixture("two", "amd64", compress.Gzip)
	one := newLayout()
	one.name(one.image(f), "org.opencontainers.image.ref.name", "latest")
	two := newLayout()
	two.name(two.image(f), "org.opencontainers.image.ref.name", "latest")
	two.name(two.image(g), "org.opencontainers.image.ref.name", "v2")
	whole := newLayout()
	whole.name(whole.image(f), "org.opencontainers.image.ref.name", "me/one:v1")
	for _, c := range []struct {
		layout     *layout
		name, want string
	}{
		{one, "foo", "foo:latest"},
		{one, "foo:zstd", "foo:zstd"},
		{two, "foo:zstd", "foo:latest foo:v2"}, // one tag cannot name both
		{whole, "foo:zstd", "me/one:v1"},
	} {
		w := newWorld(t)
		all, err := loadFile(t, w, pack(c.layout.files(), false), LoadOptions{Name: ref(c.name)})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, l := range all {
			for _, n := range l.Names {
				names = append(names, n.Familiar())
			}
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("load as %s: %s, want %s", c.name, got, c.want)
		}
	}
}
