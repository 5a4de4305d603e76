package crashtest

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of ptrace(2) and waitpid(2), what x/sys does not name.
const (
	ptraceGetSyscallInfo = 0x420e
	syscallInfoEntry     = 1
	syscallInfoExit      = 2
	waitNoThread         = 0x20000000 // __WNOTHREAD: children of this thread only
	syscallStop          = syscall.SIGTRAP | 0x80
)

// syscallInfo is struct ptrace_syscall_info at the entry of a system call.
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	arch uint32
	ip   uint64
	sp   uint64
	nr   uint64
	args [6]uint64
	_    [8]uint64 // room for what later kernels add
}

// changing says of a system call whether it changes something that another process can
// see afterwards. Locks, which go with their process, and flushes, which only a power
// cut could tell from none, are not among them.
func changing(c *syscallInfo) bool {
	switch c.nr {
	case unix.SYS_OPENAT:
		return c.args[2]&(unix.O_CREAT|unix.O_TRUNC) != 0
	case unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_UNLINKAT,
		unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_MKDIR, unix.SYS_RENAME, unix.SYS_UNLINK, unix.SYS_RMDIR,
		unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_PWRITE64, unix.SYS_COPY_FILE_RANGE,
		unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHOWNAT, unix.SYS_LCHOWN, unix.SYS_CHMOD, unix.SYS_UTIMENSAT,
		unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR,
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_MOVE_MOUNT, unix.SYS_FSMOUNT, unix.SYS_OPEN_TREE:
		return true
	case unix.SYS_WRITE:
		return c.args[0] > 2 && c.args[2] > 8 // not a runtime's wake-up by eventfd
	case unix.SYS_CLONE:
		return c.args[0]&unix.CLONE_THREAD == 0
	case unix.SYS_CLONE3:
		return true
	default:
		return false
	}
}

// disturbance is what happens to a traced program at some of its system calls.
type disturbance struct {
	// among says which calls are counted; nil is changing.
	among func(pid int, c *syscallInfo) bool
	at    int  // the call to which it happens, from 1; 0 for none
	on    bool // and to all after that one
	// do says what happens; nil is that the program is killed by SIGKILL before the call.
	do func(tid int, c *syscallInfo) (result syscall.Errno, err error)
}

// traced is how a traced program went.
type traced struct {
	calls   int    // system calls that it made
	counted int    // those of them that could be disturbed
	killed  bool   // at the one asked for
	last    string // the call that was disturbed last
	code    int    // exit code; -1 when a signal ended it
	output  string // of both streams
}

// trace runs a program and disturbs it. Processes that it starts are not traced.
func trace(t testing.TB, cmd *exec.Cmd, d disturbance) traced {
	t.Helper()
	// The thread that starts the program is its tracer.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var out strings.Builder
	r, err := traceLocked(cmd, d, &out)
	if err != nil {
		t.Fatalf("trace %q: %v\n%s", cmd.Args, err, out.String())
	}
	r.output = out.String()
	return r
}

func traceLocked(cmd *exec.Cmd, d disturbance, out *strings.Builder) (r traced, err error) {
	if d.among == nil {
		d.among = func(_ int, c *syscallInfo) bool { return changing(c) }
	}
	results := map[int]syscall.Errno{} // to give to calls that were not executed, by thread
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return r, err
	}
	pid := cmd.Process.Pid
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != nil {
		return r, err
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(pid, options); err != nil {
		return r, err
	}
	known := map[int]bool{pid: true}
	tid, sig := pid, 0
	for {
		if err := unix.PtraceSyscall(tid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return r, err
		}
		if tid, err = unix.Wait4(-1, &ws, unix.WALL|waitNoThread, nil); err != nil {
			return r, fmt.Errorf("wait: %w", err)
		}
		sig = 0
		switch {
		case tid == pid && (ws.Exited() || ws.Signaled()):
			r.code = -1
			if ws.Exited() {
				r.code = ws.ExitStatus()
			}
			// The process is reaped; this ends the copying of its output.
			_ = cmd.Wait()
			return r, nil
		case !ws.Stopped():
		case ws.StopSignal() == syscallStop:
			var info syscallInfo
			if err := getSyscallInfo(tid, &info); err != nil {
				if errors.Is(err, unix.ESRCH) {
					continue // killed meanwhile
				}
				return r, err
			}
			if info.op == syscallInfoExit && results[tid] != 0 {
				if err := setResult(tid, results[tid]); err != nil {
					return r, err
				}
				delete(results, tid)
			}
			if info.op != syscallInfoEntry {
				continue
			}
			r.calls++
			if !d.among(pid, &info) {
				continue
			}
			r.counted++
			if r.counted != d.at && (!d.on || d.at == 0 || r.counted < d.at) {
				continue
			}
			r.last = fmt.Sprintf("system call %d", info.nr)
			if d.do == nil {
				r.killed = true
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					return r, err
				}
				continue
			}
			errno, err := d.do(tid, &info)
			if err != nil {
				return r, err
			}
			if errno != 0 {
				results[tid] = errno
			}
		case ws.TrapCause() > 0: // a new thread was made, or the program executed another
		case ws.StopSignal() == unix.SIGSTOP && !known[tid]:
			known[tid] = true // how a new thread begins
		default:
			sig = int(ws.StopSignal())
		}
	}
}

func getSyscallInfo(tid int, info *syscallInfo) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tid), unsafe.Sizeof(*info), uintptr(unsafe.Pointer(info)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
