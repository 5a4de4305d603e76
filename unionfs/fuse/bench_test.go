package fuse_test

import (
	"testing"

	"github.com/layerfs/layerfs/unionfs/fuse"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

// BenchmarkUnion is what programs do with files, on directories and on trees.
func BenchmarkUnion(b *testing.B) {
	b.Run("directories", func(b *testing.B) {
		unionfstest.Bench(b, unionfstest.Harness{Driver: fuse.New(fuse.Options{})})
	})
	b.Run("trees", func(b *testing.B) {
		unionfstest.Bench(b, unionfstest.Harness{Driver: fuse.New(fuse.Options{}), Layer: asTree})
	})
}
