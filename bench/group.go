package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// group is the control groups in which processor time is added up: this program and
// what it starts are in one, containers of peers in another beside it. Both have the
// same name in every hierarchy.
type group struct {
	name string
	v2   bool
}

const cgroups = "/sys/fs/cgroup"

// containers is the parent of the control groups of containers.
func (g group) containers() string { return "/" + g.name + "-containers" }

// joinGroup puts this process into the group. Where there is none to be had, processor
// time of daemons stays unknown.
func joinGroup(name string) group {
	g := group{name: name}
	_, err := os.Stat(filepath.Join(cgroups, "cgroup.controllers"))
	g.v2 = err == nil
	dir := g.dir(name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return group{name: name}
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return group{name: name}
	}
	return g
}

func (g group) dir(name string) string {
	if g.v2 {
		return filepath.Join(cgroups, name)
	}
	return filepath.Join(cgroups, "cpuacct", name)
}

// cpu is the processor time that the groups have used.
func (g group) cpu() time.Duration { return g.used(g.name) + g.used(g.name+"-containers") }

func (g group) used(name string) time.Duration {
	if !g.v2 {
		data, err := os.ReadFile(filepath.Join(g.dir(name), "cpuacct.usage"))
		if err != nil {
			return 0
		}
		n, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		return time.Duration(n)
	}
	data, err := os.ReadFile(filepath.Join(g.dir(name), "cpu.stat"))
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(l, "usage_usec "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return time.Duration(n) * time.Microsecond
		}
	}
	return 0
}

// removeGroups removes what is left of the groups of that name in all hierarchies, once
// no process is in them.
func removeGroups(name string) error {
	var errs []error
	for _, pattern := range []string{filepath.Join(cgroups, name+"*"), filepath.Join(cgroups, "*", name+"*")} {
		tops, err := filepath.Glob(pattern)
		errs = append(errs, err)
		for _, top := range tops {
			var dirs []string
			errs = append(errs, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil // what cannot be looked into cannot be removed either, which is told below
			}))
			for _, dir := range slices.Backward(dirs) {
				if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, &fs.PathError{Op: "remove control group", Path: dir, Err: err})
				}
			}
		}
	}
	return errors.Join(errs...)
}
