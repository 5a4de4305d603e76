package erofs_test

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// dir makes a directory node; its children are put in order.
func dir(name string, ino tree.Inode, children ...*tree.Node) *tree.Node {
	ino.Type = tree.Directory
	slices.SortFunc(children, func(a, b *tree.Node) int { return cmp.Compare(a.Name, b.Name) })
	return &tree.Node{Name: name, Inode: &ino, Children: children}
}

// node makes any other node.
func node(name string, ino tree.Inode) *tree.Node {
	return &tree.Node{Name: name, Inode: &ino}
}

func file(name, content string) *tree.Node {
	return node(name, tree.Inode{Type: tree.Regular, Mode: 0o644, Size: int64(len(content)), Inline: content})
}

func symlink(name, target string) *tree.Node {
	return node(name, tree.Inode{Type: tree.Symlink, Mode: 0o777, Size: int64(len(target)), Link: target})
}

func object(name string, id byte, size int64) *tree.Node {
	return node(name, tree.Inode{Type: tree.Regular, Mode: 0o644, Size: size, Object: tree.ObjectID{id, 1, 2, 31: id}})
}

// acl is a valid access ACL as getxattr returns it: u::rwx,u:1000:r--,g::r-x,m::r-x,o::---.
const acl = "\x02\x00\x00\x00" +
	"\x01\x00\x07\x00\xff\xff\xff\xff" +
	"\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x05\x00\xff\xff\xff\xff" +
	"\x10\x00\x05\x00\xff\xff\xff\xff" +
	"\x20\x00\x00\x00\xff\xff\xff\xff"

