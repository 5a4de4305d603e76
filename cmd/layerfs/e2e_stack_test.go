package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
)

// TestStacks mounts images of up to 400 layers and compares everything that they show with
// what a plain map says. Mounting extracts nothing.
func TestStacks(t *testing.T) {
	testenv.Root(t)
	for _, n := range []int{1, 10, 100, 400} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := newStore(t)
			layers, want := stackOf(t, n)
			name := fmt.Sprintf("example.org/stack:%d", n)
			s.load(newArchive(t, name, layers...))
			wantEqual(t, "layers", s.image(name).Layers, n)
			before := s.df()
			key, dir := s.mount(name)
			after := s.df()
			wantEqual(t, "snapshots after the mount", after["snapshots"].Count, before["snapshots"].Count+1)
			for _, usage := range []map[string]usage{before, after} {
				delete(usage, "snapshots")
				delete(usage, "total")
			}
			wantEqual(t, "usage after the mount", after, before)
			for _, part := range []string{"upper", "work"} {
				// An empty directory, and one that overlayfs makes in it.
				if use := diskUse(t, filepath.Join(s.root, "snapshots", key, part)); use > 8<<10 {
					t.Errorf("%s of the snapshot uses %d bytes on disk, want next to nothing", part, use)
				}
			}
			if got := lowers(t, dir); got != 1 {
				t.Errorf("the mount of a loaded image has %d lower layers, want its one merged tree", got)
			}
			showsFiles(t, dir, want)
			// It is writable, and what is written is all that a commit records.
			if err := os.WriteFile(filepath.Join(dir, "top"), []byte("written"), 0o644); err != nil {
				t.Fatal(err)
			}
			wantEqual(t, "diff", s.ok("diff", key), "C /top")
			s.umount(dir)
			s.ok("commit", key, "example.org/written:v1")
			_, dir = s.mount("example.org/written:v1", "--read-only")
			want["top"] = "written"
			showsFiles(t, dir, want)
		})
	}
}

// TestCommitsOnCommits commits sixty times, each time on the image before, as a build
// does. The stack of trees that a mount is made of stays shallow.
func TestCommitsOnCommits(t *testing.T) {
	testenv.Root(t)
	const commits = 60
	s := newStore(t)
	layers, want := stackOf(t, 3)
	name := "example.org/chain:0"
	s.load(newArchive(t, name, layers...))
	var deepest int
	for i := range commits {
		key, dir := s.mount(name)
		deepest = max(deepest, lowers(t, dir))
		step := changeStep(i, want)
		if err := step.apply(dir); err != nil {
			t.Fatal(err)
		}
		s.umount(dir)
		name = fmt.Sprintf("example.org/chain:%d", i+1)
		s.ok("commit", key, name)
		s.ok("snapshots", "rm", key)
	}
	wantEqual(t, "layers", s.image(name).Layers, 3+commits)
	_, dir := s.mount(name, "--read-only")
	showsFiles(t, dir, want)
	t.Logf("a mount of the chain of %d commits had at most %d lower layers", commits, deepest)
	if limit := 40; deepest > limit {
		t.Errorf("a mount had %d lower layers, limit %d", deepest, limit)
	}
	s.sound()
	// A store of which only the layers are left builds the same trees.
	s.umount(dir)
	other := newStore(t)
	other.load(s.saveAs("docker", name))
	_, dir = other.mount(name, "--read-only")
	showsFiles(t, dir, want)
}

// step is one change: a file written, or removed when content is "".
type step map[string]string

// changeStep decides the i-th change and notes it in want.
func changeStep(i int, want map[string]string) step {
	c := step{"top": fmt.Sprintf("commit %d", i), fmt.Sprintf("c/%d", i): fmt.Sprintf("made by %d", i)}
	if i%3 == 2 {
		c[fmt.Sprintf("c/%d", i-1)] = ""
	}
	for name, content := range c {
		if want[name] = content; content == "" {
			delete(want, name)
		}
	}
	return c
}

func (c step) apply(dir string) error {
	for name, content := range c {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && content == "" {
			err = os.Remove(path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lowers counts the lower layers of an overlay mount as the kernel lists them.
func lowers(t testing.TB, dir string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		if fields := bytes.Fields(line); string(fields[4]) == dir {
			return bytes.Count(line, []byte("lowerdir+=")) + bytes.Count(line, []byte("lowerdir="))
		}
	}
	t.Fatalf("%s is not mounted", dir)
	return 0
}

// stackOf makes n layers, and says which files they add up to. Each layer adds a file
// small enough to lie in the tree and, every tenth, one that is an object; it replaces
// "top", removes a file of a layer below, and now and then a whole directory.
func stackOf(t testing.TB, n int) ([]io.ReadSeeker, map[string]string) {
	t.Helper()
	want := map[string]string{}
	var layers []io.ReadSeeker
	for i := range n {
		files := map[string]string{"top": fmt.Sprintf("layer %d\n", i), fmt.Sprintf("f/%d", i): fmt.Sprintf("of layer %d\n", i)}
		if i%10 == 0 {
			files[fmt.Sprintf("large/%d", i)] = string(bytes.Repeat(fmt.Appendf(nil, "%08d", i), 1000))
		}
		if i%50 == 30 {
			maps.DeleteFunc(want, func(name, _ string) bool { return filepath.Dir(name) == "large" })
			files["large/.wh..wh..opq"] = ""
		}
		maps.Copy(want, files)
		if i%3 == 1 {
			gone := fmt.Sprintf("f/%d", i-1)
			delete(want, gone)
			files[fmt.Sprintf("f/.wh.%d", i-1)] = ""
		}
		delete(want, "large/.wh..wh..opq")
		layers = append(layers, bytes.NewReader(filesLayer(t, files)))
	}
	return layers, want
}

// showsFiles compares all files below a directory with what is expected.
func showsFiles(t testing.TB, dir string, want map[string]string) {
	t.Helper()
	names := filesBelow(t, dir)
	if len(names) != len(want) {
		t.Errorf("%s shows %d files, want %d", dir, len(names), len(want))
	}
	for _, name := range names {
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if content, ok := want[rel]; !ok || content != string(got) {
			t.Errorf("%s is %.40q, want %.40q (expected to be there: %v)", rel, got, content, ok)
		}
	}
}
