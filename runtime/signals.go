package runtime

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is the kernel's struct sigaction, as the machines with 64 bits have it that
// Go runs on (include/linux/signal_types.h). The zero value is the default action.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const (
	lastSignal   = 64 // _NSIG
	ignoreSignal = 1  // SIG_IGN
)

// signals adds the rows that give back their default actions to signals that this
// process ignores, such as those that a shell ignores for what it runs in the
// background: execve resets what is handled, but keeps what is ignored.
func (t *table) signals() error {
	for n := 1; n <= lastSignal; n++ {
		var old sigaction
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), 0, uintptr(unsafe.Pointer(&old)), unsafe.Sizeof(old.mask), 0, 0)
		if errno != 0 {
			return &Error{Step: "read action of signal", Object: strconv.Itoa(n), Err: errno}
		}
		if old.handler == ignoreSignal {
			t.call(step{"reset signal", strconv.Itoa(n)}, unix.SYS_RT_SIGACTION, n, at(&sigaction{}), 0, int(unsafe.Sizeof(old.mask)))
		}
	}
	return nil
}
