package crashtest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

var (
	long      = flag.Bool("long", false, "run all cases instead of a sample")
	keepStore = flag.Bool("keep-store", false, "write a store of today's format into testdata")
	draw      = flag.Uint64("draw", uint64(time.Now().UnixNano()%1_000_000), "what the samples of the short form are drawn by")
	given     = flag.String("program", "", "layerfs to test; built from the sources when empty")
)

// program builds layerfs once for all tests.
var program = sync.OnceValues(func() (string, error) {
	if *given != "" {
		return *given, nil
	}
	return build()
})

func build(flags ...string) (string, error) {
	dir, err := os.MkdirTemp("", "crashtest")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "layerfs")
	cmd := exec.Command("go", append(append([]string{"build", "-o", bin}, flags...), "github.com/layerfs/layerfs/cmd/layerfs")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build layerfs: %w\n%s", err, out)
	}
	return bin, nil
}

func TestMain(m *testing.M) {
	flag.Parse()
	fmt.Printf("samples are drawn with -draw=%d\n", *draw)
	code := m.Run()
	if bin, err := program(); err == nil && *given == "" {
		if err := os.RemoveAll(filepath.Dir(bin)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// sample returns numbers from 1 to total: in the long form all, else some of them by
// chance, one out of each of that many equal parts.
func sample(t testing.TB, total, some int) (out []int) {
	t.Helper()
	if *long || total <= some {
		for n := 1; n <= total; n++ {
			out = append(out, n)
		}
		return out
	}
	h := fnv.New64()
	h.Write([]byte(t.Name()))
	random := rand.New(rand.NewPCG(*draw, h.Sum64()))
	for i := range some {
		from, to := total*i/some, total*(i+1)/some
		out = append(out, 1+from+random.IntN(to-from))
	}
	return out
}

// world is a directory with a store, archives and a place to mount on.
type world struct {
	t    testing.TB
	bin  string
	dir  string
	env  []string
	root string // of the store
}

// newWorld needs root. The directory must be empty; its file system is the store's.
func newWorld(t testing.TB, dir string) *world {
	t.Helper()
	testenv.Root(t)
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, bin: bin, dir: dir, root: filepath.Join(dir, "store")}
	// A clock that stands makes two runs of one command comparable byte for byte.
	w.env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000", "LAYERFS_ROOT="+w.root)
	w.ok(os.MkdirAll(w.path("mnt"), 0o755))
	return w
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(w.bin, args...)
	cmd.Env = w.env
	cmd.Dir = w.dir
	return cmd
}

// run returns what a command printed and its exit code.
func (w *world) run(args ...string) (string, int) {
	w.t.Helper()
	out, err := w.command(args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("layerfs %s: %v", strings.Join(args, " "), err)
	}
	if exit != nil {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// must runs a command that is to succeed, and returns what it printed.
func (w *world) must(args ...string) string {
	w.t.Helper()
	out, code := w.run(args...)
	if code != 0 {
		w.t.Fatalf("layerfs %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// files are the contents of a tar by name; a name that ends in "/" is a directory.
type files map[string]string

// content returns bytes that differ from word to word.
func content(word string, size int) string {
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%s %d %x\n", word, i, sha256.Sum256(fmt.Append(nil, word, i)))
	}
	return b.String()[:size]
}

func (w *world) tar(name string, f files) string {
	w.t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	var names []string
	for n := range f {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		h := &tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(f[n])), ModTime: time.Unix(1_600_000_000, 0)}
		if strings.HasSuffix(n, "/") {
			h.Typeflag = tar.TypeDir
		}
		w.ok(tw.WriteHeader(h))
		_, err := tw.Write([]byte(f[n]))
		w.ok(err)
	}
	w.ok(tw.Close())
	w.ok(os.WriteFile(w.path(name), b.Bytes(), 0o600))
	return w.path(name)
}

// write puts files into a mounted snapshot.
func (w *world) write(dir string, f files) {
	w.t.Helper()
	for name, text := range f {
		p := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			w.ok(os.MkdirAll(p, 0o755))
			continue
		}
		w.ok(os.MkdirAll(filepath.Dir(p), 0o755))
		w.ok(os.WriteFile(p, []byte(text), 0o644))
	}
}

// random is what differs from run to run in the names and records of a store.
var random = regexp.MustCompile(`sealed-[A-Z2-7]{16}`)

// listing returns every file of the store with its size and content, without the
// sums, whose epoch grows, the note of gc, which has times of files, and the events of
// containers.
func (w *world) listing() map[string]string {
	w.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(w.root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(w.root, p)
		if err != nil || rel == "usage.json" || rel == "gc.memo" || rel == "containers/events.json" || strings.HasSuffix(rel, "/work/work") || d.IsDir() && strings.HasPrefix(rel, "objects/") {
			return err
		}
		what := d.Type().String()
		if d.Type().IsRegular() {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what = fmt.Sprintf("%x", sha256.Sum256(random.ReplaceAll(data, []byte("sealed"))))
		}
		out[random.ReplaceAllString(rel, "sealed")] = what
		return nil
	})
	w.ok(err)
	return out
}

// different lists what two listings do not share.
func different(got, want map[string]string) []string {
	var out []string
	for name, what := range got {
		if w, ok := want[name]; !ok {
			out = append(out, "has "+name)
		} else if w != what {
			out = append(out, "differs "+name)
		}
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			out = append(out, "lacks "+name)
		}
	}
	slices.Sort(out)
	return out
}

// observe returns what a user sees: images with their digests, and writable snapshots
// with their changes.
func (w *world) observe() map[string]string {
	w.t.Helper()
	seen := map[string]string{}
	for line := range strings.Lines(w.must("images", "--format", "{{.Name}} {{.Digest}}{{.Error}}")) {
		name, digest, _ := strings.Cut(strings.TrimSpace(line), " ")
		seen["image "+name] = digest
	}
	for key := range strings.FieldsSeq(w.must("snapshots", "-q")) {
		seen["snapshot "+key] = w.must("diff", key)
	}
	return seen
}

// sound fails the test when fsck finds a fault.
func (w *world) sound() {
	w.t.Helper()
	if out, code := w.run("fsck", "-q"); code != 0 {
		w.t.Errorf("fsck: exit code %d\n%s", code, out)
	}
}

// unmountAll takes away what is mounted below the world.
func (w *world) unmountAll() {
	for _, at := range slices.Backward(testenv.Mounts(w.t, w.dir)) {
		if at == w.dir {
			continue
		}
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			w.t.Errorf("unmount %s: %v", at, err)
		}
	}
}
