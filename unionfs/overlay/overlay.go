// Package overlay mounts unions with the overlayfs of the Linux kernel, for root and for
// the root of a user namespace.
//
// Trees are mounted as EROFS straight from their files, detached, so that no path
// shows them and nothing is left when the union ends; a loop device serves where the
// kernel refuses a file. In a user namespace, which may not mount EROFS, somebody else
// mounts them, see [TreeMounter]. Layers reach overlayfs one by one and by file descriptor, so
// there is no limit on the length of options, and paths may hold any byte.
//
// # The options it mounts with, and why
//
// metacopy=on, redirect_dir=on: a chmod of a large file and a rename of a large
// directory are metadata. They also let several trees with redirects lie in one
// stack; without them overlayfs follows redirects into the data directories from the
// last lower only.
//
// index=off: with an index, a write to one of several hard links of a lower file
// changes what the other names show while the upper holds the written name only, the
// rest being in the work directory; and the index ties the upper to the very layers
// it was first mounted on. A commit has to find everything in the upper, and a fork
// mounts an upper elsewhere. The price is the one that overlayfs documents: names of
// one lower file part when one of them is written.
//
// xino=on: one st_dev for the whole union and inode numbers that last over copy-up
// and remount, as programs that tell files apart by device and inode expect (tar, du,
// rsync, find -xdev). Each tree is a file system with numbers of its own, which the
// kernel tells apart by the upper bits. Costs nothing measurable.
//
// nfs_export=off: it excludes metacopy.
//
// # In a user namespace
//
// There overlayfs keeps its marks in user.overlay.* (option userxattr) and refuses
// metacopy and redirect_dir: a chmod copies the content, a rename of a lower directory
// fails with EXDEV, and a stack has to be one tree, which is the last layer. The kernel
// follows that tree's redirects into the data directories from Linux 6.16 on; for others,
// the mounter of trees serves the contents too.
//
// # What it cannot do
//
// Until a file of a tree has been copied up, setting an ACL on it fails with
// EOPNOTSUPP and setting inode flags (chattr) with ENOTTY: overlayfs asks the lower
// file first, and EROFS, being read-only, has neither call. Any other change of the
// file, such as a chmod, copies it up and lifts this.
//
// # What it leaves alone
//
// nosuid and nodev are not forced: an image's setuid programs and devices work. Who
// wants otherwise sets it on the mount.
//
// Whether a kernel can do something is found out by trying, never by its version.
package overlay

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
)

// Options restrict the driver to less than the kernel can do. The zero value takes
// the best there is; the rest exists to measure the ways of older kernels and to test
// them on newer ones.
type Options struct {
	LoopDevices bool // mount trees through loop devices only
	Paths       bool // hand layers over by path, not by descriptor (as before Linux 6.13)
	Staged      bool // mount in a name space of its own (as before Linux 6.15)
	NoMetacopy  bool // no metadata-only copy-up and no redirects of directories
	TreeData    bool // contents through the mounter of trees (as before Linux 6.16)

	// UserNamespace mounts for the root of a user namespace. The upper format is in
	// unionfs.User then.
	UserNamespace bool
	// Trees mounts trees instead of the kernel; a user namespace needs it.
	Trees TreeMounter
}

// TreeMounter mounts one tree, detached. The mount shows redirects and metacopy marks to
// an overlay that keeps its own marks in ns, or, with data directories, all contents and
// no marks. The driver closes the mount.
type TreeMounter func(ctx context.Context, tree string, data []string, ns unionfs.Namespace) (*mountapi.Mount, error)

// namespace returns where the driver's mounts have the marks of overlayfs.
func (o Options) namespace() unionfs.Namespace {
	if o.UserNamespace {
		return unionfs.User
	}
	return unionfs.Trusted
}

// Driver is the driver "overlay". It has no state but its options.
type Driver struct {
	opts Options
}

// New returns the driver. It looks at nothing: see Probe.
func New(opts Options) *Driver { return &Driver{opts: opts} }

var (
	_ unionfs.Driver    = (*Driver)(nil)
	_ unionfs.Unmounter = (*Driver)(nil)
	_ unionfs.Featurer  = (*Driver)(nil)
)

// Name returns "overlay".
func (d *Driver) Name() string { return "overlay" }

// Open mounts the layers, detached. The work directory must be on the upper's file
// system and is the kernel's from then on. The kernel does not refuse an upper that
// is in use by another mount, and mixes up both: callers keep an upper to one mount.
func (d *Driver) Open(ctx context.Context, layers unionfs.Layers, opts unionfs.Options) (unionfs.Mount, error) {
	m, err := d.open(ctx, layers, opts)
	if err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	return m, nil
}

func (d *Driver) open(ctx context.Context, layers unionfs.Layers, opts unionfs.Options) (*Mount, error) {
	if err := layers.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	p := newPlan(layers, opts, d.opts)
	handle, err := p.mount(ctx, logger)
	if err != nil {
		return nil, err
	}
	return &Mount{handle: handle}, nil
}

// Unmount unmounts target; see [unionfs.Unmounter]. Unmounting a writable union that
// is not volatile flushes the upper's file system first, which the kernel does.
func (d *Driver) Unmount(ctx context.Context, target string, force bool) error {
	return mountapi.Unmount(ctx, target, force)
}

// Mount is a mounted union. It is safe for concurrent use.
type Mount struct {
	handle *mountapi.Mount

	mu       sync.Mutex
	attached bool
	closed   bool
}

// Attach makes the union visible at the directory target.
func (m *Mount) Attach(ctx context.Context, target string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("attach overlay: %w", ctx.Err())
	case m.closed:
		return fmt.Errorf("attach overlay: %w", fs.ErrClosed)
	case m.attached:
		return fmt.Errorf("attach overlay to %s: already attached elsewhere: %w", target, fs.ErrInvalid)
	}
	if err := m.handle.Attach(target); err != nil {
		return fmt.Errorf("attach overlay: %w", err)
	}
	m.attached = true
	return nil
}

// FD returns an O_PATH file descriptor of the union's root directory, through which
// a detached union can be used too. It is valid until Close.
func (m *Mount) FD() int { return m.handle.FD() }

// Close releases the handle; a union that was not attached ends with it. A second
// call does nothing.
func (m *Mount) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	return m.handle.Close()
}

// source returns what mountinfo shall show.
func source(opts unionfs.Options) (string, error) {
	switch {
	case opts.Source == "":
		return "layerfs", nil
	case len(opts.Source) > mountapi.MaxString || strings.IndexByte(opts.Source, 0) >= 0:
		return "", fmt.Errorf("mount source of %d bytes, limit %d and no NUL: %w", len(opts.Source), mountapi.MaxString, fs.ErrInvalid)
	default:
		return opts.Source, nil
	}
}

// mountAttr returns the MOUNT_ATTR_* flags of the union.
func mountAttr(readOnly bool) int {
	if readOnly {
		return unix.MOUNT_ATTR_RDONLY
	}
	return 0
}
