package overlay_test

import (
	"testing"

	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

// asTree makes a tree of a directory that root has written.
func asTree(t testing.TB, dir string) (unionfs.Lower, []string) {
	t.Helper()
	return unionfstest.AsTree(t, dir, unionfs.Trusted)
}
