package crashtest

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// canRefuse says that system calls can be changed here.
const canRefuse = true

// skipCall makes a thread that is about to execute a system call execute none.
func skipCall(tid int) error {
	return changeRegisters(tid, func(r *unix.PtraceRegs) { r.Orig_rax = ^uint64(0) })
}

// setResult makes the system call that a thread has just left one that failed.
func setResult(tid int, errno syscall.Errno) error {
	return changeRegisters(tid, func(r *unix.PtraceRegs) { r.Rax = -uint64(errno) })
}

// setLength changes the third argument of a system call that is about to be executed.
func setLength(tid int, n uint64) error {
	return changeRegisters(tid, func(r *unix.PtraceRegs) { r.Rdx = n })
}

func changeRegisters(tid int, change func(*unix.PtraceRegs)) error {
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		return err
	}
	change(&r)
	return unix.PtraceSetRegs(tid, &r)
}
