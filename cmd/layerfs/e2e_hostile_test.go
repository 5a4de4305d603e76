package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/testimage"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// hostileTime is how long a command may take over bad input. It is no measure of speed,
// only an end to what would never end.
const hostileTime = 2 * time.Minute

// keptImage is in the store while bad input is loaded.
const keptImage = "example.org/kept:v1"

// victim returns a store with a sound image in it.
func victim(t testing.TB) *store {
	t.Helper()
	s := newStore(t)
	s.load(newArchive(t, keptImage, bytes.NewReader(filesLayer(t, map[string]string{
		"etc/": "", "etc/conf": "kept\n", "large": strings.Repeat("large enough to be an object\n", 500),
	}))))
	return s
}

// try runs a command on bad input, given as its standard input where that is not nil, and
// fails the test if the command died of it.
func (s *store) try(input io.Reader, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), hostileTime)
	defer cancel()
	cmd := s.command(ctx, args...)
	cmd.Stdin = input
	r := s.finish(cmd, args)
	for _, sign := range []string{"panic:", "goroutine ", "fatal error:", "runtime error", "SIGSEGV"} {
		if strings.Contains(r.stderr, sign) {
			s.t.Errorf("the command crashed: %s", r)
		}
	}
	if r.code < 0 {
		s.t.Errorf("the command was killed: %s", r)
	}
	if r.code > 0 && (!strings.HasPrefix(r.stderr, "layerfs: ") || r.stdout != "") {
		s.t.Errorf("a refusal says why, and nothing else: %s", r)
	}
	return r
}

// refuses fails the test unless the command refuses its input with an error that has all
// the words, and leaves the store as it was.
func (s *store) refuses(input io.Reader, words []string, args ...string) {
	s.t.Helper()
	args = slices.Insert(slices.Clone(args), 1, "-q") // on a slow machine there would be progress
	s.keeps(func() {
		r := s.try(input, args...)
		if r.code == 0 {
			s.t.Errorf("accepted: %s", r)
			return
		}
		for _, w := range words {
			if !strings.Contains(r.stderr, w) {
				s.t.Errorf("the error does not say %q: %s", w, r)
			}
		}
		s.t.Logf("%s", strings.TrimSpace(r.stderr))
	})
	s.sound()
}

// TestHostileTruncated cuts archives short at every 64 KiB.
func TestHostileTruncated(t *testing.T) {
	s := victim(t)
	data, err := os.ReadFile(testimage.Busybox(t).DockerArchive(t))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cut.tar")
	s.keeps(func() {
		for n := 0; n < len(data); n += 64 << 10 {
			if err := os.WriteFile(file, data[:n], 0o644); err != nil {
				t.Fatal(err)
			}
			for _, r := range []result{s.try(nil, "load", "-i", file), s.try(bytes.NewReader(data[:n]), "load")} {
				if r.code == 0 {
					t.Errorf("accepted %d of %d bytes: %s", n, len(data), r)
				}
			}
		}
	})
	s.sound()
}

// TestHostileBitFlips flips single bits of archives. Either the archive is refused, or
// the bit was in nothing that the image is made of, and the image is the same.
func TestHostileBitFlips(t *testing.T) {
	s := victim(t)
	img := testimage.Busybox(t)
	other := newStore(t)
	name, _ := other.load(img.OCIGzip(t), "--name", "example.org/busybox")
	id := other.image(name).ID
	rng := rand.New(rand.NewPCG(2, 3))
	for form, file := range map[string]string{"docker": img.DockerArchive(t), "oci": other.saveAs("oci", name)} {
		t.Run(form, func(t *testing.T) {
			s := &store{t: t, root: s.root}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			flipped := filepath.Join(t.TempDir(), "flipped.tar")
			refused := 0
			s.keeps(func() {
				for i := range 100 {
					bit := rng.IntN(len(data) * 8)
					if i%4 == 0 {
						// Documents and headers are small: most bits would miss them.
						bit = interestingBit(rng, data)
					}
					data[bit/8] ^= 1 << (bit % 8)
					var r result
					if i%2 == 0 {
						if err := os.WriteFile(flipped, data, 0o644); err != nil {
							t.Fatal(err)
						}
						r = s.try(nil, "load", "-i", flipped)
					} else {
						r = s.try(bytes.NewReader(data), "load")
					}
					if r.code != 0 {
						refused++
					} else {
						s.removeSame(r, id, bit)
					}
					data[bit/8] ^= 1 << (bit % 8)
				}
			})
			if refused < 50 {
				t.Errorf("%d of 100 damaged archives were refused, want most", refused)
			}
			t.Logf("%d of 100 refused", refused)
			s.sound()
		})
	}
}

