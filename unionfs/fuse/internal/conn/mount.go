package conn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
)

// Subtype makes the mounts show as the file system type "fuse.layerfs".
const Subtype = "layerfs"

// device is the character device that all FUSE connections start from.
const device = "/dev/fuse"

// MountOptions say how to mount. The kernel checks permissions by mode, owner and ACL
// in any case (default_permissions).
type MountOptions struct {
	Source     string // what mountinfo shows, at most 255 bytes; "layerfs" when empty
	ReadOnly   bool
	AllowOther bool // let all users in, not only the one who mounts
}

func (o MountOptions) source() string {
	if o.Source == "" {
		return "layerfs"
	}
	return o.Source
}

// Mount is a mount that is detached until Attach. The caller closes it and, once a
// server has it, the device.
type Mount struct {
	*mountapi.Mount
	Device *os.File // serves the mount; in blocking mode
}

// Open opens a connection and mounts it, detached. An error that wraps
// fs.ErrPermission says that this process may not mount: use Fusermount.
func Open(ctx context.Context, opts MountOptions) (_ *Mount, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dev, err := openDevice()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dev.Close())
		}
	}()
	config, err := mountapi.Open("fuse")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, config.Close()) }()
	for _, o := range [][2]string{
		{"source", opts.source()},
		{"subtype", Subtype},
		{"fd", strconv.Itoa(int(dev.Fd()))},
		{"rootmode", strconv.FormatUint(unix.S_IFDIR, 8)},
		{"user_id", strconv.Itoa(os.Geteuid())},
		{"group_id", strconv.Itoa(os.Getegid())},
	} {
		if err := config.SetString(o[0], o[1]); err != nil {
			return nil, err
		}
	}
	flags := []string{"default_permissions"}
	if opts.AllowOther {
		flags = append(flags, "allow_other")
	}
	if opts.ReadOnly {
		flags = append(flags, "ro")
	}
	for _, f := range flags {
		if err := config.SetFlag(f); err != nil {
			return nil, err
		}
	}
	if err := config.Create(); err != nil {
		return nil, err
	}
	attr := 0
	if opts.ReadOnly {
		attr = unix.MOUNT_ATTR_RDONLY
	}
	m, err := config.Mount(attr)
	if err != nil {
		return nil, err
	}
	return &Mount{Mount: m, Device: dev}, nil
}

// openDevice opens /dev/fuse. It does so past package os, which would put the
// descriptor into non-blocking mode.
func openDevice() (*os.File, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("open %s: %w: the kernel has no FUSE, or the device is missing: %w", device, err, errors.ErrUnsupported)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", device, err)
	}
	return os.NewFile(uintptr(fd), device), nil
}

// Minor returns the device number of the file system mounted at path, in decimal. It
// asks nothing of the server, which may hang or be gone.
func Minor(path string) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st); err != nil {
		return "", &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return strconv.FormatUint(uint64(st.Dev_minor), 10), nil
}
