package crashtest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
)

// together runs commands at the same time, and returns how many bytes all of them have
// written to the disk.
func (w *world) together(commands ...*exec.Cmd) (written int64) {
	w.t.Helper()
	said := make([]strings.Builder, len(commands))
	for i, cmd := range commands {
		cmd.Stdout, cmd.Stderr = &said[i], &said[i]
		w.ok(cmd.Start())
	}
	for i, cmd := range commands {
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("%q: %v\n%s", cmd.Args[1:], err, said[i].String())
		}
		if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			written += u.Oublock * 512
		}
	}
	return written
}

const atOnce = 16

// Many imports of one image at the same time write what one of them writes: one does the
// work, the others wait for it. So it is with the tree of an image that many mount.
func TestTogether(t *testing.T) {
	testenv.Long(t)
	dir := testenv.Disk(t, "ext4", 256<<20)
	made := newWorld(t, filepath.Join(dir, "made"))
	many := files{}
	for i := range 300 {
		many[fmt.Sprintf("f%d", i)] = content(fmt.Sprint("file ", i), 40_000)
	}
	made.must("import", "-q", made.tar("many.tar", many), "many:1")
	archive := made.path("image.tar")
	made.must("save", "-q", "-o", archive, "many:1")

	alone := newWorld(t, filepath.Join(dir, "alone"))
	alone.must("images")
	one := alone.together(alone.command("load", "-q", "-i", archive))
	w := newWorld(t, filepath.Join(dir, "together"))
	defer w.unmountAll()
	w.must("images")
	var loads []*exec.Cmd
	for range atOnce {
		loads = append(loads, w.command("load", "-q", "-i", archive))
	}
	all := w.together(loads...)
	t.Logf("one load writes %d bytes, %d at the same time %d: %.2f times as many", one, atOnce, all, float64(all)/float64(one))
	if one < 300*40_000 || all > one*13/10 {
		t.Errorf("%d loads at the same time write %d bytes, one %d", atOnce, all, one)
	}

	var mounts []*exec.Cmd
	for i := range atOnce {
		at := w.path("mnt", fmt.Sprint(i))
		testenv.Output(t, "mkdir", "-p", at)
		mounts = append(mounts, w.command("mount", "--name", fmt.Sprint("m", i), "many:1", at))
	}
	w.together(mounts...)
	trees, err := filepath.Glob(w.root + "/stacks/sha256/*")
	w.ok(err)
	if len(trees) != 1 {
		t.Errorf("%d mounts at the same time made the trees %q, want one", atOnce, trees)
	}
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() { testenv.Output(t, "cmp", w.path("mnt", fmt.Sprint(i), "f7"), w.path("mnt", "0", "f7")) })
	}
	wg.Wait()
	w.unmountAll()
	w.sound()
}
