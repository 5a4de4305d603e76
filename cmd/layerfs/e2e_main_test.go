package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/unionfs/fuse"
	"github.com/layerfs/layerfs/unionfs/fuse/treefs"
	"golang.org/x/sys/unix"
)

// The tests in files named e2e_… know layerfs by its command line alone: each command
// is a process of its own. The test program itself serves as the program under test,
// so that the race detector and coverage reach it and an unprivileged run needs no
// compiler.

// asProgram makes the test program be layerfs.
const asProgram = "LAYERFS_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	// Servers are started without any environment.
	if os.Getenv(asProgram) != "" || len(os.Args) > 1 && (os.Args[1] == treefs.Command || os.Args[1] == fuse.ServerArgs()[0]) {
		os.Exit(run())
	}
	if os.Geteuid() == 0 {
		testenv.OwnNetwork() // containers have networks
	}
	code := m.Run()
	left := leftovers()
	for range 50 { // who keeps an ordinary user's namespace stays for a second
		if len(left) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
		left = leftovers()
	}
	if len(left) > 0 {
		fmt.Fprintf(os.Stderr, "tests left behind:\n%s\n", strings.Join(left, "\n"))
		code = 1
	}
	os.Exit(code)
}

// places are the directories that tests of this run made mounts and processes in.
var places struct {
	sync.Mutex
	dirs []string
}

// place returns a directory of the test that is searched for mounts, loop devices and
// processes when all tests are done.
func place(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	places.Lock()
	defer places.Unlock()
	places.dirs = append(places.dirs, dir)
	return dir
}

// shortPlace is a place for sockets and for programs that limit the length of paths.
func shortPlace(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lfs")
	if err != nil {
		t.Fatal(err)
	}
	places.Lock()
	defer places.Unlock()
	places.dirs = append(places.dirs, dir)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// leftovers lists mounts below the places of tests, loop devices of files there, and
// processes that run there or were told of them.
func leftovers() []string {
	places.Lock()
	defer places.Unlock()
	below := func(s string) bool {
		return slices.ContainsFunc(places.dirs, func(dir string) bool { return strings.Contains(s+"/", dir+"/") })
	}
	var left []string
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		left = append(left, err.Error())
	}
	for line := range strings.Lines(string(data)) {
		if below(strings.ReplaceAll(line, " ", "/")) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	find := func(what, pattern string, read func(string) (string, error)) {
		names, err := filepath.Glob(pattern)
		if err != nil {
			left = append(left, err.Error())
		}
		for _, name := range names {
			if s, err := read(name); err == nil && below(strings.TrimSpace(s)) {
				left = append(left, what+" "+name+": "+s)
			}
		}
	}
	find("loop device", "/sys/block/loop*/loop/backing_file", readString)
	find("process", "/proc/[0-9]*/cmdline", func(name string) (string, error) {
		s, err := readString(name)
		return strings.ReplaceAll(s, "\x00", "/"), err
	})
	return left
}

func readString(name string) (string, error) {
	data, err := os.ReadFile(name)
	return string(data), err
}

// store is a store of its own and the program that works on it.
type store struct {
	t    testing.TB
	root string
	env  []string // beyond what every call has
}

// newStore returns a store that no command has touched yet.
func newStore(t testing.TB) *store {
	t.Helper()
	return &store{t: t, root: filepath.Join(place(t), "store")}
}

// result is how a call ended.
type result struct {
	args           []string
	stdout, stderr string
	code           int
	io             ioCounts
}

func (r result) String() string {
	return fmt.Sprintf("layerfs %s: code %d\nstandard output:\n%.4000s\nstandard error:\n%.4000s",
		strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// command prepares a call.
func (s *store) command(ctx context.Context, args ...string) *exec.Cmd {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self, append([]string{"--root", s.root}, args...)...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "LAYERFS_ROOT=", "SOURCE_DATE_EPOCH=")
	cmd.Env = append(cmd.Env, s.env...)
	return cmd
}

// call runs a command to its end, whatever that is.
func (s *store) call(args ...string) result {
	s.t.Helper()
	// Cleaning up makes calls too, when the test's own context is over.
	return s.finish(s.command(context.WithoutCancel(s.t.Context()), args...), args)
}

func (s *store) finish(cmd *exec.Cmd, args []string) result {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	r := result{args: args}
	// The kernel's counts of a process can be read until it is waited for.
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	r.io = readCounts(cmd.Process.Pid)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("layerfs %s: %v", strings.Join(args, " "), err)
	}
	r.stdout, r.stderr, r.code = stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	return r
}

// ioCounts are what proc(5) says of a process in /proc/PID/io; all zero where the
// kernel does not count.
type ioCounts struct {
	RChar, WChar int64 // bytes passed by read and write calls
	SyscR, SyscW int64 // such calls
}

func readCounts(pid int) ioCounts {
	var c ioCounts
	data, err := readString(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return c
	}
	for line := range strings.Lines(data) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := parseInt(value)
		if err != nil {
			continue
		}
		switch key {
		case "rchar":
			c.RChar = n
		case "wchar":
			c.WChar = n
		case "syscr":
			c.SyscR = n
		case "syscw":
			c.SyscW = n
		}
	}
	return c
}

