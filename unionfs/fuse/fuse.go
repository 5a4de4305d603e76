// Package fuse mounts unions by a file system of this program on FUSE, which needs
// nothing of the kernel but /dev/fuse. Root, and the root of a user name space, mount
// directly; anybody else through the setuid program fusermount3.
//
// Each mount is served by a process of its own that ends with it. Its upper directory
// is in overlayfs's format, so that the mount can be taken down and put up again with
// the kernel's overlayfs, and the other way round.
//
// # Where it differs from the kernel's overlayfs
//
// Names of one file in a tree stay one file when it is written to: all of them are
// copied up. A mapping made before a copy-up sees later writes. A file that was removed
// while open can still be changed. ACLs and inode flags can be set on any file at once.
// Files are not opened on the server, which makes opening as fast as elsewhere; so an
// immutable file can be opened for writing, and then each write fails with EPERM.
//
// # What depends on who mounts
//
// As root the attributes of the upper are trusted.overlay.*: changes of metadata copy
// no content, and directories of lower layers can be renamed. Everybody else's are
// user.overlay.*, in which overlayfs knows neither; then such a change copies the
// content and such a rename fails with EXDEV, on which mv copies.
//
// Who may not give files away sees all of them as their own, and a change of the owner
// fails with EPERM. Attributes that the user may not set (trusted.*, security.*) are
// not copied up. What they may not read themselves cannot be copied up either: where a file
// of a lower directory is write-only for its owner, a write to it fails with EACCES, unless
// it is emptied first. A mount by fusermount3 ignores setuid bits and devices, and shows
// itself to other users only where /etc/fuse.conf has user_allow_other.
package fuse

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse/internal/conn"
	"github.com/layerfs/layerfs/unionfs/fuse/internal/union"
)

// Options say how the driver mounts. The zero value takes the best there is, with this
// very program as the server.
type Options struct {
	// Program is the program to be started as server; it has to call Serve when its
	// arguments are ServerArgs followed by one more. "" is the program that is running.
	Program string
	// InProcess serves in this process, whose end then is the end of all its mounts.
	InProcess bool
	// Fusermount mounts through fusermount3 even where that is not needed.
	Fusermount bool
	// Log is a file to which servers append what goes wrong in them.
	Log string
}

// MountType is the file system type that mounts of the driver show.
const MountType = "fuse." + conn.Subtype

// ServerArgs are the first arguments of a server process.
func ServerArgs() []string { return []string{conn.Command, "union"} }

// Driver is the driver "fuse". It has no state but its options.
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

// Name returns "fuse".
func (d *Driver) Name() string { return "fuse" }

// Open mounts the layers, detached; or, where fusermount3 is needed, gets everything
// ready for Attach to mount. An upper can be in use by one mount of this driver only.
func (d *Driver) Open(ctx context.Context, layers unionfs.Layers, opts unionfs.Options) (unionfs.Mount, error) {
	m, err := d.open(ctx, layers, opts)
	if err != nil {
		return nil, fmt.Errorf("mount fuse: %w", err)
	}
	return m, nil
}