// interestingBit picks a bit of a header or a document: of the blocks of a tar that are
// text.
func interestingBit(rng *rand.Rand, data []byte) int {
	for {
		block := rng.IntN(len(data)/512) * 512
		b := data[block : block+512]
		if bytes.Contains(b, []byte("ustar")) || bytes.HasPrefix(b, []byte("{")) || bytes.HasPrefix(b, []byte("[{")) {
			at := rng.IntN(512)
			if b[at] != 0 {
				return (block+at)*8 + rng.IntN(8)
			}
		}
	}
}

// removeSame removes an image that was loaded in spite of a flipped bit, and fails the
// test if it is another than that of the sound archive.
func (s *store) removeSame(r result, id string, bit int) {
	s.t.Helper()
	for _, line := range splitLines(strings.TrimSpace(r.stdout)) {
		word, digest, _ := strings.Cut(line, " ")
		if got := s.inspect(digest).ID; got != id {
			s.t.Errorf("with bit %d flipped, image %s was loaded, not %s", bit, got, id)
		}
		if word != digest {
			s.ok("rmi", word)
		}
	}
	s.ok("gc", "--grace", "0s")
}

// entry is a member of a layer.
type entry struct {
	tar.Header
	data string
}

func file(name, data string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data}
}

func link(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

func symlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}, ""}
}

