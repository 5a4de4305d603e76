package treefs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
)

// TestMain is also the server of these tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Command {
		if err := Serve(); err != nil {
			log.Fatal(err)
		}
		return
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// large is the content that is an object.
var large = strings.Repeat("0123456789abcdef", 40_000)

func file(mode uint16, content string, xattrs ...tree.Xattr) *tree.Inode {
	return &tree.Inode{Type: tree.Regular, Mode: mode, Size: int64(len(content)), Inline: content, Xattrs: xattrs, MTime: tree.Time{Sec: -7, Nsec: 11}}
}

func contentOf(content string) *tree.Inode {
	return &tree.Inode{Type: tree.Regular, Mode: 0o644, Size: int64(len(content)), Object: sha256.Sum256([]byte(content))}
}

func dir(mode uint16, children ...*tree.Node) *tree.Node {
	return &tree.Node{Inode: &tree.Inode{Type: tree.Directory, Mode: mode}, Children: children}
}

func named(name string, n *tree.Node) *tree.Node {
	n.Name = name
	return n
}

const names = 3000 // in the directory that takes many requests to read

func testTree() *tree.Node {
	linked := file(0o4755, "linked")
	linked.UID, linked.GID = 5, 70_000
	many := make([]*tree.Node, names)
	for i := range many {
		many[i] = &tree.Node{Name: fmt.Sprintf("%04d-%s", i, strings.Repeat("n", i%200)), Inode: file(0o644, fmt.Sprint(i))}
	}
	acl := string([]byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 99, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255})
	return dir(0o755,
		&tree.Node{Name: "acl", Inode: file(0o664, "acl", tree.Xattr{Name: "system.posix_acl_access", Value: acl})},
		&tree.Node{Name: "big", Inode: contentOf(large)},
		&tree.Node{Name: "block", Inode: &tree.Inode{Type: tree.BlockDevice, Mode: 0o660, Rdev: tree.Device{Major: 259, Minor: 70_000}}},
		&tree.Node{Name: "fifo", Inode: &tree.Inode{Type: tree.Fifo, Mode: 0o600}},
		&tree.Node{Name: "link", Inode: &tree.Inode{Type: tree.Symlink, Mode: 0o777, Link: "many/../big", Size: 11}},
		&tree.Node{Name: "linked1", Inode: linked},
		&tree.Node{Name: "linked2", Inode: linked},
		named("many", dir(0o1777, many...)),
		&tree.Node{Name: "missing", Inode: contentOf(large + "!")},
		&tree.Node{Name: "small", Inode: file(0o600, "small\n",
			tree.Xattr{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}, tree.Xattr{Name: "security.other", Value: "s"},
			tree.Xattr{Name: "trusted.overlay.opaque", Value: "t"}, tree.Xattr{Name: "trusted.x", Value: "t"},
			tree.Xattr{Name: "user.overlay.metacopy", Value: "u"}, tree.Xattr{Name: "user.x", Value: "1"},
		)},
		named("sub", dir(0o700, &tree.Node{Name: "empty", Inode: file(0o644, "")})),
	)
}

// write writes the test tree and its object into a directory.
func write(t *testing.T, at string) Options {
	t.Helper()
	var b bytes.Buffer
	_, err := erofs.Write(&b, testTree(), erofs.Options{Namespace: erofs.Trusted})
	must(t, err)
	o := Options{Tree: filepath.Join(at, "tree"), Data: []string{filepath.Join(at, "none"), filepath.Join(at, "data")}, Namespace: unionfs.User}
	must(t, os.WriteFile(o.Tree, b.Bytes(), 0o644))
	path := filepath.Join(o.Data[1], contentOf(large).Object.Path())
	for _, d := range []string{o.Data[0], filepath.Dir(path)} {
		must(t, os.MkdirAll(d, 0o755))
	}
	must(t, os.WriteFile(path, []byte(large), 0o444))
	return o
}

// mount mounts with a server that is a process of its own.
func mount(t *testing.T, o Options, owners Owners) string {
	t.Helper()
	testenv.Root(t)
	testenv.FuseDevice(t)
	m, err := Mounter{Owners: owners}.Mount(t.Context(), o)
	must(t, err)
	at := t.TempDir()
	must(t, errors.Join(m.Attach(at), m.Close()))
	t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
	return at
}