// text returns n bytes that differ everywhere.
func text(n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// oddTree holds every kind of inode and attribute, and names that need care.
func oddTree() *tree.Node {
	linked := tree.Inode{
		Type: tree.Regular, Mode: 0o4755, UID: 1 << 31, GID: 4000000000, Size: 7, Inline: "linked\n",
		MTime: tree.Time{Sec: -62135596800, Nsec: 999999999},
	}
	many := tree.Inode{Type: tree.Regular, Mode: 0o600}
	for i := range 300 {
		many.Xattrs = append(many.Xattrs, tree.Xattr{Name: fmt.Sprintf("user.many%03d", i), Value: "same"})
	}
	big := tree.Inode{Type: tree.Regular, Mode: 0o600, Size: 5, Inline: "tail\n"}
	for i := range 20 {
		big.Xattrs = append(big.Xattrs, tree.Xattr{Name: fmt.Sprintf("user.big%02d", i), Value: text(60000 + i)})
	}
	large := object("large", 7, 1<<63-1)
	return dir("", tree.Inode{Mode: 0o755, MTime: tree.Time{Sec: 1700000000, Nsec: 1}},
		&tree.Node{Name: "hard1", Inode: &linked},
		&tree.Node{Name: "hard2", Inode: &linked},
		dir("sub", tree.Inode{Mode: 0o1777, UID: 5, GID: 6}, &tree.Node{Name: "hard3", Inode: &linked},
			dir("empty", tree.Inode{Mode: 0o700}),
			node("dev", tree.Inode{Type: tree.CharDevice, Mode: 0o600}),
			node("dev2", tree.Inode{Type: tree.CharDevice, Mode: 0o604, UID: 3, Xattrs: []tree.Xattr{{Name: "trusted.x", Value: "1"}}}),
		),
		dir("nested", tree.Inode{Mode: 0o755, Xattrs: []tree.Xattr{
			{Name: "trusted.overlay.opaque", Value: "y"}, {Name: "trusted.overlay.overlay.redirect", Value: "z"},
			{Name: "user.overlay.opaque", Value: "u"},
		}},
			node("char", tree.Inode{Type: tree.CharDevice, Xattrs: []tree.Xattr{{Name: "trusted.overlay.whiteout", Value: "w"}}}),
			node("xwhiteout", tree.Inode{Type: tree.Regular, Xattrs: []tree.Xattr{{Name: "trusted.overlay.whiteout"}}}),
		),
		node("null", tree.Inode{Type: tree.CharDevice, Mode: 0o666, Rdev: tree.Device{Major: 1, Minor: 3}}),
		node("bigdev", tree.Inode{Type: tree.BlockDevice, Mode: 0o660, Rdev: tree.Device{Major: erofs.MaxMajor, Minor: erofs.MaxMinor}}),
		node("fifo", tree.Inode{Type: tree.Fifo, Mode: 0o622}),
		node("sock", tree.Inode{Type: tree.Socket, Mode: 0o755}),
		symlink("link", "sub/hard3"),
		symlink("longlink", strings.Repeat("x", tree.MaxLink)),
		symlink("rawlink", "a\xff\nb"),
		file("zero", ""),
		file("block", text(4096)),
		file("blocks", text(3*4096+17)),
		file("notail", text(2*4096+4090)),
		large,
		object("o1", 1, 1),
		object("o4096", 2, 4096),
		object("o4097", 3, 4097),
		object("same1", 4, 1<<40+1),
		object("same2", 4, 1<<40+1),
		node("caps", tree.Inode{Type: tree.Regular, Mode: 0o755, Size: 4, Inline: "caps", Xattrs: []tree.Xattr{
			{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
			{Name: "trusted.overlay.metacopy", Value: "mine"},
			{Name: "trusted.t", Value: "\x00\x01"},
			{Name: "user.empty", Value: ""},
		}}),
		node("objx", tree.Inode{Type: tree.Regular, Mode: 0o4711, Size: 99999, Object: tree.ObjectID{9}, Xattrs: []tree.Xattr{
			{Name: "system.posix_acl_access", Value: acl},
			{Name: "user.color", Value: "red"},
		}}),
		node("acl", tree.Inode{Type: tree.Regular, Mode: 0o750, Xattrs: []tree.Xattr{{Name: "system.posix_acl_access", Value: acl}}}),
		dir("acldir", tree.Inode{Mode: 0o750, Xattrs: []tree.Xattr{
			{Name: "system.posix_acl_access", Value: acl}, {Name: "system.posix_acl_default", Value: acl},
		}}),
		node("other", tree.Inode{Type: tree.Regular, Mode: 0o644, Xattrs: []tree.Xattr{
			{Name: "com.apple.quarantine", Value: "q"}, {Name: "system.nfs4_acl", Value: "n"}, {Name: "user.color", Value: "red"},
		}}),
		node("many", many),
		node("many2", many),
		node("big", big),
		file(strings.Repeat("n", 255), "long name"),
		file("new\nline", "newline"),
		file("\xff\xfe", "not UTF-8"),
		file("-dash", ""), file("!", ""), file("...", ""), file(".\x01", ""), file("..\x01", ""), file(".hidden", ""),
		deep(100),
	)
}

// deep makes a chain of directories.
func deep(n int) *tree.Node {
	at := dir("d", tree.Inode{Mode: 0o755}, file("bottom", "deep"))
	for range n - 1 {
		at = dir("d", tree.Inode{Mode: 0o755}, at)
	}
	at.Name = "deep"
	return at
}

// layerTree is the tree of one layer.
func layerTree() *tree.Node {
	opaque := dir("opaque", tree.Inode{Mode: 0o755}, file("in", "new"))
	opaque.Opaque = true
	implicit := dir("implicit", tree.Inode{Mode: 0o711, UID: 8},
		&tree.Node{Name: "gone", Whiteout: true}, &tree.Node{Name: "gone2", Whiteout: true},
		node("own", tree.Inode{Type: tree.CharDevice, Mode: 0o600}))
	implicit.Implicit = true
	both := dir("both", tree.Inode{Mode: 0o755})
	both.Opaque, both.Implicit = true, true
	return dir("", tree.Inode{Mode: 0o755}, opaque, implicit, both,
		&tree.Node{Name: "removed", Whiteout: true}, object("added", 5, 70000), file("small", "s"))
}

// smallTree is a bit of everything in few bytes.
func smallTree() *tree.Node {
	linked := tree.Inode{Type: tree.Regular, Mode: 0o644, Size: 6, Inline: "linked"}
	return dir("", tree.Inode{Mode: 0o755, MTime: tree.Time{Sec: 1, Nsec: 2}},
		&tree.Node{Name: "a", Inode: &linked}, &tree.Node{Name: "b", Inode: &linked},
		dir("d", tree.Inode{Mode: 0o711}, symlink("l", "../a"), object("o", 1, 1<<44), dir("e", tree.Inode{})),
		node("c", tree.Inode{Type: tree.CharDevice}),
		node("n", tree.Inode{Type: tree.BlockDevice, Rdev: tree.Device{Major: 8, Minor: 300}}),
		node("f", tree.Inode{Type: tree.Fifo}), node("s", tree.Inode{Type: tree.Socket}),
		node("x", tree.Inode{Type: tree.Regular, Size: 5000, Inline: text(5000), Xattrs: []tree.Xattr{
			{Name: "trusted.overlay.x", Value: "1"}, {Name: "user.k", Value: "v"}, {Name: "user.m", Value: "w"},
		}}),
		node("y", tree.Inode{Type: tree.Regular, Xattrs: []tree.Xattr{{Name: "user.k", Value: "v"}, {Name: "user.m", Value: "w"}}}),
	)
}

// image writes a tree and reads it back.
func image(t testing.TB, root *tree.Node, opts erofs.Options) ([]byte, *erofs.Image) {
	t.Helper()
	var b bytes.Buffer
	stats, err := erofs.Write(&b, root, opts)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Size != int64(b.Len()) {
		t.Fatalf("Stats.Size is %d, wrote %d", stats.Size, b.Len())
	}
	im, err := erofs.New(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), im
}

// store writes an image to a file.
func store(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.erofs")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// equal compares two trees, hard links included, and names the first difference.
func equal(t testing.TB, want, have *tree.Node) {
	t.Helper()
	links := make(map[*tree.Inode]*tree.Inode)
	back := make(map[*tree.Inode]*tree.Inode)
	var walk func(path string, a, b *tree.Node)
	walk = func(path string, a, b *tree.Node) {
		if a.Name != b.Name || a.Whiteout != b.Whiteout || a.Opaque != b.Opaque || a.Implicit != b.Implicit || a.IsLink != b.IsLink || (a.Inode == nil) != (b.Inode == nil) {
			t.Fatalf("%q: node %+v, want %+v", path, b, a)
		}
		if a.Inode != nil {
			x, y := *a.Inode, *b.Inode
			if !slices.Equal(x.Xattrs, y.Xattrs) {
				t.Fatalf("%q: xattrs differ:\n%.500q\n%.500q", path, y.Xattrs, x.Xattrs)
			}
			x.Xattrs, y.Xattrs = nil, nil
			if fmt.Sprintf("%v", x) != fmt.Sprintf("%v", y) {
				t.Fatalf("%q: inode %.300v, want %.300v", path, y, x)
			}
			if a.Inode.Type != tree.Directory {
				if l, ok := links[a.Inode]; ok && l != b.Inode {
					t.Fatalf("%q: hard link not kept", path)
				}
				if l, ok := back[b.Inode]; ok && l != a.Inode {
					t.Fatalf("%q: hard link that was none", path)
				}
				links[a.Inode], back[b.Inode] = b.Inode, a.Inode
			}
		}
		if len(a.Children) != len(b.Children) {
			t.Fatalf("%q: %d children, want %d", path, len(b.Children), len(a.Children))
		}
		for i := range a.Children {
			walk(path+"/"+a.Children[i].Name, a.Children[i], b.Children[i])
		}
	}
	walk("", want, have)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

func needTool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

// mount mounts a file system and unmounts it at the end of the test. Options are set in
// order, one without a value as a flag.
func mount(t testing.TB, kind string, options ...[2]string) string {
	t.Helper()
	needRoot(t)
	fd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Skipf("no %s: %v", kind, err)
	}
	defer func() { _ = unix.Close(fd) }()
	fail := func(what string, err error) {
		t.Helper()
		log := make([]byte, 4096)
		for {
			n, readErr := unix.Read(fd, log)
			if readErr != nil {
				break
			}
			t.Logf("kernel: %s", log[:n])
		}
		t.Fatalf("%s: %v", what, err)
	}
	for _, o := range options {
		var err error
		if o[1] == "" {
			err = unix.FsconfigSetFlag(fd, o[0])
		} else {
			err = unix.FsconfigSetString(fd, o[0], o[1])
		}
		if err != nil {
			fail("set "+o[0], err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		fail("create "+kind, err)
	}
	mfd, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		fail("mount "+kind, err)
	}
	defer func() { _ = unix.Close(mfd) }()
	target := t.TempDir()
	if err := unix.MoveMount(mfd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		fail("attach "+kind, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return target
}

func mountImage(t testing.TB, b []byte) string {
	t.Helper()
	needRoot(t)
	return mount(t, "erofs", [2]string{"source", store(t, b)})
}
