package union

import (
	"errors"
	"fmt"
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

// extent is how much of a file's content is to be in the upper: copyMeta for none,
// else that many bytes from the start.
type extent int64

const (
	copyMeta extent = -1
	copyAll  extent = math.MaxInt64
)

// copyData asks for the content up to size, which is about to become the file's.
func copyData(size int64) extent { return extent(size) }

// metadataOnly reports whether a file may be in the upper without its content. Overlayfs
// refuses that form where attributes are user.overlay.*, so an upper in that namespace
// never has it.
func (f *FS) metadataOnly() bool { return f.ns == unionfs.Trusted }

// copyUp makes sure that a file is in the upper, with as much of its content as asked
// for. The caller must not hold f.names.
func (f *FS) copyUp(n *node, want extent) error {
	if n.upper.Load() && (want == copyMeta || n.data.Load() == nil) {
		return nil
	}
	if n.isDir() {
		return f.copyUpDir(n)
	}
	unlock := f.ids.lock(n.id)
	defer unlock()
	return f.copyUpLocked(n, want)
}

// copyUpLocked is copyUp for a file whose id the caller has locked.
func (f *FS) copyUpLocked(n *node, want extent) error {
	switch {
	case !f.writable():
		return unix.EROFS
	case !n.upper.Load():
		if err := f.space(func() error { return f.copyUpFile(n, want) }); err != nil {
			return fmt.Errorf("copy up: %w", err)
		}
	case want != copyMeta && n.data.Load() != nil:
		if err := f.space(func() error { return f.completeData(n, want) }); err != nil {
			return fmt.Errorf("copy up content: %w", err)
		}
	}
	return nil
}

// copyUpDir makes sure that a directory is in the upper, and those above it.
func (f *FS) copyUpDir(n *node) error {
	if n.upper.Load() {
		return nil
	}
	if !f.writable() {
		return unix.EROFS
	}
	unlock := f.ids.lock(n.id)
	defer unlock()
	return f.copyUpDirLocked(n)
}

// copyUpDirLocked is copyUpDir for a directory whose id the caller has locked.
func (f *FS) copyUpDirLocked(n *node) error {
	if n.upper.Load() {
		return nil
	}
	if !f.writable() {
		return unix.EROFS
	}
	parent, _, gone := n.where()
	if gone {
		return unix.ENOENT
	}
	if err := f.copyUpDir(parent); err != nil {
		return err
	}
	var attr fuse.Attr
	if err := f.lowerAttr(n.lowers[0], &attr); err != nil {
		return err
	}
	tmp := f.work.name()
	if err := unix.Mkdirat(f.work.dir, tmp, 0o700); err != nil {
		return err
	}
	published := false
	defer func() {
		if !published {
			_ = unix.Unlinkat(f.work.dir, tmp, unix.AT_REMOVEDIR)
		}
	}()
	if err := f.dress(n, tmp, &attr, false); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(f.work.dir, tmp, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	f.names.RLock()
	defer f.names.RUnlock()
	parent, name, _ := n.where()
	if err := f.publish(tmp, parent, name); err != nil {
		return err
	}
	published = true
	f.nowUpper(n, st.Ino)
	return nil
}

// nowUpper notes that a file is in the upper.
func (f *FS) nowUpper(n *node, ino uint64) {
	f.tables.mu.Lock()
	defer f.tables.mu.Unlock()
	n.uino = ino
	f.tables.byIno[ino] = n
	n.upper.Store(true)
}

// dress gives a temporary file the attributes of the lower file n.
func (f *FS) dress(n *node, tmp string, attr *fuse.Attr, meta bool) error {
	path := fdPath(f.work.dir, tmp)
	if attr.Uid != f.uid || attr.Gid != f.gid {
		if err := unix.Fchownat(f.work.dir, tmp, int(attr.Uid), int(attr.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if !isLink(attr.Mode) {
		if err := unix.Fchmodat(f.work.dir, tmp, attr.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	if err := f.copyXattrs(n.lowers[0], path); err != nil {
		return err
	}
	if err := f.setOrigin(n, path); err != nil {
		return err
	}
	if meta {
		if err := unix.Lsetxattr(path, f.ns.Attr(unionfs.Metacopy), nil, 0); err != nil {
			return err
		}
	}
	return setTimes(f.work.dir, tmp, unix.Timespec{Sec: int64(attr.Atime), Nsec: int64(attr.Atimensec)},
		unix.Timespec{Sec: int64(attr.Mtime), Nsec: int64(attr.Mtimensec)})
}

func isLink(mode uint32) bool { return mode&unix.S_IFMT == unix.S_IFLNK }

// copyXattrs copies what attributes the union shows of a lower file. A POSIX ACL goes
// with the rest, after the mode, which it agrees with.
func (f *FS) copyXattrs(r ref, path string) error {
	all, err := f.lowerXattrs(r)
	if err != nil {
		return err
	}
	for _, x := range all {
		err := unix.Lsetxattr(path, f.ns.Escape(x.Name), []byte(x.Value), 0)
		if err != nil && !f.mayLose(x.Name, err) {
			return fmt.Errorf("set %s: %w", x.Name, err)
		}
	}
	return nil
}

// mayLose says which attributes an ordinary user's upper cannot take. As with any other
// copy by that user, the file is usable without.
func (f *FS) mayLose(name string, err error) bool {
	privileged := !hasPrefix(name, "user.") && f.uid != 0
	return errors.Is(err, unix.EOPNOTSUPP) || privileged && errors.Is(err, unix.EPERM)
}

// publish renames a temporary file to a name in the upper that nothing has there, and
// keeps the times of the directory, which has not changed for anybody who looks.
func (f *FS) publish(tmp string, dir *node, name string) error {
	d, err := f.dir(dir)
	if err != nil {
		return err
	}
	defer f.dirs.release(d)
	if err := f.markImpure(dir, d); err != nil {
		return err
	}
	return f.keepTimes(dir, d, func() error {
		return unix.Renameat2(f.work.dir, tmp, d.fd, name, unix.RENAME_NOREPLACE)
	})
}

// keepTimes restores the times of a directory of the upper after change.
func (f *FS) keepTimes(dir *node, d *dirHold, change func() error) error {
	unlock := f.times.lock(dir.id)
	defer unlock()
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	return setTimes(d.fd, "", st.Atim, st.Mtim)
}

// markImpure notes in a directory that it has files with an origin.
func (f *FS) markImpure(dir *node, d *dirHold) error {
	if dir.impure.Load() {
		return nil
	}
	if err := setXattr(fdPath(d.fd, ""), f.ns.Attr(unionfs.Impure), "y", 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	dir.impure.Store(true)
	return nil
}

// copyUpFile copies up anything but a directory.
func (f *FS) copyUpFile(n *node, want extent) error {
	parent, _, gone := n.where()
	if !gone {
		if err := f.copyUpDir(parent); err != nil {
			return err
		}
	}
	lower := n.lowers[0]
	var attr fuse.Attr
	if err := f.lowerAttr(lower, &attr); err != nil {
		return err
	}
	tmp := f.work.name()
	published := false
	defer func() {
		if !published {
			f.work.drop(tmp)
		}
	}()
	meta, err := f.makeCopy(n, tmp, &attr, want)
	if err != nil {
		return err
	}
	if err := f.dress(n, tmp, &attr, meta); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(f.work.dir, tmp, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := f.name(n, tmp, attr.Nlink); err != nil {
		return err
	}
	published = !gone
	if meta {
		data := n.dataRef()
		n.data.Store(&data)
	} else {
		n.data.Store(nil)
	}
	f.nowUpper(n, st.Ino)
	f.files.forget(n.id)
	return nil
}

// dataRef returns where the content of a lower file is.
func (n *node) dataRef() ref {
	if d := n.data.Load(); d != nil {
		return *d
	}
	return n.lowers[0]
}

// makeCopy makes the file itself under a temporary name. meta says that it needs the
// mark of one without content.
func (f *FS) makeCopy(n *node, tmp string, attr *fuse.Attr, want extent) (meta bool, err error) {
	switch n.mode {
	case unix.S_IFREG:
	case unix.S_IFLNK:
		target, err := f.lowerLink(n.lowers[0])
		if err != nil {
			return false, err
		}
		return false, unix.Symlinkat(target, f.work.dir, tmp)
	default:
		return false, unix.Mknodat(f.work.dir, tmp, n.mode|0o600, int(attr.Rdev))
	}
	fd, err := unix.Openat(f.work.dir, tmp, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return false, err
	}
	defer closeFD(fd)
	size := int64(attr.Size)
	if want == copyMeta && size > 0 && f.metadataOnly() {
		return true, unix.Ftruncate(fd, size)
	}
	if want == copyMeta {
		want = copyAll
	}
	size = min(size, int64(want))
	if size == 0 {
		return false, nil
	}
	if err := retry(func() error { return unix.Ftruncate(fd, size) }); err != nil {
		return false, err
	}
	if err := f.copyContent(fd, n.dataRef(), size); err != nil {
		return false, err
	}
	return false, f.flush(fd)
}

// flush makes content durable before anything refers to it.
func (f *FS) flush(fd int) error {
	if f.cfg.Volatile {
		return nil
	}
	return retry(func() error { return unix.Fdatasync(fd) })
}

// name gives a copied-up file its names in the upper: the one it has, or all that the
// union shows if it has several. One without any stays reachable by a descriptor.
func (f *FS) name(n *node, tmp string, links uint32) error {
	r := n.lowers[0]
	if links > 1 && f.lower[r.layer].image != nil {
		return f.nameAll(n, tmp, r)
	}
	f.names.RLock()
	defer f.names.RUnlock()
	parent, name, gone := n.where()
	if gone {
		fd, err := openAt(f.work.dir, tmp, unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			return err
		}
		n.mu.Lock()
		n.pin = fd
		n.mu.Unlock()
		return nil // the temporary name goes, the file stays
	}
	return f.publish(tmp, parent, name)
}

func (f *FS) nameAll(n *node, tmp string, r ref) error {
	f.names.RLock()
	names, err := f.visible(r)
	f.names.RUnlock()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return errGone
	}
	dirs := make([]*node, len(names))
	for i, at := range names {
		if dirs[i], err = f.object(treeID(at.dir.layer, at.dir.nid)); err != nil {
			return err
		}
		if err := f.copyUpDir(dirs[i]); err != nil {
			return err
		}
	}
	f.names.RLock()
	defer f.names.RUnlock()
	for i, at := range names {
		one := tmp
		if i+1 < len(names) {
			one = f.work.name()
			if err := unix.Linkat(f.work.dir, tmp, f.work.dir, one, 0); err != nil {
				return err
			}
		}
		if err := f.publish(one, dirs[i], at.base); err != nil {
			f.work.drop(one)
			return err
		}
		if parent, base, _ := n.where(); i == 0 && (parent != dirs[0] || base != at.base) {
			f.tables.move(n, dirs[0], at.base)
		}
	}
	return nil
}

// completeData copies the content of a file that has only metadata in the upper. The
// mark goes last: until then the layers below are read. The size changes only when all
// that is to stay has been copied, so that what fails, or is killed, leaves the file as it
// was.
func (f *FS) completeData(n *node, want extent) error {
	f.names.RLock()
	s, err := f.spot(n)
	if err != nil {
		f.names.RUnlock()
		return err
	}
	fd, err := s.open(unix.O_RDWR)
	f.release(s)
	f.names.RUnlock()
	if err != nil {
		return err
	}
	defer closeFD(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	path := fdPath(fd, "")
	caps, err := getXattr(path, capability)
	hasCaps := err == nil
	size := min(st.Size, int64(want))
	if size > 0 {
		err := f.copyContent(fd, n.dataRef(), size)
		if err == nil {
			err = f.flush(fd)
		}
		if err != nil {
			// Where space cannot be given back it stays taken until the next try.
			_ = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, st.Size)
			return err
		}
	}
	if size < st.Size {
		if err := retry(func() error { return unix.Ftruncate(fd, size) }); err != nil {
			return err
		}
	}
	if hasCaps { // writing has removed them
		if err := setXattr(path, capability, caps, 0); err != nil {
			return err
		}
	}
	if err := setTimes(fd, "", st.Atim, st.Mtim); err != nil {
		return err
	}
	for _, mark := range []string{unionfs.Metacopy, unionfs.Redirect} {
		if err := removeXattr(path, f.ns.Attr(mark)); err != nil && !errors.Is(err, unix.ENODATA) {
			return err
		}
	}
	n.data.Store(nil)
	f.files.forget(n.id)
	return nil
}

// capability is the attribute of file capabilities.
const capability = "security.capability"
