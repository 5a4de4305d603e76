package union

import (
	"container/list"
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// maxDirs is the number of directories of the upper that are kept open while nobody
// uses them.
const maxDirs = 512

// openDirs keeps directories of the upper open, the ones used last. A descriptor stays
// right when the directory is renamed.
type openDirs struct {
	mu   sync.Mutex
	dirs map[*node]*dirHold
	idle *list.List // of *dirHold, the one used last in front
}

type dirHold struct {
	fd    int
	n     *node
	users int
	stale bool          // not in the map any more; closed by its last user
	at    *list.Element // in idle when users is zero
}

func newOpenDirs() openDirs { return openDirs{dirs: map[*node]*dirHold{}, idle: list.New()} }

// take returns the open directory of n, if it is open.
func (o *openDirs) take(n *node) *dirHold {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.dirs[n]
	if d == nil {
		return nil
	}
	if d.at != nil {
		o.idle.Remove(d.at)
		d.at = nil
	}
	d.users++
	return d
}

// put enters a directory that was just opened. If somebody else was faster theirs is used.
func (o *openDirs) put(n *node, fd int) *dirHold {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d := o.dirs[n]; d != nil {
		closeFD(fd)
		if d.at != nil {
			o.idle.Remove(d.at)
			d.at = nil
		}
		d.users++
		return d
	}
	d := &dirHold{fd: fd, n: n, users: 1}
	o.dirs[n] = d
	return d
}

// release gives back what take or put returned.
func (o *openDirs) release(d *dirHold) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d.users--; d.users > 0 {
		return
	}
	if d.stale {
		closeFD(d.fd)
		return
	}
	d.at = o.idle.PushFront(d)
	for o.idle.Len() > maxDirs {
		last := o.idle.Back()
		old, ok := o.idle.Remove(last).(*dirHold)
		if ok {
			delete(o.dirs, old.n)
			closeFD(old.fd)
		}
	}
}

// forget closes the directory of n, once nobody uses it.
func (o *openDirs) forget(n *node) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.dirs[n]
	if d == nil {
		return
	}
	delete(o.dirs, n)
	d.stale = true
	if d.at != nil {
		o.idle.Remove(d.at)
		d.at = nil
		closeFD(d.fd)
	}
}

// dir opens the directory n of the upper. The caller releases it and holds f.names.
func (f *FS) dir(n *node) (*dirHold, error) {
	if d := f.dirs.take(n); d != nil {
		return d, nil
	}
	parent, name, gone := n.where()
	if gone || parent == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.pin < 0 {
			return nil, unix.ENOENT
		}
		fd, err := unix.FcntlInt(uintptr(n.pin), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return f.dirs.put(n, fd), nil
	}
	above, err := f.dir(parent)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat(above.fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	f.dirs.release(above)
	if err != nil {
		return nil, err
	}
	return f.dirs.put(n, fd), nil
}

// spot is where a file in the upper is: a name in an open directory, or, with no name,
// the open file itself.
type spot struct {
	fd   int
	name string
	dir  *dirHold // to be released, or nil
}

// spot finds a file in the upper. The caller releases it and holds f.names meanwhile.
func (f *FS) spot(n *node) (spot, error) {
	n.mu.Lock()
	parent, name, pin := n.parent, n.name, n.pin
	n.mu.Unlock()
	if pin >= 0 {
		return spot{fd: pin}, nil // stays open until the kernel has forgotten the file
	}
	if n.isDir() || parent == nil {
		d, err := f.dir(n)
		if err != nil {
			return spot{}, err
		}
		return spot{fd: d.fd, dir: d}, nil
	}
	d, err := f.dir(parent)
	if err != nil {
		return spot{}, err
	}
	return spot{fd: d.fd, name: name, dir: d}, nil
}

func (f *FS) release(s spot) {
	if s.dir != nil {
		f.dirs.release(s.dir)
	}
}

func (s spot) path() string { return fdPath(s.fd, s.name) }

func (s spot) stat(st *unix.Stat_t) error {
	if s.name == "" {
		return unix.Fstat(s.fd, st)
	}
	return unix.Fstatat(s.fd, s.name, st, unix.AT_SYMLINK_NOFOLLOW)
}

// open opens the file itself. It is never a symbolic link.
func (s spot) open(flags int) (int, error) {
	flags |= unix.O_CLOEXEC | unix.O_NONBLOCK
	if s.name == "" {
		return openMagic(s.fd, flags)
	}
	return openAt(s.fd, s.name, flags|unix.O_NOFOLLOW)
}

func (s spot) chmod(mode uint32) error {
	if s.name == "" {
		return unix.Chmod(s.path(), mode)
	}
	return unix.Fchmodat(s.fd, s.name, mode, 0)
}

func (s spot) chown(uid, gid int) error {
	return unix.Fchownat(s.fd, s.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
}

func (s spot) setTimes(atime, mtime unix.Timespec) error {
	return setTimes(s.fd, s.name, atime, mtime)
}

// setTimes sets the times of a name in a directory, or of an open file. A Nsec of
// UTIME_OMIT or UTIME_NOW has its meaning.
func setTimes(fd int, name string, atime, mtime unix.Timespec) error {
	ts := []unix.Timespec{atime, mtime}
	if name == "" {
		return unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(fd, ""), ts, 0)
	}
	return unix.UtimesNanoAt(fd, name, ts, unix.AT_SYMLINK_NOFOLLOW)
}

func openAt(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// openMagic opens what is open already once more.
func openMagic(fd, flags int) (int, error) {
	return openAt(unix.AT_FDCWD, fdPath(fd, ""), flags)
}
