package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/imagetest"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestHostile damages a good archive in one way after another. Each must be refused
// from directory, file and stream alike, name what is wrong, and leave no name and no
// document.
func TestHostile(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip, compress.None)
	oci := func(change func(l *layout, m *ocispec.Manifest)) map[string]string {
		l := newLayout()
		l.image(f)
		m := f.manifest()
		change(l, &m)
		l.name(l.blob(ocispec.MediaTypeImageManifest, encode(m)), "io.containerd.image.name", "one:v1")
		return l.files()
	}
	dock := func(change func(m map[string]string, e *dockerEntry)) map[string]string {
		m := docker(f, "one:v1")
		entries, err := parseEntries([]byte(m["manifest.json"]))
		if err != nil {
			t.Fatal(err)
		}
		m["manifest.json"] = ""
		change(m, &entries[0])
		if m["manifest.json"] == "" {
			m["manifest.json"] = string(encode(entries))
		}
		return m
	}
	file := func(name, body string) func(m map[string]string, e *dockerEntry) {
		return func(m map[string]string, _ *dockerEntry) { m[name] = body }
	}
	layer0 := blobName(digest.FromBytes(f.blobs[0]))
	configName := blobName(digest.FromBytes(f.config))
	flip := func(s string, at int) string {
		b := []byte(s)
		b[at] ^= 1
		return string(b)
	}
	evil := newFixture("evil", "amd64", compress.None, compress.None)
	w := newWorld(t)

	for _, c := range []struct {
		name    string
		members map[string]string
		says    string // a part of the message
	}{
		{"no archive", map[string]string{"etc/passwd": "x"}, "not an image archive"},
		{"empty", map[string]string{}, "not an image archive"},
		{"before docker 1.10", map[string]string{"repositories": "{}"}, "before 1.10"},
		{"layout of version 2", oci(func(l *layout, _ *ocispec.Manifest) { l.members["oci-layout"] = `{"imageLayoutVersion":"2"}` }), "version"},
		{"no oci-layout", oci(func(l *layout, _ *ocispec.Manifest) { delete(l.members, "oci-layout") }), "oci-layout"},
		{"oci-layout too large", oci(func(l *layout, _ *ocispec.Manifest) { l.members["oci-layout"] = strings.Repeat(" ", image.MaxRecord+1) }), "limit"},
		{"no images", map[string]string{"oci-layout": string(image.EncodeLayout()), "index.json": `{"schemaVersion":2,"manifests":[]}`}, "holds no image"},
		{"not an image", oci(func(_ *layout, m *ocispec.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }), "helm"},
		{"layer bit flipped", oci(func(l *layout, _ *ocispec.Manifest) { l.members[layer0] = flip(l.members[layer0], 30) }), layer0},
		{"layer truncated", oci(func(l *layout, _ *ocispec.Manifest) { l.members[layer0] = l.members[layer0][:20] }), layer0},
		{"layer extended", oci(func(l *layout, _ *ocispec.Manifest) { l.members[layer0] += "x" }), layer0},
		{"layer missing", oci(func(l *layout, _ *ocispec.Manifest) { delete(l.members, layer0) }), "layer 1 of 2"},
		{"layer is no tar", oci(func(l *layout, m *ocispec.Manifest) {
			m.Layers[0] = l.blob(ocispec.MediaTypeImageLayer, []byte("no tar"))
		}), "layer 1 of 2"},
		{"layer size wrong", oci(func(_ *layout, m *ocispec.Manifest) { m.Layers[0].Size++ }), "layer 1 of 2"},
		{"layer digest as a path", oci(func(_ *layout, m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../../../etc/passwd" }), "sha256:../"},
		{"layers swapped", oci(func(_ *layout, m *ocispec.Manifest) { slices.Reverse(m.Layers) }), "layer "},
		{"layer of another image", oci(func(l *layout, m *ocispec.Manifest) { m.Layers[1] = l.blob(ocispec.MediaTypeImageLayer, evil.tars[0]) }), "layer 2 of 2"},
		{"one layer less than the config", oci(func(_ *layout, m *ocispec.Manifest) { m.Layers = m.Layers[:1] }), "1 layers, its config 2"},
		{"config bit flipped", oci(func(l *layout, _ *ocispec.Manifest) { l.members[configName] = flip(l.members[configName], 3) }), configName},
		{"config missing", oci(func(l *layout, _ *ocispec.Manifest) { delete(l.members, configName) }), configName},
		{"config is no JSON", oci(func(l *layout, m *ocispec.Manifest) { m.Config = l.blob(ocispec.MediaTypeImageConfig, []byte("{")) }), "JSON"},
		{"config size wrong", oci(func(_ *layout, m *ocispec.Manifest) { m.Config.Size-- }), "descriptor says"},
		{"manifest and index at once", oci(func(l *layout, m *ocispec.Manifest) {
			both := strings.Replace(string(encode(m)), `"layers"`, `"manifests":[],"layers"`, 1)
			l.name(l.blob(ocispec.MediaTypeImageManifest, []byte(both)), "io.containerd.image.name", "both:v1")
		}), "at once"},
		{"manifest under the type of an index", oci(func(l *layout, m *ocispec.Manifest) {
			l.name(l.blob(ocispec.MediaTypeImageIndex, encode(m)), "io.containerd.image.name", "both:v1")
		}), "expected"},
		{"manifest missing", oci(func(l *layout, m *ocispec.Manifest) {
			l.name(describe(ocispec.MediaTypeImageManifest, []byte("absent")), "io.containerd.image.name", "absent:v1")
		}), "absent:v1"},
		{"index of itself in depth", oci(func(l *layout, _ *ocispec.Manifest) {
			d := l.image(f)
			for range image.MaxIndexDepth + 1 {
				d = l.blob(ocispec.MediaTypeImageIndex, encode(ocispec.Index{Versioned: l.index.Versioned, Manifests: []ocispec.Descriptor{d}}))
			}
			l.name(d, "io.containerd.image.name", "deep:v1")
		}), "deeper"},
		{"duplicate keys in index.json", func() map[string]string {
			m := oci(func(*layout, *ocispec.Manifest) {})
			m["index.json"] = strings.Replace(m["index.json"], `"manifests"`, `"manifests":[],"Manifests"`, 1)
			return m
		}(), "twice"},

		{"manifest.json is no JSON", dock(file("manifest.json", "[")), "manifest.json"},
		{"manifest.json of other types", dock(file("manifest.json", `[{"Config":1}]`)), "manifest.json"},
		{"no entries", dock(file("manifest.json", `[]`)), "holds no image"},
		{"too many images", dock(file("manifest.json", "["+strings.Repeat("{},", MaxImages)+"{}]")), "limit"},
		{"too many names", dock(file("manifest.json", `[{"RepoTags":[`+strings.Repeat(`"a",`, MaxNames)+`"a"]}]`)), "limit"},
		{"too many layers", dock(file("manifest.json", `[{"Layers":[`+strings.Repeat(`"a",`, image.MaxLayers)+`"a"]}]`)), "limit"},
		{"config outside", dock(func(_ map[string]string, e *dockerEntry) { e.Config = "../../etc/passwd" }), "etc/passwd"},
		{"config absolute", dock(func(_ map[string]string, e *dockerEntry) { e.Config = "/etc/passwd" }), "etc/passwd"},
		{"no config", dock(func(_ map[string]string, e *dockerEntry) { e.Config = "" }), "config"},
		{"layer outside", dock(func(_ map[string]string, e *dockerEntry) { e.Layers[0] = "../../etc/passwd" }), "etc/passwd"},
		{"layer of another digest", dock(func(m map[string]string, e *dockerEntry) { m[e.Layers[0]] = string(evil.tars[0]) }), "layer 1 of 2"},
		{"layer missing in a docker archive", dock(func(m map[string]string, e *dockerEntry) { delete(m, e.Layers[1]) }), "layer 2 of 2"},
		{"layer links in a circle", dock(func(m map[string]string, e *dockerEntry) {
			m[e.Layers[0]], m["a/x"], m["b/x"] = "-> ../a/x", "-> ../b/x", "-> ../a/x"
		}), "layer 1 of 2"},
		{"layer links outside", dock(func(m map[string]string, e *dockerEntry) { m[e.Layers[0]] = "-> ../../../../../../../../etc/passwd" }), "layer 1 of 2"},
		{"one layer less in manifest.json", dock(func(_ map[string]string, e *dockerEntry) { e.Layers = e.Layers[:1] }), "lists 1 layers"},
		{"config name is another digest", dock(func(m map[string]string, e *dockerEntry) {
			m[strings.Repeat("0", 64)+".json"] = m[e.Config]
			e.Config = strings.Repeat("0", 64) + ".json"
		}), "has the digest"},
		{"name is none", dock(func(_ map[string]string, e *dockerEntry) { e.RepoTags = []string{"A B"} }), "A B"},
		{"one name for two images", dock(func(m map[string]string, e *dockerEntry) {
			other := docker(evil, "one:v1")
			entries, err := parseEntries([]byte(other["manifest.json"]))
			if err != nil {
				t.Fatal(err)
			}
			maps.Copy(m, other)
			m["manifest.json"] = string(encode([]dockerEntry{*e, entries[0]}))
		}), "two images named one:v1"},
		{"skopeo directory without a blob", map[string]string{"manifest.json": string(encode(f.manifest()))}, digest.FromBytes(f.config).Encoded()},
		{"schema 1", map[string]string{"manifest.json": `{"schemaVersion":1,"fsLayers":[]}`}, "schema 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, way := range ways {
				w.layers = imagetest.NewLayers(t.TempDir(), w.disk.Blobs())
				_, err := way.load(t, w, c.members, LoadOptions{})
				checkNothing(t, w)
				if err == nil {
					t.Errorf("%s: loaded", way.name)
					continue
				}
				if !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: of no class: %v", way.name, err)
				}
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s: %q does not say %q", way.name, err, c.says)
				}
			}
		})
	}
}

