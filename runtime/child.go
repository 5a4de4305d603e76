package runtime

import (
	goruntime "runtime"
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

// cloneArgs is struct clone_args of include/uapi/linux/sched.h, version 2.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal     uint64
	stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// report is what a failed child writes: the row and the errno, in the byte order of
// the machine. It is smaller than PIPE_BUF, so it arrives whole.
type report struct{ row, errno uint32 }

// fork makes the child with the namespaces of flags, in the cgroup of a descriptor unless
// it is negative, and lets it run the table.
// Failures of the table are written to the descriptor failed, which is to be closed
// by execve. It returns the child's pidfd. The caller has locked the thread.
func fork(flags uint64, cgroup int, t *table, failed int) (pid, pidfd int, err error) {
	fd := new(int32) // the kernel writes here, so it must not lie on a stack that moves
	args := &cloneArgs{
		flags:      flags | unix.CLONE_PIDFD,
		pidfd:      uint64(uintptr(unsafe.Pointer(fd))),
		exitSignal: uint64(syscall.SIGCHLD),
	}
	if cgroup >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup)
	}
	out := new(report)
	// No other thread may hold a descriptor open that is not yet marked close-on-exec.
	syscall.ForkLock.Lock()
	child, errno := forkAndRun(args, t.ops, uintptr(failed), out)
	syscall.ForkLock.Unlock()
	goruntime.KeepAlive(t)
	goruntime.KeepAlive(fd)
	if errno != 0 {
		return 0, -1, &Error{Step: "create the container's process", Err: errno}
	}
	return int(child), int(*fd), nil
}

// forkAndRun is the child's whole life. The child has a copy of the parent's memory and
// one thread; locks and the scheduler are as they happened to be. So from clone3 on
// there is no allocation, no stack growth, no write barrier, no bounds check that can
// fail, and no call but of system calls.
//
// At the end of the table stand the candidates for the program (kindTry). The first
// failure among them that is not tolerated is what is reported if none succeeds,
// since it tells more than that the last directory of PATH has no such file either.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func forkAndRun(clone *cloneArgs, ops []op, failed uintptr, out *report) (uintptr, syscall.Errno) {
	var (
		pid, r    uintptr
		errno     syscall.Errno
		i, k      int
		o         *op
		a         [6]uintptr
		tolerated bool
	)
	beforeFork()
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(clone)), unsafe.Sizeof(*clone), 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	for i = 0; i < len(ops); i++ {
		o = &ops[i]
		for k = range a {
			a[k] = o.args[k]
			if n := int(o.from[k]); n > 0 && n <= len(ops) {
				a[k] = ops[n-1].result
			}
		}
		r, _, errno = syscall.RawSyscall6(o.nr, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == 0 {
			switch o.kind {
			case kindCall, kindTry:
			case kindReport:
				failed = r
			case kindKeep:
				*(*int32)(unsafe.Pointer(o.text)) = int32(r)
			case kindZero:
				if r != 0 {
					errno = syscall.ESRCH
				}
			case kindOne:
				if r != 1 {
					errno = syscall.ESRCH
				}
			case kindAbsolute:
				if *o.text != '/' {
					errno = syscall.ENOENT
				}
			}
		}
		if errno == 0 {
			o.result = r
			i += int(o.skipOK)
			continue
		}
		tolerated = false
		for k = range o.tolerate {
			if o.tolerate[k] != 0 && uintptr(o.tolerate[k]) == uintptr(errno) {
				tolerated = true
			}
		}
		if tolerated {
			if o.kind == kindTry && out.errno == 0 {
				// Reported only if nothing better comes up.
				out.row = uint32(i)
			}
			i += int(o.skipErr)
			continue
		}
		if o.kind == kindTry {
			if out.errno == 0 {
				out.row, out.errno = uint32(i), uint32(errno)
			}
			i += int(o.skipErr)
			continue
		}
		out.row, out.errno = uint32(i), uint32(errno)
		break
	}
	if out.errno == 0 {
		out.errno = uint32(syscall.ENOENT)
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, failed, uintptr(unsafe.Pointer(out)), unsafe.Sizeof(*out))
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, ExitFailed, 0, 0)
	}
}
