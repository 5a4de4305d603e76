package unionfstest

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inThread runs do on a thread of its own, which ends with it, so that do may change
// what Linux keeps by thread: user, groups, umask.
func inThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

// become makes the calling thread act as a user towards file systems. The kernel
// drops the capabilities that concern files with it (capabilities(7)).
func become(uid, gid int, groups []int) error {
	ids := make([]uint32, len(groups), len(groups)+1)
	for i, g := range groups {
		ids[i] = uint32(g)
	}
	// The wrapper of the standard library changes all threads.
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(ids)), uintptr(unsafe.Pointer(unsafe.SliceData(ids[:cap(ids)]))), 0)
	if errno != 0 {
		return fmt.Errorf("set groups: %w", errno)
	}
	if err := unix.Setfsgid(gid); err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	if err := unix.Setfsuid(uid); err != nil {
		return fmt.Errorf("set user: %w", err)
	}
	return nil
}
