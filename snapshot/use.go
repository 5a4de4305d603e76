package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Source is the name under which a snapshot's mount stands in /proc/self/mountinfo and
// in the output of df: how layerfs finds its mounts again, with no state of its own
// that could go stale.
func (s *Store) Source(key Key) string {
	const maxSource = 255 // bytes that a mount's source may have
	source := "layerfs:" + s.dir(key)
	if len(source) > maxSource {
		source = "layerfs:" + digest.FromString(source).Encoded()
	}
	return source
}

// MountPoints returns where a snapshot is mounted in this mount namespace.
func (s *Store) MountPoints(key Key) ([]string, error) {
	source := s.Source(key)
	mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Source != source, false })
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	out := make([]string, len(mounts))
	for i, m := range mounts {
		out[i] = m.Mountpoint
	}
	return out, nil
}

// Use marks a snapshot as being in use until the returned file is closed or the process
// that holds it ends. It is for mounts that other mount namespaces cannot see. The
// caller holds a Claim: who looks whether a snapshot is idle would else be in the way.
func (s *Store) Use(key Key) (*os.File, error) {
	f, err := os.OpenFile(s.usePath(key), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("use snapshot %s: %w", key, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("use snapshot %s: %w", key, ErrInUse), f.Close())
	}
	return f, nil
}

func (s *Store) usePath(key Key) string { return filepath.Join(s.dir(key), "use") }

// Idle wraps ErrInUse when a snapshot is mounted or in use by a process.
func (s *Store) Idle(key Key) error { return s.mustBeIdle(key) }

// mustBeIdle wraps ErrInUse when a snapshot is mounted here or marked as in use, or
// anything else is mounted in its directory, and when another process has it mounted in a
// mount namespace of its own.
func (s *Store) mustBeIdle(key Key) error {
	if err := s.mustBeFree(key); err != nil {
		return err
	}
	if used, err := exists(s.usePath(key)); err != nil || !used {
		return err
	}
	// Its process has ended, but may have been killed, and leave a container behind that
	// has the mount for as long as it takes to die, or for ever.
	pid, err := mountedElsewhere(s.Source(key))
	if err == nil && pid != "" {
		err = fmt.Errorf("in the mount namespace of process %s: %w", pid, ErrInUse)
	}
	return err
}

// mustBeFree is mustBeIdle without what only other mount namespaces show.
func (s *Store) mustBeFree(key Key) error {
	source, inside := s.Source(key), mountinfo.PrefixFilter(s.dir(key))
	at, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		other, _ := inside(i)
		return i.Source != source && other, false
	})
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	if len(at) > 0 {
		return fmt.Errorf("at %s: %w", at[0].Mountpoint, ErrInUse)
	}
	// The file is not made here: this must work on a full disk.
	f, err := os.Open(s.usePath(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("by a running process: %w", ErrInUse), f.Close())
	}
	return f.Close()
}

// mountedElsewhere returns a process in whose mount namespace there is a mount of that
// source, "" for none, as far as this process may look.
func mountedElsewhere(source string) (pid string, err error) {
	proc, err := os.ReadDir("/proc")
	if err != nil {
		return "", err
	}
	seen := map[string]bool{}
	for _, e := range proc {
		if name := e.Name(); name[0] < '1' || name[0] > '9' {
			continue
		}
		ns, err := os.Readlink("/proc/" + e.Name() + "/ns/mnt")
		if err != nil || seen[ns] {
			continue // ended meanwhile, or another user's
		}
		ok, err := hasMount("/proc/"+e.Name()+"/mountinfo", source)
		if ok {
			return e.Name(), nil
		}
		seen[ns] = err == nil // else another process of the namespace may tell
	}
	return "", nil
}

func hasMount(mountinfoFile, source string) (bool, error) {
	f, err := os.Open(mountinfoFile)
	if err != nil {
		return false, err
	}
	mounts, err := mountinfo.GetMountsFromReader(f, func(i *mountinfo.Info) (skip, stop bool) { return i.Source != source, i.Source == source })
	return len(mounts) > 0, errors.Join(err, f.Close())
}

// MountDir is where a snapshot is mounted when nobody says otherwise.
func (s *Store) MountDir(key Key) string { return filepath.Join(s.dir(key), "merged") }

// Claim locks a snapshot for mounting and fails with ErrInUse when it is mounted
// already or in use: two mounts of one upper directory would corrupt it. A read-only
// view may be claimed while it is mounted.
func (s *Store) Claim(ctx context.Context, key Key) (unlock func(), err error) {
	unlock, err = s.lockSnapshot(ctx, key)
	if err != nil {
		return nil, err
	}
	rec, err := s.Stat(ctx, key)
	if err == nil && rec.Kind != View {
		if err = s.mustBeIdle(key); err != nil {
			err = fmt.Errorf("mount snapshot %s: %w", key, err)
		}
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}
