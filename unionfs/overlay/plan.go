package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
)

// plan is one union to be mounted, with what has been learnt of the kernel on the
// way. Each trait starts with the best way and falls back when the kernel refuses it.
type plan struct {
	lower       []unionfs.Lower
	data        []string
	upper, work string
	opts        unionfs.Options
	readOnly    bool

	ns    unionfs.Namespace
	trees TreeMounter // nil is the kernel

	loop     bool // trees through loop devices
	paths    bool // layers by path
	staged   bool // in a mount name space of its own
	metacopy bool
	treeData bool // contents through the mounter of trees
}

func newPlan(layers unionfs.Layers, opts unionfs.Options, force Options) *plan {
	p := &plan{
		lower: layers.Lower, data: layers.Data, upper: layers.Upper, work: layers.Work, opts: opts,
		loop: force.LoopDevices, paths: force.Paths, staged: force.Staged, metacopy: !force.NoMetacopy && !force.UserNamespace,
		ns: force.namespace(), trees: force.Trees, treeData: force.TreeData && force.Trees != nil,
	}
	if opts.ReadOnly && p.upper != "" {
		p.lower = append([]unionfs.Lower{{Dir: p.upper}}, p.lower...)
		p.upper, p.work = "", ""
	}
	p.readOnly = p.upper == ""
	return p
}

// mount tries the plan and falls back step by step. A failure that no fall-back
// mends is tried once more with an eye on the kernel's log, because most refusals of
// overlayfs and EROFS are explained there and nowhere else.
func (p *plan) mount(ctx context.Context, logger *slog.Logger) (*mountapi.Mount, error) {
	for {
		m, err := p.try(ctx)
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !p.fallBack(err) {
			break
		}
		logger.DebugContext(ctx, "mount overlay in another way", "because", err,
			"loop", p.loop, "paths", p.paths, "staged", p.staged, "tree_data", p.treeData)
	}
	var m *mountapi.Mount
	var err error
	said := mountapi.KernelLog(func() { m, err = p.try(ctx) })
	if err == nil {
		return m, nil
	}
	return nil, explain(err, said, p)
}

// fallBack changes the plan to a way that may avoid err, and reports whether there
// is one.
func (p *plan) fallBack(err error) bool {
	var layer *layerError
	var call *mountapi.Error
	refused := errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM)
	switch {
	case errors.As(err, &call) && call.Op == "fsconfig metacopy" && p.metacopy:
		p.metacopy = false
	case errors.As(err, &layer) && layer.tree && errors.Is(err, unix.ENOTBLK) && !p.loop:
		// EROFS wants a block device: before Linux 6.12, or a store on a file system
		// that is stacked itself.
		p.loop = true
	case errors.As(err, &layer) && layer.handed && refused && !p.paths:
		p.paths = true
	case errors.As(err, &layer) && layer.handed && refused && !p.staged:
		// The kernel clones the mounts of layers, and before Linux 6.15 it does so
		// from the caller's mount name space only, never a detached one.
		p.staged = true
	case p.trees != nil && !p.treeData && len(p.data) > 0 && refused && (isHanded(layer) || isCreate(call)):
		// No data-only layers (before Linux 6.8), or not without metacopy (6.16).
		p.treeData = true
	default:
		return false
	}
	return true
}

func isHanded(e *layerError) bool { return e != nil && e.handed }

func isCreate(e *mountapi.Error) bool {
	return e != nil && e.Op == "fsconfig create" && e.Object == "overlay"
}

func (p *plan) try(ctx context.Context) (*mountapi.Mount, error) {
	build := func(stage func(*mountapi.Mount) error) (*mountapi.Mount, error) { return p.build(ctx, stage) }
	if p.staged {
		return inStage(build)
	}
	return build(nil)
}

// layerError is a failure that belongs to one layer.
type layerError struct {
	what   string // "lower layer 3 of 5 (path)"
	tree   bool   // the layer is a tree, and mounting it failed
	handed bool   // overlayfs refused it when it was handed over
	err    error
}

func (e *layerError) Error() string { return e.what + ": " + e.err.Error() }
func (e *layerError) Unwrap() error { return e.err }

