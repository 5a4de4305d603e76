package fuse_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is a directory with one lower layer in it and room for a union.
type place struct {
	root   string
	layers unionfs.Layers
}

func newPlace(t *testing.T) place {
	t.Helper()
	tmp := t.TempDir()
	at := func(name string) string { return filepath.Join(tmp, name) }
	for _, name := range []string{"root", "lower", "upper", "work"} {
		must(t, os.Mkdir(at(name), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(at("lower"), "file"), []byte("lower"), 0o644))
	return place{at("root"), unionfs.Layers{Lower: []unionfs.Lower{{Dir: at("lower")}}, Upper: at("upper"), Work: at("work")}}
}

func (p place) mount(t *testing.T, d *fuse.Driver, opts unionfs.Options) {
	t.Helper()
	if err := d.Probe(t.Context(), filepath.Dir(p.root)); err != nil {
		t.Skip(err)
	}
	m, err := d.Open(t.Context(), p.layers, opts)
	must(t, err)
	must(t, m.Attach(t.Context(), p.root))
	must(t, m.Close())
}

// server returns the process that serves a mount.
func server(t *testing.T, root string) int {
	t.Helper()
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, root, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st))
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	want := []byte(fmt.Sprintf("layerfs\x00%s\x00%s\x00%d\x00", fuse.ServerArgs()[0], fuse.ServerArgs()[1], st.Dev_minor))
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && bytes.Equal(line, want) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			must(t, err)
			return pid
		}
	}
	t.Fatalf("no process serves %s", root)
	return 0
}

// TestKilledServer kills the server in the middle of its work. Nobody hangs, the mount
// goes away as any other, nothing that was written is lost, and the union can be
// mounted again.
func TestKilledServer(t *testing.T) {
	d, p := fuse.New(fuse.Options{}), newPlace(t)
	p.mount(t, d, unionfs.Options{})
	must(t, os.WriteFile(filepath.Join(p.root, "file"), []byte("written"), 0o644))
	open, err := os.Create(filepath.Join(p.root, "open"))
	must(t, err)
	_, err = open.WriteString("synced")
	must(t, errors.Join(err, open.Sync()))
	must(t, unix.Kill(server(t, p.root), unix.SIGKILL))
	for range 500 {
		if _, err = os.ReadDir(p.root); errors.Is(err, unix.ENOTCONN) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("reading without a server: %v, want ENOTCONN", err)
	}
	_ = open.Close() // fails: there is nobody to tell
	must(t, d.Unmount(t.Context(), p.root, false))

	p.mount(t, d, unionfs.Options{})
	for name, want := range map[string]string{"file": "written", "open": "synced"} {
		if got, err := os.ReadFile(filepath.Join(p.root, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v, want %q", name, got, err, want)
		}
	}
	must(t, d.Unmount(t.Context(), p.root, false))
}

// TestStoppedServer takes down a mount whose server does not move. Who waits for an answer
// gets an error.
func TestStoppedServer(t *testing.T) {
	d, p := fuse.New(fuse.Options{}), newPlace(t)
	p.mount(t, d, unionfs.Options{})
	pid := server(t, p.root)
	must(t, unix.Kill(pid, unix.SIGSTOP))
	waiting := make(chan error)
	go func() { waiting <- os.Mkdir(filepath.Join(p.root, "dir"), 0o755) }()
	time.Sleep(100 * time.Millisecond) // for the call to be on its way, mostly
	must(t, d.Unmount(t.Context(), p.root, true))
	select {
	case err := <-waiting:
		if err == nil {
			t.Error("a stopped server made a directory")
		}
	case <-time.After(time.Minute):
		t.Error("a call still waits for a server that was stopped")
	}
	if mounted, err := mountapi.Mounted(p.root); mounted || err != nil {
		t.Errorf("still mounted: %v, %v", mounted, err)
	}
}

func TestDetachedUnion(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("fusermount3 makes no detached mounts")
	}
	d, p := fuse.New(fuse.Options{}), newPlace(t)
	m, err := d.Open(t.Context(), p.layers, unionfs.Options{})
	must(t, err)
	own := m.(*fuse.Mount)
	if got, err := os.ReadFile(filepath.Join(mountapi.FdPath(own.FD()), "file")); err != nil || string(got) != "lower" {
		t.Errorf("file holds %q, %v", got, err)
	}
	must(t, m.Close())
	must(t, m.Close())
	// Its server ends with it and gives the upper free, for which the next one waits.
	p.mount(t, d, unionfs.Options{})
	must(t, d.Unmount(t.Context(), p.root, false))
}

// TestFusermount mounts as ordinary users have to.
func TestFusermount(t *testing.T) {
	d, p := fuse.New(fuse.Options{Fusermount: true}), newPlace(t)
	p.mount(t, d, unionfs.Options{Source: "a,b"})
	infos, err := mountapi.List(p.root)
	must(t, err)
	if len(infos) != 1 || infos[0].Type != fuse.MountType || infos[0].Source != "a,b" {
		t.Errorf("mountinfo shows %+v", infos)
	}
	must(t, os.WriteFile(filepath.Join(p.root, "file"), []byte("written"), 0o644))
	must(t, d.Unmount(t.Context(), p.root, false))
	if got, err := os.ReadFile(filepath.Join(p.layers.Upper, "file")); err != nil || string(got) != "written" {
		t.Errorf("the upper has %q, %v", got, err)
	}
}

// TestVolatile refuses an upper that was mounted volatile.
func TestVolatile(t *testing.T) {
	d, p := fuse.New(fuse.Options{}), newPlace(t)
	p.mount(t, d, unionfs.Options{Volatile: true})
	must(t, d.Unmount(t.Context(), p.root, false))
	m, err := d.Open(t.Context(), p.layers, unionfs.Options{})
	if err == nil {
		err = m.Attach(t.Context(), p.root)
		must(t, m.Close())
	}
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("volatile")) {
		t.Errorf("mounting what was volatile: %v", err)
	}
}

// TestUnreadable writes to a file of a lower directory that its owner may write and not
// read: for others than root its content cannot be copied up, where some of it is to stay.
func TestUnreadable(t *testing.T) {
	d, p := fuse.New(fuse.Options{}), newPlace(t)
	must(t, os.Chmod(filepath.Join(p.layers.Lower[0].Dir, "file"), 0o200))
	p.mount(t, d, unionfs.Options{})
	file := filepath.Join(p.root, "file")
	err := os.Truncate(file, 3)
	if os.Geteuid() == 0 {
		must(t, err)
	} else if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("shortened: %v", err)
	}
	must(t, os.Truncate(file, 0))
	must(t, os.Truncate(file, 3))
	must(t, d.Unmount(t.Context(), p.root, false))
	if st, err := os.Stat(filepath.Join(p.layers.Upper, "file")); err != nil || st.Size() != 3 || st.Mode() != 0o200 {
		t.Errorf("in the upper: %v, %v", st, err)
	}
}
