package suites

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse"
	"github.com/layerfs/layerfs/unionfs/overlay"
)

// pjdfstestSample are the files of checks that the short form runs.
var pjdfstestSample = []string{"chmod/12.t", "link/01.t", "mkdir/00.t", "open/22.t", "rename/10.t", "rmdir/06.t", "truncate/05.t", "unlink/14.t"}

// TestPjdfstest compares the failed checks of the driver with those of overlayfs.
func TestPjdfstest(t *testing.T) {
	testenv.Root(t)
	testenv.Long(t)
	tests := program(t, "sources", "pjdfstest", "tests")
	files := pjdfstestSample
	if *long {
		found, err := filepath.Glob(filepath.Join(tests, "*", "*.t"))
		must(t, err)
		files = nil
		for _, path := range found {
			rel, err := filepath.Rel(tests, path)
			must(t, err)
			files = append(files, rel)
		}
	}
	if len(files) == 0 {
		t.Fatal("pjdfstest has no tests")
	}
	drivers := []unionfs.Driver{overlay.New(overlay.Options{}), fuse.New(fuse.Options{})}
	results := make([]checks, len(drivers))
	var wg sync.WaitGroup
	for i, d := range drivers {
		p := newPlace(t, d, "")
		passable(t, p.dir) // the checks act as other users too
		p.mount(t)
		wg.Go(func() { results[i] = pjdfstest(t, p, tests, files) })
	}
	wg.Wait()
	for i, d := range drivers {
		t.Logf("%s: %d checks, %d failed", d.Name(), results[i].count, len(results[i].failed))
	}
	ours, kernel := results[1], results[0]
	for _, name := range ours.order {
		if _, both := kernel.failed[name]; !both {
			t.Errorf("%s fails on %s alone: %s", name, drivers[1].Name(), ours.failed[name])
		}
	}
	if ours.count != kernel.count {
		t.Errorf("%d checks on %s, %d on %s", ours.count, drivers[1].Name(), kernel.count, drivers[0].Name())
	}
}

// checks are the results of a run.
type checks struct {
	count  int
	failed map[string]string // what was said, by file and number
	order  []string
}

// checkLine is one result in the Test Anything Protocol.
var checkLine = regexp.MustCompile(`^(not )?ok (\d+)(.*)$`)

// pjdfstest runs files of checks, each in an empty directory of the union.
func pjdfstest(t *testing.T, p *place, tests string, files []string) checks {
	c := checks{failed: map[string]string{}}
	for i, file := range files {
		dir := filepath.Join(p.root, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Error(err)
			return c
		}
		out, err := run(t, dir, "bash", filepath.Join(tests, file))
		if err != nil {
			t.Errorf("%s on %s: %v", file, p.driver.Name(), err)
		}
		for line := range strings.Lines(out) {
			m := checkLine.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil {
				continue
			}
			c.count++
			if m[1] != "" && !strings.Contains(m[3], "# TODO") {
				name := file + " " + m[2]
				c.failed[name] = strings.TrimSpace(m[3])
				c.order = append(c.order, name)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("after %s on %s: %v", file, p.driver.Name(), err)
		}
	}
	slices.Sort(c.order)
	return c
}
