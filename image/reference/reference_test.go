package reference

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const (
	hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	d256  = "sha256:" + hex64
	d512  = "sha512:" + hex64 + hex64
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ in, full, familiar string }{
		{"debian", "docker.io/library/debian", "debian"},
		{"debian:12", "docker.io/library/debian:12", "debian:12"},
		{"library/debian", "docker.io/library/debian", "debian"},
		{"docker.io/debian", "docker.io/library/debian", "debian"},
		{"index.docker.io/debian:a", "docker.io/library/debian:a", "debian:a"},
		{"docker.io/library/debian", "docker.io/library/debian", "debian"},
		{"me/app:v1", "docker.io/me/app:v1", "me/app:v1"},
		{"docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"},
		{"localhost/app", "localhost/app", "localhost/app"},
		{"localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"},
		{"registry:5000/a/b/c:v1", "registry:5000/a/b/c:v1", "registry:5000/a/b/c:v1"},
		{"127.0.0.1:5000/a", "127.0.0.1:5000/a", "127.0.0.1:5000/a"},
		{"[::1]:5000/a:b", "[::1]:5000/a:b", "[::1]:5000/a:b"},
		{"[fd00:1:2::3]/a", "[fd00:1:2::3]/a", "[fd00:1:2::3]/a"},
		{"ghcr.io/a_b/c__d/e---f.g", "ghcr.io/a_b/c__d/e---f.g", "ghcr.io/a_b/c__d/e---f.g"},
		{"REGISTRY/a", "REGISTRY/a", "REGISTRY/a"},
		{"debian@" + d256, "docker.io/library/debian@" + d256, "debian@" + d256},
		{"debian:12@" + d256, "docker.io/library/debian:12@" + d256, "debian:12@" + d256},
		{"a/b@" + d512, "docker.io/a/b@" + d512, "a/b@" + d512},
		{"app:_.-A", "docker.io/library/app:_.-A", "app:_.-A"},
		{"foo:5000", "docker.io/library/foo:5000", "foo:5000"},
		{hex64[:63], "docker.io/library/" + hex64[:63], hex64[:63]},
		{hex64 + "/a", "docker.io/" + hex64 + "/a", hex64 + "/a"},
		{"a:" + strings.Repeat("t", MaxTag), "docker.io/library/a:" + strings.Repeat("t", MaxTag), "a:" + strings.Repeat("t", MaxTag)},
		{"x.io/" + strings.Repeat("p", MaxPath), "x.io/" + strings.Repeat("p", MaxPath), "x.io/" + strings.Repeat("p", MaxPath)},
		{strings.Repeat("d.", 127) + "d/p", strings.Repeat("d.", 127) + "d/p", strings.Repeat("d.", 127) + "d/p"},
	} {
		r, err := Parse(c.in)
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if r.String() != c.full || r.Familiar() != c.familiar {
			t.Errorf("%q: got %q, %q; want %q, %q", c.in, r.String(), r.Familiar(), c.full, c.familiar)
		}
		for _, again := range []string{r.String(), r.Familiar()} {
			if r2, err := Parse(again); err != nil || r2 != r {
				t.Errorf("%q: %q parses to %v, %v", c.in, again, r2, err)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "/", "/a", "a/", "a//b", "a:", ":a", "a@", "@" + d256, "Debian", "me/App", "a b", "a\nb", "a\x00",
		hex64, "-a", "a-", "a/-b", "a..b", "a___b", "a._b", "a:.b", "a:-b", "a:b:c", "a:b/c", "a/../b", "../a", "./a", "a/.", "a.b/..",
		"a@sha256:" + hex64[:63], "a@sha256:" + strings.ToUpper(hex64), "a@md5:" + hex64[:32], "a@" + d256 + "x", "a@" + d256 + "@" + d256,
		"a@" + d256 + ":tag", "host:port/a", "host:/a", ":5000/a", "-h.io/a", "h-.io/a", "h..io/a", "h_x.io/a", "[::1/a", "[]/a", "[::g]/a", "[::1]x/a", "[::1]:/a", "::1/a",
		"a:" + strings.Repeat("t", MaxTag+1),
		"x.io/" + strings.Repeat("p", MaxPath+1),
		strings.Repeat("d.", 127) + "dd/p",
		"ü", "a/ü", "a:ü", "é.io/a",
	} {
		if r, err := Parse(in); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: got %v, %v; want an error of class invalid", in, r, err)
		}
	}
}

func TestWith(t *testing.T) {
	r, err := Parse("debian")
	if err != nil {
		t.Fatal(err)
	}
	if got := r.WithDefaultTag().String(); got != "docker.io/library/debian:latest" {
		t.Error(got)
	}
	if !(Reference{}).WithDefaultTag().IsZero() {
		t.Error("the zero reference got a tag")
	}
	tagged, err := r.WithTag("12")
	if err != nil || tagged.Familiar() != "debian:12" {
		t.Error(tagged, err)
	}
	if _, err := r.WithTag("a/b"); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	pinned, err := tagged.WithDigest(digest.Digest(d256))
	if err != nil || pinned.Familiar() != "debian@"+d256 || pinned.WithDefaultTag() != pinned {
		t.Error(pinned, err)
	}
	if _, err := r.WithDigest("sha256:0"); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	both, err := ParseTagged("debian:12@" + d256)
	if err != nil || both.WithoutTag() != pinned {
		t.Error(both, err)
	}
	if tagged.WithoutTag() != tagged {
		t.Error("a tag without a digest was dropped")
	}
	if Compare(r, tagged) >= 0 || Compare(tagged, r) <= 0 || Compare(r, r) != 0 {
		t.Error("order")
	}
}

func TestIDPrefix(t *testing.T) {
	for in, want := range map[string]string{"a": "a", "sha256:ab12": "ab12", hex64: hex64, d256: hex64} {
		if got, ok := IDPrefix(in); !ok || got != want {
			t.Errorf("%q: %q, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "sha256:", "ABC", "xyz", hex64 + "0", "sha512:ab"} {
		if got, ok := IDPrefix(in); ok {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestParseDigestUnknownAlgorithm(t *testing.T) {
	_, err := ParseDigest("sha384:" + hex64 + hex64[:32])
	if !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"debian", "localhost:5000/a/b:c@" + d256, "[::1]:1/a", "A/b", "a.b/c__d", "docker.io/x", "", "a:b/c", "@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		for _, form := range []string{r.String(), r.Familiar()} {
			if again, err := Parse(form); err != nil || again != r {
				t.Fatalf("%q: %q gives %v, %v", s, form, again, err)
			}
		}
		for part := range strings.SplitSeq(r.Repository(), "/") {
			if part == "" || part == "." || part == ".." || len(part) > 255 {
				t.Fatalf("%q: component %q", s, part)
			}
		}
	})
}
