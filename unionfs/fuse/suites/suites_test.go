package suites

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

var (
	long   = flag.Bool("long", false, "run whole suites instead of a sample")
	length = flag.Duration("length", time.Hour, "with -long, how long the tests run that have no end of their own")
)

// cacheDir is where tools/suites.sh builds the programs, so that unprivileged test runs
// find them too.
const cacheDir = "/var/cache/layerfs-suites"

// TestMain is also the server process of these tests, the programs that
// unionmount-testsuite calls, and a worker of TestChaos.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == fuse.ServerArgs()[0]:
		if err := fuse.Serve(os.Stderr); err != nil {
			log.Fatal(err)
		}
		return
	case len(os.Args) > 1 && os.Args[1] == mountCommand:
		if err := mountForSuite(os.Args[2:]); err != nil {
			log.Fatal(err)
		}
		return
	case len(os.Args) > 2 && os.Args[1] == workerCommand:
		workInChaos(os.Args[2])
		return
	case len(os.Args) > 2 && os.Args[1] == unmountCommand:
		if err := fuse.New(fuse.Options{}).Unmount(context.Background(), os.Args[2], false); err != nil {
			log.Fatal(err)
		}
		return
	}
	code, err := unionfstest.Main(m)
	if err != nil {
		log.Print(err)
	}
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// program returns the path of what tools/suites.sh has made.
func program(t testing.TB, elem ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{cacheDir}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%v; tools/suites.sh builds it", err)
	}
	return path
}

// duration is how long a test without an end of its own runs.
func duration(short time.Duration) time.Duration {
	if *long {
		return *length
	}
	return short
}

// place is a union of one lower directory below an empty upper one.
type place struct {
	dir    string // has all that follows, and room for more
	root   string // where the union is mounted
	lower  string
	layers unionfs.Layers
	driver unionfs.Driver
}

// newPlace makes the directories, in dir or a temporary one.
func newPlace(t testing.TB, d unionfs.Driver, dir string) *place {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	p := &place{dir: dir, root: filepath.Join(dir, "root"), lower: filepath.Join(dir, "lower"), driver: d}
	for _, name := range []string{"root", "lower", "upper", "work"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	p.layers = unionfs.Layers{
		Lower: []unionfs.Lower{{Dir: p.lower}},
		Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
	}
	return p
}

// mount mounts the union; it is unmounted when the test ends.
func (p *place) mount(t testing.TB) {
	t.Helper()
	if err := p.driver.Probe(t.Context(), p.dir); err != nil {
		t.Skip(err)
	}
	m, err := p.driver.Open(t.Context(), p.layers, unionfs.Options{})
	must(t, err)
	if err := m.Attach(t.Context(), p.root); err != nil {
		must(t, m.Close())
		t.Fatal(err)
	}
	must(t, m.Close())
	t.Cleanup(func() {
		if mounted, err := mountapi.Mounted(p.root); mounted && err == nil {
			p.unmount(t, false)
		}
	})
}

func (p *place) unmount(t testing.TB, force bool) {
	t.Helper()
	ctx := context.Background() // t.Context() has ended when cleanups run
	if un, ok := p.driver.(unionfs.Unmounter); ok {
		must(t, un.Unmount(ctx, p.root, force))
		return
	}
	must(t, mountapi.Unmount(ctx, p.root, force))
}

// passable lets other users pass the directories above path, which a test has made.
func passable(t testing.TB, path string) {
	t.Helper()
	for ; strings.HasPrefix(path, os.TempDir()); path = filepath.Dir(path) {
		must(t, os.Chmod(path, 0o755))
	}
}

// namespace is the one that the driver uses for who runs the tests.
func namespace() unionfs.Namespace {
	if os.Geteuid() == 0 {
		return unionfs.Trusted
	}
	return unionfs.User
}

// run runs a program in a directory and returns all that it printed.
func run(t testing.TB, dir, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, tail(string(out)))
	}
	return string(out), err
}

// tail returns the end of a program's output.
func tail(text string) string {
	const most = 4000
	if len(text) > most {
		return "…" + text[len(text)-most:]
	}
	return text
}
