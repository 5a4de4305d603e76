package runtime

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// waitid reaps a child. It blocks a thread.
func waitid(pid int, info *waitInfo) error {
	_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(pid),
		uintptr(unsafe.Pointer(info)), unix.WEXITED, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
