package union

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names and files of layers are never resolved by the kernel as paths of the host:
// everything goes by directory descriptors, with no symbolic link followed.

// maxPathname is the longest path in bytes that one call takes (PATH_MAX without NUL).
const maxPathname = 4095

// openBelow opens a path below a directory, at most a few thousand bytes of it at once.
func openBelow(dir int, path string, flags int) (int, error) {
	if path == "" {
		if flags&unix.O_PATH != 0 {
			return unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
		}
		path = "."
	}
	at := dir
	for len(path) > maxPathname {
		cut := strings.LastIndexByte(path[:maxPathname], '/')
		if cut < 0 {
			return -1, unix.ENAMETOOLONG
		}
		next, err := openBeneath(at, path[:cut], unix.O_PATH|unix.O_DIRECTORY)
		if at != dir {
			closeFD(at)
		}
		if err != nil {
			return -1, err
		}
		at, path = next, path[cut+1:]
	}
	fd, err := openBeneath(at, path, flags)
	if at != dir {
		closeFD(at)
	}
	return fd, err
}

// openBeneath opens a path without leaving the directory and without following links.
func openBeneath(dir int, path string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_NONBLOCK // a FIFO must not make us wait
	}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

func closeFD(fd int) {
	_ = unix.Close(fd) // of a file that was not written through it
}

// fdPath returns a path that leads to a name in an open directory, or, with an empty
// name, to what is open itself. The last name is not followed by the l…xattr calls.
func fdPath(fd int, name string) string {
	b := make([]byte, 0, 32+len(name))
	b = append(b, "/proc/self/fd/"...)
	b = strconv.AppendInt(b, int64(fd), 10)
	if name != "" {
		b = append(append(b, '/'), name...)
	}
	return string(b)
}
