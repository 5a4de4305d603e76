package overlay_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/overlay"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

// BenchmarkMount mounts, attaches and unmounts a writable union of so many trees.
func BenchmarkMount(b *testing.B) {
	for _, way := range []struct {
		name string
		opts overlay.Options
		how  unionfs.Options
		most int
	}{
		{name: "trees", most: 400},
		{name: "volatile", how: unionfs.Options{Volatile: true}, most: 400},
		{name: "read-only", how: unionfs.Options{ReadOnly: true}, most: 400},
		{name: "staged", opts: overlay.Options{Staged: true, Paths: true}, most: 400},
		{name: "loop", opts: overlay.Options{LoopDevices: true}, most: 10},
	} {
		for _, n := range []int{1, 10, 100, 400} {
			if n > way.most {
				continue
			}
			b.Run(fmt.Sprintf("%s/%d", way.name, n), func(b *testing.B) {
				bench := newBench(b, n)
				for b.Loop() {
					if way.how.Volatile {
						b.StopTimer()
						must(b, clearVolatile(bench.layers.Work))
						b.StartTimer()
					}
					bench.use(b, way.opts, way.how, func(string) {})
				}
			})
		}
	}
}

// BenchmarkProbe is what choosing a driver costs.
func BenchmarkProbe(b *testing.B) {
	dir := newBench(b, 0).dir
	driver := overlay.New(overlay.Options{})
	for b.Loop() {
		must(b, driver.Probe(b.Context(), dir))
	}
}

// clearVolatile lets a volatile upper be mounted again.
func clearVolatile(work string) error { return os.RemoveAll(filepath.Join(work, "work", "incompat")) }

// BenchmarkUnion is what programs do with files, on directories and on trees.
func BenchmarkUnion(b *testing.B) {
	b.Run("directories", func(b *testing.B) {
		unionfstest.Bench(b, unionfstest.Harness{Driver: overlay.New(overlay.Options{})})
	})
	b.Run("trees", func(b *testing.B) {
		unionfstest.Bench(b, unionfstest.Harness{Driver: overlay.New(overlay.Options{}), Layer: asTree})
	})
}
