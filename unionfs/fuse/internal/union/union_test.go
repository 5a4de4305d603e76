package union

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
)

// These tests call the file system as the kernel does, without a mount; the conformance
// suite runs on mounts, in the package of the driver.

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func namespace() (unionfs.Namespace, erofs.Namespace) {
	if os.Geteuid() == 0 {
		return unionfs.Trusted, erofs.Trusted
	}
	return unionfs.User, erofs.User
}

func inline(text string) *tree.Inode {
	return &tree.Inode{Type: tree.Regular, Mode: 0o644, Size: int64(len(text)), Inline: text, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

func directory(name string, children ...*tree.Node) *tree.Node {
	ino := tree.Implied()
	ino.UID, ino.GID = uint32(os.Geteuid()), uint32(os.Getegid())
	return &tree.Node{Name: name, Inode: ino, Children: children}
}

// many is a tree of so many directories with so many files each, and two names of one
// file.
func many(dirs, files int) *tree.Node {
	root := directory("")
	for i := range dirs {
		dir := directory(fmt.Sprintf("d%04d", i))
		for j := range files {
			dir.Children = append(dir.Children, &tree.Node{Name: fmt.Sprintf("f%04d", j), Inode: inline("text")})
		}
		root.Children = append(root.Children, dir)
	}
	twice := inline("twice")
	root.Children = append(root.Children, &tree.Node{Name: "link1", Inode: twice}, &tree.Node{Name: "link2", Inode: twice})
	return root
}

// open opens a union of a tree below an empty upper.
func open(t testing.TB, root *tree.Node) *FS {
	t.Helper()
	tmp := t.TempDir()
	ns, treeNS := namespace()
	var b bytes.Buffer
	_, err := erofs.Write(&b, root, erofs.Options{Namespace: treeNS, UUID: [16]byte{1, 2, 3}})
	must(t, err)
	image := filepath.Join(tmp, "tree")
	must(t, os.WriteFile(image, b.Bytes(), 0o600))
	cfg := Config{Namespace: ns, Layers: unionfs.Layers{
		Lower: []unionfs.Lower{{Tree: image}}, Upper: filepath.Join(tmp, "upper"), Work: filepath.Join(tmp, "work"),
	}}
	must(t, os.Mkdir(cfg.Layers.Upper, 0o755))
	must(t, os.Mkdir(cfg.Layers.Work, 0o755))
	f, err := Open(cfg, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() {
		must(t, f.Close())
		left, err := os.ReadDir(cfg.Layers.Work)
		must(t, err)
		if len(left) > 0 {
			t.Errorf("left in the work directory: %v", left)
		}
	})
	return f
}

// walk looks up all files below a directory, and returns the ids by path.
func walk(t testing.TB, f *FS) map[string]uint64 {
	t.Helper()
	ids := map[string]uint64{"": rootID}
	dirs := []string{""}
	buf := make([]byte, 64<<10)
	for len(dirs) > 0 {
		dir := dirs[0]
		dirs = dirs[1:]
		for off := uint64(0); ; {
			in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: ids[dir]}, Offset: off}
			list := fuse.NewDirEntryList(buf, off)
			if s := f.ReadDirPlus(nil, &in, list); !s.Ok() {
				t.Fatal(s)
			}
			entries, outs, err := fuse.ParseDirLookupEntries(list.Bytes())
			must(t, err)
			if len(entries) == 0 {
				break
			}
			for i, e := range entries {
				off = e.Off
				if e.Name == "." || e.Name == ".." {
					continue
				}
				path := filepath.Join(dir, e.Name)
				ids[path] = outs[i].NodeId
				if outs[i].Mode&unix.S_IFMT == unix.S_IFDIR {
					dirs = append(dirs, path)
				}
			}
		}
	}
	return ids
}

func header(id uint64) fuse.InHeader {
	h := fuse.InHeader{NodeId: id}
	h.Uid, h.Gid = uint32(os.Geteuid()), uint32(os.Getegid())
	return h
}

// TestUntouchedFilesTakeNoMemory walks a tree and counts what is kept of it.
func TestUntouchedFilesTakeNoMemory(t *testing.T) {
	f := open(t, many(20, 50))
	ids := walk(t, f)
	if want := 1 + 20 + 20*50 + 2; len(ids) != want {
		t.Errorf("a walk finds %d files, want %d", len(ids), want)
	}
	if n := len(f.tables.byID); n > 2 { // the root, by its two ids
		t.Errorf("%d nodes after a walk over untouched files", n)
	}
	if ids["link1"] != ids["link2"] {
		t.Error("two names of one file have two ids")
	}
}