// checkNothing fails when a name was given or a document stored: layers may be, until
// garbage is collected. It empties the store.
func checkNothing(t *testing.T, w *world) {
	t.Helper()
	if names := w.names(t); names != "" {
		t.Errorf("names were given:\n%s", names)
	}
	var blobs []digest.Digest
	err := w.disk.Blobs().Walk(t.Context(), func(i cas.Info) error {
		if _, err := w.layers.ByBlob(t.Context(), i.Digest); err != nil {
			t.Errorf("blob %s is stored", i.Digest)
		}
		blobs = append(blobs, i.Digest)
		return nil
	})
	for _, d := range blobs {
		err = errors.Join(err, w.disk.Blobs().Remove(t.Context(), d))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rawTar writes headers as they are.
func rawTar(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestHostileTar(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip)
	good := pack(docker(f, "one:v1"), false)
	double := func(name string) []byte {
		m := docker(f, "one:v1")
		files := []imagetest.File{{Name: name, Body: m[name]}}
		for n, body := range m {
			files = append(files, imagetest.File{Name: n, Body: body})
		}
		return imagetest.Tar(files...)
	}
	many := make([]*tar.Header, MaxMembers+1)
	for i := range many {
		many[i] = &tar.Header{Name: fmt.Sprint("d", i, "/"), Typeflag: tar.TypeDir}
	}
	sparse := &tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 10, PAXRecords: map[string]string{"LAYERFS.xxxx": "1"}, Format: tar.FormatPAX}
	w := newWorld(t)
	sparseTar := bytes.Replace(rawTar(t, sparse), []byte("LAYERFS.xxxx=1"), []byte("GNU.sparse.x=1"), 1)
	for _, c := range []struct {
		name string
		data []byte
		says string
	}{
		{"truncated in a member", good[:600], "breaks off"},
		{"truncated in a header", good[:1024+200], "breaks off"},
		{"no tar", []byte(strings.Repeat("no tar ", 1000)), "not an image archive"},
		{"nothing", nil, "not an image archive"},
		{"zeros", make([]byte, 4096), "not an image archive"},
		{"document twice", double("manifest.json"), "two members manifest.json"},
		{"layer twice", double(digest.FromBytes(f.tars[0]).Encoded() + "/layer.tar"), "two members"},
		{"file and link", imagetest.Tar(imagetest.File{Name: "a", Body: "x"}, imagetest.File{Name: "a", Link: "b"}), "two members a"},
		{"too many members", rawTar(t, many...), "more than"},
		{"too many bytes", rawTar(t,
			&tar.Header{Name: "a", Size: MaxBuffered / 4}, &tar.Header{Name: "b", Size: MaxBuffered / 4}, &tar.Header{Name: "c", Size: MaxBuffered / 4},
			&tar.Header{Name: "d", Size: MaxBuffered / 4}, &tar.Header{Name: "e", Size: MaxBuffered / 4}), ""},
		{"sparse", sparseTar, "is a sparse file"},
		{"gzip cut off", imagetest.Compress(good, compress.Gzip)[:300], "gzip"},
		{"zstd cut off", imagetest.Compress(good, compress.Zstd)[:200], "zstd"},
		{"bytes after gzip", append(imagetest.Compress(good, compress.Gzip), "garbage"...), "gzip"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, ferr := loadFile(t, w, c.data, LoadOptions{})
			_, serr := LoadReader(t.Context(), w.store, w.layers, bytes.NewReader(c.data), LoadOptions{})
			for _, err := range []error{ferr, serr} {
				if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v", err)
				}
			}
			checkNothing(t, w)
		})
	}
}