func TestNames(t *testing.T) {
	o := write(t, t.TempDir())
	o.Data = nil
	at := mount(t, o, Owners{UIDs: []Range{{First: 0, Count: 10}}, GIDs: []Range{{First: 0, Count: 10}}, OtherUID: 7, OtherGID: 8})
	for range 2 { // the second time from what the kernel remembers
		var got []string
		must(t, filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if info.Mode().Type() != d.Type() {
				t.Errorf("%s: readdir says %v, stat %v", path, d.Type(), info.Mode())
			}
			rel, err := filepath.Rel(at, path)
			got = append(got, rel)
			return err
		}))
		var want []string
		must(t, tree.Walk(testTree(), func(p tree.Path, _ *tree.Node) error {
			want = append(want, filepath.Clean(string(p)))
			return nil
		}))
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%d names, want %d: %q", len(got), len(want), got[:min(len(got), 20)])
		}
	}
	if _, err := os.Lstat(filepath.Join(at, "nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a name that is not there: %v", err)
	}
	var a, b unix.Stat_t
	must(t, unix.Lstat(filepath.Join(at, "linked1"), &a))
	must(t, unix.Lstat(filepath.Join(at, "linked2"), &b))
	if a.Ino != b.Ino || a.Nlink != 2 || a.Mode != unix.S_IFREG|0o4755 || a.Uid != 5 || a.Gid != 8 || a.Mtim.Sec != -7 || a.Mtim.Nsec != 11 {
		t.Errorf("a file of two names is %+v and %+v", a, b)
	}
	must(t, unix.Lstat(filepath.Join(at, "block"), &a))
	if a.Mode != unix.S_IFBLK|0o660 || a.Rdev != unix.Mkdev(259, 70_000) {
		t.Errorf("a device is %+v", a)
	}
	if target, err := os.Readlink(filepath.Join(at, "link")); err != nil || target != "many/../big" {
		t.Errorf("a link leads to %q, %v", target, err)
	}
	if err := os.WriteFile(filepath.Join(at, "new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: %v, want EROFS", err)
	}
}

func TestContents(t *testing.T) {
	o := write(t, t.TempDir())
	at := mount(t, o, Owners{})
	for range 2 {
		for name, want := range map[string]string{"big": large, "small": "small\n", "sub/empty": "", "many/0007-nnnnnnn": "7", "link": large} {
			if got, err := os.ReadFile(filepath.Join(at, name)); err != nil || string(got) != want {
				t.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(want))
			}
		}
	}
	if _, err := os.ReadFile(filepath.Join(at, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an object that is not there: %v, want ENOENT", err)
	}
	for _, name := range []string{"big", "small"} {
		f, err := os.Open(filepath.Join(at, name))
		must(t, err)
		info, err := f.Stat()
		must(t, err)
		if data, err := unix.Seek(int(f.Fd()), 3, unix.SEEK_DATA); err != nil || data != 3 {
			t.Errorf("%s: data from 3 on is at %d, %v", name, data, err)
		}
		if hole, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE); err != nil || hole != info.Size() {
			t.Errorf("%s: the first hole is at %d, %v", name, hole, err)
		}
		if _, err := unix.Seek(int(f.Fd()), info.Size(), unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
			t.Errorf("%s: data behind the end: %v", name, err)
		}
		must(t, f.Close())
	}
}

// TestManyObjects has more contents in use than stay open.
func TestManyObjects(t *testing.T) {
	dir := t.TempDir()
	data, err := newObjects([]string{dir})
	must(t, err)
	var held []*object
	for i := range maxOpen + 10 {
		ino := contentOf(fmt.Sprint("content ", i))
		path := filepath.Join(dir, ino.Object.Path())
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(fmt.Sprint("content ", i)), 0o444))
		o, err := data.open(ino.Object)
		must(t, err)
		held = append(held, o)
	}
	if n := data.used.Len(); n != maxOpen {
		t.Errorf("%d objects are kept open, want %d", n, maxOpen)
	}
	// Those that are not kept are open as long as somebody uses them.
	for i, o := range held {
		b := make([]byte, 100)
		n, _ := o.file.ReadAt(b, 0)
		if want := fmt.Sprint("content ", i); string(b[:n]) != want {
			t.Errorf("object %d is %q", i, b[:n])
		}
		o.release()
	}
	if _, err := held[0].file.Stat(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("an object that nobody uses and that is not kept: %v, want it closed", err)
	}
	must(t, data.close())
	if _, err := held[len(held)-1].file.Stat(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("an object after the end: %v, want it closed", err)
	}
}