// ok runs a command that must succeed, and returns its standard output without the
// last line's end.
func (s *store) ok(args ...string) string {
	s.t.Helper()
	r := s.call(args...)
	if r.code != 0 {
		s.t.Fatal(r)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// load loads an archive or a layout and returns the name and the digest that layerfs
// printed for the only image in it.
func (s *store) load(file string, flags ...string) (name, digest string) {
	s.t.Helper()
	out := s.ok(append([]string{"load", "--quiet", "--input", file}, flags...)...)
	name, digest, found := strings.Cut(out, " ")
	if !found || strings.ContainsAny(digest, " \n") {
		s.t.Fatalf("load %s printed %q, want a name and a digest", file, out)
	}
	return name, digest
}

// mount mounts an image or a snapshot and returns the directory. The mount is taken down
// with the test.
func (s *store) mount(what string, flags ...string) (key, dir string) {
	s.t.Helper()
	testenv.Root(s.t)
	dir = place(s.t)
	key = s.ok(append(append([]string{"mount"}, flags...), what, dir)...)
	s.t.Cleanup(func() {
		if len(testenv.Mounts(s.t, dir)) == 0 {
			return
		}
		if r := s.call("umount", dir); r.code != 0 {
			s.t.Error(r)
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				s.t.Errorf("detach %s: %v", dir, err)
			}
		}
	})
	return key, dir
}

func (s *store) umount(word string) { s.t.Helper(); s.ok("umount", word) }

// json runs a command with --format json and decodes what it prints.
func (s *store) json(into any, args ...string) {
	s.t.Helper()
	out := s.ok(append(args, "--format", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		s.t.Fatalf("layerfs %s printed no JSON: %v\n%.2000s", strings.Join(args, " "), err, out)
	}
}

// listedImage is a row of images --format json.
type listedImage struct {
	Name, ID, Digest, Error string
	Layers                  int
	Size                    int64
}

func (s *store) images() []listedImage {
	s.t.Helper()
	var rows []listedImage
	s.json(&rows, "images")
	return rows
}

// image returns the row of one image, which must be listed and sound.
func (s *store) image(name string) listedImage {
	s.t.Helper()
	for _, row := range s.images() {
		if row.Name == name || strings.HasSuffix(row.Name, "/"+name) {
			if row.Error != "" {
				s.t.Fatalf("image %s is listed as damaged: %s", name, row.Error)
			}
			return row
		}
	}
	s.t.Fatalf("image %s is not listed", name)
	return listedImage{}
}

// inspected is what inspect says of an image.
type inspected struct {
	ID, Digest, ChainID string
	Layers              []struct {
		DiffID, Blob, MediaType string
		BlobIs, Encoder         string
		BlobSize, TarSize       int64
		Objects                 int
	}
}

func (s *store) inspect(name string) inspected {
	s.t.Helper()
	var all []inspected
	s.json(&all, "inspect", name)
	if len(all) != 1 {
		s.t.Fatalf("inspect %s printed %d records", name, len(all))
	}
	return all[0]
}

// usage is a row of df.
type usage struct {
	Kind         string
	Count, Bytes int64
	Exact        bool
}

// df returns the kept sums by kind.
func (s *store) df(flags ...string) map[string]usage {
	s.t.Helper()
	var rows []usage
	s.json(&rows, append([]string{"df"}, flags...)...)
	sums := map[string]usage{}
	for _, r := range rows {
		sums[r.Kind] = r
	}
	return sums
}

// sound fails the test unless everything in the store verifies.
func (s *store) sound() {
	s.t.Helper()
	if r := s.call("fsck"); r.code != 0 {
		s.t.Errorf("fsck: %s", r)
	}
}

// keeps runs fn and fails the test if that changed what the store holds: its sums as
// kept and as counted anew, its images and its files.
func (s *store) keeps(fn func()) {
	s.t.Helper()
	before := s.state()
	fn()
	if after := s.state(); after != before {
		s.t.Error("the store changed:")
		sameLines(s.t, "files and sums", splitLines(after), splitLines(before))
	}
}

func (s *store) state() string {
	s.t.Helper()
	return fmt.Sprintf("%v\n%v\n%v", s.df(), s.df("--recount"), s.images()) + "\n" + s.contents()
}

// contents lists the files of the store that hold content or names, with their sizes.
func (s *store) contents() string {
	s.t.Helper()
	var b strings.Builder
	for _, dir := range []string{"blobs", "objects", "layers", "stacks", "refs", "snapshots", "ingest", "quarantine"} {
		err := filepath.WalkDir(filepath.Join(s.root, dir), func(path string, d os.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(s.root, path)
			fmt.Fprintf(&b, "%s %d\n", rel, info.Size())
			return err
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return b.String()
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// exportTar returns what export writes.
func (s *store) exportTar(what string) *strings.Reader {
	s.t.Helper()
	r := s.call("export", what)
	if r.code != 0 {
		s.t.Fatal(r)
	}
	return strings.NewReader(r.stdout)
}
