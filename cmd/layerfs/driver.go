package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/internal/userns"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse"
	"github.com/layerfs/layerfs/unionfs/fuse/treefs"
	"github.com/layerfs/layerfs/unionfs/overlay"
	"github.com/spf13/cobra"
)

// driverNames are the values of --driver, best first.
var driverNames = []string{"auto", overlayDriver, fuseDriver, checkoutDriverName, "aufs"}

// drivers returns the union file systems of this program that can be of use to the user
// as who they are here, best first.
func (a *app) drivers() []unionfs.Driver {
	var o overlay.Options
	switch {
	case os.Geteuid() != 0:
		return []unionfs.Driver{fuse.New(fuse.Options{})}
	case a.ids != nil:
		mounter := treefs.Mounter{Owners: treeOwners(a.ids)}
		o = overlay.Options{UserNamespace: true, Trees: func(ctx context.Context, tree string, data []string, ns unionfs.Namespace) (*mountapi.Mount, error) {
			return mounter.Mount(ctx, treefs.Options{Tree: tree, Data: data, Namespace: ns})
		}}
	}
	return []unionfs.Driver{overlay.New(o), fuse.New(fuse.Options{}), a.newCheckoutDriver(), a.newAUFSDriver()}
}

// treeOwners tells a server of trees which ids there are.
func treeOwners(m *userns.Mapping) treefs.Owners {
	other := owners(m)
	var o treefs.Owners
	o.OtherUID, o.OtherGID = other(noID, noID)
	for _, r := range m.UIDs {
		o.UIDs = append(o.UIDs, treefs.Range{First: uint32(r.Inside), Count: uint32(r.Count)})
	}
	for _, r := range m.GIDs {
		o.GIDs = append(o.GIDs, treefs.Range{First: uint32(r.Inside), Count: uint32(r.Count)})
	}
	return o
}

// passedOver says why a driver is not among drivers; nil for one that is.
func passedOver(name string) error {
	if name != fuseDriver && os.Geteuid() != 0 && name != "auto" {
		return fmt.Errorf(`driver %s: an ordinary user's mounts by the kernel show inside "layerfs unshare" only; run the command there: %w`, name, fs.ErrPermission)
	}
	return nil
}

// Names of drivers that are treated in a way of their own.
const (
	overlayDriver = "overlay"
	fuseDriver    = "fuse"
)

func addDriverFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "driver", "auto", "union file system: "+strings.Join(driverNames, ", "))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("driver", cobra.FixedCompletions(driverNames, cobra.ShellCompDirectiveNoFileComp)))
}

// candidate is a driver that may be tried, or the reason why it cannot be.
type candidate struct {
	driver unionfs.Driver
	why    error // driver is nil then
}

// candidates returns the drivers that a value of --driver allows, best first.
func (a *app) candidates(name string) ([]candidate, error) {
	drivers := a.drivers()
	var out []candidate
	for _, n := range driverNames {
		if name != "auto" && name != n {
			continue
		}
		if err := passedOver(n); err != nil {
			out = append(out, candidate{why: err})
		}
		for _, d := range drivers {
			if d.Name() == n {
				out = append(out, candidate{driver: d})
			}
		}
	}
	if len(out) == 0 {
		return nil, usageError{fmt.Errorf("unknown driver %q, want one of %s", name, strings.Join(driverNames, ", "))}
	}
	for _, c := range out {
		if c.driver != nil {
			return out, nil
		}
	}
	var why []error
	for _, c := range out {
		why = append(why, c.why)
	}
	return nil, errors.Join(why...)
}

// openMount mounts a snapshot, detached, with the first driver that can. A driver is
// chosen by trying: asking what it could do first would cost more than the mount. With
// -v it says why each better one was passed over.
func (a *app) openMount(ctx context.Context, s *snapshot.Store, candidates []candidate, key snapshot.Key, readOnly bool) (unionfs.Mount, error) {
	opts := unionfs.Options{ReadOnly: readOnly, Source: s.Source(key), Logger: a.logger()}
	var passed []error
	for _, c := range candidates {
		err := c.why
		if err == nil {
			m, tried, fatal := a.tryDriver(ctx, s, c.driver, key, opts)
			if fatal != nil {
				return nil, fatal
			}
			if tried == nil {
				return m, nil
			}
			err = fmt.Errorf("driver %s: %w", c.driver.Name(), tried)
		}
		if a.verbose {
			fmt.Fprintf(a.stderr, "layerfs: %v\n", err)
		}
		passed = append(passed, err)
	}
	return nil, fmt.Errorf("mount snapshot %s: %w", key, errors.Join(passed...))
}

// tryDriver mounts a snapshot with one driver. The error tried is the driver's; fatal is
// one that concerns all of them.
func (a *app) tryDriver(ctx context.Context, s *snapshot.Store, d unionfs.Driver, key snapshot.Key, opts unionfs.Options) (m unionfs.Mount, tried, fatal error) {
	// A stack of several trees needs more of the kernel than a single one.
	trees := 0
	for _, single := range []bool{false, true} {
		layers, err := s.Mounts(ctx, key, snapshot.MountOptions{Single: single})
		if err != nil {
			return nil, nil, err
		}
		if single && trees < 2 {
			break // it was a single tree already
		}
		for _, l := range layers.Lower {
			if l.Tree != "" {
				trees++
			}
		}
		if m, tried = d.Open(ctx, layers, opts); tried == nil {
			return m, nil, nil
		}
		if !errors.Is(tried, errors.ErrUnsupported) {
			break
		}
	}
	return nil, tried, nil
}

// unmount unmounts one target, by the driver that has mounted it: the server of a FUSE
// mount has to be waited for, and what AUFS wrote be translated.
func (a *app) unmount(ctx context.Context, target string, force bool) error {
	mounts, err := mountapi.List(target)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		switch {
		case m.Target != target:
		case m.Type == fuse.MountType:
			return fuse.New(fuse.Options{}).Unmount(ctx, target, force)
		case m.Type == "aufs":
			return a.newAUFSDriver().Unmount(ctx, target, force)
		}
	}
	return overlay.New(overlay.Options{}).Unmount(ctx, target, force)
}
