package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// Sizes of the images and numbers of changed files between which the cost of a commit is
// compared.
const (
	smallImage = 1_000
	largeImage = 50_000
)

func changeCounts() []int { return []int{1, 100, 10_000} }

// numbered is the path and the content of one file of the images: one of ten is large
// enough to be an object.
func numbered(i int) (path, content string) {
	repeat := 3
	if i%10 == 0 {
		repeat = 400
	}
	return fmt.Sprintf("d%03d/f%05d", i/100, i), strings.Repeat(fmt.Sprintf("%09d\n", i), repeat)
}

// writeNumbered writes a layer of n numbered files in directories of 100.
func writeNumbered(w io.Writer, n int) error {
	tw := tar.NewWriter(w)
	errs := []error{tw.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755})}
	for i := range n {
		name, content := numbered(i)
		if i%100 == 0 {
			errs = append(errs, tw.WriteHeader(&tar.Header{Name: filepath.Dir(name) + "/", Typeflag: tar.TypeDir, Mode: 0o755}))
		}
		errs = append(errs, tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
		_, err := io.WriteString(tw, content)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, tw.Close())...)
}

// commitCost is what a commit cost.
type commitCost struct {
	ioCounts
	calls int // system calls that ask for something, of all threads; 0 where strace is missing
	// records is how many bytes of trees and recipes were brought into the page cache that
	// was empty of them, which counts what is read through memory maps.
	records int64
}

// TestCommitReadsTheChange commits 1, 100 and 10,000 changed files on images of 1,000 and
// 50,000 files. What is read and how often the kernel is called grow with the change
// and not with the image.
func TestCommitReadsTheChange(t *testing.T) {
	testenv.Root(t)
	testenv.Long(t)
	cost := map[int]map[int]commitCost{}
	for _, size := range []int{smallImage, largeImage} {
		cost[size] = map[int]commitCost{}
		s := &store{t: t, root: filepath.Join(smallReadAhead(t), "store")}
		in, out := io.Pipe()
		go func() { out.CloseWithError(writeNumbered(out, size)) }()
		cmd := s.command(t.Context(), "import", "--quiet", "-", "example.org/base:v1")
		cmd.Stdin = in
		if r := s.finish(cmd, []string{"import"}); r.code != 0 {
			t.Fatal(r)
		}
		for _, k := range changeCounts() {
			c := s.commitCost(k, size)
			cost[size][k] = c
			t.Logf("image of %6d files, %5d changed: %9d bytes read by %6d calls, %9d written; %6d system calls; %d bytes of records cached",
				size, k, c.RChar, c.SyscR, c.WChar, c.calls, c.records)
		}
	}
	for _, k := range changeCounts() {
		small, large := cost[smallImage][k], cost[largeImage][k]
		if small.RChar == 0 {
			t.Skip("this kernel does not count what processes read")
		}
		// The image adds nothing but steps of searches in its tree.
		within := func(what string, got, base, slack int64) {
			if got > base+base/10+slack {
				t.Errorf("%d changes: %s is %d on the large image, %d on the small one", k, what, got, base)
			}
		}
		within("bytes read", large.RChar, small.RChar, 16<<10)
		within("read calls", large.SyscR, small.SyscR, 64)
		within("bytes written", large.WChar, small.WChar, 64<<10)
		within("system calls", int64(large.calls), int64(small.calls), 200)
		if k == 1 {
			// A few places of the tree, each with what the kernel reads ahead.
			within("bytes of records brought into memory", large.records, small.records, 1<<20)
		}
	}
	for _, size := range []int{smallImage, largeImage} {
		one, hundred, most := cost[size][1], cost[size][100], cost[size][10_000]
		// Bytes read for each further file: its content, once for the digest of the tar
		// and once into the object, and its record.
		perFile := func(a, b commitCost, n int64) int64 { return (b.RChar - a.RChar) / n }
		if got, limit := perFile(one, hundred, 99), int64(8<<10); got > limit {
			t.Errorf("image of %d files: %d bytes read for each of 100 files, limit %d", size, got, limit)
		}
		if got, limit := perFile(hundred, most, 9_900), int64(4<<10); got > limit {
			t.Errorf("image of %d files: %d bytes read for each of 10,000 files, limit %d", size, got, limit)
		}
	}
}

