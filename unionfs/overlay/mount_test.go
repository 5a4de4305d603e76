package overlay_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/overlay"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

// bench is a temporary directory with the places of a union in it.
type bench struct {
	dir    string
	layers unionfs.Layers
}

func newBench(t testing.TB, trees int) bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting with overlayfs needs root")
	}
	b := bench{dir: t.TempDir()}
	for _, name := range []string{"upper", "work", "target", "lower"} {
		must(t, os.Mkdir(b.at(name), 0o755))
	}
	b.layers.Upper, b.layers.Work = b.at("upper"), b.at("work")
	for i := range trees {
		image := b.at(fmt.Sprintf("tree%03d", i))
		unionfstest.WriteTree(t, image, smallTree(i))
		b.layers.Lower = append(b.layers.Lower, unionfs.Lower{Tree: image})
	}
	return b
}

// smallTree has a file that all trees have and one of its own.
func smallTree(i int) *tree.Node {
	file := func(text string) *tree.Inode {
		return &tree.Inode{Type: tree.Regular, Mode: 0o644, Size: int64(len(text)), Inline: text}
	}
	return &tree.Node{Inode: tree.Implied(), Children: []*tree.Node{
		{Name: "all", Inode: file(fmt.Sprint("of tree ", i))},
		{Name: fmt.Sprintf("own%03d", i), Inode: file("own")},
	}}
}

func (b bench) at(name string) string { return filepath.Join(b.dir, name) }

// use mounts with a driver, runs do on the mounted root, and unmounts.
func (b bench) use(t testing.TB, opts overlay.Options, how unionfs.Options, do func(root string)) {
	t.Helper()
	driver := overlay.New(opts)
	m, err := driver.Open(t.Context(), b.layers, how)
	must(t, err)
	must(t, m.Attach(t.Context(), b.at("target")))
	must(t, m.Close())
	defer func() { must(t, driver.Unmount(t.Context(), b.at("target"), false)) }()
	do(b.at("target"))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expectFile(t testing.TB, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v, want %q", path, got, err, want)
	}
}

func TestDeepStacks(t *testing.T) {
	for _, n := range []int{1, 2, 100, 400, unionfs.MaxLayers} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			b := newBench(t, n)
			b.use(t, overlay.Options{}, unionfs.Options{}, func(root string) {
				expectFile(t, filepath.Join(root, "all"), "of tree 0")
				expectFile(t, filepath.Join(root, fmt.Sprintf("own%03d", n-1)), "own")
				must(t, os.Remove(filepath.Join(root, "all")))
				must(t, os.WriteFile(filepath.Join(root, fmt.Sprintf("own%03d", n-1)), []byte("changed"), 0o644))
			})
		})
	}
}

func TestTooManyLayers(t *testing.T) {
	b := newBench(t, 1)
	for range unionfs.MaxLayers {
		b.layers.Lower = append(b.layers.Lower, b.layers.Lower[0])
	}
	_, err := overlay.New(overlay.Options{}).Open(t.Context(), b.layers, unionfs.Options{})
	if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "501 lower layers") {
		t.Errorf("opening 501 layers: %v", err)
	}
}

// TestWays mounts in the ways of older kernels too.
func TestWays(t *testing.T) {
	for _, opts := range []overlay.Options{
		{}, {Paths: true}, {Staged: true}, {Staged: true, Paths: true}, {LoopDevices: true}, {LoopDevices: true, Staged: true, Paths: true},
	} {
		t.Run(fmt.Sprintf("%+v", opts), func(t *testing.T) {
			b := newBench(t, 3)
			for _, how := range []unionfs.Options{{}, {ReadOnly: true}} {
				b.use(t, opts, how, func(root string) {
					expectFile(t, filepath.Join(root, "all"), "of tree 0")
					expectFile(t, filepath.Join(root, "own002"), "own")
					err := os.WriteFile(filepath.Join(root, "own001"), []byte("own"), 0o644)
					if how.ReadOnly != errors.Is(err, unix.EROFS) || !how.ReadOnly && err != nil {
						t.Errorf("write with %+v: %v", how, err)
					}
				})
			}
		})
	}
}

