package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/monitor"
	"github.com/layerfs/layerfs/runtime/external"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// findRuntime returns the path of an OCI runtime that is given by name or path; "" is the
// built-in launcher. Runtimes often lie where only root looks for programs.
func findRuntime(word string) (string, error) {
	switch {
	case word == "":
		return "", nil
	case strings.Contains(word, "/"):
		path, err := filepath.Abs(word)
		if err == nil {
			_, err = exec.LookPath(path)
		}
		if err != nil {
			return "", usageError{fmt.Errorf("--runtime %s: %w", word, err)}
		}
		return path, nil
	}
	path, err := exec.LookPath(word)
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, word))
		}
	}
	if err != nil {
		return "", usageError{fmt.Errorf("--runtime %s: no such program is installed; give crun, runc or the path of one, or leave the option out for the built-in launcher: %w", word, fs.ErrNotExist)}
	}
	return filepath.Abs(path)
}

// external is the runtime of a container, nil for the built-in launcher.
func (a *app) external(rec *container.Record) *external.Runtime {
	if rec.Runtime == "" {
		return nil
	}
	return &external.Runtime{Program: rec.Runtime, Bundle: a.ctrs.Dir(rec.ID), ID: string(rec.ID), Env: os.Environ(), Logger: a.logger()}
}

// startExternal has another runtime start the process of a container.
func (a *app) startExternal(ctx context.Context, rt *external.Runtime, rec *container.Record, spec *specs.Spec, group *cgroup.Group, root int, streams [3]*os.File) (monitor.Process, error) {
	limits, err := a.limitsOf(rec)
	if err != nil {
		return nil, err
	}
	if err := external.Fit(spec, group, limits); err != nil {
		return nil, err
	}
	if err := a.writeSpec(rec, spec); err != nil {
		return nil, err
	}
	var points newMountPoints
	err = runtime.MakeMountPoints(runtime.RootFD(root), spec.Mounts, points.add)
	a.noteMountPoints(ctx, rec, points)
	if err != nil {
		return nil, err
	}
	p, err := rt.Start(ctx, root, spec.Process.Terminal, streams)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// startExec starts one more process in a container, by its runtime unless that is nil.
func startExec(ctx context.Context, rt *external.Runtime, c runtime.ExecConfig) (monitor.Process, error) {
	if rt == nil {
		p, err := runtime.Exec(ctx, c)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	if c.Verify != nil {
		if err := c.Verify(); err != nil {
			return nil, errors.Join(err, container.ErrNotActive)
		}
	}
	p, err := rt.Exec(ctx, c.Process, [3]*os.File{c.Stdin, c.Stdout, c.Stderr})
	if err != nil {
		return nil, err
	}
	return p, nil
}