// commitCost changes k files in a new snapshot of the base image and commits it.
func (s *store) commitCost(k, size int) commitCost {
	t := s.t
	t.Helper()
	key := fmt.Sprintf("change-%d", k)
	_, dir := s.mount("example.org/base:v1", "--name", key)
	for i := range k {
		name, content := numbered(i)
		path := filepath.Join(dir, name)
		if i >= size && i%100 == 0 {
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		// Small and large files come to have the same length, whether they were there or not.
		content = content[:len(content)-1] + "changed\n"
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.umount(dir)
	var c commitCost
	c.calls = s.countCalls("commit", key, "example.org/traced:v1")
	// The second commit is to find as little there as the first.
	s.ok("rmi", "example.org/traced:v1")
	s.ok("gc", "--grace", "0s")
	records := append(filesBelow(t, filepath.Join(s.root, "stacks")), filesBelow(t, filepath.Join(s.root, "layers"))...)
	for _, name := range records {
		dropCached(t, name)
	}
	r := s.call("commit", key, "example.org/counted:v1")
	if r.code != 0 {
		t.Fatal(r)
	}
	c.ioCounts = r.io
	for _, name := range records {
		c.records += cached(t, name)
	}
	// The result holds the change and everything else.
	last, content := numbered(k - 1)
	wantEqual(t, "file changed", s.ok("cat", "example.org/counted:v1", last), content[:len(content)-1]+"changed")
	if k < size {
		next, content := numbered(k)
		wantEqual(t, "file not changed", s.ok("cat", "example.org/counted:v1", next)+"\n", content)
	}
	lines := splitLines(s.ok("diff", "example.org/base:v1", "example.org/counted:v1"))
	if dirs := (k + 99) / 100; len(lines) != k+dirs {
		t.Errorf("diff lists %d changes, want %d files and %d directories", len(lines), k, dirs)
	}
	return c
}

// countCalls runs a command and counts the system calls of its threads, without those by
// which threads wait for each other: their number is chance.
func (s *store) countCalls(args ...string) (calls int) {
	t := s.t
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		s.ok(args...)
		return 0
	}
	out := filepath.Join(t.TempDir(), "calls")
	cmd := s.command(t.Context(), args...)
	cmd.Args = append([]string{strace, "-f", "-c", "-U", "calls,name", "-o", out, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = strace
	if r := s.finish(cmd, args); r.code != 0 {
		t.Fatal(r)
	}
	data, err := readString(out)
	if err != nil {
		t.Fatal(err)
	}
	chance := []string{"total", "futex", "nanosleep", "clock_nanosleep", "sched_yield", "epoll_pwait", "epoll_wait", "tgkill", "getpid",
		"gettid", "rt_sigreturn", "rt_sigprocmask", "madvise"}
	for line := range strings.Lines(data) {
		fields := strings.Fields(line)
		if len(fields) != 2 || slices.Contains(chance, fields[1]) {
			continue
		}
		if n, err := strconv.Atoi(fields[0]); err == nil {
			calls += n
		}
	}
	if calls == 0 {
		t.Errorf("strace counted nothing:\n%s", data)
	}
	return calls
}

// smallReadAhead returns a disk on which the kernel reads ahead as far as it does on most
// machines, so that what is in the page cache tells what was asked for.
func smallReadAhead(t testing.TB) string {
	t.Helper()
	dir := testenv.Disk(t, "ext4", 1<<30)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	setting := fmt.Sprintf("/sys/dev/block/%d:%d/queue/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	before, err := os.ReadFile(setting)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(setting, []byte("128"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(setting, before, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}
