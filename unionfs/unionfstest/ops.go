package unionfstest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Op is an operation on a tree. What it returns must be the same on a union and on a
// plain directory: a text of what it saw, and the errno.
type Op struct {
	Name string
	Do   func(root string) (string, error)
}

// errno returns the system's error number of err, 0 for nil. All other errors are
// bugs of the operation and become an impossible number.
func errno(err error) syscall.Errno {
	var number syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &number):
		return number
	default:
		return ^syscall.Errno(0)
	}
}

// op makes an operation that returns nothing but its end.
func op(do func(root string) error, format string, args ...any) Op {
	return Op{fmt.Sprintf(format, args...), func(root string) (string, error) { return "", do(root) }}
}

// on makes an operation on one path.
func on(path, what string, do func(full string) error) Op {
	return op(func(root string) error { return do(filepath.Join(root, path)) }, "%s %s", what, path)
}

// WriteFile makes or overwrites a file, as a shell's > does.
func WriteFile(path, content string) Op {
	return on(path, "write", func(full string) error { return os.WriteFile(full, []byte(content), 0o644) })
}

// Append adds to a file.
func Append(path, content string) Op { return write(path, os.O_WRONLY|os.O_APPEND, content, -1) }

// WriteAt overwrites a part of a file.
func WriteAt(path, content string, offset int64) Op {
	return write(path, os.O_RDWR, content, offset)
}

func write(path string, flags int, content string, offset int64) Op {
	return on(path, fmt.Sprintf("open with flags %#x and write", flags), func(full string) (err error) {
		f, err := os.OpenFile(full, flags, 0o644)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if offset >= 0 {
			_, err = f.WriteAt([]byte(content), offset)
		} else {
			_, err = f.WriteString(content)
		}
		return err
	})
}

// OpenClose opens a file with flags and closes it.
func OpenClose(path string, flags int, mode os.FileMode) Op {
	return on(path, fmt.Sprintf("open with flags %#x mode %o", flags, mode), func(full string) error {
		fd, err := unix.Open(full, flags|unix.O_CLOEXEC, uint32(mode))
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
}

// Truncate sets a file's size.
func Truncate(path string, size int64) Op {
	return on(path, fmt.Sprintf("truncate to %d", size), func(full string) error { return unix.Truncate(full, size) })
}

// Read gives the content.
func Read(path string) Op {
	return Op{"read " + path, func(root string) (string, error) { return readContent(filepath.Join(root, path)) }}
}

// List gives the sorted names in a directory.
func List(path string) Op {
	return Op{"list " + path, func(root string) (string, error) {
		entries, err := os.ReadDir(filepath.Join(root, path))
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		slices.Sort(names)
		return fmt.Sprintf("%q", names), err
	}}
}

// Stat gives the type, mode, owner and size.
func Stat(path string) Op {
	return Op{"stat " + path, func(root string) (string, error) {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, path), &st); err != nil {
			return "", err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			st.Size, st.Nlink = 0, 0
		}
		return fmt.Sprintf("mode %o owner %d:%d size %d links %d", st.Mode, st.Uid, st.Gid, st.Size, st.Nlink), nil
	}}
}

// Mkdir makes a directory.
func Mkdir(path string) Op {
	return on(path, "mkdir", func(full string) error { return unix.Mkdir(full, 0o755) })
}

// Rmdir removes an empty directory.
func Rmdir(path string) Op { return on(path, "rmdir", unix.Rmdir) }

// Unlink removes a name that is no directory.
func Unlink(path string) Op { return on(path, "unlink", unix.Unlink) }

// RemoveAll removes a tree.
func RemoveAll(path string) Op { return on(path, "remove all of", os.RemoveAll) }

// Rename renames as rename(2) does.
func Rename(from, to string) Op { return Rename2(from, to, 0) }

// Rename2 renames with RENAME_* flags.
func Rename2(from, to string, flags uint) Op {
	return op(func(root string) error {
		return unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, from), unix.AT_FDCWD, filepath.Join(root, to), flags)
	}, "rename %s to %s with flags %#x", from, to, flags)
}

