package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/cgroup"
)

// longestKill is how long a killed container may take to end.
const longestKill = 10 * time.Second

// Signal sends a signal to the container's first process, or to all. Without a cgroup the
// container has a pid namespace, which ends with its first process; signals to all but
// SIGKILL then wrap errors.ErrUnsupported.
func (c *Container) Signal(s unix.Signal, all bool) error {
	if all && c.rec.Cgroup == "" && s == unix.SIGKILL {
		return c.signal(s)
	}
	if all {
		g, err := c.group()
		if err != nil {
			return err
		}
		pids, err := g.Procs()
		if err != nil {
			return err
		}
		var errs []error
		for _, pid := range pids {
			if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("send signal %d to process %d: %w", s, pid, err))
			}
		}
		return errors.Join(errs...)
	}
	if c.status() == specs.StateStopped {
		return fmt.Errorf("send signal to container %s: %w", c.rec.ID, ErrNotRunning)
	}
	return c.signal(s)
}

// signal sends a signal by handle, so that it is the process that was meant.
func (c *Container) signal(s unix.Signal) error {
	fd, err := unix.PidfdOpen(c.rec.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take hold of process %d: %w", c.rec.Pid, err)
	}
	defer unix.Close(fd) //nolint:errcheck // only a handle
	if start, _, err := process(c.rec.Pid); err != nil || start != c.rec.StartTime {
		return nil // it has ended
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send signal %d to process %d: %w", s, c.rec.Pid, err)
	}
	return nil
}

func (c *Container) group() (*cgroup.Group, error) {
	if c.rec.Cgroup == "" {
		return nil, fmt.Errorf("container %s has no cgroup: %w", c.rec.ID, errors.ErrUnsupported)
	}
	return cgroup.Load(c.rec.Cgroup)
}

// Pause freezes the container. Without a cgroup it wraps errors.ErrUnsupported, as Update
// does.
func (c *Container) Pause(ctx context.Context) error {
	if s := c.status(); s != specs.StateRunning && s != specs.StateCreated {
		return fmt.Errorf("pause container %s: %w", c.rec.ID, ErrNotRunning)
	}
	g, err := c.group()
	if err != nil {
		return err
	}
	return g.Freeze(ctx)
}

// Resume thaws the container.
func (c *Container) Resume(ctx context.Context) error {
	if s := c.status(); s != Paused {
		return fmt.Errorf("resume container %s, which is %s: %w", c.rec.ID, s, fs.ErrInvalid)
	}
	g, err := c.group()
	if err != nil {
		return err
	}
	return g.Thaw(ctx)
}

// Processes returns the ids of the container's processes.
func (c *Container) Processes() ([]int, error) {
	if c.rec.Cgroup == "" {
		if c.status() == specs.StateStopped {
			return nil, nil
		}
		return runtime.Processes(c.rec.Pid)
	}
	g, err := c.group()
	if err != nil {
		return nil, err
	}
	return g.Procs()
}

// Update changes limits, given as linux.resources in JSON.
func (c *Container) Update(r io.Reader) error {
	var resources specs.LinuxResources
	if err := decode(r, &resources); err != nil {
		return fmt.Errorf("read limits: %w", err)
	}
	g, err := c.group()
	if err != nil {
		return err
	}
	return errors.Join(g.Apply(&resources)...)
}

// Delete removes what is left of a stopped container, or of one that was never started.
// With force a running one is killed.
func (c *Container) Delete(ctx context.Context, force bool) error {
	if s := c.status(); s != specs.StateStopped && s != specs.StateCreated && !force {
		return fmt.Errorf("delete container %s, which is %s: %w", c.rec.ID, s, ErrNotStopped)
	}
	if err := c.remove(ctx); err != nil {
		return fmt.Errorf("delete container %s: %w", c.rec.ID, err)
	}
	if c.Spec.Hooks != nil {
		state := c.State().State
		state.Status = specs.StateStopped
		// A hook that fails is no reason to keep what is gone.
		if err := runtime.RunHooks(ctx, "poststop", c.Spec.Hooks.Poststop, &state); err != nil {
			return err
		}
	}
	return nil
}

// Prune removes what a create that was killed left behind.
func (s *Store) Prune(ctx context.Context, id string, logger *slog.Logger) error {
	if err := checkID(id); err != nil {
		return err
	}
	c := &Container{dir: s.root + "/" + id, rec: record{ID: id, Cgroup: "layerfs-oci/" + id}}
	var spec specs.Spec
	if err := readJSON(c.dir+"/config.json", &spec); err == nil && spec.Linux != nil && spec.Linux.CgroupsPath != "" {
		c.rec.Cgroup = spec.Linux.CgroupsPath
	}
	logger.Debug("container has no state", "id", id)
	return c.remove(ctx)
}

// remove kills what is left of the container and removes its cgroup and directory.
func (c *Container) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, longestKill)
	defer cancel()
	var errs []error
	if c.rec.Pid > 0 {
		errs = append(errs, c.signal(unix.SIGKILL))
	}
	if c.rec.Cgroup != "" {
		g, err := c.group()
		if err == nil {
			err = g.Kill(ctx)
			err = errors.Join(err, g.Remove(ctx))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errors.ErrUnsupported) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err // the directory is what it can be tried again from
	}
	return os.RemoveAll(c.dir)
}