// build opens the layers and makes the overlay. stage, if not nil, makes a mount
// of a layer part of the current mount name space.
func (p *plan) build(ctx context.Context, stage func(*mountapi.Mount) error) (_ *mountapi.Mount, err error) {
	name, err := source(p.opts)
	if err != nil {
		return nil, err
	}
	if !p.metacopy && !p.treeData {
		if err := p.oneTree(); err != nil {
			return nil, err
		}
	}
	config, err := mountapi.Open("overlay")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, config.Close()) }()

	for _, o := range p.options(name) {
		if o.value == "" {
			err = config.SetFlag(o.key)
		} else {
			err = config.SetString(o.key, o.value)
		}
		if err != nil {
			return nil, err
		}
	}

	held := &handles{}
	defer func() { err = errors.Join(err, held.Close()) }()
	give := func(key, what string, fd int, path string) error {
		set := config.SetFd
		if p.paths {
			set = config.SetFdPath
		}
		if err := set(key, fd, path); err != nil {
			return &layerError{what: what, handed: true, err: err}
		}
		return nil
	}

	for i, lower := range p.lower {
		what := fmt.Sprintf("lower layer %d of %d (%s)", i+1, len(p.lower), lower)
		var fd int
		if lower.Dir != "" {
			fd, err = held.dir(lower.Dir)
		} else {
			fd, err = p.tree(ctx, held, lower.Tree, stage)
		}
		if err != nil {
			return nil, &layerError{what: what, tree: lower.Tree != "", err: err}
		}
		if err := give("lowerdir+", what, fd, lower.String()); err != nil {
			return nil, err
		}
	}
	if p.needsEmpty() {
		fd, err := held.empty(stage)
		if err != nil {
			return nil, err
		}
		if err := give("lowerdir+", "empty lower layer", fd, "tmpfs"); err != nil {
			return nil, err
		}
	}
	data := p.data
	if p.treeData {
		data = nil
	}
	for i, data := range data {
		what := fmt.Sprintf("data directory %d of %d (%s)", i+1, len(p.data), data)
		fd, err := held.dir(data)
		if err != nil {
			return nil, &layerError{what: what, err: err}
		}
		if err := give("datadir+", what, fd, data); err != nil {
			return nil, err
		}
	}
	for _, dir := range []struct{ key, what, path string }{
		{"upperdir", "upper directory", p.upper}, {"workdir", "work directory", p.work},
	} {
		if dir.path == "" {
			continue
		}
		what := fmt.Sprintf("%s (%s)", dir.what, dir.path)
		fd, err := held.dir(dir.path)
		if err != nil {
			return nil, &layerError{what: what, err: err}
		}
		if err := give(dir.key, what, fd, dir.path); err != nil {
			return nil, err
		}
	}
	if err := config.Create(); err != nil {
		return nil, err
	}
	return config.Mount(mountAttr(p.readOnly))
}

// tree mounts a tree and returns its root.
func (p *plan) tree(ctx context.Context, held *handles, path string, stage func(*mountapi.Mount) error) (int, error) {
	if p.trees == nil {
		return held.tree(path, p.loop, stage)
	}
	var data []string
	if p.treeData {
		data = p.data
	}
	m, err := p.trees(ctx, path, data, p.ns)
	if err != nil {
		return -1, err
	}
	return held.keep(m, stage)
}

// needsEmpty reports whether an empty layer has to make up the number: overlayfs
// wants a lower below an upper, and two layers where there is none.
func (p *plan) needsEmpty() bool {
	if p.upper != "" {
		return len(p.lower) == 0
	}
	if p.treeData {
		return len(p.lower) < 2
	}
	return len(p.lower)+len(p.data) < 2
}

// oneTree reports whether the stack can do without metacopy: then overlayfs follows
// redirects into the data directories from the last lower only, and reading a file
// of any other tree would fail with EPERM.
func (p *plan) oneTree() error {
	if len(p.data) == 0 {
		return nil
	}
	for i, lower := range p.lower[:max(len(p.lower)-1, 0)] {
		if lower.Tree != "" {
			return &layerError{
				what: fmt.Sprintf("lower layer %d of %d (%s)", i+1, len(p.lower), lower),
				err:  fmt.Errorf("this kernel takes file contents from a data directory for the last layer only (no metacopy); merge the stack into one tree: %w", errors.ErrUnsupported),
			}
		}
	}
	return nil
}

type option struct{ key, value string }

// options lists the options of the overlay; the package comment says why these.
func (p *plan) options(source string) []option {
	options := []option{{"source", source}, {"index", "off"}, {"nfs_export", "off"}, {"xino", "on"}}
	switch {
	case p.ns == unionfs.User:
		options = append(options, option{key: "userxattr"}) // excludes the two below
	case p.metacopy:
		options = append(options, option{"metacopy", "on"}, option{"redirect_dir", "on"})
	default:
		options = append(options, option{"metacopy", "off"}, option{"redirect_dir", "follow"})
	}
	if p.readOnly {
		options = append(options, option{key: "ro"})
	} else if p.opts.Volatile {
		options = append(options, option{key: "volatile"})
	}
	return options
}

// errNotDir tells a layer that is something else than a directory.
var errNotDir = fmt.Errorf("not a directory: %w", fs.ErrInvalid)
