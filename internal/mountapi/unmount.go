package mountapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// The time for which Unmount tries a busy mount again: indexers, monitoring and the
// last moments of a process hold mounts for an instant.
const (
	busyTries = 8
	busyFirst = 2 * time.Millisecond // doubled each time, about half a second together
)

// BusyError says that a mount is in use, and by whom as far as that could be found.
type BusyError struct {
	Target  string
	Holders []string // such as `process 17 (bash): working directory`
	Err     error
}

// Error names the target, its holders and what can be done.
func (e *BusyError) Error() string {
	if len(e.Holders) == 0 {
		return fmt.Sprintf("unmount %s: %v: end what uses it, or force the unmount", e.Target, e.Err)
	}
	return fmt.Sprintf("unmount %s: %v: held by %s; end it, or force the unmount", e.Target, e.Err, list(e.Holders))
}

// Unwrap returns the errno, unix.EBUSY.
func (e *BusyError) Unwrap() error { return e.Err }

// Unmount unmounts what is mounted at target, the topmost mount if there are several.
// A busy mount is tried for about half a second and then gives a *BusyError. With
// force it is detached instead: it leaves the name space at once and ends with its
// last user. A target that is not a mount point gives an error that wraps
// fs.ErrInvalid.
func Unmount(ctx context.Context, target string, force bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	wait := busyFirst
	for try := 1; ; try++ {
		err := unix.Unmount(target, flags)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL):
			return fmt.Errorf("unmount %s: not a mount point: %w", target, fs.ErrInvalid)
		case !errors.Is(err, unix.EBUSY):
			return &Error{Op: "umount", Object: target, Err: err}
		case force:
			flags |= unix.MNT_DETACH
			continue
		case try == busyTries:
			return &BusyError{Target: target, Holders: holders(ctx, target), Err: err}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("unmount %s: %w", target, errors.Join(ctx.Err(), err))
		case <-time.After(wait):
			wait *= 2
		}
	}
}

// Mounted reports whether something is mounted at path.
func Mounted(path string) (bool, error) {
	mounted, err := mountinfo.Mounted(path)
	if err != nil {
		return false, fmt.Errorf("see whether %s is a mount point: %w", path, err)
	}
	return mounted, nil
}

// Info is one mount of this process's mount name space.
type Info struct {
	ID, Parent int
	Target     string
	Type       string // of the file system
	Source     string
	Options    string // of the file system, as it shows them
	ReadOnly   bool
}

// List returns the mounts at and below dir in the order of the kernel, in which a
// mount comes after the one that it lies on. An empty dir lists all.
func List(dir string) ([]Info, error) {
	filter := mountinfo.FilterFunc(nil)
	if dir != "" {
		filter = mountinfo.PrefixFilter(dir)
	}
	mounts, err := mountinfo.GetMounts(filter)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	infos := make([]Info, 0, len(mounts))
	for _, m := range mounts {
		infos = append(infos, Info{
			ID: m.ID, Parent: m.Parent, Target: m.Mountpoint, Type: m.FSType, Source: m.Source,
			Options: m.VFSOptions, ReadOnly: hasOption(m.Options, "ro") || hasOption(m.VFSOptions, "ro"),
		})
	}
	return infos, nil
}
