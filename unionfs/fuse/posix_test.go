package fuse_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse"
)

// TestPOSIX runs the tests of the FUSE library's own file systems on a union.
func TestPOSIX(t *testing.T) {
	for name, test := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			if name == "FcntlFlockLocksFile" {
				t.Skip("wants two locks of one process to conflict, which those of POSIX, kept by the kernel, do not")
			}
			d, p := fuse.New(fuse.Options{}), newPlace(t)
			p.mount(t, d, unionfs.Options{})
			t.Cleanup(func() { must(t, d.Unmount(context.Background(), p.root, false)) })
			dir := filepath.Join(p.root, "test")
			must(t, os.Mkdir(dir, 0o755))
			test(t, dir)
		})
	}
}
