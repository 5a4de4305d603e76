package userns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the standard library calls around its own fork: block signals, and mark the
// stack so that code that would grow it in the child crashes at once. The Go runtime
// keeps the three reachable for packages that fork by themselves (see the comments at
// syscall_runtime_BeforeFork in runtime/proc.go), so that they link without flags.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// call is one system call that the child makes.
type call struct {
	what string // for a message
	nr   uintptr
	args [5]uintptr
	keep any // what arguments point to
}

// failure is what a child that failed reports: which call, and the errno. It is smaller
// than PIPE_BUF, so it arrives whole.
type failure struct{ index, errno uint32 }

// codeFailed is the exit code of a child that did not come to execute its program. It is
// not seen: the report is.
const codeFailed = 125

// fork makes a child that makes the calls in turn, the last of which executes a program,
// and returns its process id. When the thread of the caller ends, the child is killed,
// once it has asked for that.
func fork(calls []call) (pid int, err error) {
	r, w, err := os.Pipe() // closed in the child when the program is executed
	if err != nil {
		return 0, fmt.Errorf("make pipe for reports: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	out := new(failure)
	// No other thread may hold a descriptor open that is not yet marked close-on-exec.
	syscall.ForkLock.Lock()
	child, errno := forkAndCall(calls, uintptr(unix.Getpid()), w.Fd(), out)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(calls)
	if err := w.Close(); err != nil {
		return 0, err
	}
	if errno != 0 {
		return 0, fmt.Errorf("fork: %w", errno)
	}
	var b [8]byte
	switch n, err := io.ReadFull(r, b[:]); {
	case errors.Is(err, io.EOF):
		return int(child), nil
	case err != nil:
		return 0, fmt.Errorf("read report of the child: %d bytes: %w", n, err)
	}
	index := int(binary.NativeEndian.Uint32(b[:4]))
	failed := syscall.Errno(binary.NativeEndian.Uint32(b[4:]))
	_, err = wait(int(child))
	if index >= len(calls) {
		return 0, errors.Join(fmt.Errorf("the child lost its parent: %w", failed), err)
	}
	return 0, errors.Join(fmt.Errorf("%s: %w", calls[index].what, failed), err)
}

// forkAndCall is the child's whole life. The child has a copy of the parent's memory and
// one thread; locks and the scheduler are as they happened to be. So from clone on there
// is no allocation, no stack growth, no write barrier, and no call but of system calls.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func forkAndCall(calls []call, parent, report uintptr, out *failure) (uintptr, syscall.Errno) {
	var (
		pid, r uintptr
		errno  syscall.Errno
		i      int
		c      *call
	)
	beforeFork()
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	for i = 0; i < len(calls); i++ {
		c = &calls[i]
		_, _, errno = syscall.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
		if errno != 0 {
			break
		}
		// Whoever died before the child asked to be killed with it did not kill it.
		if c.nr == unix.SYS_PRCTL {
			if r, _, _ = syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); r != parent {
				errno, i = unix.ESRCH, len(calls)
				break
			}
		}
	}
	out.index, out.errno = uint32(i), uint32(errno)
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, report, uintptr(unsafe.Pointer(out)), unsafe.Sizeof(*out))
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, codeFailed, 0, 0)
	}
}

// wait waits for the end of a child and returns its exit code: 128 plus the number of
// the signal if one ended it.
func wait(pid int) (int, error) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return codeFailed, fmt.Errorf("wait for child: %w", err)
		}
		if status.Signaled() {
			const signalled = 128
			return signalled + int(status.Signal()), nil
		}
		return status.ExitStatus(), nil
	}
}

// address returns the place of an object on the heap, which keep holds.
func address[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

// strings0 returns what C calls a vector of strings.
func strings0(list []string) ([]*byte, error) {
	out := make([]*byte, 0, len(list)+1)
	for _, s := range list {
		if strings.IndexByte(s, 0) >= 0 {
			return nil, fmt.Errorf("argument %q holds a NUL byte: %w", s, unix.EINVAL)
		}
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return append(out, nil), nil
}
