package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// find resolves a path that must be there.
func find(t testing.TB, im *erofs.Image, p tree.Path) erofs.NID {
	t.Helper()
	n, ok, err := im.Resolve(p)
	if err != nil || !ok {
		t.Fatalf("resolve %q: %v %v", p, ok, err)
	}
	return n
}

// TestLookup finds every name of every directory, and none between them.
func TestLookup(t *testing.T) {
	for _, root := range []*tree.Node{oddTree(), dirsTree(), sizesTree()} {
		_, im := image(t, root, erofs.Options{})
		var walk func(p tree.Path, n *tree.Node, nid erofs.NID)
		walk = func(p tree.Path, n *tree.Node, nid erofs.NID) {
			if got := find(t, im, p); got != nid {
				t.Fatalf("resolve %q: %d, want %d", p, got, nid)
			}
			if !n.IsDir() {
				if _, _, err := im.Lookup(nid, "x"); !errors.Is(err, fs.ErrInvalid) {
					t.Fatalf("lookup in %q: %v", p, err)
				}
				if _, ok, err := im.Resolve(p.Join("x")); ok || err != nil {
					t.Fatalf("resolve below %q: %v %v", p, ok, err)
				}
				return
			}
			for _, absent := range []string{"", ".", "..", "\x01", "\xff\xff", "m-absent", strings.Repeat("q", 300)} {
				if n.Child(absent) == nil {
					if _, ok, err := im.Lookup(nid, absent); ok || err != nil {
						t.Fatalf("lookup %q in %q: %v %v", absent, p, ok, err)
					}
				}
			}
			for _, c := range n.Children {
				child, ok, err := im.Lookup(nid, c.Name)
				if err != nil || !ok {
					t.Fatalf("lookup %q in %q: %v %v", c.Name, p, ok, err)
				}
				if _, ok, err := im.Lookup(nid, c.Name+"\x00"); ok || err != nil {
					t.Fatalf("lookup behind %q in %q: %v %v", c.Name, p, ok, err)
				}
				if c.IsDir() {
					if up, err := im.Parent(child); err != nil || up != nid {
						t.Fatalf("parent of %q: %d %v, want %d", c.Name, up, err, nid)
					}
				}
				walk(p.Join(c.Name), c, child)
			}
		}
		walk("", root, im.Root())
		if up, err := im.Parent(im.Root()); err != nil || up != im.Root() {
			t.Errorf("parent of the root: %d %v", up, err)
		}
	}
}

// TestReadDir lists directories whole and from every place on.
func TestReadDir(t *testing.T) {
	root := dirsTree()
	_, im := image(t, root, erofs.Options{})
	for _, d := range append(root.Children[:8:8], root) {
		nid := find(t, im, tree.Path(d.Name))
		var names []string
		var places []uint64
		for e, err := range im.ReadDir(nid, 0) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, string(e.Name))
			places = append(places, e.Next)
			s, err := im.Stat(e.NID)
			if err != nil || s.Type != e.Type {
				t.Fatalf("%q: type %v, inode says %v (%v)", e.Name, e.Type, s.Type, err)
			}
		}
		if len(names) != len(d.Children) {
			t.Fatalf("%q: %d names, want %d", d.Name, len(names), len(d.Children))
		}
		for i, c := range d.Children {
			if names[i] != c.Name {
				t.Fatalf("%q: %q, want %q", d.Name, names[i], c.Name)
			}
			rest := 0
			for e, err := range im.ReadDir(nid, places[i]) {
				if err != nil || string(e.Name) != names[i+1] {
					t.Fatalf("%q: %q behind %q (%v)", d.Name, e.Name, names[i], err)
				}
				rest++
				break
			}
			if want := min(1, len(names)-i-1); rest != want {
				t.Fatalf("%q: %d names behind %q, want %d", d.Name, rest, names[i], want)
			}
		}
	}
	_, small := image(t, smallTree(), erofs.Options{})
	for _, err := range small.ReadDir(find(t, small, "a"), 0) {
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("list of a file: %v", err)
		}
	}
	for e, err := range small.ReadDir(small.Root(), 1<<63) {
		t.Errorf("%q behind the end, %v", e.Name, err)
	}
}

