package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/volume"
)

// sweepContainers brings an end to what killed commands and monitors left of containers:
// processes, control groups, networks, sockets, and the containers themselves that never
// came to be or were to go when they had ended. It returns how many containers it
// removed; with dry it only counts.
func (a *app) sweepContainers(ctx context.Context, dry bool) (n int, err error) {
	s, err := a.containers(ctx)
	if err != nil {
		return 0, err
	}
	if dry && a.disk.ReadOnly() != "" {
		return 0, nil // its locks cannot be taken, and nothing can be removed
	}
	alive := map[string]bool{}
	var errs []error
	err = s.Walk(ctx, func(c *container.Container) error {
		if c.State.Monitor.Alive() {
			alive[string(c.ID)] = true
			return nil
		}
		removed, err := a.sweepContainer(ctx, s, c, dry)
		if removed {
			n++
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		return nil
	})
	errs = append(errs, err)
	left, err := s.Sweep(ctx, dry)
	errs = append(errs, err)
	n += left
	if dry {
		return n, errors.Join(errs...)
	}
	errs = append(errs, a.sweepGroups(ctx, alive), a.sweepNetworks(ctx, alive), a.sweepVolumes(ctx))
	return n, errors.Join(errs...)
}

// sweepContainer cleans up after one that nobody attends.
func (a *app) sweepContainer(ctx context.Context, s *container.Store, c *container.Container, dry bool) (removed bool, err error) {
	unfinished := c.State.Status == container.Created && c.State.Monitor.Pid != 0
	over := c.Remove && (c.State.Status != container.Created || c.State.Error != "")
	removed = unfinished || over
	if dry {
		return removed, nil
	}
	st, err := s.Settle(ctx, c.ID)
	if err != nil {
		return false, err
	}
	c.State = *st
	if removed {
		return true, a.removeContainer(ctx, s, c, true)
	}
	err = os.Remove(filepath.Join(s.Dir(c.ID), "attach"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return false, err
}

// sweepGroups removes control groups of containers that do not run.
func (a *app) sweepGroups(ctx context.Context, alive map[string]bool) error {
	parent, err := cgroup.Load(a.cgroupParent())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, dir := range parent.Dirs() {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if _, err := container.ParseID(e.Name()); err == nil && e.IsDir() && !alive[e.Name()] {
				found[e.Name()] = true
			}
		}
	}
	var errs []error
	for id := range found {
		// It may have been started meanwhile.
		if st, err := a.ctrs.State(container.ID(id)); err == nil && st.Monitor.Alive() {
			continue
		}
		group, err := cgroup.Load(a.cgroupParent() + "/" + id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = errors.Join(group.Kill(ctx), group.Remove(ctx))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (a *app) sweepNetworks(ctx context.Context, alive map[string]bool) (err error) {
	if _, err := os.Stat(filepath.Join(a.disk.Root(), "network")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ns, err := a.networks(ctx)
	if err != nil {
		return err
	}
	defer join(&err, ns.Close)
	return ns.Sweep(ctx, func(id string) bool {
		if alive[id] {
			return true
		}
		st, err := a.ctrs.State(container.ID(id))
		return err == nil && st.Monitor.Alive()
	})
}

func (a *app) sweepVolumes(ctx context.Context) (err error) {
	vs, err := a.volumes(ctx)
	if err != nil {
		return err
	}
	release, err := vs.Hold(ctx)
	if err != nil {
		return err
	}
	defer join(&err, release)
	users, err := a.volumeUsers(ctx)
	if err != nil {
		return err
	}
	_, err = vs.Sweep(false, func(v *volume.Volume) bool {
		id, err := container.ParseID(v.Container)
		if err != nil || len(users[v.Name]) > 0 {
			return true
		}
		_, err = os.Lstat(a.ctrs.Dir(id)) // also of one whose record is damaged
		return !errors.Is(err, fs.ErrNotExist)
	})
	return err
}
