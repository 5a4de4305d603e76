package overlay_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/checkout"
	"github.com/layerfs/layerfs/unionfs/overlay"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

// checkedOut mounts trees as directories, which are made beside them. A user namespace
// makes no devices.
func checkedOut(noDevices bool) overlay.TreeMounter {
	return func(ctx context.Context, tree string, data []string, ns unionfs.Namespace) (*mountapi.Mount, error) {
		dir := tree + ".checkout"
		if len(data) > 0 {
			dir += "-full"
		}
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			if err := checkout.Write(ctx, dir, checkout.Options{Tree: tree, Data: data, Namespace: ns, NoDevices: noDevices}); err != nil {
				return nil, err
			}
		}
		return mountapi.OpenTree(dir, true)
	}
}

// TestConformanceOfCheckouts has all contents in directories, as a kernel without EROFS needs them.
func TestConformanceOfCheckouts(t *testing.T) {
	driver := overlay.New(overlay.Options{Trees: checkedOut(false), TreeData: true})
	unionfstest.Run(t, unionfstest.Harness{Driver: driver, Namespace: unionfs.Trusted, Lacks: lacks(), Layer: asTree})
}

// TestConformanceRootlessOfCheckouts has marks in directories and contents elsewhere.
func TestConformanceRootlessOfCheckouts(t *testing.T) {
	if inNamespace(t) {
		driver := overlay.New(overlay.Options{UserNamespace: true, Trees: checkedOut(true)})
		unionfstest.Run(t, unionfstest.Harness{Driver: driver, Namespace: unionfs.User, Lacks: rootlessLack(t), Layer: bottomTree})
	}
}
