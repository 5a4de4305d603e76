package snapshot_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/snapshot"
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
