package runtime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Limits of what is read from a root.
const (
	maxAccountFile = 4 << 20 // bytes of /etc/passwd and of /etc/group
	maxHops        = 40      // symbolic links followed in one path, as the kernel's MAXSYMLINKS
	maxDepth       = 256     // elements of a path of a mount, links resolved
)

// Root is a root file system to run on: made by [RootPath] or [RootFD].
type Root struct {
	path string
	fd   int
	set  bool
}

// RootPath is the directory of a file system that is attached, or any directory.
func RootPath(path string) Root { return Root{path: path, fd: -1, set: true} }

// RootFD is a detached mount, such as fsmount(2) and open_tree(2) with
// OPEN_TREE_CLONE return, or a union mount that is not attached. [Run] attaches it
// inside the container, so it serves one Run; the descriptor remains the caller's to
// close.
func RootFD(fd int) Root { return Root{fd: fd, set: true} }

// String is the path, or the number of the descriptor.
func (r Root) String() string {
	if r.path != "" {
		return r.path
	}
	return "descriptor " + strconv.Itoa(r.fd)
}

// open returns a handle on the root for looking things up.
func (r Root) open() (*os.File, error) {
	if !r.set {
		return nil, fmt.Errorf("open root: none given: %w", fs.ErrInvalid)
	}
	var fd int
	var err error
	if r.path != "" {
		fd, err = unix.Open(r.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	} else {
		fd, err = unix.Openat(r.fd, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &Error{Step: "open root", Object: r.String(), Err: err}
	}
	return os.NewFile(uintptr(fd), r.String()), nil
}

// detached returns the root as a mount to be attached. What is closed with it is only
// the descriptor.
func (r Root) detached() (*os.File, error) {
	var fd int
	var err error
	if r.path != "" {
		fd, err = unix.OpenTree(unix.AT_FDCWD, r.path, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC)
	} else {
		fd, err = unix.FcntlInt(uintptr(r.fd), unix.F_DUPFD_CLOEXEC, 3)
	}
	if err != nil {
		return nil, &Error{Step: "take root", Object: r.String(), Err: err}
	}
	return os.NewFile(uintptr(fd), r.String()), nil
}

// openIn opens a path inside the directory root as if that were "/", without magic
// links.
func openIn(root int, path string, flags int, more uint64) (int, error) {
	how := &unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | more,
	}
	if path == "" {
		path = "."
	}
	for {
		fd, err := unix.Openat2(root, path, how)
		// EAGAIN: something was renamed meanwhile and ".." could not be judged.
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// readIn reads a regular file of the root. What the name stands for is looked at before
// it is opened: opening a FIFO would wait, and opening a device may do anything.
func readIn(root int, path string, limit int64) ([]byte, error) {
	fd, err := openIn(root, path, unix.O_PATH, 0)
	if err != nil {
		return nil, &Error{Step: "open", Object: "/" + path + " of the root", Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // a handle without content
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &Error{Step: "look at", Object: "/" + path + " of the root", Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("read /%s of the root: not a regular file: %w", path, fs.ErrInvalid)
	}
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil, fmt.Errorf("read /%s of the root: %w", path, err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read /%s of the root: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read /%s of the root: more than %d bytes: %w", path, limit, fs.ErrInvalid)
	}
	return b, nil
}