func TestIDsStayOverCopyUp(t *testing.T) {
	f := open(t, many(2, 3))
	before := walk(t, f)
	for _, path := range []string{"d0001/f0002", "link2"} {
		in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: header(before[path]), Valid: fuse.FATTR_MODE, Mode: 0o600}}
		var out fuse.AttrOut
		if s := f.SetAttr(nil, &in, &out); !s.Ok() || out.Mode&0o777 != 0o600 {
			t.Errorf("chmod of %s: %v, mode %o", path, s, out.Mode)
		}
	}
	for path, id := range walk(t, f) {
		if id != before[path] {
			t.Errorf("%q had the id %x, now %x", path, before[path], id)
		}
	}
	for _, name := range []string{"d0001/f0002", "link1", "link2"} {
		if _, err := os.Lstat(filepath.Join(f.cfg.Layers.Upper, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(f.cfg.Layers.Upper, "d0000")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a directory in which nothing changed is in the upper: %v", err)
	}
}

// TestDescriptorsAreBounded changes files in more directories than are kept open.
func TestDescriptorsAreBounded(t *testing.T) {
	f := open(t, many(maxDirs+100, 1))
	ids := walk(t, f)
	for i := range maxDirs + 100 {
		in := header(ids[fmt.Sprintf("d%04d", i)])
		if s := f.Unlink(nil, &in, "f0000"); !s.Ok() {
			t.Fatal(s)
		}
	}
	if n := len(f.dirs.dirs); n > maxDirs+1 {
		t.Errorf("%d directories are open, limit %d", n, maxDirs)
	}
}

// TestForget makes files, removes them and tells that they are forgotten.
func TestForget(t *testing.T) {
	f := open(t, many(1, 1))
	for i := range 10 {
		var out fuse.EntryOut
		name := fmt.Sprint("new", i)
		if s := f.Mknod(nil, &fuse.MknodIn{InHeader: header(rootID), Mode: unix.S_IFREG | 0o600}, name, &out); !s.Ok() {
			t.Fatal(s)
		}
		in := header(rootID)
		if s := f.Unlink(nil, &in, name); !s.Ok() {
			t.Fatal(s)
		}
		var attr fuse.AttrOut
		if s := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(out.NodeId)}, &attr); !s.Ok() || attr.Nlink != 0 {
			t.Errorf("a removed file that is known: %v, %d links", s, attr.Nlink)
		}
		f.Forget(out.NodeId, 1)
		if s := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(out.NodeId)}, &attr); s != fuse.Status(unix.ESTALE) {
			t.Errorf("a forgotten file: %v, want ESTALE", s)
		}
	}
	if len(f.tables.byID) > 2 || len(f.tables.byIno) > 1 {
		t.Errorf("%d and %d nodes are kept of files that are gone", len(f.tables.byID), len(f.tables.byIno))
	}
}

func TestBadIDs(t *testing.T) {
	f := open(t, many(1, 1))
	for _, id := range []uint64{0, 2, 1 << 40, 2 << nidBits, 1<<nidBits | 1<<47, 1<<64 - 1} {
		var out fuse.AttrOut
		if s := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(id)}, &out); s.Ok() {
			t.Errorf("id %x is a file", id)
		}
	}
}

func TestOneMountForAnUpper(t *testing.T) {
	f := open(t, many(1, 1))
	other := f.cfg
	other.ReadOnly = true
	fd, err := unix.Open(other.Layers.Upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	if err := unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("locking an upper that is in use: %v", err)
	}
	must(t, unix.Close(fd))
}

// FuzzOrigin reads the attribute that anybody may have put into an upper.
func FuzzOrigin(f *testing.F) {
	fs := open(f, many(1, 1))
	n := &node{lowers: []ref{{layer: 0, nid: 99}}}
	path := filepath.Join(f.TempDir(), "file")
	must(f, os.WriteFile(path, nil, 0o600))
	must(f, fs.setOrigin(n, path))
	origin, err := getXattr(path, fs.ns.Attr(unionfs.Origin))
	must(f, err)
	if ino, ok := fs.originIno(origin); !ok || ino != treeID(0, 99) {
		f.Fatalf("origin of inode 99 says %x, %v", ino, ok)
	}
	f.Add([]byte(origin))
	f.Add([]byte{})
	f.Add([]byte{0, originMagic, originHeader, 0, handleIno32})
	f.Fuzz(func(t *testing.T, b []byte) {
		if ino, ok := fs.originIno(string(b)); ok && ino>>nidBits > 1 {
			t.Errorf("inode number %x of a layer that there is not", ino)
		}
	})
}