// TestLinksStayInside has links that would lead out of the archive on the host.
func TestLinksStayInside(t *testing.T) {
	f := newFixture("one", "amd64", compress.None)
	m := docker(f, "one:v1")
	config := digest.FromBytes(f.config).Encoded() + ".json"
	w := newWorld(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, f.config, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{secret, strings.Repeat("../", 40) + secret[1:]} {
		m[config] = "-> " + target
		for _, way := range ways {
			if _, err := way.load(t, w, m, LoadOptions{}); err == nil {
				t.Errorf("%s: a link to %s was followed on the host", way.name, target)
			}
		}
	}
}

func TestLoadCanceled(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip)
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorld(t)
	o := LoadOptions{Progress: func(Progress) { cancel() }}
	name := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(name, pack(docker(f, "one:v1"), false), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(ctx, w.store, w.layers, name, o)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if names := w.names(t); names != "" {
		t.Errorf("names were given:\n%s", names)
	}
}

// TestLoadUnneeded has members that belong to no image: they may be anything.
func TestLoadUnneeded(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip)
	l := newLayout()
	l.name(l.image(f), "io.containerd.image.name", "one:v1")
	l.blob("", []byte("\x1f\x8b no gzip at all"))
	l.blob("", imagetest.Compress([]byte("gzip but no tar"), compress.Gzip))
	l.members["blobs/sha256/not-hex"] = "x"
	l.members["large"] = strings.Repeat("x", image.MaxLayoutIndex+1)
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			w := newWorld(t)
			if _, err := way.load(t, w, l.files(), LoadOptions{}); err != nil {
				t.Fatal(err)
			}
			checkImage(t, w, "one:v1", f)
		})
	}
}

