package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Processes returns the ids of the processes in the pid namespace of a process and in
// those below it, sorted: those of a container that has such a namespace of its own and no
// control group. Processes that the caller may not look at are left out. If the namespace
// is the caller's own, the error wraps errors.ErrUnsupported; if the process is not there,
// fs.ErrNotExist.
func Processes(pid int) ([]int, error) {
	want, err := os.Stat(pidNamespace(strconv.Itoa(pid)))
	if err != nil {
		return nil, fmt.Errorf("find pid namespace of process %d: %w", pid, err)
	}
	own, err := os.Stat(pidNamespace("self"))
	if err != nil {
		return nil, fmt.Errorf("find own pid namespace: %w", err)
	}
	if os.SameFile(want, own) {
		return nil, fmt.Errorf("list processes of process %d: it has no pid namespace of its own: %w", pid, errors.ErrUnsupported)
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range all {
		other, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		below, err := inNamespace(e.Name(), want)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ESRCH):
			// It has ended, or is another user's.
		case err != nil:
			return nil, fmt.Errorf("find pid namespace of process %d: %w", other, err)
		case below:
			pids = append(pids, other)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

func pidNamespace(pid string) string { return filepath.Join("/proc", pid, "ns", "pid") }

// inNamespace tells whether a process is in a pid namespace or in one below it.
func inNamespace(pid string, want os.FileInfo) (is bool, err error) {
	f, err := os.Open(pidNamespace(pid))
	if err != nil {
		return false, err
	}
	const deepest = 32 // MAX_PID_NS_LEVEL of Linux
	for range deepest + 1 {
		st, err := f.Stat()
		if err != nil || os.SameFile(st, want) {
			return err == nil, errors.Join(err, f.Close())
		}
		// ioctl_ns(2): EPERM says that what is above is not below the caller's own.
		up, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_PARENT)
		if closeErr := f.Close(); err != nil || closeErr != nil {
			if errors.Is(err, unix.EPERM) {
				err = nil
			}
			return false, errors.Join(err, closeErr)
		}
		f = os.NewFile(uintptr(up), "pid namespace")
	}
	return false, f.Close()
}
