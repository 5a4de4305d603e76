package checkout

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Sizes of the object: data, a hole, data.
const (
	dataSize = 64 << 10
	holeSize = 1 << 20
)

func content() string {
	return strings.Repeat("a", dataSize) + strings.Repeat("\x00", holeSize) + strings.Repeat("z", dataSize)
}

// sample writes an image, its object and where a checkout may go.
func sample(t *testing.T, change ...func(root *tree.Node)) (dir string, o Options) {
	t.Helper()
	dir = t.TempDir()
	ids := func(ino *tree.Inode) *tree.Inode {
		ino.UID, ino.GID = uint32(os.Geteuid()), uint32(os.Getegid())
		ino.MTime = tree.Time{Sec: 1_000_000_000, Nsec: 5}
		return ino
	}
	linked := ids(&tree.Inode{Type: tree.Regular, Mode: 0o4711, Size: 6, Inline: "linked", Xattrs: []tree.Xattr{{Name: "user.x", Value: "y"}}})
	object := &tree.Inode{Type: tree.Regular, Mode: 0o444, Size: int64(len(content())), Object: sha256.Sum256([]byte(content()))}
	other := *object
	other.Mode = 0o640
	root := &tree.Node{Inode: ids(&tree.Inode{Type: tree.Directory, Mode: 0o750}), Children: []*tree.Node{
		{Name: "closed", Inode: ids(&tree.Inode{Type: tree.Directory, Mode: 0o500}), Children: []*tree.Node{
			{Name: "again", Inode: linked}, {Name: "fifo", Inode: ids(&tree.Inode{Type: tree.Fifo, Mode: 0o622})},
		}},
		{Name: "first", Inode: linked},
		{Name: "link", Inode: ids(&tree.Inode{Type: tree.Symlink, Mode: 0o777, Link: "/etc/passwd", Size: 11})},
		{Name: "object", Inode: ids(object)},
		{Name: "other", Inode: ids(&other)},
	}}
	for _, c := range change {
		c(root)
	}
	var b bytes.Buffer
	_, err := erofs.Write(&b, root, erofs.Options{Namespace: erofs.Trusted})
	must(t, err)
	o = Options{Tree: filepath.Join(dir, "tree"), Data: []string{filepath.Join(dir, "data")}, Namespace: unionfs.User}
	must(t, os.WriteFile(o.Tree, b.Bytes(), 0o644))
	path := filepath.Join(o.Data[0], object.Object.Path())
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	must(t, err)
	_, err = f.WriteString(content()[:dataSize])
	must(t, err)
	_, err = f.WriteAt([]byte(content()[dataSize+holeSize:]), dataSize+holeSize)
	must(t, errors.Join(err, f.Chmod(0o444), f.Close()))
	return dir, o
}

func lstat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st
}

func TestContents(t *testing.T) {
	dir, o := sample(t)
	to := filepath.Join(dir, "out")
	t.Cleanup(func() { must(t, Remove(to)) }) // what RemoveAll would not for its modes
	must(t, Write(t.Context(), to, o))
	for _, name := range []string{"object", "other"} {
		got, err := os.ReadFile(filepath.Join(to, name))
		must(t, err)
		if string(got) != content() {
			t.Errorf("%s has %d bytes of other content", name, len(got))
		}
		if st := lstat(t, filepath.Join(to, name)); st.Blocks*512 >= int64(len(content())) || st.Mtim.Sec != 1_000_000_000 || st.Mtim.Nsec != 5 {
			t.Errorf("%s has %d blocks and the time %v: the hole, or the time, is lost", name, st.Blocks, st.Mtim)
		}
	}
	a, b := lstat(t, filepath.Join(to, "first")), lstat(t, filepath.Join(to, "closed/again"))
	if a.Ino != b.Ino || a.Nlink != 2 || a.Mode != unix.S_IFREG|0o4711 {
		t.Errorf("the file of two names is %+v and %+v", a, b)
	}
	for name, mode := range map[string]uint32{".": unix.S_IFDIR | 0o750, "closed": unix.S_IFDIR | 0o500, "closed/fifo": unix.S_IFIFO | 0o622, "object": unix.S_IFREG | 0o444, "other": unix.S_IFREG | 0o640} {
		if st := lstat(t, filepath.Join(to, name)); st.Mode != mode || st.Mtim.Sec != 1_000_000_000 {
			t.Errorf("%s has mode %#o and time %v, want %#o", name, st.Mode, st.Mtim, mode)
		}
	}
	if target, err := os.Readlink(filepath.Join(to, "link")); err != nil || target != "/etc/passwd" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	if _, err := unix.Lgetxattr(filepath.Join(to, "object"), "user.overlay.redirect", nil); !errors.Is(err, unix.ENODATA) {
		t.Errorf("a file with its content says where that is: %v", err)
	}
}

