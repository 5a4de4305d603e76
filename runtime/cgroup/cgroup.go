package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultRoot = "/sys/fs/cgroup"
	maxPath     = 1024     // bytes of a group's path
	maxPids     = 64 << 20 // bytes of a list of process ids
)

// Options are where a group is.
type Options struct {
	// Path is the group's name in each hierarchy: below what the caller may change, or,
	// with a leading "/", below the root of the hierarchy as it is mounted.
	Path string

	// Root is where cgroup file systems are mounted; "" means /sys/fs/cgroup.
	Root string
}

// Group is a control group in all hierarchies. It holds nothing open, and its methods
// may be called at once.
type Group struct {
	path string
	in   []hierarchy
}

// hierarchy is a group in one of the trees.
type hierarchy struct {
	unified     bool
	controllers []string // those that limit and count the group's processes
	dir         string
	disabled    error // why controllers are not among them, or nil
}

// Open makes a group, or takes one that is there. Without permission to make it in any
// hierarchy the error wraps fs.ErrPermission, and without any hierarchy
// errors.ErrUnsupported; where it can be made in some, the limits of the others are
// errors of Apply.
func Open(_ context.Context, o Options) (*Group, error) {
	trees, err := find(o)
	if err != nil {
		return nil, err
	}
	g := &Group{path: o.Path}
	var errs []error
	for _, t := range trees {
		h, err := t.make(o.Path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		g.in = append(g.in, h)
	}
	if len(g.in) == 0 {
		return nil, fmt.Errorf("make cgroup %s: %w", o.Path, errors.Join(errs...))
	}
	return g, nil
}

// Load returns the group that Open made of a path. It wraps fs.ErrNotExist if it is in
// no hierarchy.
func Load(path string) (*Group, error) { return load(Options{Path: path}) }

func load(o Options) (*Group, error) {
	trees, err := find(o)
	if err != nil {
		return nil, err
	}
	g := &Group{path: o.Path}
	for _, t := range trees {
		if h := t.at(o.Path); isDir(h.dir) {
			if h.unified {
				h.controllers = strings.Fields(readShort(filepath.Join(h.dir, "cgroup.controllers")))
			}
			g.in = append(g.in, h)
		}
	}
	if len(g.in) == 0 {
		return nil, fmt.Errorf("open cgroup %s: %w", o.Path, fs.ErrNotExist)
	}
	return g, nil
}

// Path is what the group was opened with.
func (g *Group) Path() string { return g.path }

// Dirs are the directories of the group, one for each hierarchy.
func (g *Group) Dirs() []string {
	var dirs []string
	for _, h := range g.in {
		dirs = append(dirs, h.dir)
	}
	return dirs
}

// with returns the hierarchy that has a controller.
func (g *Group) with(controller string) (hierarchy, bool) {
	for _, h := range g.in {
		if slices.Contains(h.controllers, controller) {
			return h, true
		}
	}
	return hierarchy{}, false
}

// unified returns the hierarchy of version 2.
func (g *Group) unified() (hierarchy, bool) {
	for _, h := range g.in {
		if h.unified {
			return h, true
		}
	}
	return hierarchy{}, false
}

// at is the group in the tree, there or not.
func (t *tree) at(name string) hierarchy {
	base := t.base
	if path.IsAbs(name) {
		base = t.mount
	}
	return hierarchy{unified: t.unified, controllers: t.controllers, dir: filepath.Join(base, name)}
}

// make makes the group and those above it.
func (t *tree) make(name string) (hierarchy, error) {
	h := t.at(name)
	const tries = 16 // a group above may be removed meanwhile
	for range tries {
		err := t.makeAbove(&h, name)
		if !errors.Is(err, fs.ErrNotExist) {
			return h, err
		}
	}
	return h, fmt.Errorf("make %s: a directory above it is removed again and again: %w", h.dir, fs.ErrNotExist)
}

func (t *tree) makeAbove(h *hierarchy, name string) error {
	dir := strings.TrimSuffix(h.dir, strings.TrimPrefix(path.Clean(name), "/"))
	dir = filepath.Clean(dir)
	for element := range strings.SplitSeq(strings.TrimPrefix(path.Clean(name), "/"), "/") {
		if t.unified {
			h.disabled = enable(dir)
		}
		parent := dir
		dir = filepath.Join(dir, element)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if slices.Contains(t.controllers, "cpuset") && !t.unified {
			if err := inheritCpuset(parent, dir); err != nil {
				return err
			}
		}
	}
	if t.unified {
		h.controllers = strings.Fields(readShort(filepath.Join(dir, "cgroup.controllers")))
	}
	return nil
}

// enable lets the groups below a directory of version 2 have its controllers. One by
// one, so that what can be had is had; the last reason why not is returned.
func enable(dir string) (last error) {
	on := strings.Fields(readShort(filepath.Join(dir, "cgroup.subtree_control")))
	for _, c := range strings.Fields(readShort(filepath.Join(dir, "cgroup.controllers"))) {
		if slices.Contains(on, c) {
			continue
		}
		if err := write(filepath.Join(dir, "cgroup.subtree_control"), "+"+c); err != nil {
			if errors.Is(err, unix.EBUSY) {
				err = fmt.Errorf("%w (the group has processes of its own, so it may not hand controllers on)", err)
			}
			last = err
		}
	}
	return last
}

// inheritCpuset gives a new group of the cpuset hierarchy what the one above has:
// without it no process can enter.
func inheritCpuset(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		if strings.TrimSpace(readShort(filepath.Join(dir, name))) != "" {
			continue
		}
		if err := write(filepath.Join(dir, name), strings.TrimSpace(readShort(filepath.Join(parent, name)))); err != nil {
			return err
		}
	}
	return nil
}

