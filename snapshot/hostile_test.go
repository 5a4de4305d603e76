package snapshot_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

// Any process in a container may set attributes user.overlay.*. A mount by root shows
// them like others, and so must a commit: they neither hide files nor disappear.
func TestUserAttributesAreNoMarkers(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	base := e.layer(baseEntries()...)
	_, err := e.snaps.Prepare(e.ctx, "work", snapshot.PrepareOptions{Layers: []snapshot.DiffID{base}})
	e.ok(err)
	dir := e.mount("work", false)
	e.sh(dir, `setfattr -n user.overlay.opaque -v y tree
		setfattr -n user.overlay.redirect -v /etc usr
		: >empty; setfattr -n user.overlay.whiteout -v y empty
		: >etc/conf; setfattr -n user.overlay.whiteout -v y etc/conf
		cp etc/big etc/copy; setfattr -n user.overlay.metacopy -v '' etc/copy; setfattr -n user.overlay.redirect -v /bin/tool etc/copy
		setfattr -n user.overlay.overlay.opaque -v y tree/a`)
	e.checkCommit("work", dir)
}

// The root directory of an image may carry what overlayfs would take for its own.
func TestRootAttributesAreEscaped(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	base := e.layer(entry{name: "./", xa: map[string]string{"trusted.overlay.redirect": "/etc"}}, entry{name: "etc/"})
	_, err := e.snaps.Prepare(e.ctx, "work", snapshot.PrepareOptions{Layers: []snapshot.DiffID{base}})
	e.ok(err)
	upper := e.snaps.Upper("work")
	if v, err := xattr(upper, "trusted.overlay.redirect"); !errors.Is(err, unix.ENODATA) {
		t.Errorf("the upper is marked as redirected to %q, %v", v, err)
	}
	if v, err := xattr(upper, "trusted.overlay.overlay.redirect"); err != nil || v != "/etc" {
		t.Errorf("attribute of the image's root: %q, %v", v, err)
	}
}

func xattr(path, name string) (string, error) {
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, b)
	return string(b[:max(n, 0)]), err
}

// A process in a container that replaces a file by a device while it is committed must
// not have the device opened.
func TestContentsAreRegularFiles(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	_, err := e.snaps.Prepare(e.ctx, "work", snapshot.PrepareOptions{})
	e.ok(err)
	name := filepath.Join(e.snaps.Upper("work"), "file")
	e.ok(os.WriteFile(name, []byte(big), 0o644))
	r, err := e.snaps.OpenSnapshot(e.ctx, "work")
	e.ok(err)
	t.Cleanup(func() { e.ok(r.Close()) })
	list, err := r.Stat("file")
	e.ok(err)
	e.ok(os.Remove(name))
	e.ok(unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))) // /dev/zero
	if f, err := r.Content(e.ctx, "file", list[0].Inode); err == nil {
		b := make([]byte, 1)
		n, rerr := f.Read(b)
		t.Errorf("a device in the place of a file was opened: read %d, %v", n, rerr)
		e.ok(f.Close())
	}
}

// deepen makes a chain of n directories named d below dir, and a file at its end.
func deepen(t *testing.T, dir string, n int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range n {
		if err == nil {
			err = unix.Mkdirat(fd, "d", 0o755)
		}
		if err != nil {
			break
		}
		sub, serr := unix.Openat(fd, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		_ = unix.Close(fd)
		fd, err = sub, serr
	}
	if err == nil {
		err = unix.Mknodat(fd, "f", unix.S_IFREG|0o644, 0)
		_ = unix.Close(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A path of as many names as the limit allows is committed, one more is refused, and
// neither keeps a snapshot from being listed and removed. Messages stay short.
func TestDeepUpper(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	for _, c := range []struct {
		key  snapshot.Key
		deep int
		want error
	}{
		{"limit", tree.MaxDepth - 1, nil},
		{"beyond", tree.MaxDepth, errors.ErrUnsupported},
	} {
		_, err := e.snaps.Prepare(e.ctx, c.key, snapshot.PrepareOptions{})
		e.ok(err)
		deepen(t, e.snaps.Upper(c.key), c.deep)
		if _, err := e.snaps.Changes(e.ctx, c.key); !errors.Is(err, c.want) {
			t.Errorf("changes of %d directories: %.200v, want %v", c.deep, err, c.want)
		}
		_, _, err = e.snaps.Commit(e.ctx, e.sess, c.key)
		if !errors.Is(err, c.want) || err != nil && len(fmt.Sprint(err)) > 3*tree.MaxPath {
			t.Errorf("commit of %d directories: %.200v, want %v", c.deep, err, c.want)
		}
		u, err := e.snaps.Usage(e.ctx, c.key)
		if err != nil || u.Inodes < tree.MaxDepth {
			t.Errorf("usage of %d directories: %+v, %v", c.deep, u, err)
		}
		e.ok(e.snaps.Remove(e.ctx, c.key))
		if _, err := os.Stat(e.snaps.Upper(c.key)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after removal: %v", err)
		}
	}
}
