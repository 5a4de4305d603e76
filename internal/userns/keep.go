package userns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// linger is how long a keeper stays after the last user, in case there is another
// command: a new keeper costs more than entering.
const linger = time.Second

// The descriptors that a keeper is started with.
const (
	fdGo    = 3 // a byte comes when its ids are mapped
	fdReady = 4 // a byte goes when it holds its lock
)

// Keep is all that the keeper does, and returns when the namespaces are not needed any
// more. It is called in a process that [Space.Run] has started for it, with the lock file
// of the space.
func Keep(file string) (err error) {
	begin, ready := os.NewFile(fdGo, "go"), os.NewFile(fdReady, "ready")
	if _, err := io.ReadFull(begin, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for ids: %w", err) // who started it has given up
	}
	lock, err := openLock(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mounts.Close()) }()
	first, err := mountIDs()
	if err != nil {
		return err
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(lock.Fd(), unix.F_SETLK, &whole); err != nil {
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return nil // another keeper was faster
		}
		return fmt.Errorf("lock %s: %w", file, err)
	}
	if _, err := ready.Write([]byte{0}); err != nil {
		return err
	}
	if err := errors.Join(begin.Close(), ready.Close()); err != nil {
		return err
	}
	for {
		// Who started it holds the lock already.
		if err := flock(lock, unix.LOCK_EX); err != nil {
			return err
		}
		more, err := moreMounts(first)
		if err != nil {
			return err
		}
		if err := flock(lock, unix.LOCK_UN); err != nil {
			return err
		}
		if more {
			if err := changed(mounts); err != nil {
				return err
			}
			continue
		}
		time.Sleep(linger)
		switch err := flock(lock, unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EWOULDBLOCK):
			continue
		case err != nil:
			return err
		}
		// What was mounted in the meantime by who has ended already.
		if more, err = moreMounts(first); err != nil || !more {
			return err
		}
		if err := flock(lock, unix.LOCK_UN); err != nil {
			return err
		}
	}
}

// openLock opens the lock file.
func openLock(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the user namespace: %w", err)
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// holder returns the process that holds the POSIX lock of a file; 0 where none does.
func holder(lock *os.File) (int, error) {
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(lock.Fd(), unix.F_GETLK, &whole); err != nil {
		return 0, fmt.Errorf("ask who holds %s: %w", lock.Name(), err)
	}
	if whole.Type == unix.F_UNLCK {
		return 0, nil
	}
	if whole.Pid <= 0 {
		return 0, fmt.Errorf("the user namespace of %s is kept by a process of another pid namespace or machine: %w", lock.Name(), errors.ErrUnsupported)
	}
	return int(whole.Pid), nil
}

// changed waits until the mounts of the process's namespace change, or for a short while:
// a change may have come before.
func changed(mounts *os.File) error {
	const look = 10 * time.Second
	fds := []unix.PollFd{{Fd: int32(mounts.Fd()), Events: unix.POLLPRI}}
	_, err := unix.Poll(fds, int(look.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for a change of mounts: %w", err)
	}
	return nil
}

// mountIDs returns the mounts that are there when the namespace is new.
func mountIDs() (map[int]bool, error) {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	ids := make(map[int]bool, len(mounts))
	for _, m := range mounts {
		ids[m.ID] = true
	}
	return ids, nil
}

// moreMounts reports whether something was mounted inside the namespace. What comes from
// outside, later than the first, has a master there.
func moreMounts(first map[int]bool) (bool, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		inside := !first[m.ID] && !strings.Contains(m.Optional, "master:")
		return !inside, inside
	})
	if err != nil {
		return false, fmt.Errorf("read mounts: %w", err)
	}
	return len(mounts) > 0, nil
}
