package runtime_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/runtime"
)

// BenchmarkStart compares a container with all of the default isolation to a plain
// process, both from start to end of a program that does nothing.
func BenchmarkStart(b *testing.B) {
	dir := newRoot(b)
	b.Run("process", func(b *testing.B) {
		for b.Loop() {
			must(b, exec.Command(filepath.Join(dir, "bin/true")).Run())
		}
	})
	b.Run("container", func(b *testing.B) {
		root := runtime.RootPath(dir)
		spec, err := runtime.SpecFor(root, runtime.Settings{Args: []string{"/bin/true"}})
		must(b, err)
		for b.Loop() {
			status, err := runtime.Run(b.Context(), runtime.Config{Spec: spec, Root: root})
			if err != nil || status.ExitCode != 0 {
				b.Fatalf("status %+v, error %v", status, err)
			}
		}
	})
	b.Run("containers in parallel", func(b *testing.B) {
		root := runtime.RootPath(dir)
		spec, err := runtime.SpecFor(root, runtime.Settings{Args: []string{"/bin/true"}})
		must(b, err)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				status, err := runtime.Run(b.Context(), runtime.Config{Spec: spec, Root: root})
				if err != nil || status.ExitCode != 0 {
					b.Errorf("status %+v, error %v", status, err)
				}
			}
		})
	})
}
