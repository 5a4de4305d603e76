package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Freeze stops all processes of the group and returns once they stand still. Where that
// does not happen before ctx ends, they are thawed again.
func (g *Group) Freeze(ctx context.Context) error {
	err := g.setFrozen(ctx, true)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		err = errors.Join(err, g.setFrozen(context.WithoutCancel(ctx), false))
	}
	if err != nil {
		return fmt.Errorf("freeze cgroup %s: %w", g.path, err)
	}
	return nil
}

// Thaw lets the processes of a frozen group run on.
func (g *Group) Thaw(ctx context.Context) error {
	if err := g.setFrozen(ctx, false); err != nil {
		return fmt.Errorf("thaw cgroup %s: %w", g.path, err)
	}
	return nil
}

// Frozen tells whether the group is frozen.
func (g *Group) Frozen() (bool, error) {
	if h, ok := g.with("freezer"); ok && !h.unified {
		state, err := readLimited(filepath.Join(h.dir, "freezer.state"), maxFile)
		return strings.TrimSpace(state) == frozenState, err
	}
	if h, ok := g.unified(); ok {
		text, err := readLimited(filepath.Join(h.dir, "cgroup.events"), maxFile)
		return pairs(text)["frozen"] == 1, err
	}
	return false, fmt.Errorf("look whether cgroup %s is frozen: no freezer: %w", g.path, errors.ErrUnsupported)
}

// States of freezer.state (freezer-subsystem.rst).
const (
	frozenState = "FROZEN"
	thawedState = "THAWED"
)

func (g *Group) setFrozen(ctx context.Context, frozen bool) error {
	var file, value string
	if h, ok := g.with("freezer"); ok && !h.unified {
		file, value = filepath.Join(h.dir, "freezer.state"), thawedState
		if frozen {
			value = frozenState
		}
	} else if h, ok := g.unified(); ok {
		file, value = filepath.Join(h.dir, "cgroup.freeze"), "0"
		if frozen {
			value = "1"
		}
	} else {
		return fmt.Errorf("no freezer: %w", errors.ErrUnsupported)
	}
	return retry(ctx, func() (bool, error) {
		// In version 1 a process that is just being made can escape the first attempt,
		// so the state is written until it is reached.
		if err := write(file, value); err != nil {
			return true, err
		}
		is, err := g.Frozen()
		return err != nil || is == frozen, err
	})
}

// Kill sends SIGKILL to all processes of the group, those made meanwhile included, and
// returns when it has none any more or ctx ends.
func (g *Group) Kill(ctx context.Context) error {
	err := retry(ctx, func() (bool, error) {
		pids, err := g.Procs()
		if err != nil || len(pids) == 0 {
			return true, err
		}
		return false, g.kill(ctx, pids)
	})
	if err != nil {
		return fmt.Errorf("kill processes of cgroup %s: %w", g.path, err)
	}
	return nil
}

// kill sends the signal once.
func (g *Group) kill(ctx context.Context, pids []int) error {
	if h, ok := g.unified(); ok {
		err := write(filepath.Join(h.dir, "cgroup.kill"), "1")
		if err == nil || !errors.Is(err, os.ErrNotExist) { // before Linux 5.14
			// A freezer of version 1 keeps them from dying.
			if _, v1 := g.with("freezer"); v1 {
				err = errors.Join(err, g.setFrozen(ctx, false))
			}
			return err
		}
	}
	// Frozen processes make no new ones between the look and the signal.
	frozen := g.setFrozen(ctx, true) == nil
	if again, err := g.Procs(); err == nil {
		pids = again
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("process %d: %w", pid, err))
		}
	}
	if frozen {
		errs = append(errs, g.setFrozen(ctx, false))
	}
	return errors.Join(errs...)
}
