package testimage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOracleAppliesLayerRules checks the oracle itself against what the last layer of
// the odd image says, written out by hand.
func TestOracleAppliesLayerRules(t *testing.T) {
	root := Odd(t).Extracted(t)
	for name, want := range map[string]string{
		"change/opaque/upper":         "upper\n",
		"change/becomes-file":         "a file now\n",
		"change/becomes-dir/in":       "in\n",
		"change/replaced":             "upper\n",
		"change/linked":               "lower\n",
		"change/twice":                "second, and longer\n",
		"change/kept/added":           "parent without an entry\n",
		"change/kept/lower":           "lower\n",
		"change/meta/lower":           "lower\n",
		"change/real/through-symlink": "lies in real\n",
		"implied/by/children/only":    "x\n",
	} {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{
		"change/removed", "change/removed-file", "change/opaque/lower", "change/opaque/sub",
		"change/.wh.removed", "change/opaque/.wh..wh..opq",
	} {
		if _, err := os.Lstat(filepath.Join(root, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	stat := func(name string) (st unix.Stat_t) {
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Error(err)
		}
		return st
	}
	if n := stat("links/0").Nlink; n != OddLinks {
		t.Errorf("links/0 has %d links, want %d", n, OddLinks)
	}
	if st := stat("change/linked"); st.Nlink != 2 || st.Ino != stat("change/linked-from-above").Ino {
		t.Errorf("change/linked is not a link to the file below it: %+v", st)
	}
	if st := stat("implied/by"); st.Mode != unix.S_IFDIR|0o755 || st.Mtim != (unix.Timespec{}) {
		t.Errorf("implied/by: mode %o, time %v; want 40755 at the epoch", st.Mode, st.Mtim)
	}
	// Things happen in these directories, which have no entry in that layer.
	for _, name := range []string{"change/kept", "change/real"} {
		if st := stat(name); st.Mtim.Sec != epoch().Unix() {
			t.Errorf("%s: time %v, want that of its own layer", name, st.Mtim)
		}
	}
	if st := stat("times/half-before"); st.Mtim != (unix.Timespec{Sec: -2, Nsec: 500_000_000}) {
		t.Errorf("times/half-before: %v", st.Mtim)
	}
	if st := stat("sparse/pax-0.1/three"); st.Size != 64<<20 || st.Blocks*512 > 1<<20 {
		t.Errorf("sparse/pax-0.1/three has %d bytes in %d blocks", st.Size, st.Blocks)
	}
	for _, dir := range []string{"attributes", "attributes-as-xattrs"} {
		for name, attr := range map[string]string{
			"capability": "security.capability", "acl": "system.posix_acl_access", "acl-dir": "system.posix_acl_default",
			"acl-dir/inherits": "system.posix_acl_access", "symlink": "trusted.on-symlink", "user": "user.binary", "trusted": "trusted.overlay.own",
		} {
			if _, err := getXattr(filepath.Join(root, dir, name), attr); err != nil {
				t.Errorf("%s/%s: attribute %s: %v", dir, name, attr, err)
			}
		}
	}
	count := 0
	if err := walk(filepath.Join(root, "names"), func(string, *unix.Stat_t) error { count++; return nil }); err != nil {
		t.Error(err)
	}
	if want := len(oddNames()) + 1; count != want {
		t.Errorf("names holds %d entries, want %d", count, want)
	}
}

// TestSparseFormats makes sure that each layer of sparse files really has the format
// that it is there for: GNU tar marks them in its headers.
func TestSparseFormats(t *testing.T) {
	layers := Odd(t).Layers(t)
	for n, mark := range map[int]string{2: "GNU.sparse.numbytes", 3: "GNU.sparse.map", 4: "GNU.sparse.major=1"} {
		data, err := os.ReadFile(layers[n])
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), mark) {
			t.Errorf("%s does not hold %q", layers[n], mark)
		}
	}
	data, err := os.ReadFile(layers[1])
	if err != nil {
		t.Fatal(err)
	}
	sparse := 0
	for at := 0; at+512 <= len(data); at += 512 {
		if string(data[at+257:at+265]) == "ustar  \x00" && data[at+156] == 'S' {
			sparse++
		}
	}
	if sparse < 5 {
		t.Errorf("%s holds %d sparse entries in GNU's format", layers[1], sparse)
	}
}

// TestCompareFindsEachDifference changes one thing at a time in a copy of a small tree.
func TestCompareFindsEachDifference(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	build := func() string {
		b := &builder{root: t.TempDir()}
		b.dir("dir", 0o755)
		b.file("dir/file", "content", 0o644)
		b.xattr("dir/file", "user.x", "1")
		b.file("other", "content", 0o644)
		b.link("linked", "dir/file")
		b.symlink("symlink", "target")
		b.node("char", unix.S_IFCHR|0o600, 1, 3)
		b.times(b.root, epoch())
		if b.err != nil {
			t.Fatal(b.err)
		}
		return b.root
	}
	diff := func(a, b string) string {
		x, err := scan(a, CompareOptions{})
		if err != nil {
			t.Fatal(err)
		}
		y, err := scan(b, CompareOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(compare(x, y, CompareOptions{}), "\n")
	}
	want := build()
	if d := diff(build(), want); d != "" {
		t.Fatalf("two equal trees differ:\n%s", d)
	}
	for field, change := range map[string]func(b *builder){
		`"dir/file": mode is 0600, want 0644`:       func(b *builder) { b.do("", func() error { return os.Chmod(b.path("dir/file"), 0o600) }) },
		`"other": owner is 1:0, want 0:0`:           func(b *builder) { b.owner("other", 1, 0) },
		`"other": mtime is 5.000000006`:             func(b *builder) { b.at("other", 5, 6) },
		`"symlink": mtime is 5.000000006`:           func(b *builder) { b.at("symlink", 5, 6) },
		`"dir/file": xattr user.x is "2", want "1"`: func(b *builder) { b.xattr("dir/file", "user.x", "2") },
		`"dir": xattr user.y is "", want none`:      func(b *builder) { b.xattr("dir", "user.y", "") },
		`"other": size is 3, want 7`:                func(b *builder) { b.file("other", "abc", 0o644) },
		`"other": content is`:                       func(b *builder) { b.file("other", "CONTENT", 0o644) },
		`"new": presence is a fifo, want missing`:   func(b *builder) { b.node("new", unix.S_IFIFO|0o600, 0, 0) },
		`"other": presence is missing, want a file`: func(b *builder) { b.do("", func() error { return os.Remove(b.path("other")) }) },
		`"dir/file": nlink is 3, want 2`:            func(b *builder) { b.link("more", "linked") },
		`"linked": nlink is 1, want 2`: func(b *builder) {
			b.do("", func() error { return os.Remove(b.path("linked")) })
			b.file("linked", "content", 0o644)
		},
		`"symlink": target is elsewhere, want target`: func(b *builder) {
			b.do("", func() error { return os.Remove(b.path("symlink")) })
			b.symlink("symlink", "elsewhere")
		},
		`"char": rdev is 1:5, want 1:3`: func(b *builder) {
			b.do("", func() error { return os.Remove(b.path("char")) })
			b.node("char", unix.S_IFCHR|0o600, 1, 5)
		},
		`"char": type is block, want char`: func(b *builder) {
			b.do("", func() error { return os.Remove(b.path("char")) })
			b.node("char", unix.S_IFBLK|0o600, 1, 3)
		},
	} {
		b := &builder{root: build()}
		change(b)
		if b.err != nil {
			t.Fatal(b.err)
		}
		if d := diff(b.root, want); !strings.Contains(d, field) {
			t.Errorf("no line %q in:\n%s", field, d)
		}
	}
}

// TestLayeredIsWhatTestsNeed holds the large image to its description.
func TestLayeredIsWhatTestsNeed(t *testing.T) {
	image := Layered(t)
	left := 0
	if err := walk(image.Extracted(t), func(_ string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			left++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if left < 50_000 {
		t.Errorf("%d files in the stack", left)
	}
	var files, whiteouts, opaque int
	layers := image.Layers(t)
	if len(layers) < 8 {
		t.Errorf("%d layers", len(layers))
	}
	for _, layer := range layers {
		headers, err := readHeaders(layer)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range headers {
			switch name := filepath.Base(h.Name); {
			case name == opaqueMarker:
				opaque++
			case strings.HasPrefix(name, whiteoutPrefix):
				whiteouts++
			case h.FileInfo().Mode().IsRegular():
				files++
			}
			for record := range h.PAXRecords {
				if strings.Contains(record, "overlay") {
					t.Errorf("%s: %s has %s", layer, h.Name, record)
				}
			}
		}
	}
	if files < 60_000 || whiteouts < 100 || opaque < 5 {
		t.Errorf("%d files, %d whiteouts, %d opaque markers", files, whiteouts, opaque)
	}
	t.Logf("%d layers, %d files in them, %d in the stack, %d whiteouts, %d opaque markers", len(layers), files, left, whiteouts, opaque)
}
