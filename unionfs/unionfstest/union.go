package unionfstest

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
)

// Union is a mounted union beside a plain directory that shall equal it.
type Union struct {
	Root    string // where the union is mounted
	Control string // the plain directory

	h       Harness
	layers  unionfs.Layers
	dirs    []string // of the lower layers in upper format, the topmost first
	before  []snapshot
	started unix.Timespec
}

// newUnion writes the layers, mounts them below an empty upper, and checks that the
// result equals the control.
func newUnion(t *testing.T, h Harness, layers [][]Entry) *Union {
	t.Helper()
	tmp := t.TempDir()
	u := prepare(t, h, tmp, layers)
	must(t, os.Mkdir(filepath.Join(tmp, "upper"), 0o755))
	must(t, os.Mkdir(filepath.Join(tmp, "work"), 0o755))
	u.layers.Upper, u.layers.Work = filepath.Join(tmp, "upper"), filepath.Join(tmp, "work")
	u.inheritRoot(t)
	u.mount(t, unionfs.Options{})
	u.compare(t, "after the first mount")
	return u
}

// inheritRoot gives the upper directory, which is the root of the union, the metadata
// that the layers' root has, as whoever makes an upper has to.
func (u *Union) inheritRoot(t *testing.T) {
	t.Helper()
	root, err := look(u.Control)
	must(t, err)
	must(t, unix.Lchown(u.layers.Upper, int(root.uid), int(root.gid)))
	must(t, unix.Chmod(u.layers.Upper, root.mode&0o7777))
	for name, value := range root.xattrs {
		must(t, setXattr(u.layers.Upper, u.h.Namespace.Escape(name), value))
	}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, u.layers.Upper, []unix.Timespec{root.mtime, root.mtime}, 0))
}

// prepare writes the layers and mounts nothing.
func prepare(t *testing.T, h Harness, tmp string, layers [][]Entry) *Union {
	t.Helper()
	u := &Union{Root: filepath.Join(tmp, "root"), Control: filepath.Join(tmp, "control"), h: h}
	must(t, os.Mkdir(u.Root, 0o755))
	must(t, os.Mkdir(u.Control, 0o755))
	if len(layers) == 0 {
		layers = [][]Entry{{}}
	}
	u.dirs = writeLayers(t, layers, h.Namespace, tmp, u.Control)
	data := map[string]bool{}
	for _, dir := range u.dirs {
		u.before = append(u.before, capture(t, dir))
		lower := unionfs.Lower{Dir: dir}
		if h.Layer != nil {
			var more []string
			lower, more = h.Layer(t, dir)
			for _, d := range more {
				data[d] = true
			}
		}
		u.layers.Lower = append(u.layers.Lower, lower)
	}
	u.layers.Data = slices.Sorted(maps.Keys(data))
	must(t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &u.started))
	return u
}

func (u *Union) mount(t *testing.T, opts unionfs.Options) {
	t.Helper()
	attach(t, u.h.Driver, u.layers, opts, u.Root)
	t.Cleanup(func() { u.cleanup(t) })
}

// attach mounts at target.
func attach(t testing.TB, d unionfs.Driver, layers unionfs.Layers, opts unionfs.Options, target string) {
	t.Helper()
	m, err := d.Open(t.Context(), layers, opts)
	must(t, err)
	if err := m.Attach(t.Context(), target); err != nil {
		must(t, m.Close())
		t.Fatal(err)
	}
	must(t, m.Close())
}

// detach unmounts target.
func detach(t testing.TB, d unionfs.Driver, target string) {
	t.Helper()
	if err := unmount(d, target); err != nil {
		t.Error(err)
	}
}

func unmount(d unionfs.Driver, target string) error {
	ctx := context.Background() // t.Context() has ended when cleanups run
	if un, ok := d.(unionfs.Unmounter); ok {
		return un.Unmount(ctx, target, false)
	}
	return mountapi.Unmount(ctx, target, false)
}

func (u *Union) cleanup(t *testing.T) {
	if mounted, err := mountapi.Mounted(u.Root); err == nil && mounted {
		detach(t, u.h.Driver, u.Root)
	}
}

// Remount unmounts the union and mounts the same layers again.
func (u *Union) Remount(t *testing.T) {
	t.Helper()
	detach(t, u.h.Driver, u.Root)
	attach(t, u.h.Driver, u.layers, unionfs.Options{}, u.Root)
}

// At returns the path of a file in the union.
func (u *Union) At(path string) string { return filepath.Join(u.Root, path) }

// Apply applies operations to the union and the control, and fails the test where
// they end differently.
func (u *Union) Apply(t *testing.T, ops ...Op) {
	t.Helper()
	for i, op := range ops {
		got, gotErr := op.Do(u.Root)
		want, wantErr := op.Do(u.Control)
		if errno(gotErr) != errno(wantErr) {
			t.Fatalf("op %d, %s: ended with %v, on a plain directory with %v", i, op.Name, gotErr, wantErr)
		}
		if got != want {
			t.Fatalf("op %d, %s: gave %s, on a plain directory %s", i, op.Name, got, want)
		}
	}
}

// Verify checks all that the package comment promises of a case with operations.
func (u *Union) Verify(t *testing.T) {
	t.Helper()
	now := u.compare(t, "after the operations")
	u.Remount(t)
	again := u.compare(t, "after a remount")
	if _, lacking := u.h.lacks([]Power{StableInodes}); !lacking {
		for path, a := range again {
			if n, ok := now[path]; ok && n.ino != a.ino {
				t.Errorf("%q: inode number %d before the remount, %d after", path, n.ino, a.ino)
			}
		}
	}
	detach(t, u.h.Driver, u.Root)
	u.checkLowers(t)
	u.checkFormat(t)
}

// compare fails the test for every difference between the union and the control, and
// returns the union's snapshot.
func (u *Union) compare(t *testing.T, when string) snapshot {
	t.Helper()
	got := capture(t, u.Root)
	checkDirents(t, u.Root, got)
	if diffs := difference(got, capture(t, u.Control), u.started); len(diffs) > 0 {
		t.Errorf("the union differs from a plain directory %s:", when)
		for _, d := range diffs {
			t.Error("  " + d)
		}
	}
	return got
}

// checkLowers fails the test when a lower layer has changed.
func (u *Union) checkLowers(t *testing.T) {
	t.Helper()
	for i, dir := range u.dirs {
		for _, d := range difference(capture(t, dir), u.before[i], u.started) {
			t.Errorf("lower layer %d changed: %s", i, d)
		}
	}
}

// checkFormat fails the test when the upper, read by the format's definition, does
// not give the control.
func (u *Union) checkFormat(t *testing.T) {
	t.Helper()
	r := formatReader{namespace: u.h.Namespace, dirs: append([]string{u.layers.Upper}, u.dirs...), data: u.layers.Data}
	got, err := r.read()
	must(t, err)
	want := capture(t, u.Control)
	for _, d := range difference(got.comparable(), want.comparable(), u.started) {
		t.Errorf("the upper's format, read with the layers, gives another tree: %s", d)
	}
}