func FuzzLoad(f *testing.F) {
	one := newFixture("one", "amd64", compress.Gzip, compress.None)
	l := newLayout()
	l.name(l.image(one), "io.containerd.image.name", "one:v1")
	f.Add(pack(l.files(), false))
	f.Add(pack(docker(one, "one:v1"), false))
	f.Add(pack(docker(one, "one:v1"), true)[:4096])
	f.Add(imagetest.Compress(pack(docker(one, "one:v1"), false), compress.Zstd))
	f.Add([]byte{})
	w := newWorld(f)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(dir, "a.tar")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		limits := compress.Limits{Output: 1 << 20}
		a, ferr := Load(t.Context(), w.store, w.layers, name, LoadOptions{Limits: limits})
		b, serr := LoadReader(t.Context(), w.store, w.layers, bytes.NewReader(data), LoadOptions{Limits: limits})
		for _, err := range []error{ferr, serr} {
			if err != nil && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errors.ErrUnsupported) {
				t.Fatalf("of no class: %v", err)
			}
		}
		// A stream that loads loads as a file too, as the same images.
		if serr == nil && (ferr != nil || len(a) != len(b)) {
			t.Fatalf("stream: %+v, file: %+v, %v", b, a, ferr)
		}
		refs, err := w.store.Refs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.RemoveRefs(t.Context(), refs...); err != nil {
			t.Fatal(err)
		}
	})
}