// Entry is how a process gets into a group. The caller closes it.
type Entry struct {
	// Unified is the directory in the hierarchy of version 2, for CLONE_INTO_CGROUP; nil
	// without that hierarchy.
	Unified *os.File
	// Procs are the cgroup.procs of the hierarchies of version 1. A process that writes
	// "0" enters.
	Procs []*os.File
}

// Enter opens what is needed to let processes in.
func (g *Group) Enter() (_ *Entry, err error) {
	e := &Entry{}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	for _, h := range g.in {
		if h.unified {
			if e.Unified, err = os.OpenFile(h.dir, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
				return nil, fmt.Errorf("enter cgroup %s: %w", g.path, err)
			}
			continue
		}
		f, err := os.OpenFile(filepath.Join(h.dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("enter cgroup %s: %w", g.path, err)
		}
		e.Procs = append(e.Procs, f)
	}
	return e, nil
}

// Close closes the files.
func (e *Entry) Close() error {
	var errs []error
	if e.Unified != nil {
		errs = append(errs, e.Unified.Close())
	}
	for _, f := range e.Procs {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Add puts a process that runs already into the group.
func (g *Group) Add(pid int) error {
	var errs []error
	for _, h := range g.in {
		errs = append(errs, write(filepath.Join(h.dir, "cgroup.procs"), strconv.Itoa(pid)))
	}
	return errors.Join(errs...)
}

// Procs returns the ids of the processes in the group and in those below it, in the
// caller's pid namespace, each once, sorted.
func (g *Group) Procs() ([]int, error) {
	var pids []int
	for _, h := range g.in {
		groups, err := below(h.dir)
		if err != nil {
			return nil, fmt.Errorf("list processes of cgroup %s: %w", g.path, err)
		}
		for _, dir := range groups {
			text, err := readLimited(filepath.Join(dir, "cgroup.procs"), maxPids)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, fmt.Errorf("list processes of cgroup %s: %w", g.path, err)
			}
			for field := range strings.FieldsSeq(text) {
				// 0 is a process that the caller's pid namespace does not show.
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// below returns a directory and all groups in it, the deepest first.
func below(dir string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, p)
		}
		return nil
	})
	slices.Reverse(dirs)
	return dirs, err
}

// Remove removes the group and those below it, which must have no processes any more.
// The kernel counts an ended process for some moments longer, so it tries until ctx
// ends or a second has passed. A group that is not there is no error; one in use wraps
// unix.EBUSY.
func (g *Group) Remove(ctx context.Context) error {
	const longest = time.Second
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	var errs []error
	for _, h := range g.in {
		err := retry(ctx, func() (bool, error) {
			err := removeAll(h.dir)
			return !errors.Is(err, unix.EBUSY), err
		})
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("remove cgroup %s: %w", g.path, errors.Join(errs...))
	}
	return nil
}

func removeAll(dir string) error {
	// Nearly always there is nothing below.
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	dirs, walkErr := below(dir)
	if walkErr != nil {
		return walkErr
	}
	for _, d := range dirs {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "rmdir", Path: d, Err: err}
		}
	}
	return nil
}

// retry calls f until it is done or ctx ends, with pauses that grow. It returns the last
// error, and the cause of ctx's end where there is none.
func retry(ctx context.Context, f func() (done bool, err error)) error {
	const first, longest = 200 * time.Microsecond, 20 * time.Millisecond
	for pause := first; ; pause = min(2*pause, longest) {
		done, err := f()
		if done {
			return err
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = context.Cause(ctx)
			}
			return err
		case <-time.After(pause):
		}
	}
}
