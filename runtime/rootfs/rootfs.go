// Package rootfs copies files out of the root file system of a container, and into it, as
// tar streams. The container is not trusted and may change its files at any moment, so
// everything is reached by handles: a path is looked up by openat2 as if the root were
// "/", without magic links, what is found is opened without following a link, and is
// looked at again once it is open. No program of the container is run.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is a directory that is taken for "/". Close it when done.
type Root struct{ f *os.File }

// Open takes a directory for a root; /proc/PID/root is that of a process.
func Open(name string) (*Root, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &Root{os.NewFile(uintptr(fd), name)}, nil
}

// FromFD takes a directory or a detached mount for a root. The descriptor stays the
// caller's.
func FromFD(fd int) (*Root, error) {
	own, err := unix.Openat(fd, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root: %w", err)
	}
	return &Root{os.NewFile(uintptr(own), "root")}, nil
}

// Close releases the root.
func (r *Root) Close() error { return r.f.Close() }

// open opens a path in the root.
func (r *Root) open(name string, flags int) (*os.File, error) {
	how := &unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(int(r.f.Fd()), rel(name), how)
		// EAGAIN: something was renamed meanwhile and ".." could not be judged.
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// rel is a path as openat2 takes it.
func rel(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

// IsDir tells whether a path leads to a directory, following links. The error wraps
// fs.ErrNotExist when it leads nowhere.
func (r *Root) IsDir(name string) (bool, error) {
	f, err := r.open(name, unix.O_PATH)
	if err != nil {
		return false, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, errors.Join(err, f.Close())
}

// parent opens the directory that a path's last element is in, following links on the
// way, and returns that element; for the root itself it is ".".
func (r *Root) parent(name string) (*os.File, string, error) {
	name = path.Clean("/" + name)
	dir, base := path.Split(name)
	if base == "" {
		base = "."
	}
	f, err := r.open(dir, unix.O_PATH|unix.O_DIRECTORY)
	return f, base, err
}