func TestOneTreeWithoutMetacopy(t *testing.T) {
	b := newBench(t, 2)
	b.layers.Data = []string{b.at("data")}
	must(t, os.Mkdir(b.at("data"), 0o755))
	_, err := overlay.New(overlay.Options{NoMetacopy: true}).Open(t.Context(), b.layers, unionfs.Options{})
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "merge the stack") {
		t.Errorf("two trees with data and no metacopy: %v, want the advice to merge", err)
	}
	b.layers.Lower = []unionfs.Lower{{Dir: b.at("lower")}, b.layers.Lower[0]}
	b.use(t, overlay.Options{NoMetacopy: true}, unionfs.Options{}, func(root string) { expectFile(t, filepath.Join(root, "all"), "of tree 0") })
}

// TestStoreOnOverlay has the store itself on an overlay, where EROFS refuses files.
func TestStoreOnOverlay(t *testing.T) {
	outer := newBench(t, 0)
	outer.layers.Lower = []unionfs.Lower{{Dir: outer.at("lower")}}
	outer.use(t, overlay.Options{}, unionfs.Options{}, func(root string) {
		inner := bench{dir: root}
		for _, name := range []string{"target", "data"} {
			must(t, os.Mkdir(inner.at(name), 0o755))
		}
		unionfstest.WriteTree(t, inner.at("tree"), smallTree(7))
		inner.layers.Lower = []unionfs.Lower{{Tree: inner.at("tree")}}
		inner.use(t, overlay.Options{}, unionfs.Options{ReadOnly: true}, func(root string) { expectFile(t, filepath.Join(root, "all"), "of tree 7") })
		waitForLoops(t, inner.at("tree"))
		features := overlay.New(overlay.Options{}).Features(t.Context(), root)
		if unionfs.HasFeature(features, overlay.FeatureTrees) {
			t.Log("this kernel mounts EROFS from files on an overlay; the loop device was not needed")
		}
	})
}