func attributes(t *testing.T, path string) map[string]string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	out := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 256)
		k, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		out[name] = string(value[:k])
	}
	return out
}

func TestAttributes(t *testing.T) {
	capability := testTree().Children[9].Inode.Xattrs[0].Value
	redirect := "/" + contentOf(large).Object.Path()
	for _, c := range []struct {
		ns         unionfs.Namespace
		data       bool
		small, big map[string]string
	}{
		{unionfs.User, false,
			map[string]string{"security.capability": capability, "user.overlay.overlay.metacopy": "u", "user.x": "1"},
			map[string]string{"user.overlay.metacopy": "", "user.overlay.redirect": redirect}},
		{unionfs.User, true,
			map[string]string{"security.capability": capability, "user.overlay.overlay.metacopy": "u", "user.x": "1"}, map[string]string{}},
		{unionfs.Trusted, false,
			map[string]string{"security.capability": capability, "security.other": "s", "trusted.overlay.overlay.opaque": "t", "trusted.x": "t", "user.overlay.metacopy": "u", "user.x": "1"},
			map[string]string{"trusted.overlay.metacopy": "", "trusted.overlay.redirect": redirect}},
	} {
		t.Run(fmt.Sprint(c.ns, c.data), func(t *testing.T) {
			o := write(t, t.TempDir())
			o.Namespace = c.ns
			if !c.data {
				o.Data = nil
			}
			at := mount(t, o, Owners{})
			for name, want := range map[string]map[string]string{"small": c.small, "big": c.big} {
				got := attributes(t, filepath.Join(at, name))
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s has %q, want %q", name, got, want)
				}
			}
			// What is not listed cannot be read by its name in the image either.
			for _, name := range []string{"trusted.overlay.metacopy", "user.overlay.overlay.none", "trusted.overlay.layerfs", "user.overlay.layerfs"} {
				if _, ok := c.big[name]; ok {
					continue
				}
				if _, err := unix.Lgetxattr(filepath.Join(at, "big"), name, nil); !errors.Is(err, unix.ENODATA) {
					t.Errorf("%s: %v, want ENODATA", name, err)
				}
			}
			// Too small a buffer.
			if _, err := unix.Lgetxattr(filepath.Join(at, "small"), "security.capability", make([]byte, 3)); !errors.Is(err, unix.ERANGE) {
				t.Errorf("an attribute into too little: %v", err)
			}
		})
	}
}

func TestACL(t *testing.T) {
	o := write(t, t.TempDir())
	at := mount(t, o, Owners{UIDs: []Range{{First: 0, Count: 1}}, GIDs: []Range{{First: 0, Count: 1}}})
	value := make([]byte, 256)
	n, err := unix.Lgetxattr(filepath.Join(at, "acl"), "system.posix_acl_access", value)
	must(t, err)
	const idOfNamedUser = 4 + 8 + 4
	if n != 44 || value[idOfNamedUser] != 0 {
		t.Errorf("the ACL is %v: user 99, who does not exist here, is not replaced by 0", value[:n])
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	o := write(t, dir)
	for _, change := range []func(*Options){
		func(o *Options) { o.Namespace = "" },
		func(o *Options) { o.Tree = filepath.Join(dir, "nothing") },
		func(o *Options) { o.Data = []string{filepath.Join(dir, "nothing")} },
		func(o *Options) { o.Tree = filepath.Join(dir, "data") },
	} {
		bad := o
		change(&bad)
		if f, err := New(bad); err == nil {
			must(t, f.Close())
			t.Errorf("%+v is served", bad)
		}
		if os.Geteuid() == 0 {
			if m, err := (Mounter{}).Mount(t.Context(), bad); err == nil {
				must(t, m.Close())
				t.Errorf("%+v is mounted", bad)
			}
		}
	}
}
