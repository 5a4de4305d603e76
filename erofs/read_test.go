package erofs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	erofsgo "github.com/erofs/go-erofs"

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
	for e := range small.ReadDir(small.Root(), 1<<63) {
		t.Errorf("%q behind the end", e.Name)
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
			for range im.ReadDir(im.Root(), 0) {
				continue
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

// unsealed switches off the checksum, so that what follows it can be broken.
func unsealed(b []byte) []byte {
	b = bytes.Clone(b)
	b[1024+8] &^= 1
	return b
}

// inodeAt is the place of an inode in an image.
func inodeAt(n erofs.NID) int { return int(n) * 32 }

// TestHostile reads images that were broken on purpose.
func TestHostile(t *testing.T) {
	le := binary.LittleEndian
	good, im := image(t, smallTree(), erofs.Options{})
	a, d, e, l, o, x, y := find(t, im, "a"), find(t, im, "d"), find(t, im, "d/e"), find(t, im, "d/l"), find(t, im, "d/o"), find(t, im, "x"), find(t, im, "y")
	// dirent returns where an entry of a directory of one block lies.
	dirent := func(n erofs.NID, name string) int {
		at := inodeAt(n) + 64
		if words := int(le.Uint16(good[inodeAt(n)+2:])); words > 0 {
			at += 12 + 4*(words-1)
		}
		for i := range int(le.Uint16(good[at+8:])) / 12 {
			start := at + int(le.Uint16(good[at+12*i+8:]))
			if bytes.HasPrefix(good[start:], []byte(name)) {
				return at + 12*i
			}
		}
		t.Fatalf("no entry %q", name)
		return 0
	}
	if im, err := erofs.New(unsealed(good)); err != nil {
		t.Fatal(err)
	} else if _, err := im.Tree(); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(b []byte){
		"root outside":          func(b []byte) { le.PutUint16(b[1024+14:], 0xffff) },
		"root is a file":        func(b []byte) { le.PutUint16(b[1024+14:], uint16(a)) },
		"more blocks":           func(b []byte) { le.PutUint32(b[1024+36:], 0xffffffff) },
		"inodes outside":        func(b []byte) { le.PutUint32(b[1024+40:], 0xffffffff) },
		"xattrs outside":        func(b []byte) { le.PutUint32(b[1024+44:], 0xffffffff) },
		"mode":                  func(b []byte) { le.PutUint16(b[inodeAt(a)+4:], 0) },
		"layout":                func(b []byte) { b[inodeAt(a)] = 1 | 7<<1 },
		"compressed":            func(b []byte) { b[inodeAt(a)] = 1 | 3<<1 },
		"negative size":         func(b []byte) { le.PutUint64(b[inodeAt(a)+8:], 1<<63) },
		"huge size":             func(b []byte) { le.PutUint64(b[inodeAt(a)+8:], 1<<62) },
		"nanoseconds":           func(b []byte) { le.PutUint32(b[inodeAt(a)+40:], 1e9) },
		"huge directory":        func(b []byte) { le.PutUint64(b[inodeAt(d)+8:], 1<<62) },
		"directory of one byte": func(b []byte) { le.PutUint64(b[inodeAt(d)+8:], 1) },
		"blocks outside":        func(b []byte) { le.PutUint32(b[inodeAt(x)+16:], 0xfffffff0) },
		"tail crosses a block":  func(b []byte) { le.PutUint64(b[inodeAt(a)+8:], 4095) },
		"attributes outside":    func(b []byte) { le.PutUint16(b[inodeAt(x)+2:], 0xffff) },
		"shared count":          func(b []byte) { b[inodeAt(y)+64+4] = 200 },
		"shared id":             func(b []byte) { le.PutUint32(b[inodeAt(y)+64+12:], 0xffffffff) },
		"attribute twice":       func(b []byte) { copy(b[inodeAt(y)+64+16:], b[inodeAt(y)+64+12:][:4]) },
		"name outside":          func(b []byte) { le.PutUint16(b[dirent(d, "l")+8:], 0xffff) },
		"name backwards":        func(b []byte) { le.PutUint16(b[dirent(d, "o")+8:], 1) },
		"names at 0":            func(b []byte) { le.PutUint16(b[dirent(d, ".")+8:], 0) },
		"names not at an entry": func(b []byte) { le.PutUint16(b[dirent(d, ".")+8:], 13) },
		"type of an entry":      func(b []byte) { b[dirent(d, "l")+10] = 1 },
		"no type":               func(b []byte) { b[dirent(d, "l")+10] = 99 },
		"entry outside":         func(b []byte) { le.PutUint64(b[dirent(d, "l"):], 1<<60) },
		"entry overflows":       func(b []byte) { le.PutUint64(b[dirent(d, "l"):], 1<<64-1) },
		"cycle":                 func(b []byte) { le.PutUint64(b[dirent(d, "e"):], uint64(d)) },
		"cycle over the root":   func(b []byte) { le.PutUint64(b[dirent(d, "e"):], uint64(im.Root())) },
		"directory linked twice": func(b []byte) {
			le.PutUint64(b[dirent(im.Root(), "d"):], uint64(e))
			le.PutUint64(b[dirent(im.Root(), "f"):], uint64(e))
			b[dirent(im.Root(), "f")+10] = 2
		},
		"slash in a name":       func(b []byte) { at := dirent(d, "l"); b[dirent(d, ".")+int(le.Uint16(b[at+8:]))] = '/' },
		"NUL in a name":         func(b []byte) { at := dirent(d, "l"); b[dirent(d, ".")+int(le.Uint16(b[at+8:]))] = 0 },
		"names not sorted":      func(b []byte) { at := dirent(d, "l"); b[dirent(d, ".")+int(le.Uint16(b[at+8:]))] = 'z' },
		"empty link":            func(b []byte) { le.PutUint64(b[inodeAt(l)+8:], 0) },
		"long link":             func(b []byte) { le.PutUint64(b[inodeAt(l)+8:], tree.MaxLink+1) },
		"NUL in a link":         func(b []byte) { b[inodeAt(l)+64] = 0 },
		"redirect":              func(b []byte) { at := bytes.Index(b, []byte("/01/")); b[at+1] = 'G' },
		"redirect of no object": func(b []byte) { b[inodeAt(o)] = 1 },
		"fifo with a size":      func(b []byte) { b[inodeAt(find(t, im, "f"))+8] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			b := unsealed(good)
			damage(b)
			broken, err := erofs.New(b)
			if err == nil {
				_, err = broken.Tree()
			}
			if !errors.Is(err, erofs.ErrCorrupt) && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestOverlap has images in which many inodes have the same bytes: as trees they would
// be larger than any memory.
func TestOverlap(t *testing.T) {
	const n = 300
	names := dir("", tree.Inode{})
	files := dir("", tree.Inode{})
	for i := range n {
		names.Children = append(names.Children, dir(fmt.Sprintf("%06d", i), tree.Inode{}))
		files.Children = append(files.Children, file(fmt.Sprintf("%06d", i), ""))
	}
	files.Children[0] = file("000000", text(1<<20))
	link := symlink("", "t").Inode
	for i := range 50_000 {
		names.Children[0].Children = append(names.Children[0].Children, &tree.Node{Name: fmt.Sprintf("%08d", i), Inode: link})
	}
	for name, root := range map[string]*tree.Node{"directories": names, "files": files} {
		t.Run(name, func(t *testing.T) {
			good, im := image(t, root, erofs.Options{})
			b := unsealed(good)
			first := inodeAt(find(t, im, "000000"))
			binary.LittleEndian.PutUint16(b[first:], 1) // without its tail
			b[first+8], b[first+9] = 0, b[first+9]&0xf0
			for _, c := range root.Children[1:] {
				// Format, size and first block of the first one.
				at := inodeAt(find(t, im, tree.Path(c.Name)))
				copy(b[at:][:2], b[first:])
				copy(b[at+8:][:12], b[first+8:])
			}
			broken, err := erofs.New(b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := broken.Tree(); !errors.Is(err, erofs.ErrCorrupt) || !strings.Contains(err.Error(), "others use") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestGoErofs has another reader look at an image.
func TestGoErofs(t *testing.T) {
	root := oddTree()
	// io/fs knows no such names, and the reader no attributes larger than a block.
	root.Children = slices.DeleteFunc(root.Children, func(n *tree.Node) bool {
		return n.Name == "\xff\xfe" || n.Name == "big"
	})
	b, _ := image(t, root, erofs.Options{})
	fsys, err := erofsgo.Open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = fs.WalkDir(fsys, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		want := root
		if path != "." {
			want = root.Lookup(tree.Path(path))
		}
		if want == nil {
			return fmt.Errorf("unexpected %q", path)
		}
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		st, ok := info.Sys().(*erofsgo.Stat)
		if !ok {
			return fmt.Errorf("%q: no stat", path)
		}
		ino := want.Inode
		if st.UID != ino.UID || st.GID != ino.GID || int64(st.Mtime) != ino.MTime.Sec || st.MtimeNs != ino.MTime.Nsec || info.Mode().Perm() != fs.FileMode(ino.Mode&0o777) {
			t.Errorf("%q: %+v, want %+v", path, st, ino)
		}
		escaped := ino.Type == tree.CharDevice && ino.Rdev == tree.Device{}
		for _, x := range expectXattrs(want, view{ns: "trusted"}, escaped) {
			name := x.Name
			if strings.HasPrefix(name, "system.posix") {
				name += "." // as this reader has it
			}
			if st.Xattrs[name] != x.Value {
				t.Errorf("%q: %s is %.80q, want %.80q", path, name, st.Xattrs[name], x.Value)
			}
		}
		if ino.Type == tree.Regular && ino.Object.IsZero() {
			f, err := fsys.Open(path)
			if err != nil {
				return fmt.Errorf("%q: %w", path, err)
			}
			content, err := io.ReadAll(f)
			if err := errors.Join(err, f.Close()); err != nil || string(content) != ino.Inline {
				t.Errorf("%q: wrong content (%v)", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var count func(n *tree.Node) int
	count = func(n *tree.Node) int {
		sum := 1
		for _, c := range n.Children {
			sum += count(c)
		}
		return sum
	}
	if want := count(root); seen != want {
		t.Errorf("%d entries, want %d", seen, want)
	}
}

// TestForeign reads what mkfs.erofs writes: compact inodes and chunks.
func TestForeign(t *testing.T) {
	mkfs := needTool(t, "mkfs.erofs")
	src := t.TempDir()
	want := map[string]string{"empty": "", "small": "s", "block": text(4096), "large": text(100_001), "sparse": strings.Repeat("\x00", 50000) + "end"}
	for name, content := range want {
		if err := os.WriteFile(filepath.Join(src, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("small", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"plain": nil, "compact": {"-Eforce-inode-compact", "-T1234567"}, "extended": {"-Eforce-inode-extended"},
		"chunks": {"--chunksize=4096"}, "chunk indexes": {"--chunksize=8192", "-Eforce-chunk-indexes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if out, err := exec.Command(mkfs, append(args, path, src)...).CombinedOutput(); err != nil {
				t.Skipf("mkfs.erofs: %v\n%s", err, out)
			}
			im, err := erofs.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := im.Close(); err != nil {
					t.Error(err)
				}
			}()
			for name, content := range want {
				n := find(t, im, tree.Path(name))
				have := make([]byte, len(content)+1)
				k, err := im.ReadAt(n, have, 0)
				if !errors.Is(err, io.EOF) || string(have[:k]) != content {
					t.Errorf("%s: %d bytes, %v", name, k, err)
				}
				s, err := im.Stat(n)
				if err != nil || s.Mode != 0o640 || s.Size != int64(len(content)) || s.Type != tree.Regular || s.Nlink != 1 {
					t.Errorf("%s: %+v, %v", name, s, err)
				}
				if slices.Contains(args, "-T1234567") && s.MTime.Sec != 1234567 {
					t.Errorf("%s: time %v", name, s.MTime)
				}
			}
			if target, err := im.Readlink(find(t, im, "link")); err != nil || target != "small" {
				t.Errorf("link %q, %v", target, err)
			}
		})
	}
}
