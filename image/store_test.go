package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

var epoch = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

func newStore(t testing.TB) (*Store, *disk.Store) {
	t.Helper()
	d, err := disk.Open(context.Background(), filepath.Join(t.TempDir(), "store"), disk.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return NewStore(d, d.Blobs(), Options{Now: func() time.Time { return epoch }}), d
}

func mustRef(s string) reference.Reference {
	r, err := reference.ParseTagged(s)
	if err != nil {
		panic(err)
	}
	return r
}

func layerOf(s string) *Layer {
	return &Layer{DiffID: digest.FromString(s), Size: int64(len(s))}
}

// commit makes an image of one layer.
func commit(t *testing.T, s *Store, layer string, names ...string) *Image {
	t.Helper()
	o := CommitOptions{Layer: layerOf(layer), Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	for _, n := range names {
		o.Names = append(o.Names, mustRef(n))
	}
	im, err := s.Commit(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func TestCommit(t *testing.T) {
	s, _ := newStore(t)
	parent := commit(t, s, "one", "base")
	im, err := s.Commit(t.Context(), CommitOptions{
		Parent:  parent,
		Layer:   &Layer{DiffID: digest.FromString("two"), Size: 3, Blob: digest.FromString("2"), BlobSize: 1, MediaType: DockerLayerGzip},
		Changes: []string{`CMD ["x"]`, "ENV A=1"}, Author: "me", Comment: "message", CreatedBy: "sh <&>",
		Created: epoch.In(time.FixedZone("", 3600)), Names: []reference.Reference{mustRef("child:v1"), mustRef("child:v2")},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Resolve(t.Context(), "child:v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID() != im.ID() || !slices.Equal(got.Names, im.Names) {
		t.Errorf("%+v", got)
	}
	want := `{"created":"2020-01-02T03:04:05Z","architecture":"amd64","os":"linux","config":{"Cmd":["x"],"Env":["A=1"]},` +
		`"rootfs":{"type":"layers","diff_ids":["` + string(digest.FromString("one")) + `","` + string(digest.FromString("two")) + `"]},` +
		`"history":[{"created":"2020-01-02T03:04:05Z"},{"created":"2020-01-02T03:04:05Z","created_by":"sh <&>","author":"me","comment":"message"}],"author":"me"}`
	var a, b any
	if err := errors.Join(json.Unmarshal(got.RawConfig, &a), json.Unmarshal([]byte(want), &b)); err != nil {
		t.Fatal(err)
	}
	if x, y := fmt.Sprint(a), fmt.Sprint(b); x != y {
		t.Errorf("config\n%s\nwant\n%s", got.RawConfig, want)
	}
	if !bytes.Contains(got.RawConfig, []byte("sh <&>")) {
		t.Error("a command line is escaped as for HTML")
	}
	if l := got.Layers; l[0].MediaType != ocispec.MediaTypeImageLayer || l[0].Digest != digest.FromString("one") ||
		l[1].MediaType != ocispec.MediaTypeImageLayerGzip || l[1].Digest != digest.FromString("2") || l[1].Size != 1 {
		t.Errorf("layers %+v", l)
	}
	lines := got.History()
	if len(lines) != 2 || lines[1].DiffID != digest.FromString("two") {
		t.Errorf("history %+v", lines)
	}
	again, err := s.Commit(t.Context(), CommitOptions{Parent: im, Changes: []string{"LABEL a=b"}, Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	lines = again.History()
	if len(again.DiffIDs()) != 2 || len(lines) != 3 || !lines[2].EmptyLayer || lines[2].DiffID != "" {
		t.Errorf("change without a layer: %+v", lines)
	}
}

// TestCommitKeepsUnknown has a config with fields that layerfs knows nothing of.
func TestCommitKeepsUnknown(t *testing.T) {
	raw := []byte(`{"architecture":"arm64","os":"linux","os.features":["x"],"container":"c","container_config":{"Cmd":["y"]},` +
		`"config":{"Hostname":"h","Cmd":["a"],"MacAddress":"m","Number":1.50,"Labels":{"k":"v"}},"moby.buildkit":"data",` +
		`"rootfs":{"type":"layers","diff_ids":["` + string(digest.FromString("one")) + `","` + string(digest.FromString("two")) + `"]},` +
		`"history":[{"created_by":"first"},{"created_by":"nothing","empty_layer":true}]}`)
	c, err := ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	parent := &Image{RawConfig: raw, Config: c, Layers: []ocispec.Descriptor{
		{MediaType: DockerLayerGzip, Digest: digest.FromString("1"), Size: 1}, {MediaType: DockerLayer, Digest: digest.FromString("two"), Size: 1},
	}}
	im, _, err := build(CommitOptions{Parent: parent, Layer: layerOf("three"), Changes: []string{"ENTRYPOINT [\"e\"]"}, Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	got := string(im.RawConfig)
	for _, want := range []string{`"os.features":["x"]`, `"moby.buildkit":"data"`, `"config":{"Hostname":"h","MacAddress":"m","Number":1.50,"Labels":{"k":"v"},"Entrypoint":["e"]}`, `"architecture":"arm64"`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	if strings.Contains(got, "container") {
		t.Errorf("what was noted of the parent's container stays: %s", got)
	}
	// Every layer has a step: one is added for the layer that had none.
	lines := im.History()
	if len(lines) != 4 || lines[0].DiffID != digest.FromString("one") || lines[1].DiffID != digest.FromString("two") || lines[3].DiffID != digest.FromString("three") {
		t.Errorf("%+v", lines)
	}
	if im.Layers[0].MediaType != ocispec.MediaTypeImageLayerGzip || im.Layers[1].MediaType != ocispec.MediaTypeImageLayer {
		t.Errorf("%+v", im.Layers)
	}
	twice, _, err := build(CommitOptions{Parent: parent, Layer: layerOf("three"), Changes: []string{"ENTRYPOINT [\"e\"]"}, Created: epoch})
	if err != nil || twice.Manifest.Digest != im.Manifest.Digest {
		t.Errorf("the same options gave %s and %s: %v", im.Manifest.Digest, twice.Manifest.Digest, err)
	}
}

func TestFind(t *testing.T) {
	s, _ := newStore(t)
	one := commit(t, s, "one", "one", "registry.example/one:v1")
	two := commit(t, s, "two", "two:v2")
	unnamed := commit(t, s, "three")
	pinned := mustRef("pinned@" + string(one.Manifest.Digest))
	if err := s.SetRefs(t.Context(), Ref{Name: pinned, Target: one.Target}); err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]*Image{
		"one": one, "one:latest": one, "docker.io/library/one": one, "registry.example/one:v1": one,
		string(one.ID()): one, one.ID().Encoded(): one, one.ID().Encoded()[:12]: one, "sha256:" + two.ID().Encoded()[:12]: two,
		string(two.Manifest.Digest): two, two.Manifest.Digest.Encoded()[:16]: two,
		"one@" + string(one.Manifest.Digest):                one,
		"one:nope@" + string(one.Manifest.Digest):           one,
		"pinned@" + string(one.Manifest.Digest):             one,
		unnamed.ID().Encoded()[:20]:                         unnamed,
		"two:v2@" + string(two.Manifest.Digest):             two,
		"registry.example/one@" + string(one.Target.Digest): one,
	} {
		im, err := s.Resolve(t.Context(), word, nil)
		if err != nil || im.ID() != want.ID() {
			t.Errorf("%s: %v, %v", word, im, err)
		}
	}
	for _, word := range []string{"three", "one:v1", "two", "registry.example/one", "two@" + string(one.Manifest.Digest), string(digest.FromString("no")), digest.FromString("no").Encoded()[:12]} {
		if _, err := s.Find(t.Context(), word); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", word, err)
		}
	}
	for _, word := range []string{"", "A", "a b", "a:b:c", "/"} {
		if _, err := s.Find(t.Context(), word); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", word, err)
		}
	}
	// A name goes before a shortened id.
	short := one.ID().Encoded()[:4]
	commit(t, s, "other", short)
	if im, err := s.Resolve(t.Context(), short, nil); err != nil || im.ID() == one.ID() {
		t.Errorf("%s: %v, %v", short, im, err)
	}
	m, err := s.Find(t.Context(), one.ID().Encoded())
	if err != nil || m.ByName || len(m.Refs) != 3 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestFindAmbiguous(t *testing.T) {
	s, _ := newStore(t)
	first := map[byte]bool{}
	for i := range 17 {
		im := commit(t, s, fmt.Sprint(i), fmt.Sprintf("image:%d", i))
		c := im.ID().Encoded()[0]
		if first[c] {
			// Two of 17 ids begin with the same of 16 digits.
			_, err := s.Find(t.Context(), string(c))
			if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), string(im.ID())) {
				t.Errorf("%c: %v", c, err)
			}
			return
		}
		first[c] = true
	}
	t.Fatal("no two ids begin alike")
}

func TestRefs(t *testing.T) {
	s, d := newStore(t)
	im := commit(t, s, "one", "b:2", "b:1", "localhost:5000/x/y:z", "[::1]/a", "A.example/a")
	long := "x.io/" + strings.Repeat("p", reference.MaxPath) + ":" + strings.Repeat("t", reference.MaxTag)
	other := commit(t, s, "two", long)
	unnamed := commit(t, s, "three")
	refs, err := s.Refs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range refs {
		got = append(got, r.String())
		if !r.Created.Equal(epoch) {
			t.Errorf("%s: created %v", r, r.Created)
		}
	}
	want := []string{"A.example/a:latest", "[::1]/a:latest", "b:1", "b:2", "localhost:5000/x/y:z", long, string(unnamed.Target.Digest)}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if _, err := os.Stat(filepath.Join(d.Root(), "refs/docker.io/library/b:1")); err != nil {
		t.Error(err)
	}

	index := func() []ocispec.Descriptor {
		data, err := os.ReadFile(filepath.Join(d.Root(), "index.json"))
		if err != nil {
			t.Fatal(err)
		}
		x, err := ParseLayoutIndex(data)
		if err != nil {
			t.Fatal(err)
		}
		return x.Manifests
	}
	entries := index()
	if len(entries) != 7 || entries[2].Annotations[ocispec.AnnotationRefName] != "docker.io/library/b:1" || entries[2].Digest != im.Target.Digest || entries[6].Annotations != nil {
		t.Errorf("index.json: %+v", entries)
	}
	if err := s.RemoveRefs(t.Context(), Ref{Name: mustRef("b:1")}, Ref{Target: unnamed.Target}, Ref{Name: mustRef(long)}); err != nil {
		t.Fatal(err)
	}
	if n := len(index()); n != 4 {
		t.Errorf("%d entries in index.json", n)
	}
	if _, err := s.Ref(t.Context(), mustRef(long)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}

	// All or none: the second does not exist, so the first stays.
	if err := s.RemoveRefs(t.Context(), Ref{Name: mustRef("b:2")}, Ref{Name: mustRef("b:1")}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if r, err := s.Ref(t.Context(), mustRef("b:2")); err != nil || r.Target.Digest != im.Target.Digest {
		t.Error(r, err)
	}
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6}
	if err := s.SetRefs(t.Context(), Ref{Name: mustRef("b:2"), Target: other.Target}, Ref{Name: mustRef("c"), Target: absent}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if r, err := s.Ref(t.Context(), mustRef("b:2")); err != nil || r.Target.Digest != im.Target.Digest {
		t.Error(r, err)
	}
	name, err := reference.Parse("x")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetRefs(t.Context(), Ref{Name: name, Target: im.Target}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("name without a tag: %v", err)
	}
}

// failingRecords fails to write one record.
type failingRecords struct {
	*disk.Store
	rel string
}

var errDisk = errors.New("disk is full")

func (f *failingRecords) PatchRecord(ctx context.Context, rel string, fn func(*os.File) error) error {
	if rel == f.rel {
		return errDisk
	}
	return f.Store.PatchRecord(ctx, rel, fn)
}

func (f *failingRecords) WriteRecord(ctx context.Context, rel string, data []byte) error {
	if rel == f.rel {
		return errDisk
	}
	return f.Store.WriteRecord(ctx, rel, data)
}

func TestSetRefsUndone(t *testing.T) {
	s, d := newStore(t)
	old := commit(t, s, "old", "a:1")
	im := commit(t, s, "new")
	failing := NewStore(&failingRecords{d, "index.json"}, d.Blobs(), Options{})
	if err := failing.SetRefs(t.Context(), Ref{Name: mustRef("a:1"), Target: im.Target}, Ref{Name: mustRef("a:2"), Target: im.Target}); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	refs, err := s.Refs(t.Context())
	if err != nil || len(refs) != 2 || refs[0].Target.Digest != old.Target.Digest || !refs[1].Name.IsZero() {
		t.Errorf("%v, %v", refs, err)
	}
}

func TestDamagedRecord(t *testing.T) {
	s, d := newStore(t)
	im := commit(t, s, "one", "good:1", "bad:1")
	if err := d.WriteRecord(t.Context(), "refs/docker.io/library/bad:1", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteRecord(t.Context(), "refs/docker.io/library/no name", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	refs, err := s.Refs(t.Context())
	if len(refs) != 1 || !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "bad:1") || !strings.Contains(err.Error(), "no name") {
		t.Errorf("%v, %v", refs, err)
	}
	if _, err := s.Find(t.Context(), im.ID().Encoded()[:12]); err != nil {
		t.Errorf("a damaged name keeps another image from being found: %v", err)
	}
	n := 0
	if err := s.Roots(t.Context(), func(Root) error { n++; return nil }); !errors.Is(err, fs.ErrInvalid) || n != 4 {
		t.Errorf("%d roots, %v", n, err)
	}
	if err := s.SetRefs(t.Context(), Ref{Name: mustRef("bad:1"), Target: im.Target}); err != nil {
		t.Errorf("a damaged name cannot be given anew: %v", err)
	}
}

func TestRoots(t *testing.T) {
	s, d := newStore(t)
	parent := commit(t, s, "one", "one")
	child, err := s.Commit(t.Context(), CommitOptions{
		Parent: parent, Layer: &Layer{DiffID: digest.FromString("two"), Size: 3, Blob: digest.FromString("2"), BlobSize: 1, MediaType: ocispec.MediaTypeImageLayerZstd},
		Names: []reference.Reference{mustRef("two")},
	})
	if err != nil {
		t.Fatal(err)
	}
	entry := child.Manifest
	entry.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6}
	data, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{entry, absent}})
	if err != nil {
		t.Fatal(err)
	}
	index := NewDocument(ocispec.MediaTypeImageIndex, data)
	if err := s.PutDocuments(t.Context(), []Document{index}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetRefs(t.Context(), Ref{Name: mustRef("index"), Target: index.Descriptor}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err = s.Roots(t.Context(), func(r Root) error {
		got[r.Ref.String()] += fmt.Sprintln(r.Kind, r.Digest)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	one := fmt.Sprintln("manifest", parent.Manifest.Digest) + fmt.Sprintln("config", parent.ID()) +
		fmt.Sprintln("blob", digest.FromString("one")) + fmt.Sprintln("layer", digest.FromString("one"))
	two := fmt.Sprintln("manifest", child.Manifest.Digest) + fmt.Sprintln("config", child.ID()) +
		fmt.Sprintln("blob", digest.FromString("one")) + fmt.Sprintln("blob", digest.FromString("2")) +
		fmt.Sprintln("layer", digest.FromString("one")) + fmt.Sprintln("layer", digest.FromString("two"))
	want := map[string]string{"one:latest": one, "two:latest": two, "index:latest": fmt.Sprintln("manifest", index.Descriptor.Digest) + two}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s:\n%swant\n%s", name, got[name], want[name])
		}
	}
	// A document that is gone is an error, and keeps nothing else from being a root.
	if err := d.Blobs().Remove(t.Context(), parent.ID()); err != nil {
		t.Fatal(err)
	}
	clear(got)
	err = s.Roots(t.Context(), func(r Root) error {
		got[r.Ref.String()] += fmt.Sprintln(r.Kind, r.Digest)
		return nil
	})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "one:latest") || strings.Contains(err.Error(), "two:latest") {
		t.Error(err)
	}
	if got["two:latest"] != two || !strings.Contains(one, got["one:latest"]) {
		t.Errorf("%v", got)
	}
}

func TestDocumentVerified(t *testing.T) {
	s, d := newStore(t)
	im := commit(t, s, "one", "one")
	name := filepath.Join(d.Root(), "blobs/sha256", im.ID().Encoded())
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[10] ^= 1
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(t.Context(), "one", nil); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), string(im.ID())) {
		t.Error(err)
	}
	bad := Document{Descriptor: ocispec.Descriptor{Digest: digest.FromString("a"), Size: 1}, Data: []byte("b")}
	good := NewDocument("x/y", []byte("good"))
	if err := s.PutDocuments(t.Context(), []Document{good, bad}); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	if _, err := d.Blobs().Stat(t.Context(), good.Descriptor.Digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a part of the documents is there: %v", err)
	}
}

func TestCheckLayout(t *testing.T) {
	for doc, ok := range map[string]bool{
		string(EncodeLayout()): true, `{"imageLayoutVersion":"1.1.0"}`: true, `{}`: false, ``: false, `[]`: false, `{"imageLayoutVersion":"2.0.0"}`: false,
		`{"imageLayoutVersion":"1.0.0","imageLayoutVersion":"1.0.0"}`: false,
	} {
		if err := CheckLayout([]byte(doc)); (err == nil) != ok || err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

func FuzzRefRecord(f *testing.F) {
	good, err := Ref{Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: someDigest, Size: 1}, Created: epoch, Source: "x"}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("refs/docker.io/library/a:b", good)
	f.Add("refs/@/"+someDigest, []byte(`{"digest":"x"}`))
	f.Add("refs/localhost:1/a@"+someDigest, []byte(`{}`))
	f.Add("refs/x.io/a/:b", []byte(``))
	f.Fuzz(func(t *testing.T, rel string, data []byte) {
		r, err := parseRef(data)
		if err == nil {
			again, err := r.encode()
			if err == nil {
				_, err = parseRef(again)
			}
			// A time beyond the year 9999 and a record at its limit cannot be written.
			if err != nil && r.Created.Year() <= 9999 && len(data) < MaxRecord/8 {
				t.Fatalf("%s: %v", data, err)
			}
		} else if !errors.Is(err, fs.ErrInvalid) {
			t.Fatal(err)
		}
		name, unnamed, err := parseRecordName(rel)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if name.IsZero() == (unnamed == "") {
			t.Fatalf("%q is %v and %q", rel, name, unnamed)
		}
		for part := range strings.SplitSeq((Ref{Name: name, Target: ocispec.Descriptor{Digest: unnamed}}).record(), "/") {
			if len(part) > maxNameLen || part == "" || part == "." || part == ".." {
				t.Fatalf("%q: component %q", rel, part)
			}
		}
	})
}

// In a store with many names index.json is changed in place, and stays one that says what
// the names say.
func TestManyNames(t *testing.T) {
	s, d := newStore(t)
	one, two := commit(t, s, "one"), commit(t, s, "two")
	const names = 200
	want := map[string]digest.Digest{}
	check := func(what string) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(d.Root(), "index.json"))
		if err != nil {
			t.Fatal(err)
		}
		x, err := ParseLayoutIndex(data)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got := map[string]digest.Digest{}
		for _, m := range x.Manifests {
			got[m.Annotations[AnnotationImageName]] = m.Digest
		}
		if !maps.Equal(got, want) || len(x.Manifests) != len(want) {
			t.Fatalf("%s: index.json has %d entries, want %d\n%s", what, len(x.Manifests), len(want), data)
		}
	}
	set := func(im *Image, words ...string) {
		t.Helper()
		var refs []Ref
		for _, w := range words {
			refs = append(refs, Ref{Name: mustRef(w), Target: im.Target})
			want[mustRef(w).String()] = im.Target.Digest
		}
		if err := s.SetRefs(t.Context(), refs...); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(words ...string) {
		t.Helper()
		var refs []Ref
		for _, w := range words {
			refs = append(refs, Ref{Name: mustRef(w)})
			delete(want, mustRef(w).String())
		}
		if err := s.RemoveRefs(t.Context(), refs...); err != nil {
			t.Fatal(err)
		}
	}
	var words []string
	for i := range names {
		words = append(words, fmt.Sprintf("name%03d:1", i))
	}
	set(one, words...)
	set(two, "other:1") // the first writes the unnamed ones away
	check("many")
	inode := func() uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(d.Root(), "index.json"), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	before := inode()
	for what, do := range map[string]func(){
		"add":          func() { set(two, "new:1") },
		"replace":      func() { set(two, words[7]) },
		"remove first": func() { remove(words[0]) },
		"remove last":  func() { remove(words[names-1]) },
		"remove two":   func() { remove(words[1], words[2]) },
		"all at once":  func() { set(one, "x:1", "y:1", words[8], "other:1") },
	} {
		do()
		check(what)
	}
	for repository, n := range map[string]int{"name009": 1, "name00": 0, "new": 1, "none": 0, "x": 1} {
		if refs, err := s.RefsOf(t.Context(), mustRef(repository+":1")); err != nil || len(refs) != n {
			t.Errorf("names of repository %s: %v, %v, want %d", repository, refs, err, n)
		}
	}
	if inode() != before {
		t.Error("index.json was written anew")
	}
	if refs, err := s.Names(t.Context(), two.Target); err != nil || len(refs) != 2 || refs[0].String() != words[7] || refs[1].String() != "new:1" {
		t.Errorf("names of an image: %v, %v", refs, err)
	}
	for _, w := range words {
		if _, err := s.Ref(t.Context(), mustRef(w)); err == nil {
			remove(w)
		}
	}
	check("all removed")
	if err := s.RefreshLayout(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("refreshed")
}