// TestMillion has a directory of a million entries.
func TestMillion(t *testing.T) {
	const n = 1_000_000
	ino := &tree.Inode{Type: tree.Regular}
	nodes := make([]tree.Node, n)
	root := &tree.Node{Inode: &tree.Inode{Type: tree.Directory, Mode: 0o755}, Children: make([]*tree.Node, n)}
	for i := range nodes {
		nodes[i] = tree.Node{Name: fmt.Sprintf("%07d", i), Inode: ino}
		root.Children[i] = &nodes[i]
	}
	b, im := image(t, root, erofs.Options{})
	count := 0
	for e, err := range im.ReadDir(im.Root(), 0) {
		if err != nil || string(e.Name) != root.Children[count].Name {
			t.Fatal(string(e.Name), err)
		}
		count++
	}
	if count != n {
		t.Fatalf("%d entries", count)
	}
	have, err := im.Tree()
	if err != nil || len(have.Children) != n || have.Children[n-1].Inode != have.Children[0].Inode {
		t.Fatalf("tree of %d entries, %v", len(have.Children), err)
	}
	for i := 0; i < n; i += 997 {
		if _, ok, err := im.Lookup(im.Root(), root.Children[i].Name); !ok || err != nil {
			t.Fatal(root.Children[i].Name, ok, err)
		}
	}
	t.Run("mount", func(t *testing.T) {
		mnt := mountImage(t, b)
		names, err := os.ReadDir(mnt)
		if err != nil || len(names) != n {
			t.Fatalf("kernel lists %d entries, %v", len(names), err)
		}
		for i := 0; i < n; i += 9973 {
			if _, err := os.Lstat(filepath.Join(mnt, root.Children[i].Name)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestInode decodes single inodes.
func TestInode(t *testing.T) {
	root := oddTree()
	_, im := image(t, root, erofs.Options{})
	for _, p := range []tree.Path{"hard1", "nested", "nested/char", "nested/xwhiteout", "sub/dev2", "caps", "objx", "rawlink", "blocks", "large", "bigdev", "other"} {
		want := root.Lookup(p)
		have, err := im.Inode(find(t, im, p))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, &tree.Node{Inode: want.Inode}, &tree.Node{Inode: have})
	}
	if n, err := im.Readlink(find(t, im, "link")); err != nil || n != "sub/hard3" {
		t.Errorf("link %q, %v", n, err)
	}
	if _, err := im.Readlink(im.Root()); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("link of a directory: %v", err)
	}
	s, err := im.Stat(find(t, im, "hard1"))
	want := erofs.Stat{
		Type: tree.Regular, Mode: 0o4755, UID: 1 << 31, GID: 4000000000, Nlink: 3, Size: 7,
		MTime: tree.Time{Sec: -62135596800, Nsec: 999999999}, Ino: uint64(find(t, im, "sub/hard3")),
	}
	if err != nil || s != want {
		t.Errorf("stat %+v, %v", s, err)
	}
	if s, err := im.Stat(find(t, im, "nested/char")); err != nil || s.Type != tree.Regular {
		t.Errorf("an escaped device is a %v, %v", s.Type, err)
	}
	if s, err := im.Stat(find(t, im, "bigdev")); err != nil || s.Rdev != (tree.Device{Major: erofs.MaxMajor, Minor: erofs.MaxMinor}) {
		t.Errorf("device %v, %v", s.Rdev, err)
	}
}

// TestXattr reads single attributes, which are told apart by namespace.
func TestXattr(t *testing.T) {
	_, im := image(t, oddTree(), erofs.Options{})
	for _, c := range []struct {
		path  tree.Path
		name  string
		value string
		ok    bool
	}{
		{"objx", "trusted.overlay.redirect", "/" + tree.ObjectID{9}.Path(), true},
		{"objx", "trusted.overlay.metacopy", "", true},
		{"objx", "system.posix_acl_access", acl, true},
		{"objx", "system.posix_acl_default", "", false},
		{"objx", "user.color", "red", true},
		{"objx", "trusted.color", "", false},
		{"other", "com.apple.quarantine", "q", true},
		{"caps", "trusted.overlay.metacopy", "", false},
		{"caps", "trusted.overlay.overlay.metacopy", "mine", true},
		{"caps", "user.empty", "", true},
		{"zero", "user.empty", "", false},
		{"many", "user.many299", "same", true},
		{"many", "user.many300", "", false},
	} {
		value, ok, err := im.Xattr(find(t, im, c.path), c.name)
		if err != nil || ok != c.ok || string(value) != c.value {
			t.Errorf("%s of %s: %q %v %v", c.name, c.path, value, ok, err)
		}
	}
	all, err := im.Xattrs(find(t, im, "objx"))
	if err != nil || len(all) != 4 || all[0].Name != "system.posix_acl_access" || all[3].Value != "red" {
		t.Errorf("all attributes: %q, %v", all, err)
	}
	id, ok, err := im.Object(find(t, im, "same1"))
	if err != nil || !ok || id != (tree.ObjectID{4, 1, 2, 31: 4}) {
		t.Errorf("object %v %v %v", id, ok, err)
	}
	for _, p := range []tree.Path{"zero", "block", "link", ""} {
		if _, ok, err := im.Object(find(t, im, p)); ok || err != nil {
			t.Errorf("object of %q: %v %v", p, ok, err)
		}
	}
}

// TestReadAt reads parts of files.
func TestReadAt(t *testing.T) {
	root := oddTree()
	_, im := image(t, root, erofs.Options{})
	for _, p := range []tree.Path{"zero", "hard1", "block", "blocks", "notail"} {
		n, content := find(t, im, p), root.Lookup(p).Inode.Inline
		for _, off := range []int{0, 1, 4095, 4096, 4097, 8191, 12287, len(content) - 1, len(content), len(content) + 1} {
			for _, length := range []int{0, 1, 4096, 20000} {
				if off < 0 {
					continue
				}
				have := make([]byte, length)
				k, err := im.ReadAt(n, have, int64(off))
				want := make([]byte, length)
				l, wantErr := strings.NewReader(content).ReadAt(want, int64(off))
				if k != l || !errors.Is(err, wantErr) || !bytes.Equal(have[:k], want[:l]) {
					t.Errorf("%s: %d bytes at %d: %d %v, want %d %v", p, length, off, k, err, l, wantErr)
				}
			}
		}
	}
	for p, class := range map[tree.Path]error{"o1": erofs.ErrObject, "sub": fs.ErrInvalid, "link": fs.ErrInvalid} {
		if _, err := im.ReadAt(find(t, im, p), make([]byte, 1), 0); !errors.Is(err, class) {
			t.Errorf("read of %s: %v", p, err)
		}
	}
	if _, err := im.ReadAt(find(t, im, "block"), make([]byte, 1), -1); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("read at -1: %v", err)
	}
}

// TestNoAllocations: a file server and a commit look at many inodes.
func TestNoAllocations(t *testing.T) {
	_, im := image(t, oddTree(), erofs.Options{})
	object, buf := find(t, im, "objx"), make([]byte, 100)
	block := find(t, im, "blocks")
	for name, f := range map[string]func(){
		"Stat":    func() { _, _ = im.Stat(object) },
		"Lookup":  func() { _, _, _ = im.Lookup(im.Root(), "objx") },
		"Resolve": func() { _, _, _ = im.Resolve("sub/hard3") },
		"Xattr":   func() { _, _, _ = im.Xattr(object, "user.color") },
		"Object":  func() { _, _, _ = im.Object(object) },
		"ReadAt":  func() { _, _ = im.ReadAt(block, buf, 4090) },
		"Parent":  func() { _, _ = im.Parent(im.Root()) },
		"ReadDir": func() {
			for _, err := range im.ReadDir(im.Root(), 0) {
				if err != nil {
					t.Error(err)
				}
			}
		},
	} {
		if n := testing.AllocsPerRun(100, f); n > 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// TestOpen maps a file.
func TestOpen(t *testing.T) {
	b, _ := image(t, smallTree(), erofs.Options{})
	im, err := erofs.Open(store(t, b))
	if err != nil {
		t.Fatal(err)
	}
	root, err := im.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if im.Size() != int64(len(b)) {
		t.Errorf("size %d", im.Size())
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	equal(t, smallTree(), root) // nothing of it is in the mapping
	if err := im.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := im.Stat(im.Root()); err == nil {
		t.Error("stat after close")
	}
	if _, err := erofs.Open(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	for name, content := range map[string][]byte{"empty": nil, "short": b[:1000], "cut": b[:len(b)-1], "no magic": make([]byte, 8192)} {
		if _, err := erofs.Open(store(t, content)); !errors.Is(err, erofs.ErrCorrupt) {
			t.Errorf("%s file: %v", name, err)
		}
	}
	if _, err := erofs.Open(t.TempDir()); !errors.Is(err, erofs.ErrCorrupt) {
		t.Errorf("directory: %v", err)
	}
}
