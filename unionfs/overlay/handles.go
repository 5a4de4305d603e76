package overlay

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
)

// handles are the layers of a union while it is being mounted. Overlayfs takes its
// own references, so all of them are closed once it is.
type handles struct {
	fds    []int
	mounts []*mountapi.Mount
}

// Close closes the handles.
func (h *handles) Close() error {
	var errs []error
	for _, fd := range h.fds {
		errs = append(errs, unix.Close(fd))
	}
	for _, m := range h.mounts {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// dir opens a directory.
func (h *handles) dir(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			h.fds = append(h.fds, fd)
			return fd, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOTDIR):
			return -1, errNotDir
		default:
			return -1, fmt.Errorf("open directory: %w", err)
		}
	}
}

// tree mounts an EROFS image, detached, and returns its root.
func (h *handles) tree(path string, loop bool, stage func(*mountapi.Mount) error) (int, error) {
	file, err := os.Open(path)
	if err != nil {
		return -1, fmt.Errorf("open tree: %w", err)
	}
	defer func() { _ = file.Close() }() // only read; the mount has its own
	source := file
	if loop {
		device, err := mountapi.AttachLoop(file)
		if err != nil {
			return -1, err
		}
		defer func() { _ = device.Close() }() // the mount keeps the device
		source = device
	}
	m, err := mountErofs(source, path)
	if err != nil {
		return -1, err
	}
	return h.keep(m, stage)
}

// mountErofs mounts the image in file, or on the block device that file is. The
// image is given by its descriptor: fsconfig takes no path beyond 255 bytes.
func mountErofs(file *os.File, path string) (m *mountapi.Mount, err error) {
	config, err := mountapi.Open("erofs")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, config.Close()) }()
	if err := config.SetFdPath("source", int(file.Fd()), path); err != nil {
		return nil, err
	}
	if err := config.SetFlag("ro"); err != nil {
		return nil, err
	}
	if err := config.Create(); err != nil {
		return nil, err
	}
	return config.Mount(unix.MOUNT_ATTR_RDONLY)
}

// empty mounts an empty file system, detached.
func (h *handles) empty(stage func(*mountapi.Mount) error) (_ int, err error) {
	config, err := mountapi.Open("tmpfs")
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, config.Close()) }()
	for _, o := range []option{{"source", "layerfs"}, {"mode", "0755"}, {"nr_inodes", "1"}} {
		if err := config.SetString(o.key, o.value); err != nil {
			return -1, err
		}
	}
	if err := config.Create(); err != nil {
		return -1, err
	}
	m, err := config.Mount(unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return -1, err
	}
	return h.keep(m, stage)
}

func (h *handles) keep(m *mountapi.Mount, stage func(*mountapi.Mount) error) (int, error) {
	h.mounts = append(h.mounts, m)
	if stage != nil {
		if err := stage(m); err != nil {
			return -1, err
		}
	}
	return m.FD(), nil
}