func layerWith(t testing.TB, entries ...entry) []byte {
	t.Helper()
	return layerOf(t, func(w *tar.Writer) error {
		var errs []error
		for _, e := range entries {
			errs = append(errs, w.WriteHeader(&e.Header))
			_, err := io.WriteString(w, e.data)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// patched makes a layer of one file and changes its header, with the sum made right again.
func patched(t testing.TB, change func(header []byte)) []byte {
	t.Helper()
	b := layerWith(t, file("patched", "x"))
	change(b[:512])
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// TestHostileLayers loads layers that no honest tool writes.
func TestHostileLayers(t *testing.T) {
	long := strings.Repeat("n", 256)
	pax := func(records map[string]string) []byte {
		e := file("pax", "x")
		e.PAXRecords, e.Format = records, tar.FormatPAX
		return layerWith(t, e)
	}
	tests := map[string]struct {
		layer []byte
		words []string // of the error, beside the layer
	}{
		"name with ..":                 {layerWith(t, file("../escape", "x")), []string{"../escape"}},
		"name with .. inside":          {layerWith(t, file("a/../../escape", "x")), []string{"a/../../escape"}},
		"name that is ..":              {layerWith(t, file("..", "x")), []string{".."}},
		"directory with ..":            {layerWith(t, entry{tar.Header{Typeflag: tar.TypeDir, Name: "a/../../b/"}, ""}), []string{"a/../../b"}},
		"whiteout of ..":               {layerWith(t, file("etc/.wh...", "")), []string{"etc/.wh..."}},
		"whiteout of .":                {layerWith(t, file("etc/.wh..", "")), []string{"etc/.wh.."}},
		"whiteout of nothing":          {layerWith(t, file("etc/.wh.", "")), []string{"etc/.wh."}},
		"hard link to itself":          {layerWith(t, link("self", "self")), []string{"self"}},
		"hard links in a circle":       {layerWith(t, link("one", "two"), link("two", "three"), link("three", "one")), []string{"hard links in a circle"}},
		"hard link that leads out":     {layerWith(t, link("out", "../../etc/passwd")), []string{"out", "../../etc/passwd"}},
		"hard link to nothing":         {layerWith(t, link("dangling", "not/there")), []string{"dangling", "not/there"}},
		"hard link to a directory":     {layerWith(t, link("dir", "etc")), []string{"dir"}},
		"name longer than 255":         {layerWith(t, file("dir/"+long, "x")), []string{long[:50]}},
		"symbolic link to nowhere":     {layerWith(t, symlink("loop", "loop"), file("loop/in", "x")), []string{"loop/in"}},
		"size of 2^62":                 {patched(t, func(h []byte) { copy(h[124:136], "\x80\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00") }), []string{"patched"}},
		"negative size":                {patched(t, func(h []byte) { copy(h[124:136], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00") }), []string{"patched"}},
		"size that is no number":       {patched(t, func(h []byte) { copy(h[124:136], "not a number") }), []string{"patched"}},
		"type that nobody knows":       {patched(t, func(h []byte) { h[156] = 'Z' }), []string{"patched"}},
		"size beyond 64 bits in PAX":   {bytes.Replace(pax(map[string]string{"LAYERFS.x": "00000000000000000000000"}), []byte("LAYERFS.x=0000000"), []byte("size=999999999999"), 1), []string{"size"}},
		"attribute without a name":     {pax(map[string]string{"SCHILY.xattr.": "x"}), []string{"SCHILY.xattr."}},
		"attribute of too long a name": {pax(map[string]string{"SCHILY.xattr.user." + long: "x"}), []string{"SCHILY.xattr.user.nnn"}},
		"nothing that is a tar":        {bytes.Repeat([]byte("this is no tar. "), 64), nil},
	}
	good := filesLayer(t, map[string]string{"etc/": "", "etc/file": "x", "big": strings.Repeat("new object\n", 1000)})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			// A store of its own: what one case left could hide the next.
			s := victim(t)
			archive := newArchive(t, "example.org/bad:v1", bytes.NewReader(good), bytes.NewReader(tt.layer))
			s.refuses(nil, append(tt.words, "layer 2 of 2"), "load", "-i", archive)
			data, err := os.ReadFile(archive)
			if err != nil {
				t.Fatal(err)
			}
			s.refuses(bytes.NewReader(data), tt.words, "load")
			s.refuses(bytes.NewReader(tt.layer), tt.words, "import", "-", "example.org/bad:v1")
		})
	}
}

// TestHostileNamesStayInside loads names that look as if they led out of the image and are
// taken for names inside, as other tools do: nothing of the host is read or written.
func TestHostileNamesStayInside(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := victim(t)
	layer := layerWith(t,
		file(outside+"/absolute", "inside"),
		symlink("link", outside),
		file("link/through", "inside"),
		symlink("up", "../../../../../.."+outside),
		file("up/above", "inside"),
		link("hard", outside+"/absolute"),
	)
	s.load(newArchive(t, "example.org/names:v1", bytes.NewReader(layer)))
	for _, name := range []string{"absolute", "through", "above"} {
		wantEqual(t, name, s.ok("cat", "example.org/names:v1", outside+"/"+name), "inside")
	}
	wantEqual(t, "hard link", s.ok("cat", "example.org/names:v1", "hard"), "inside")
	for _, word := range []string{secret, "link/secret", "../../../.." + secret} {
		if r := s.call("cat", "example.org/names:v1", word); r.code == 0 {
			t.Errorf("a file of the host was read: %s", r)
		}
	}
	names, err := os.ReadDir(outside)
	if err != nil || len(names) != 1 {
		t.Errorf("the host's directory holds %v, %v", names, err)
	}
	s.sound()
}

// TestHostileBomb loads layers that are a thousand times larger than they look and more.
func TestHostileBomb(t *testing.T) {
	testenv.Long(t)
	header := layerWith(t, file("bomb", ""))[:512]
	copy(header[124:136], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00") // 1 TiB
	copy(header[148:156], "        ")
	sum := 0
	for _, c := range header {
		sum += int(c)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
	zeros := make([]byte, 64<<20)
	gz := func(data []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(data)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	zs := func(data []byte) []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(data, nil)
	}
	for name, pack := range map[string]func([]byte) []byte{"gzip": gz, "zstd": zs} {
		t.Run(name, func(t *testing.T) {
			s := victim(t)
			bomb := append(pack(header), bytes.Repeat(pack(zeros), 32)...) // 2 GiB, and more to come
			t.Logf("%d bytes", len(bomb))
			s.refuses(bytes.NewReader(bomb), []string{"limit"}, "import", "-", "example.org/bomb:v1")
			l := newLayout(t)
			l.layer = bomb
			l.manifest.Layers = []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer + "+" + name, Digest: digest.FromBytes(bomb), Size: int64(len(bomb))}}
			s.refuses(nil, []string{"layer 1 of 1", digest.FromBytes(bomb).Encoded(), "limit"}, "load", "-i", l.write(t))
		})
	}
}

// TestHostileDocuments loads layouts and archives whose documents contradict themselves or
// what they describe.
func TestHostileDocuments(t *testing.T) {
	const mib = 1 << 20
	// JSON keeps the fields of a document apart by their names alone: what one reader takes
	// for a manifest, another may take for an index.
	insert := func(fields string) func([]byte) []byte {
		return func(m []byte) []byte { return append(append([]byte("{"), fields+","...), m[1:]...) }
	}
	other := []byte("not the bytes that the digest names")
	tests := map[string]struct {
		change func(l *layout)
		words  []string
	}{
		"manifest that is an index too": {func(l *layout) {
			l.raw = insert(`"manifests":[{"mediaType":"` + ocispec.MediaTypeImageManifest + `","digest":"sha256:` + strings.Repeat("0", 64) + `","size":7}]`)
		}, []string{"manifest"}},
		"two media types": {func(l *layout) {
			l.raw = insert(`"mediaType":"` + ocispec.MediaTypeImageIndex + `"`)
		}, []string{"mediaType"}},
		"other media type than described": {func(l *layout) { l.manifest.MediaType = ocispec.MediaTypeImageIndex }, []string{ocispec.MediaTypeImageIndex}},
		"one key twice":                   {func(l *layout) { l.raw = insert(`"layers":[]`) }, []string{"layers"}},
		"layer with other bytes": {func(l *layout) {
			l.blobs = func(b map[digest.Digest][]byte) {
				changed := bytes.Clone(l.layer)
				changed[len(changed)-1] ^= 1
				b[digest.FromBytes(l.layer)] = changed
			}
		}, []string{"layer"}},
		"layer cut short": {func(l *layout) {
			l.blobs = func(b map[digest.Digest][]byte) { b[digest.FromBytes(l.layer)] = l.layer[:1024] }
		}, []string{"layer"}},
		"layer that is missing": {func(l *layout) {
			l.blobs = func(b map[digest.Digest][]byte) { delete(b, digest.FromBytes(l.layer)) }
		}, []string{"layer"}},
		"config with other bytes": {func(l *layout) {
			l.blobs = func(b map[digest.Digest][]byte) { b[l.manifest.Config.Digest] = other }
		}, []string{"35 bytes"}},
		"DiffID of another layer":   {func(l *layout) { l.config.RootFS.DiffIDs[0] = digest.FromBytes(other) }, []string{digest.FromBytes(other).String()}},
		"more DiffIDs than layers":  {func(l *layout) { l.config.RootFS.DiffIDs = append(l.config.RootFS.DiffIDs, digest.FromBytes(other)) }, []string{"layers"}},
		"size that is another":      {func(l *layout) { l.manifest.Layers[0].Size++ }, []string{"layer"}},
		"size that is negative":     {func(l *layout) { l.manifest.Layers[0].Size = -1 }, []string{"size"}},
		"size of 2^62":              {func(l *layout) { l.manifest.Layers[0].Size = 1 << 62 }, []string{"size"}},
		"digest that leads outside": {func(l *layout) { l.manifest.Layers[0].Digest = "sha256:../../../../etc/passwd" }, []string{"digest"}},
		"digest of unknown kind":    {func(l *layout) { l.manifest.Layers[0].Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }, []string{"digest"}},
		"100,000 layers": {func(l *layout) {
			for range 100_000 {
				l.manifest.Layers = append(l.manifest.Layers, l.manifest.Layers[0])
			}
		}, []string{"limit"}},
		"1,001 layers": {func(l *layout) {
			for range 1_000 {
				l.manifest.Layers = append(l.manifest.Layers, l.manifest.Layers[0])
				l.config.RootFS.DiffIDs = append(l.config.RootFS.DiffIDs, l.config.RootFS.DiffIDs[0])
			}
		}, []string{"limit"}},
		"manifest of 5 MiB": {func(l *layout) { l.manifest.Annotations = map[string]string{"a": strings.Repeat("x", 5*mib)} }, []string{"limit"}},
		"config of 9 MiB":   {func(l *layout) { l.config.Author = strings.Repeat("x", 9*mib) }, []string{"limit"}},
		"deep JSON": {func(l *layout) {
			l.raw = insert(`"deep":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000))
		}, []string{"deep"}},
		"no JSON": {func(l *layout) { l.raw = func([]byte) []byte { return []byte("\x00\x01\x02") } }, []string{"manifest"}},
		"index in itself": {func(l *layout) {
			idx := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`)
			d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(idx), Size: int64(len(idx))}
			l.index.Manifests = []ocispec.Descriptor{d}
			l.blobs = func(b map[digest.Digest][]byte) {
				b[d.Digest] = []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[{"mediaType":"` +
					ocispec.MediaTypeImageIndex + `","digest":"` + d.Digest.String() + `","size":` + fmt.Sprint(len(idx)) + `}]}`)
			}
		}, []string{digest.FromBytes([]byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`)).Encoded()[:12]}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := victim(t)
			l := newLayout(t)
			tt.change(l)
			dir := l.write(t)
			s.refuses(nil, tt.words, "load", "-i", dir)
			archive := filepath.Join(t.TempDir(), "layout.tar")
			testenv.Output(t, "tar", "--create", "--file", archive, "--directory", dir, ".")
			data, err := os.ReadFile(archive)
			if err != nil {
				t.Fatal(err)
			}
			s.refuses(bytes.NewReader(data), tt.words, "load")
		})
	}
}

// TestHostileArchives loads docker archives whose members lead elsewhere.
func TestHostileArchives(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, filesLayer(t, map[string]string{"secret": "of the host"}), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + sumOf(id) + `"]}}`
	manifest := func(configName, layer string) entry {
		return file("manifest.json", `[{"Config":"`+configName+`","RepoTags":["example.org/bad:v1"],"Layers":["`+layer+`"]}]`)
	}
	tests := map[string][]entry{
		"layer by a path of the host":     {manifest("c.json", secret), file("c.json", config)},
		"layer by a relative path":        {manifest("c.json", "../../../../../.."+secret), file("c.json", config)},
		"layer by a symbolic link":        {manifest("c.json", "l.tar"), file("c.json", config), symlink("l.tar", secret)},
		"layer by a hard link":            {manifest("c.json", "l.tar"), file("c.json", config), link("l.tar", secret)},
		"layer by a symbolic link to ..":  {manifest("c.json", "l.tar"), file("c.json", config), symlink("l.tar", "../../../../../.."+secret)},
		"layers that link in a circle":    {manifest("c.json", "a"), file("c.json", config), symlink("a", "b"), symlink("b", "a")},
		"config by a path of the host":    {manifest("/etc/passwd", "l.tar"), file("l.tar", string(id))},
		"config that is missing":          {manifest("c.json", "l.tar"), file("l.tar", string(id))},
		"layer that is missing":           {manifest("c.json", "l.tar"), file("c.json", config)},
		"manifest that is missing":        {file("c.json", config), file("l.tar", string(id))},
		"nothing at all":                  {},
		"config for a layer too many":     {file("manifest.json", `[{"Config":"c.json","RepoTags":null,"Layers":[]}]`), file("c.json", config)},
		"name that is none":               {file("manifest.json", `[{"Config":"c.json","RepoTags":["../../escape"],"Layers":["l.tar"]}]`), file("c.json", config), file("l.tar", string(id))},
		"manifest that is no list":        {file("manifest.json", `{"Config":"c.json"}`), file("c.json", config)},
		"list of 2,000 images":            {file("manifest.json", "["+strings.Repeat(`{"Config":"c.json","Layers":["l.tar"]},`, 2_000)+`{"Config":"c.json","Layers":["l.tar"]}]`), file("c.json", config), file("l.tar", string(id))},
		"manifest.json given twice":       {manifest("c.json", "l.tar"), manifest("c.json", "other.tar"), file("c.json", config), file("l.tar", string(id))},
		"config that is another document": {manifest("l.tar", "l.tar"), file("l.tar", string(id))},
	}
	for name, members := range tests {
		t.Run(name, func(t *testing.T) {
			s := victim(t)
			data := layerWith(t, members...)
			archive := filepath.Join(t.TempDir(), "archive.tar")
			if err := os.WriteFile(archive, data, 0o644); err != nil {
				t.Fatal(err)
			}
			s.refuses(nil, nil, "load", "-i", archive)
			s.refuses(bytes.NewReader(data), nil, "load")
		})
	}
}

// hugeDirectory is how many entries a directory may have at least.
const hugeDirectory = 1_000_000

// TestHugeDirectory imports a directory of a million files, which is unusual and not bad.
func TestHugeDirectory(t *testing.T) {
	testenv.Root(t)
	testenv.Long(t)
	s := newStore(t)
	in, out := io.Pipe()
	go func() {
		w := bufio.NewWriterSize(out, 1<<20)
		tw := tar.NewWriter(w)
		errs := []error{tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "huge/", Mode: 0o755})}
		for i := range hugeDirectory {
			errs = append(errs, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("huge/%07d", i), Mode: 0o644}))
		}
		out.CloseWithError(errors.Join(append(errs, tw.Close(), w.Flush())...))
	}()
	if r := s.try(in, "import", "--quiet", "-", "example.org/huge:v1"); r.code != 0 {
		t.Fatal(r)
	}
	_, dir := s.mount("example.org/huge:v1")
	names, err := os.ReadDir(filepath.Join(dir, "huge"))
	if err != nil || len(names) != hugeDirectory {
		t.Fatalf("the directory shows %d entries, %v", len(names), err)
	}
	for _, i := range []int{0, 1, hugeDirectory / 2, hugeDirectory - 1} {
		if name := fmt.Sprintf("%07d", i); names[i].Name() != name {
			t.Errorf("entry %d is %s, want %s", i, names[i].Name(), name)
		}
	}
	if err := os.Remove(filepath.Join(dir, "huge", "0500000")); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "diff", s.ok("diff", "--format", "{{.Kind}} {{.Path}}", keyOf(t, s)), "modify /huge\ndelete /huge/0500000")
}

// keyOf returns the name of the only snapshot.
func keyOf(t testing.TB, s *store) string {
	t.Helper()
	names := splitLines(s.ok("snapshots", "--quiet"))
	if len(names) != 1 {
		t.Fatalf("the store has snapshots %v, want one", names)
	}
	return names[0]
}

// layout is an OCI layout directory with one layer, whose documents can be changed before
// they are written.
type layout struct {
	layer    []byte
	config   ocispec.Image
	manifest ocispec.Manifest
	index    ocispec.Index
	// raw replaces the JSON of the manifest.
	raw func(manifest []byte) []byte
	// blobs changes the files of the layout before they are written.
	blobs func(blobs map[digest.Digest][]byte)
}

func newLayout(t testing.TB) *layout {
	t.Helper()
	l := &layout{layer: filesLayer(t, map[string]string{"etc/": "", "etc/file": "x", "big": strings.Repeat("layout\n", 1000)})}
	l.config.OS, l.config.Architecture = "linux", "amd64"
	l.config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(l.layer)}}
	l.manifest = ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(l.layer), Size: int64(len(l.layer))}}}
	l.index = ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	return l
}

// write writes the layout and returns its directory.
func (l *layout) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	blobs := map[digest.Digest][]byte{digest.FromBytes(l.layer): l.layer}
	put := func(mediaType string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		blobs[d] = data
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	marshal := func(doc any) []byte {
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if l.manifest.Config.Digest == "" {
		l.manifest.Config = put(ocispec.MediaTypeImageConfig, marshal(l.config))
	}
	m := marshal(l.manifest)
	if l.raw != nil {
		m = l.raw(m)
	}
	if len(l.index.Manifests) == 0 {
		d := put(ocispec.MediaTypeImageManifest, m)
		d.Annotations = map[string]string{ocispec.AnnotationRefName: "example.org/bad:v1"}
		l.index.Manifests = []ocispec.Descriptor{d}
	}
	if l.blobs != nil {
		l.blobs(blobs)
	}
	blobDir := filepath.Join(dir, "blobs", "sha256")
	errs := []error{
		os.MkdirAll(blobDir, 0o755),
		os.WriteFile(filepath.Join(dir, "index.json"), marshal(l.index), 0o644),
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
	}
	for d, data := range blobs {
		errs = append(errs, os.WriteFile(filepath.Join(blobDir, d.Encoded()), data, 0o644))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return dir
}