// MakeLink makes a hard link.
func MakeLink(from, to string) Op {
	return op(func(root string) error {
		return unix.Link(filepath.Join(root, from), filepath.Join(root, to))
	}, "link %s to %s", from, to)
}

// MakeSymlink makes a symbolic link.
func MakeSymlink(target, path string) Op {
	return on(path, "symlink to "+target+" at", func(full string) error { return unix.Symlink(target, full) })
}

// Mknod makes a device, fifo or socket.
func Mknod(path string, mode uint32, major, minor uint32) Op {
	return on(path, fmt.Sprintf("mknod %o %d:%d", mode, major, minor), func(full string) error {
		return unix.Mknod(full, mode, int(unix.Mkdev(major, minor)))
	})
}

// Chmod changes permission bits.
func Chmod(path string, mode uint32) Op {
	return on(path, fmt.Sprintf("chmod %o", mode), func(full string) error { return unix.Chmod(full, mode) })
}

// Chown changes owners, not following a symbolic link; -1 leaves one as it is.
func Chown(path string, uid, gid int) Op {
	return on(path, fmt.Sprintf("chown %d:%d", uid, gid), func(full string) error { return unix.Lchown(full, uid, gid) })
}

// Utimes sets access and modification time, not following a symbolic link.
func Utimes(path string, at time.Time) Op {
	return on(path, "set time "+at.UTC().Format(time.RFC3339Nano), func(full string) error { return setTime(full, at) })
}

// Setxattr sets an attribute, not following a symbolic link.
func Setxattr(path, name, value string, flags int) Op {
	return on(path, fmt.Sprintf("setxattr %s with flags %d", name, flags), func(full string) error {
		return unix.Lsetxattr(full, name, []byte(value), flags)
	})
}

// Getxattr gives an attribute's value.
func Getxattr(path, name string) Op {
	return Op{"getxattr " + name + " " + path, func(root string) (string, error) {
		value := make([]byte, 64*1024)
		n, err := unix.Lgetxattr(filepath.Join(root, path), name, value)
		return fmt.Sprintf("%q", value[:max(n, 0)]), err
	}}
}

// Removexattr removes an attribute.
func Removexattr(path, name string) Op {
	return on(path, "removexattr "+name, func(full string) error { return unix.Lremovexattr(full, name) })
}

// Fallocate changes the allocation of a file.
func Fallocate(path string, mode uint32, offset, length int64) Op {
	return on(path, fmt.Sprintf("fallocate mode %#x %d+%d", mode, offset, length), func(full string) (err error) {
		fd, err := unix.Open(full, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Close(fd)) }()
		return unix.Fallocate(fd, mode, offset, length)
	})
}

// As runs operations as another user, with one group and those besides it.
func As(uid, gid int, groups []int, ops ...Op) Op {
	return Op{fmt.Sprintf("as %d:%d%v: %s", uid, gid, groups, names(ops)), func(root string) (seen string, err error) {
		err = inThread(func() error {
			if err := become(uid, gid, groups); err != nil {
				return err
			}
			seen, err = all(root, ops)
			return err
		})
		return seen, err
	}}
}

// WithUmask runs operations under a umask.
func WithUmask(mask int, ops ...Op) Op {
	return Op{fmt.Sprintf("umask %o: %s", mask, names(ops)), func(root string) (seen string, err error) {
		err = inThread(func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			unix.Umask(mask)
			seen, err = all(root, ops)
			return err
		})
		return seen, err
	}}
}

// all runs operations until one fails.
func all(root string, ops []Op) (seen string, err error) {
	for _, o := range ops {
		s, err := o.Do(root)
		seen += s + ";"
		if err != nil {
			return seen, err
		}
	}
	return seen, nil
}

func names(ops []Op) string {
	var names []string
	for _, o := range ops {
		names = append(names, o.Name)
	}
	return strings.Join(names, ", ")
}
