package tree

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func dumpString(t testing.TB, n *Node) string {
	t.Helper()
	var b strings.Builder
	if err := Dump(&b, n); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func parse(t testing.TB, text string) *Node {
	t.Helper()
	n, err := ParseDump(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// odd has every type, flag and awkward byte there is.
func odd(t testing.TB) *Node {
	t.Helper()
	b := NewBuilder()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(b.Add("", &Inode{Type: Directory, Mode: 0o1777, UID: 1, GID: 2, MTime: Time{Sec: 1700000000, Nsec: 5}}))
	ok(b.Add("bin/small", &Inode{Type: Regular, Mode: 0o4755, Size: 12, Inline: "a b\\c=\n\x00\xff\x7f~!", UID: 1<<32 - 1,
		Xattrs: []Xattr{{"security.capability", "\x01\x00\x00\x02"}, {"user.a=b c", "x=y z"}, {"user.empty", ""}}}))
	ok(b.Add("bin/large", &Inode{Type: Regular, Mode: 0o755, Size: 1 << 42, Object: ObjectID{0xab, 31: 0xcd}}))
	ok(b.Add("bin/pending", &Inode{Type: Regular, Size: 3}))
	ok(b.Add("bin/empty", &Inode{Type: Regular}))
	ok(b.Link("bin/zz", "bin/small"))
	ok(b.Link("bin/Link", "bin/small"))
	ok(b.Link("bin/waits", "some where/else"))
	ok(b.Add("bin/new\nline \xff\\x", symlink("to \\ a=b\tend")))
	ok(b.Add("dev/null", &Inode{Type: CharDevice, Mode: 0o666, Rdev: Device{1, 3}, MTime: Time{Sec: -1, Nsec: 5e8}}))
	ok(b.Add("dev/sda", &Inode{Type: BlockDevice, Mode: 0o660, GID: 6, Rdev: Device{1<<32 - 1, 1<<32 - 1}}))
	ok(b.Add("dev/fifo", &Inode{Type: Fifo, Mode: 0o600, MTime: Time{Sec: -1 << 63}}))
	ok(b.Add("dev/socket", &Inode{Type: Socket, MTime: Time{Sec: 1<<63 - 1, Nsec: 999999999}}))
	ok(b.Link("dev/fifo2", "dev/fifo"))
	ok(b.Whiteout("gone"))
	ok(b.Opaque("opaque"))
	ok(b.Add("opaque-too", dir(0o2755)))
	ok(b.Opaque("opaque-too"))
	layer, err := b.Layer()
	ok(err)
	return layer
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update writes it anew); got\n%s", file, got)
	}
}

func TestDumpGolden(t *testing.T) {
	layer := odd(t)
	text := dumpString(t, layer)
	golden(t, "odd.dump", text)
	again := parse(t, text)
	if err := Same(layer, again); err != nil {
		t.Error(err)
	}
	if dumpString(t, again) != text {
		t.Error("the dump of what was parsed differs")
	}
}

func TestMergeGolden(t *testing.T) {
	var layers []*Node
	for _, name := range []string{"base.dump", "middle.dump", "top.dump"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, parse(t, string(text)))
	}
	merged, err := MergeAll(layers)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckTree(merged); err != nil {
		t.Error(err)
	}
	golden(t, "merged.dump", dumpString(t, merged))
}

func TestParseDumpByHand(t *testing.T) {
	got := parse(t, `# the order of names and of fields is free, and META may be missing
/ dir

/b file inline=xy size=2 xattr:user.b=2 xattr:user.a=1
/a dir mode=0755 implicit opaque
/a/l link target=/b
`)
	want := &Node{Inode: &Inode{Type: Directory}, Children: []*Node{
		{Name: "a", Inode: dir(0o755), Implicit: true, Opaque: true, Children: []*Node{{Name: "l"}}},
		{Name: "b", Inode: &Inode{Type: Regular, Size: 2, Inline: "xy", Xattrs: []Xattr{{"user.a", "1"}, {"user.b", "2"}}}},
	}}
	want.Children[0].Children[0].Inode = want.Children[1].Inode
	if err := Same(want, got); err != nil {
		t.Error(err)
	}
}

