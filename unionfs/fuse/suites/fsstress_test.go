package suites

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

// fsstressWithout are the operations that FUSE passes on to no file system, those whose
// effect is not the same each time or is on the whole machine, and mknod, which makes what
// means a whiteout.
var fsstressWithout = []string{
	"bulkstat", "bulkstat1", "clonerange", "collapse", "deduperange", "exchangerange", "fiemap", "insert", "mknod", "rwhiteout",
	"read_dontcache", "write_dontcache", "resvsp", "unresvsp", "snapshot", "subvol_create", "subvol_delete",
	"sync", "unshare",
}

// TestFsstress has fsstress make a lower layer, and then do other things, the same ones,
// to a union above that and to a copy of it.
func TestFsstress(t *testing.T) {
	fsstress := program(t, "bin", "fsstress")
	testenv.Long(t)
	seeds, ops := 1, 300
	if *long {
		seeds, ops = 20, 3000
	}
	const processes = 4
	for seed := range seeds {
		p := newPlace(t, fuse.New(fuse.Options{}), "")
		control := filepath.Join(p.dir, "control")
		stress := func(dir string, seed int) {
			args := []string{"-d", dir, "-p", fmt.Sprint(processes), "-n", fmt.Sprint(ops), "-s", fmt.Sprint(seed)}
			without := fsstressWithout
			if os.Geteuid() != 0 { // directories of a lower layer cannot be renamed then
				without = append(slices.Clone(without), "rename", "rexchange", "rnoreplace")
			}
			for _, op := range without {
				args = append(args, "-f", op+"=0")
			}
			_, err := run(t, p.dir, fsstress, args...)
			must(t, err)
		}
		stress(p.lower, 1000+seed)
		_, err := run(t, p.dir, "cp", "-a", p.lower, control)
		must(t, err)
		lower, data := unionfstest.AsTree(t, p.lower, namespace())
		p.layers.Lower, p.layers.Data = []unionfs.Lower{lower}, data
		started := time.Now()
		p.mount(t)
		stress(control, seed+1)
		stress(p.root, seed+1)
		compare := func(when string) {
			if diffs := unionfstest.Difference(t, p.root, control, started); len(diffs) > 0 {
				t.Fatalf("seed %d, %s, the union differs from a plain directory:\n%s", seed, when, strings.Join(diffs, "\n"))
			}
		}
		compare("after fsstress")
		p.unmount(t, false)
		p.mount(t)
		compare("after a remount")
		_, err = run(t, p.dir, "rm", "-rf", filepath.Join(p.root, "p0"), filepath.Join(p.root, "p1"))
		must(t, err)
		must(t, os.RemoveAll(filepath.Join(control, "p0")))
		must(t, os.RemoveAll(filepath.Join(control, "p1")))
		compare("after removing a part")
		p.unmount(t, false)
	}
	t.Logf("%d times %d processes with %d operations each", seeds, processes, ops)
}
