// Package mountapi wraps the mount system calls of Linux 5.2 and later: fsopen,
// fsconfig, fsmount, move_mount, open_tree and mount_setattr; loop devices; and
// unmounting. Compared with mount(2) they configure a file system step by step, with
// no limit on the total length of options, by file descriptors instead of paths, and
// give a mount that no path shows until it is attached.
//
// All errors of system calls are an [*Error] and wrap the errno, so that errors.Is
// finds both unix.EBUSY and the classes fs.ErrNotExist, fs.ErrPermission and
// errors.ErrUnsupported.
package mountapi

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// MaxString is the longest value in bytes that fsconfig takes as a string
// (strndup_user with 256 in fs/fsopen.c, which counts the NUL).
const MaxString = 255

// maxLog limits what is read of a context's log: the kernel keeps 8 messages.
const maxLog = 16

// Error is a failed mount system call.
type Error struct {
	Op     string   // the system call or fsconfig step, such as "fsconfig lowerdir+"
	Object string   // what it was about: a file system type, a path; may be ""
	Err    error    // the errno
	Log    []string // what the kernel said about it, oldest first; often empty
}

// Error tells the step, its object, the errno and the kernel's own words.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Object != "" {
		b.WriteString(" " + e.Object)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if len(e.Log) > 0 {
		fmt.Fprintf(&b, " (kernel: %s)", strings.Join(e.Log, "; "))
	}
	return b.String()
}

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Err }

// Context is a file system that is being configured. It is not safe for concurrent
// use. The caller closes it.
type Context struct {
	fd     int
	fstype string
	buf    []byte
}

// Open starts to configure a file system of a type. An error that wraps
// unix.ENODEV says that the kernel does not know the type.
func Open(fstype string) (*Context, error) {
	fd, err := retry(func() (int, error) { return unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC) })
	if err != nil {
		return nil, &Error{Op: "fsopen", Object: fstype, Err: err}
	}
	return &Context{fd: fd, fstype: fstype}, nil
}

// SetFlag sets a parameter that has no value.
func (c *Context) SetFlag(key string) error {
	return c.step(key, "", unix.FsconfigSetFlag(c.fd, key))
}

// SetString sets a parameter. A value longer than MaxString fails with ENAMETOOLONG.
func (c *Context) SetString(key, value string) error {
	if len(value) > MaxString {
		return &Error{Op: "fsconfig " + key, Object: value, Err: unix.ENAMETOOLONG}
	}
	return c.step(key, value, unix.FsconfigSetString(c.fd, key, value))
}

// SetFd sets a parameter to a file descriptor; object names it in errors. The kernel
// takes its own reference. Kernels that want a string here answer EINVAL.
func (c *Context) SetFd(key string, fd int, object string) error {
	return c.step(key, object, unix.FsconfigSetFd(c.fd, key, fd))
}

// SetFdPath sets a parameter that wants a path to what fd refers to, however long
// its real path is, and even when it has none. It needs /proc.
func (c *Context) SetFdPath(key string, fd int, object string) error {
	return c.step(key, object, unix.FsconfigSetString(c.fd, key, FdPath(fd)))
}

// FdPath returns a path that leads to what the file descriptor of this process
// refers to.
func FdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Create makes the superblock, which is when most mistakes show.
func (c *Context) Create() error {
	_, err := retry(func() (int, error) { return 0, unix.FsconfigCreate(c.fd) })
	return c.step("create", c.fstype, err)
}

// Mount makes a detached mount of the created superblock with MOUNT_ATTR_* flags.
func (c *Context) Mount(attr int) (*Mount, error) {
	fd, err := unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, &Error{Op: "fsmount", Object: c.fstype, Err: err, Log: c.log()}
	}
	return &Mount{fd: fd}, nil
}

// Close releases the context. A mount made from it stays.
func (c *Context) Close() error {
	if err := unix.Close(c.fd); err != nil {
		return fmt.Errorf("close %s context: %w", c.fstype, err)
	}
	return nil
}

func (c *Context) step(key, object string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: "fsconfig " + key, Object: object, Err: err, Log: c.log()}
}

// log reads the messages that the kernel left in the context, without their "e ",
// "w " and "i " prefixes. Each read gives one; ENODATA ends them.
func (c *Context) log() []string {
	if c.buf == nil {
		c.buf = make([]byte, 8192)
	}
	var lines []string
	for len(lines) < maxLog {
		n, err := unix.Read(c.fd, c.buf)
		if n <= 0 || err != nil {
			return lines
		}
		line := strings.TrimSpace(string(c.buf[:n]))
		if len(line) > 2 && line[1] == ' ' {
			line = line[2:]
		}
		lines = append(lines, line)
	}
	return lines
}

// Mount is a handle of a mount, attached or not. It is safe for concurrent use. The
// caller closes it; a mount that was never attached ends then.
type Mount struct {
	mu     sync.Mutex
	fd     int
	closed bool
}

// OpenTree returns a handle of the mount at path, or, with clone, of a new detached
// copy of that mount alone without those below it.
func OpenTree(path string, clone bool) (*Mount, error) {
	flags := uint(unix.OPEN_TREE_CLOEXEC)
	if clone {
		flags |= unix.OPEN_TREE_CLONE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, &Error{Op: "open_tree", Object: path, Err: err}
	}
	return &Mount{fd: fd}, nil
}

// FD returns the O_PATH file descriptor of the mount's root, valid until Close.
func (m *Mount) FD() int { return m.fd }

// Attach makes the mount visible at the directory target.
func (m *Mount) Attach(target string) error {
	err := unix.MoveMount(m.fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return &Error{Op: "move_mount", Object: target, Err: err}
	}
	return nil
}

// SetAttr changes MOUNT_ATTR_* flags, the propagation and the id mapping of the mount.
func (m *Mount) SetAttr(attr unix.MountAttr) error {
	if err := unix.MountSetattr(m.fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return &Error{Op: "mount_setattr", Err: err}
	}
	return nil
}

// Close releases the handle. Closing twice is an error that wraps fs.ErrClosed.
func (m *Mount) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return fmt.Errorf("close mount: %w", fs.ErrClosed)
	}
	m.closed = true
	if err := unix.Close(m.fd); err != nil {
		return fmt.Errorf("close mount: %w", err)
	}
	return nil
}

// retry repeats a call that a signal interrupted: the Go runtime sends itself
// signals all the time.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
