package external

import (
	"errors"
	"fmt"
	"path/filepath"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// Where the cgroup file systems of version 1 and, next to them, that of version 2 are
// mounted on machines that have both.
const (
	cgroups = "/sys/fs/cgroup"
	unified = cgroups + "/unified"
)

// apart calls a function on a thread with a mount namespace of its own, which ends with
// it. That is never the first thread, by which others see this process.
func apart(f func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer goruntime.UnlockOSThread()
			done <- apart(f) // by another, since this one is held until then
			return
		}
		// Not unlocked: the thread ends with the goroutine.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			done <- fmt.Errorf("make mount namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// arrange prepares the mount namespace of the calling thread: it keeps what is mounted
// there to itself, and attaches the root, unless that is negative.
func (r *Runtime) arrange(root int) error {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts to oneself: %w", err)
	}
	var first, second unix.Statfs_t
	if unix.Statfs(cgroups, &first) == nil && unix.Statfs(unified, &second) == nil && first.Type != unix.CGROUP2_SUPER_MAGIC && second.Type == unix.CGROUP2_SUPER_MAGIC {
		if err := unix.Mount("tmpfs", unified, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
			return fmt.Errorf("cover %s: %w", unified, err)
		}
	}
	if root < 0 {
		return nil
	}
	at := filepath.Join(r.Bundle, rootName)
	fd, err := unix.OpenTree(root, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("copy the mount of the root: %w", err)
	}
	err = unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("attach the root at %s: %w", at, err)
	}
	return nil
}
