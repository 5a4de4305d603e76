package overlay

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
)

// inStage runs build on a thread with a mount name space of its own and hands it a
// function that puts a detached mount into that name space. The name space is private
// and ends with the thread, so nothing of this shows elsewhere.
//
// The mounts are put onto "/" one over the other: they are used through their
// descriptors, paths go on to start at the root below them, and no directory is
// needed.
func inStage(build func(stage func(*mountapi.Mount) error) (*mountapi.Mount, error)) (*mountapi.Mount, error) {
	type result struct {
		m   *mountapi.Mount
		err error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		m, err := func() (*mountapi.Mount, error) {
			home, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, fmt.Errorf("open mount name space: %w", err)
			}
			defer func() { _ = unix.Close(home) }() // a handle of a name space
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return nil, &mountapi.Error{Op: "unshare", Object: "mount name space", Err: err}
			}
			m, err := inPrivate(build)
			// A program's first thread does not end with its goroutine, so it must not
			// keep the name space.
			if back := unix.Setns(home, unix.CLONE_NEWNS); back != nil {
				err = errors.Join(err, &mountapi.Error{Op: "setns", Object: "mount name space", Err: back})
			}
			return m, err
		}()
		done <- result{m, err}
	}()
	r := <-done
	if r.err != nil && r.m != nil {
		return nil, errors.Join(r.err, r.m.Close())
	}
	return r.m, r.err
}

func inPrivate(build func(stage func(*mountapi.Mount) error) (*mountapi.Mount, error)) (*mountapi.Mount, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, &mountapi.Error{Op: "mount", Object: "/ as private", Err: err}
	}
	return build(func(m *mountapi.Mount) error { return m.Attach("/") })
}
