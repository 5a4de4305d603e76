package tree

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	for name, want := range map[string]Path{
		"": "", "/": "", ".": "", "./": "", "././/": "", "a": "a", "./a": "a", "/a": "a", "a/": "a", "a//b/./c/": "a/b/c",
		"...": "...", "..a/b..": "..a/b..", " ": " ", "\xff/\n": "\xff/\n", ".//a": "a",
		strings.Repeat("n", MaxName):                Path(strings.Repeat("n", MaxName)),
		strings.Repeat("d/", MaxDepth-1) + "d":      Path(strings.Repeat("d/", MaxDepth-1) + "d"),
		strings.Repeat("/", MaxPath-1) + "a":        "a",
		"a/" + strings.Repeat("n", MaxName):         Path("a/" + strings.Repeat("n", MaxName)),
		strings.Repeat("./", MaxPath/2-1) + "a":     "a",
		strings.Repeat("n/", 100) + "./x":           Path(strings.Repeat("n/", 100) + "x"),
		"./" + strings.Repeat("n", MaxName-2) + "/": Path(strings.Repeat("n", MaxName-2)),
	} {
		if got, err := ParsePath(name); err != nil || got != want {
			t.Errorf("ParsePath(%s): %s, %v", shorten(name), shorten(string(got)), err)
		}
	}
	for _, name := range []string{
		"..", "../a", "a/..", "a/../b", "/..", "./..", "a\x00", "\x00",
		strings.Repeat("n", MaxName+1), "a/" + strings.Repeat("n", MaxName+1),
		strings.Repeat("d/", MaxDepth) + "d", strings.Repeat("/", MaxPath) + "a",
	} {
		if got, err := ParsePath(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("ParsePath(%s): %s, %v", shorten(name), shorten(string(got)), err)
		} else if len(err.Error()) > 1200 {
			t.Errorf("ParsePath(%s): a message of %d bytes", shorten(name), len(err.Error()))
		}
	}
}

func TestPathParts(t *testing.T) {
	for _, tt := range []struct{ p, dir, name, first, rest Path }{
		{"", "", "", "", ""}, {"a", "", "a", "a", ""}, {"a/b", "a", "b", "a", "b"}, {"a/b/c", "a/b", "c", "a", "b/c"},
	} {
		dir, name := tt.p.Split()
		first, rest := tt.p.Cut()
		if dir != tt.dir || Path(name) != tt.name || Path(first) != tt.first || rest != tt.rest {
			t.Errorf("%q splits into %q %q, is cut into %q %q", tt.p, dir, name, first, rest)
		}
		if tt.p != "" && dir.Join(name) != tt.p {
			t.Errorf("%q joins to %q", tt.p, dir.Join(name))
		}
	}
}

func TestComparePath(t *testing.T) {
	sorted := []Path{"", "a", "a/a", "a/a/b", "a/b", "a\x01", "a!", "a!/a", "a-b", "a0", "aa", "b", "\xff"}
	for i, a := range sorted {
		for j, b := range sorted {
			if got := ComparePath(a, b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("ComparePath(%q, %q) = %d", a, b, got)
			}
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"", "/", "./a//b/", "a/../b", "..", "a\x00b", "\xff", ".//", strings.Repeat("x", 256), strings.Repeat("a/", 128)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		p, err := ParsePath(name)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Fatalf("not fs.ErrInvalid: %v", err)
			}
			return
		}
		if again, err := ParsePath(string(p)); err != nil || again != p {
			t.Fatalf("%q is %q, and then %q, %v", name, p, again, err)
		}
		if want := strings.TrimPrefix(path.Clean("/"+name), "/"); string(p) != want {
			t.Fatalf("%q is %q, want %q", name, p, want)
		}
		if p == "" {
			return
		}
		parts := strings.Split(string(p), "/")
		if len(parts) > MaxDepth || slices.ContainsFunc(parts, func(s string) bool { return checkName(s) != nil }) {
			t.Fatalf("%q is %q, which no tree can hold", name, p)
		}
	})
}