func (d *Driver) open(ctx context.Context, layers unionfs.Layers, opts unionfs.Options) (*Mount, error) {
	if err := layers.Validate(); err != nil {
		return nil, err
	}
	if len(opts.Source) > mountapi.MaxString || strings.IndexByte(opts.Source, 0) >= 0 {
		return nil, fmt.Errorf("mount source of %d bytes, limit %d and no NUL: %w", len(opts.Source), mountapi.MaxString, fs.ErrInvalid)
	}
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	layers, err := absolute(layers)
	if err != nil {
		return nil, err
	}
	readOnly := opts.ReadOnly || layers.Upper == ""
	m := &Mount{
		driver:  d,
		log:     logger,
		config:  union.Config{Layers: layers, ReadOnly: opts.ReadOnly, Volatile: opts.Volatile, Namespace: unionfs.User},
		options: conn.MountOptions{Source: opts.Source, ReadOnly: readOnly},
	}
	p := privileges()
	if p.trusted {
		m.config.Namespace = unionfs.Trusted
	}
	if m.config.Owners, err = owners(p.chown); err != nil {
		return nil, err
	}
	if d.opts.Fusermount || !p.mount {
		m.options.AllowOther = userAllowOther()
		logger.DebugContext(ctx, "mount by fusermount3", "allow_other", m.options.AllowOther)
		return m, nil
	}
	m.options.AllowOther = true
	handle, err := conn.Open(ctx, m.options)
	if err != nil {
		return nil, err
	}
	minor, err := conn.Minor(mountapi.FdPath(handle.FD()))
	if err == nil {
		err = d.serve(ctx, handle.Device, minor, m.config, m.log)
	} else {
		err = errors.Join(err, handle.Device.Close())
	}
	if err != nil {
		return nil, errors.Join(err, handle.Close())
	}
	m.handle = handle.Mount
	return m, nil
}

// absolute makes paths good for a server whose working directory is another.
func absolute(l unionfs.Layers) (unionfs.Layers, error) {
	var errs []error
	abs := func(path string) string {
		if path == "" {
			return ""
		}
		path, err := filepath.Abs(path)
		errs = append(errs, err)
		return path
	}
	out := unionfs.Layers{Upper: abs(l.Upper), Work: abs(l.Work)}
	for _, lower := range l.Lower {
		out.Lower = append(out.Lower, unionfs.Lower{Tree: abs(lower.Tree), Dir: abs(lower.Dir)})
	}
	for _, data := range l.Data {
		out.Data = append(out.Data, abs(data))
	}
	return out, errors.Join(errs...)
}

// Unmount unmounts target and waits until all that was written is in the upper, and
// flushed unless the union is volatile; see [unionfs.Unmounter]. It works as well when
// the server has died.
func (d *Driver) Unmount(ctx context.Context, target string, force bool) error {
	return conn.Unmount(ctx, target, force)
}

// Mount is a union that is mounted, or ready to be. It is safe for concurrent use.
type Mount struct {
	driver  *Driver
	log     *slog.Logger
	config  union.Config
	options conn.MountOptions
	handle  *mountapi.Mount // nil where fusermount3 mounts

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
		return fmt.Errorf("attach fuse: %w", ctx.Err())
	case m.closed:
		return fmt.Errorf("attach fuse: %w", fs.ErrClosed)
	case m.attached:
		return fmt.Errorf("attach fuse to %s: already attached elsewhere: %w", target, fs.ErrInvalid)
	}
	var err error
	if m.handle != nil {
		err = m.handle.Attach(target)
	} else {
		err = m.mountAt(ctx, target)
	}
	if err != nil {
		return fmt.Errorf("attach fuse: %w", err)
	}
	m.attached = true
	return nil
}

// mountAt mounts by fusermount3.
func (m *Mount) mountAt(ctx context.Context, target string) error {
	device, err := conn.Fusermount(ctx, target, m.options)
	if err != nil {
		return err
	}
	minor, err := conn.Minor(target)
	if err == nil {
		err = m.driver.serve(ctx, device, minor, m.config, m.log)
	} else {
		err = errors.Join(err, device.Close())
	}
	if err != nil {
		return errors.Join(err, conn.FusermountUnmount(context.WithoutCancel(ctx), target, true))
	}
	return nil
}

// FD returns an O_PATH file descriptor of the union's root directory, through which
// a detached union can be used too, or -1 where a mount by fusermount3 has none. It is
// valid until Close.
func (m *Mount) FD() int {
	if m.handle == nil {
		return -1
	}
	return m.handle.FD()
}

// Close releases the handle; a union that was not attached ends with it. A second
// call does nothing.
func (m *Mount) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	if m.handle == nil {
		return nil
	}
	return m.handle.Close()
}