// waitForLoops waits until no loop device serves the file: the kernel gives one up a
// moment after the mount.
func waitForLoops(t *testing.T, file string) {
	t.Helper()
	for range 200 {
		used := false
		devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		must(t, err)
		for _, d := range devices {
			if name, err := os.ReadFile(d); err == nil && strings.Contains(string(name), filepath.Base(filepath.Dir(file))) {
				used = true
			}
		}
		if !used {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("a loop device still serves %s", file)
}

func TestLongAndOddPaths(t *testing.T) {
	b := newBench(t, 0)
	dir := b.dir
	for range 5 {
		dir = filepath.Join(dir, strings.Repeat("p", 150))
	}
	dir = filepath.Join(dir, "a:b,c=d\\e\n\xff ")
	inner := bench{dir: dir}
	for _, name := range []string{"upper", "work", "target", "data", "lower"} {
		must(t, os.MkdirAll(inner.at(name), 0o755))
	}
	unionfstest.WriteTree(t, inner.at("tree"), smallTree(1))
	inner.layers = unionfs.Layers{
		Lower: []unionfs.Lower{{Dir: inner.at("lower")}, {Tree: inner.at("tree")}}, Data: []string{inner.at("data")}, Upper: inner.at("upper"), Work: inner.at("work"),
	}
	for _, opts := range []overlay.Options{{}, {Paths: true}, {LoopDevices: true}} {
		inner.use(t, opts, unionfs.Options{Source: "odd source"}, func(root string) {
			expectFile(t, filepath.Join(root, "all"), "of tree 1")
			infos, err := mountapi.List(root)
			must(t, err)
			if len(infos) != 1 || infos[0].Type != "overlay" || infos[0].Source != "odd source" {
				t.Errorf("mountinfo shows %+v", infos)
			}
		})
	}
}

func TestDetached(t *testing.T) {
	b := newBench(t, 1)
	before, err := mountapi.List("")
	must(t, err)
	m, err := overlay.New(overlay.Options{}).Open(t.Context(), b.layers, unionfs.Options{})
	must(t, err)
	own, ok := m.(*overlay.Mount)
	if !ok {
		t.Fatalf("the mount is a %T", m)
	}
	fd := own.FD()
	expectFile(t, filepath.Join(mountapi.FdPath(fd), "all"), "of tree 0")
	after, err := mountapi.List("")
	must(t, err)
	if len(after) != len(before) {
		t.Errorf("a detached union shows in mountinfo: %d mounts before, %d after", len(before), len(after))
	}
	must(t, m.Attach(t.Context(), b.at("target")))
	if err := m.Attach(t.Context(), b.at("lower")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("attaching twice: %v, want fs.ErrInvalid", err)
	}
	err = mountapi.Unmount(t.Context(), b.at("target"), false)
	var busy *mountapi.BusyError
	if !errors.As(err, &busy) || !errors.Is(err, unix.EBUSY) || len(busy.Holders) == 0 || !strings.Contains(busy.Holders[0], fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("unmounting what this process holds: %v, want a busy error that names it", err)
	}
	must(t, m.Close())
	must(t, m.Close())
	if err := m.Attach(t.Context(), b.at("lower")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("attaching after Close: %v, want fs.ErrClosed", err)
	}
	must(t, mountapi.Unmount(t.Context(), b.at("target"), false))
}

func TestVolatile(t *testing.T) {
	b := newBench(t, 1)
	b.use(t, overlay.Options{}, unionfs.Options{Volatile: true}, func(root string) {
		must(t, os.WriteFile(filepath.Join(root, "new"), []byte("x"), 0o644))
	})
	_, err := overlay.New(overlay.Options{}).Open(t.Context(), b.layers, unionfs.Options{})
	if err == nil || !strings.Contains(err.Error(), "mounted volatile before") {
		t.Errorf("mounting a volatile upper again: %v, want a refusal that says why", err)
	}
	b.use(t, overlay.Options{}, unionfs.Options{ReadOnly: true}, func(root string) { expectFile(t, filepath.Join(root, "new"), "x") })
}

func TestErrors(t *testing.T) {
	b := newBench(t, 2)
	must(t, os.WriteFile(b.at("nonsense"), make([]byte, 8192), 0o644))
	must(t, os.WriteFile(b.at("empty"), nil, 0o644))
	other := "/dev/shm"
	var here, there unix.Stat_t
	must(t, unix.Stat(b.dir, &here))
	crossing := unix.Stat(other, &there) == nil && here.Dev != there.Dev
	with := func(change func(l *unionfs.Layers)) unionfs.Layers {
		l := b.layers
		l.Lower = append([]unionfs.Lower(nil), l.Lower...)
		change(&l)
		return l
	}
	for _, c := range []struct {
		name   string
		layers unionfs.Layers
		opts   unionfs.Options
		is     error
		says   []string
	}{
		{name: "no layers", layers: unionfs.Layers{}, is: fs.ErrInvalid, says: []string{"at least one"}},
		{name: "upper without work", layers: with(func(l *unionfs.Layers) { l.Work = "" }), is: fs.ErrInvalid, says: []string{"go together"}},
		{name: "neither tree nor directory", layers: with(func(l *unionfs.Layers) { l.Lower[1] = unionfs.Lower{} }), is: fs.ErrInvalid, says: []string{"lower layer 1"}},
		{name: "missing tree", layers: with(func(l *unionfs.Layers) { l.Lower[1].Tree = b.at("none") }), is: fs.ErrNotExist, says: []string{"lower layer 2 of 2", b.at("none")}},
		{name: "missing directory", layers: with(func(l *unionfs.Layers) { l.Lower[0] = unionfs.Lower{Dir: b.at("none")} }), is: fs.ErrNotExist, says: []string{"lower layer 1 of 2", b.at("none")}},
		{name: "missing data", layers: with(func(l *unionfs.Layers) { l.Data = []string{b.at("none")} }), is: fs.ErrNotExist, says: []string{"data directory 1 of 1", b.at("none")}},
		{name: "missing upper", layers: with(func(l *unionfs.Layers) { l.Upper = b.at("none") }), is: fs.ErrNotExist, says: []string{"upper directory", b.at("none")}},
		{name: "file as directory", layers: with(func(l *unionfs.Layers) { l.Lower[0] = unionfs.Lower{Dir: b.at("nonsense")} }), is: fs.ErrInvalid, says: []string{"not a directory"}},
		{name: "no EROFS image", layers: with(func(l *unionfs.Layers) { l.Lower[1].Tree = b.at("nonsense") }), is: unix.EINVAL, says: []string{"lower layer 2 of 2", b.at("nonsense"), "erofs", "made anew"}},
		{name: "empty image", layers: with(func(l *unionfs.Layers) { l.Lower[1].Tree = b.at("empty") }), is: nil, says: []string{"lower layer 2 of 2", b.at("empty"), "made anew"}},
		{name: "work inside upper", layers: with(func(l *unionfs.Layers) { l.Work = b.at("upper/work") }), is: unix.EINVAL, says: []string{"separate subtrees"}},
		{name: "same directory twice", layers: with(func(l *unionfs.Layers) { l.Data = []string{b.at("lower"), b.at("lower")} }), is: unix.ELOOP, says: []string{"within another"}},
		{name: "long source", layers: b.layers, opts: unionfs.Options{Source: strings.Repeat("s", 256)}, is: fs.ErrInvalid, says: []string{"limit 255"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "work inside upper" {
				must(t, os.Mkdir(b.at("upper/work"), 0o755))
			}
			expectError(t, c.layers, c.opts, c.is, c.says)
		})
	}
	if !crossing {
		t.Skipf("%s is no other file system, so a work directory there says nothing", other)
	}
	expectError(t, with(func(l *unionfs.Layers) { l.Work = other }), unionfs.Options{}, unix.EINVAL, []string{"on one file system"})
}

func expectError(t *testing.T, layers unionfs.Layers, opts unionfs.Options, is error, says []string) {
	t.Helper()
	m, err := overlay.New(overlay.Options{}).Open(t.Context(), layers, opts)
	if err == nil {
		must(t, m.Close())
		t.Fatal("it mounted")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error %v, want one that wraps %v", err, is)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
}

func TestFeatures(t *testing.T) {
	b := newBench(t, 0)
	driver := overlay.New(overlay.Options{})
	must(t, driver.Probe(t.Context(), b.dir))
	features := driver.Features(t.Context(), b.dir)
	if features[0].Name != unionfs.FeatureDriver || !features[0].OK {
		t.Errorf("the first feature is %+v", features[0])
	}
	for _, name := range []string{unionfs.FeatureStackedTrees, unionfs.FeatureMetadataCopyUp, unionfs.FeatureDirRename} {
		if !unionfs.HasFeature(features, name) {
			t.Errorf("no %q among %+v", name, features)
		}
	}
	without := overlay.New(overlay.Options{NoMetacopy: true, LoopDevices: true}).Features(t.Context(), b.dir)
	for _, name := range []string{unionfs.FeatureStackedTrees, unionfs.FeatureMetadataCopyUp, unionfs.FeatureDirRename, overlay.FeatureTrees} {
		if unionfs.HasFeature(without, name) {
			t.Errorf("%q is said to be there when the driver must do without: %+v", name, without)
		}
	}
	if !unionfs.HasFeature(without, unionfs.FeatureDriver) {
		t.Errorf("the driver is of no use without metacopy: %+v", without)
	}
	entries, err := os.ReadDir(b.dir)
	must(t, err)
	if len(entries) != 4 {
		t.Errorf("probing left something behind: %v", entries)
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	newBench(t, 0)
	driver := overlay.New(overlay.Options{})
	if err := driver.Probe(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("probing a missing directory: %v", err)
	}
	// procfs can hold no upper.
	if err := driver.Probe(t.Context(), "/proc"); err == nil {
		t.Error("probing /proc found nothing missing")
	}
}
