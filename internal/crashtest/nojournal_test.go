package crashtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// What ext4 without a journal gives a program that flushes every file and directory that it
// makes, the directory that each is in, and that from which it removes, before it goes on:
// no directory of such a program is lost. It is no part of layerfs, and stands for what
// the order of flushes can give. See docs/durability.md.
func TestNoJournalDirectories(t *testing.T) {
	if !*long {
		t.Skip("it is about the kernel, not about layerfs: run with -long")
	}
	testenv.Root(t)
	kind := fileSystems()[2]
	testenv.Tools(t, kind.make[0], kind.check[0], "mount")
	random := rand.New(rand.NewPCG(*draw, 3))
	base := kind.mkfs(t)
	live, dead := &device{data: base}, &device{data: slices.Clone(base)}
	served := serve(t, live, dead)
	dir := t.TempDir()
	detach := attach(t, served+"/0", dir)
	unix.Sync()
	live.mu.Lock()
	copy(dead.data, live.data)
	live.recording = true
	live.mu.Unlock()
	flush := func(path string) {
		f, err := os.Open(path)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	type promise struct {
		position int
		there    []string
	}
	var promises []promise
	var there []string
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 150 {
		if len(there) > 3 {
			victim := random.IntN(len(there))
			do(os.Remove(filepath.Join(dir, there[victim], "file")))
			flush(filepath.Join(dir, there[victim]))
			do(os.Remove(filepath.Join(dir, there[victim])))
			flush(dir)
			there = slices.Delete(slices.Clone(there), victim, victim+1)
		}
		name := fmt.Sprint("d", i)
		do(os.Mkdir(filepath.Join(dir, name), 0o755))
		do(os.WriteFile(filepath.Join(dir, name, "file"), []byte(name), 0o644))
		flush(filepath.Join(dir, name, "file"))
		flush(filepath.Join(dir, name))
		flush(dir)
		there = append(slices.Clone(there), name)
		promises = append(promises, promise{live.position(), there})
	}
	live.mu.Lock()
	live.recording = false
	log := live.log
	live.mu.Unlock()
	detach()

	const cuts = 300
	points := make([]int, cuts)
	for i := range points {
		points[i] = random.IntN(len(log) + 1)
	}
	slices.Sort(points)
	done, lost := 0, 0
	for i, n := range points {
		done = dead.replay(log, done, n, random)
		path := fmt.Sprintf("%s/1-%d", served, i)
		_ = exec.Command(kind.check[0], append(kind.check[1:len(kind.check):len(kind.check)], path)...).Run()
		detach := attach(t, path, dir)
		at := -1
		for i, p := range promises {
			if p.position <= n {
				at = i
			}
		}
		if at >= 0 && at+1 < len(promises) {
			for _, name := range promises[at].there {
				_, err := os.Stat(filepath.Join(dir, name, "file"))
				if err != nil && slices.Contains(promises[at+1].there, name) {
					lost++
					t.Logf("cut after %d of %d: %v", n, len(log), err)
					break
				}
			}
		}
		detach()
		dead.revert()
	}
	if lost > 0 {
		t.Errorf("%d of %d cuts took a directory that had been flushed", lost, cuts)
	}
	t.Logf("%d of %d cuts took a directory that had been flushed", lost, cuts)
}