func TestParseDumpRefuses(t *testing.T) {
	tests := map[string]string{
		"nothing":                    "",
		"no root":                    "/a dir\n",
		"root is a file":             "/ file\n",
		"no type":                    "/ dir\n/a\n",
		"no slash":                   "/ dir\na dir\n",
		"unknown type":               "/ dir\n/a door\n",
		"name twice":                 "/ dir\n/a dir\n/a dir\n",
		"below a file":               "/ dir\n/a file\n/a/b file\n",
		"before its directory":       "/ dir\n/a/b file\n/a dir\n",
		"dot dot":                    "/ dir\n/../a file\n",
		"bad escape":                 "/ dir\n/a\\n file\n",
		"cut escape":                 "/ dir\n/a\\x0 file\n",
		"escape of no hex":           "/ dir\n/a\\xzz file\n",
		"field twice":                "/ dir uid=1 uid=1\n",
		"unknown field":              "/ dir color=red\n",
		"empty field":                "/ dir  uid=1\n",
		"field of another type":      "/ dir target=/\n",
		"mode too large":             "/ dir mode=017777\n",
		"mode of no octal":           "/ dir mode=9\n",
		"uid too large":              "/ dir uid=4294967296\n",
		"negative size":              "/ dir\n/a file size=-1\n",
		"object too short":           "/ dir\n/a file size=1 object=ab\n",
		"object too long":            "/ dir\n/a file size=1 object=" + strings.Repeat("ab", 33) + "\n",
		"inline of another size":     "/ dir\n/a file size=1 inline=xy\n",
		"short fraction":             "/ dir mtime=1.5\n",
		"device of one number":       "/ dir\n/a char rdev=1\n",
		"symlink without a target":   "/ dir\n/a symlink\n",
		"link to nothing":            "/ dir\n/a link target=/b\n/b file\n",
		"link to a directory":        "/ dir\n/a dir\n/b link target=/a\n",
		"link to a whiteout":         "/ dir\n/a whiteout\n/b link target=/a\n",
		"link with more":             "/ dir\n/a file\n/b link target=/a uid=1\n",
		"whiteout with more":         "/ dir\n/a whiteout uid=1\n",
		"unresolved link to root":    "/ dir\n/a unresolved target=/\n",
		"xattr twice":                "/ dir xattr:user.a=1 xattr:user.\\x61=1\n",
		"xattr without a name":       "/ dir xattr:=1\n",
		"whiteout root":              "/ whiteout\n",
		"opaque file":                "/ dir\n/a file opaque\n",
		"opaque with a value":        "/ dir opaque=1\n",
		"NUL byte":                   "/ dir\n/a\\x00 file\n",
		"a line longer than allowed": "/ dir\n/a file size=" + strings.Repeat("0", MaxDumpLine) + "1\n",
	}
	for name, text := range tests {
		if _, err := ParseDump(strings.NewReader(text)); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: got %v, want fs.ErrInvalid", name, err)
		}
	}
	broken := errors.New("broken")
	if _, err := ParseDump(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("reader's error is lost: %v", err)
	}
	long := "#" + strings.Repeat("x", MaxDumpLine-2) + "\n/ dir\n"
	if _, err := ParseDump(strings.NewReader(long)); err != nil {
		t.Errorf("line at the limit: %v", err)
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errors.New("full")
	}
	return len(p), nil
}

func TestDumpReportsWriter(t *testing.T) {
	for _, left := range []int{0, 70 << 10} {
		root := &Node{Inode: dir(0o755)}
		for _, c := range "abc" {
			root.Children = append(root.Children, &Node{Name: string(c), Inode: file(strings.Repeat("x", 60<<10))})
		}
		if err := Dump(&failingWriter{left}, root); err == nil {
			t.Errorf("writer failing after %d bytes went unnoticed", left)
		}
	}
}

func FuzzParseDump(f *testing.F) {
	f.Add([]byte(dumpString(f, odd(f))))
	files, err := filepath.Glob("testdata/*.dump")
	if err != nil || len(files) == 0 {
		f.Fatal("no dumps in testdata", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		root, err := ParseDump(bytes.NewReader(text))
		if err != nil {
			return
		}
		dump := dumpString(t, root)
		again, err := ParseDump(strings.NewReader(dump))
		if err != nil {
			t.Fatalf("own dump refused: %v\n%s", err, dump)
		}
		if err := Same(root, again); err != nil {
			t.Fatalf("own dump says something else: %v\n%s", err, dump)
		}
		merged, err := Merge(nil, root)
		if err != nil {
			return
		}
		if err := CheckTree(merged); err != nil {
			t.Fatalf("malformed tree: %v", err)
		}
		for c := range Diff(merged, parse(t, dumpString(t, merged))) {
			t.Fatalf("tree differs from its own dump: %v %s", c.Kind, c.Path.Abs())
		}
	})
}
