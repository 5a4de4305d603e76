package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/overlay"
	"github.com/spf13/cobra"
)

// driverNames are the values of --driver, best first.
var driverNames = []string{"auto", "overlay", "fuse", "aufs"}

// drivers returns the union file systems of this program, best first.
func (a *app) drivers() []unionfs.Driver {
	return []unionfs.Driver{overlay.New(overlay.Options{})}
}

// absentDrivers are the drivers of the design that this version does not have, with
// the reason that auto and info give.
var absentDrivers = map[string]string{
	"fuse": "this version of layerfs has no FUSE server yet",
	"aufs": "this version of layerfs has no AUFS driver yet",
}

func addDriverFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "driver", "auto", "union file system: "+strings.Join(driverNames, ", "))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("driver", cobra.FixedCompletions(driverNames, cobra.ShellCompDirectiveNoFileComp)))
}

// candidates returns the drivers that a value of --driver allows, best first.
func (a *app) candidates(name string) ([]unionfs.Driver, error) {
	if why, ok := absentDrivers[name]; ok {
		return nil, fmt.Errorf("driver %s: %s: %w", name, why, errors.ErrUnsupported)
	}
	var out []unionfs.Driver
	for _, d := range a.drivers() {
		if name == "auto" || name == d.Name() {
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		return nil, usageError{fmt.Errorf("unknown driver %q, want one of %s", name, strings.Join(driverNames, ", "))}
	}
	return out, nil
}

// openMount mounts a snapshot, detached, with the first driver that can. A driver is
// chosen by trying: asking what it could do first would cost more than the mount. With
// -v it says why each better one was passed over.
func (a *app) openMount(ctx context.Context, s *snapshot.Store, drivers []unionfs.Driver, key snapshot.Key, readOnly bool) (unionfs.Mount, error) {
	opts := unionfs.Options{ReadOnly: readOnly, Source: s.Source(key), Logger: a.logger()}
	var passed []error
	for _, d := range drivers {
		var err error
		// A stack of several trees needs more of the kernel than a single one.
		for _, single := range []bool{false, true} {
			layers, merr := s.Mounts(ctx, key, snapshot.MountOptions{Single: single})
			if merr != nil {
				return nil, merr
			}
			if single && len(layers.Lower) < 2 {
				break // it was a single tree already
			}
			var m unionfs.Mount
			if m, err = d.Open(ctx, layers, opts); err == nil {
				return m, nil
			}
			if !errors.Is(err, errors.ErrUnsupported) {
				break
			}
		}
		err = fmt.Errorf("driver %s: %w", d.Name(), err)
		if a.verbose {
			fmt.Fprintf(a.stderr, "layerfs: %v\n", err)
		}
		passed = append(passed, err)
	}
	return nil, fmt.Errorf("mount snapshot %s: %w", key, errors.Join(passed...))
}

// unmount unmounts one target.
func (a *app) unmount(ctx context.Context, target string, force bool) error {
	for _, d := range a.drivers() {
		if u, ok := d.(unionfs.Unmounter); ok {
			return u.Unmount(ctx, target, force)
		}
	}
	return fmt.Errorf("unmount %s: %w", target, errors.ErrUnsupported)
}
