package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/cgroup"
)

// ReadProcess reads the description of a process from a file.
func ReadProcess(path string) (*specs.Process, error) {
	p := &specs.Process{}
	if err := readJSON(path, p); err != nil {
		return nil, fmt.Errorf("read process: %w", err)
	}
	return p, nil
}

// Exec starts one more process in the container. The caller waits for it and closes it.
func (c *Container) Exec(ctx context.Context, process *specs.Process, detach bool, o Options) (*runtime.Process, error) {
	if s := c.status(); s != specs.StateRunning && s != specs.StateCreated {
		return nil, fmt.Errorf("start process in container %s, which is %s: %w", c.rec.ID, s, ErrNotRunning)
	}
	if o.ConsoleSocket != "" && !process.Terminal {
		return nil, fmt.Errorf("start process: a console socket without a terminal: %w", fs.ErrInvalid)
	}
	var g *cgroup.Group
	if c.rec.Cgroup != "" {
		var err error
		if g, err = c.group(); err != nil {
			return nil, err
		}
	}
	config := runtime.ExecConfig{Pid: c.rec.Pid, Verify: c.verify, Process: process, Seccomp: c.Spec.Linux.Seccomp, Cgroup: g, Detach: detach, Logger: o.Logger}
	if !process.Terminal {
		config.Stdin, config.Stdout, config.Stderr = o.Stdin, o.Stdout, o.Stderr
	}
	p, err := runtime.Exec(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("start process in container %s: %w", c.rec.ID, err)
	}
	if err := handOver(p, o); err != nil {
		killErr := p.Signal(unix.SIGKILL)
		_, waitErr := p.Wait()
		return nil, errors.Join(err, killErr, waitErr, p.Close())
	}
	return p, nil
}
