package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/aufs"
	"github.com/layerfs/layerfs/unionfs/checkout"
	"github.com/layerfs/layerfs/unionfs/overlay"
)

// checkoutDriverName is the name of the driver below.
const checkoutDriverName = "checkout"

// checkoutDriver is overlayfs over trees that are checked out as directories, for kernels
// without EROFS, and for ordinary users who want no server: the first mount of a stack
// writes all its names, and later ones need nothing but overlayfs.
type checkoutDriver struct{ *overlay.Driver }

// Name returns "checkout".
func (checkoutDriver) Name() string { return checkoutDriverName }

func (a *app) newCheckoutDriver() unionfs.Driver {
	o := overlay.Options{Trees: a.checkedOut}
	if a.ids != nil {
		o.UserNamespace = true
	}
	return checkoutDriver{overlay.New(o)}
}

// checkouts is the directory of the store that has checkouts. They are caches: each goes
// with the tree it was made from.
func (a *app) checkouts() string { return filepath.Join(a.disk.Root(), "checkouts") }

// checkedOut mounts the checkout of a tree.
func (a *app) checkedOut(ctx context.Context, tree string, data []string, ns unionfs.Namespace) (*mountapi.Mount, error) {
	dir, err := a.checkOut(ctx, tree, data, ns)
	if err != nil {
		return nil, err
	}
	return mountapi.OpenTree(dir, true)
}

// newAUFSDriver returns the driver for kernels with AUFS, which takes directories only.
func (a *app) newAUFSDriver() *aufs.Driver {
	return aufs.New(aufs.Options{Namespace: unionfs.Trusted, Trees: func(ctx context.Context, tree string, data []string) (string, error) {
		return a.checkOut(ctx, tree, data, unionfs.Trusted)
	}})
}

// checkOut returns the checkout of a tree, which is made if it is not there.
func (a *app) checkOut(ctx context.Context, tree string, data []string, ns unionfs.Namespace) (_ string, err error) {
	o := checkout.Options{Tree: tree, Data: data, Namespace: ns}
	kind := strings.TrimSuffix(string(ns), ".overlay.")
	if a.ids != nil {
		o.NoDevices, o.Owners = true, treeOwners(a.ids)
		if a.ids.Single() {
			kind += "-one" // all files belong to one user
		}
	}
	if len(data) == 0 {
		kind += "-marks"
	}
	name := filepath.Base(tree) + "." + kind
	dir := filepath.Join(a.checkouts(), name)
	if _, err := os.Stat(dir); err != nil {
		unlock, err := a.disk.Lock(ctx, "checkout-"+name)
		if err != nil {
			return "", err
		}
		err = os.Mkdir(a.checkouts(), 0o700)
		if err == nil || errors.Is(err, fs.ErrExist) {
			err = checkout.Make(ctx, dir, o)
		}
		if err = errors.Join(err, unlock()); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// sweepCheckouts removes checkouts of trees that are gone, and those that killed commands
// did not finish. No snapshot is mounted whose tree is gone.
func (a *app) sweepCheckouts(ctx context.Context) error {
	entries, err := os.ReadDir(a.checkouts())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		gone := false
		if checkout.Unfinished(e.Name()) {
			const slowest = time.Hour // nobody writes one for so long
			info, err := e.Info()
			gone = err == nil && time.Since(info.ModTime()) > slowest
		} else if tree, _, ok := strings.Cut(e.Name(), ".erofs."); ok {
			_, err := os.Stat(filepath.Join(a.disk.Root(), "stacks", "sha256", tree+".erofs"))
			gone = errors.Is(err, fs.ErrNotExist)
		}
		if gone {
			errs = append(errs, checkout.Remove(filepath.Join(a.checkouts(), e.Name())))
		}
	}
	return errors.Join(errs...)
}