// TestLink links to an object that has all that the file shall have.
func TestLink(t *testing.T) {
	dir, o := sample(t)
	object := filepath.Join(o.Data[0], (&tree.Inode{Object: sha256.Sum256([]byte(content()))}).Object.Path())
	ts := unix.Timespec{Sec: 1_000_000_000, Nsec: 5}
	must(t, unix.UtimesNano(object, []unix.Timespec{ts, ts}))
	to := filepath.Join(dir, "out")
	t.Cleanup(func() { must(t, Remove(to)) })
	must(t, Write(t.Context(), to, o))
	if lstat(t, object).Ino != lstat(t, filepath.Join(to, "object")).Ino {
		t.Error("the file that agrees with its object in all is no link to it")
	}
	if lstat(t, object).Ino == lstat(t, filepath.Join(to, "other")).Ino {
		t.Error("a file of another mode is a link to the object")
	}
}

func TestMarks(t *testing.T) {
	dir, o := sample(t)
	o.Data = nil
	to := filepath.Join(dir, "out")
	t.Cleanup(func() { must(t, Remove(to)) })
	must(t, Write(t.Context(), to, o))
	st := lstat(t, filepath.Join(to, "other"))
	if st.Size != int64(len(content())) || st.Blocks > 8 {
		t.Errorf("a file whose content is elsewhere has size %d in %d blocks", st.Size, st.Blocks)
	}
	value := make([]byte, 100)
	n, err := unix.Lgetxattr(filepath.Join(to, "other"), "user.overlay.redirect", value)
	must(t, err)
	if want := "/" + (&tree.Inode{Object: sha256.Sum256([]byte(content()))}).Object.Path(); string(value[:n]) != want {
		t.Errorf("it says its content is at %q, want %q", value[:n], want)
	}
	if n, err := unix.Lgetxattr(filepath.Join(to, "other"), "user.overlay.metacopy", nil); err != nil || n != 0 {
		t.Errorf("its mark is of %d bytes, %v", n, err)
	}
}

func TestDevices(t *testing.T) {
	device := func(root *tree.Node) {
		root.Children = append(root.Children, &tree.Node{Name: "zero", Inode: &tree.Inode{Type: tree.CharDevice, Mode: 0o666, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Rdev: tree.Device{Major: 1, Minor: 5}}})
	}
	dir, o := sample(t, device)
	o.NoDevices = true
	to := filepath.Join(dir, "out")
	t.Cleanup(func() { must(t, Remove(to)) })
	must(t, Write(t.Context(), to, o))
	if st := lstat(t, filepath.Join(to, "zero")); st.Mode != unix.S_IFREG|0o666 || st.Size != 0 {
		t.Errorf("in place of a device there is %+v", st)
	}
	testenv.Root(t)
	o.NoDevices = false
	with := filepath.Join(dir, "with")
	must(t, Write(t.Context(), with, o))
	if st := lstat(t, filepath.Join(with, "zero")); st.Mode != unix.S_IFCHR|0o666 || st.Rdev != unix.Mkdev(1, 5) {
		t.Errorf("the device is %+v", st)
	}
}

func TestMake(t *testing.T) {
	dir, o := sample(t)
	to := filepath.Join(dir, "out")
	t.Cleanup(func() { must(t, Remove(to)) })
	errs := make(chan error)
	for range 4 {
		go func() { errs <- Make(context.Background(), to, o) }()
	}
	for range 4 {
		must(t, <-errs)
	}
	must(t, Make(t.Context(), to, o))
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if Unfinished(e.Name()) {
			t.Errorf("%s is left behind", e.Name())
		}
	}
}

func TestErrors(t *testing.T) {
	dir, o := sample(t)
	to := filepath.Join(dir, "out")
	must(t, os.RemoveAll(o.Data[0]))
	must(t, os.Mkdir(o.Data[0], 0o755))
	if err := Write(t.Context(), to, o); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/object: object ") {
		t.Errorf("without its object: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Make(ctx, to, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 2 {
		t.Errorf("failures leave %v behind", entries)
	}
	must(t, os.Mkdir(to, 0o755))
	if err := Write(t.Context(), to, o); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto a directory: %v", err)
	}
	o.Tree = to
	if err := Write(t.Context(), to+"2", o); err == nil {
		t.Error("a directory is taken for a tree")
	}
}
