package union

import (
	"errors"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// birth is what a new file is to be.
type birth struct {
	dir   *node
	name  string
	mode  uint32 // with type bits; permission bits not masked yet
	umask uint32
	uid   uint32
	gid   uint32
	rdev  int
	link  string // target of a symbolic link
	flags int    // to open a regular file with
}

// Mkdir makes a directory.
func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	b := birth{name: name, mode: unix.S_IFDIR | in.Mode&0o7777, umask: in.Umask}
	return f.status(f.makeEntry(&in.InHeader, &b, out))
}

// Mknod makes a file of any type but directory and link.
func (f *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	b := birth{name: name, mode: in.Mode, umask: in.Umask, rdev: int(in.Rdev)}
	if b.mode&unix.S_IFMT == 0 {
		b.mode |= unix.S_IFREG
	}
	if b.mode&unix.S_IFMT == unix.S_IFCHR && b.rdev == 0 {
		return fuse.EPERM // it would be a whiteout
	}
	return f.status(f.makeEntry(&in.InHeader, &b, out))
}

// Symlink makes a symbolic link.
func (f *FS) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	b := birth{name: name, mode: unix.S_IFLNK | 0o777, link: target}
	return f.status(f.makeEntry(in, &b, out))
}

// Create makes a regular file and opens it.
func (f *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	b := birth{name: name, mode: unix.S_IFREG | in.Mode&0o7777, umask: in.Umask, flags: unix.O_RDWR}
	fd, err := f.make(&in.InHeader, &b, &out.EntryOut)
	if errors.Is(err, unix.EEXIST) && in.Flags&unix.O_EXCL == 0 {
		// It came to be after the kernel had looked for it.
		return f.status(f.lookup(in.NodeId, name, &out.EntryOut))
	}
	if err != nil {
		return f.status(err)
	}
	f.opened(out.NodeId, fd, &out.OpenOut)
	return fuse.OK
}

// Tmpfile makes a regular file without a name and opens it.
func (f *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	b := birth{mode: unix.S_IFREG | in.Mode&0o7777, umask: in.Umask, flags: unix.O_RDWR}
	fd, err := f.makeUnnamed(in, &b, &out.EntryOut)
	if err != nil {
		return f.status(err)
	}
	f.opened(out.NodeId, fd, &out.OpenOut)
	return fuse.OK
}

// makeEntry makes a file that nobody opens.
func (f *FS) makeEntry(in *fuse.InHeader, b *birth, out *fuse.EntryOut) error {
	fd, err := f.make(in, b, out)
	if err == nil && fd >= 0 {
		closeFD(fd)
	}
	return err
}

// parent returns the directory of an id, in the upper.
func (f *FS) parent(id uint64) (*node, error) {
	dir, err := f.object(id)
	if err != nil {
		return nil, err
	}
	return dir, f.copyUpDir(dir)
}

// make makes a file. For a regular one with flags it returns the descriptor, else -1.
func (f *FS) make(in *fuse.InHeader, b *birth, out *fuse.EntryOut) (fd int, err error) {
	if len(b.name) > unix.NAME_MAX {
		return -1, unix.ENAMETOOLONG
	}
	b.uid, b.gid = in.Uid, in.Gid
	if b.dir, err = f.parent(in.NodeId); err != nil {
		return -1, err
	}
	f.names.RLock()
	defer f.names.RUnlock()
	d, err := f.dir(b.dir)
	if err != nil {
		return -1, err
	}
	defer f.dirs.release(d)
	white, covers, err := f.freeName(b.dir, d, b.name)
	if err != nil {
		return -1, err
	}
	if err := f.inherit(b, d); err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if white {
		fd, err = f.makeOver(b, d, covers, &st)
	} else {
		fd, err = f.makeAt(b, d.fd, b.name, &st)
	}
	if err != nil {
		return -1, err
	}
	file := f.enter(f.newborn(b, &st), true)
	if !white {
		f.fillAttr(&out.Attr, &st)
		out.Ino, out.NodeId = file.n.ino, file.id
		out.SetEntryTimeout(forever)
		out.SetAttrTimeout(forever)
		return fd, nil
	}
	if err := f.entry(file, out); err != nil {
		if fd >= 0 {
			closeFD(fd)
		}
		return -1, err
	}
	return fd, nil
}

// newborn makes the node of a file that was just made in the upper.
func (f *FS) newborn(b *birth, st *unix.Stat_t) *node {
	n := &node{mode: st.Mode & unix.S_IFMT, uino: st.Ino, ino: st.Ino & nidMask, counted: true, pin: -1, parent: b.dir, name: b.name}
	n.upper.Store(true)
	return n
}

// freeName reports what is at a name where a file is to be made: EEXIST for a file, or
// whether there is a whiteout in the upper; covers says that this hides a file.
func (f *FS) freeName(dir *node, d *dirHold, name string) (white, covers bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return false, false, err
	default:
		if white, err = f.isWhiteout(dir, d, name, &st); err != nil {
			return false, false, err
		}
		if !white {
			return false, false, unix.EEXIST
		}
	}
	if len(dir.lowers) == 0 {
		return white, false, nil
	}
	below, err := f.child(dir.lowers, name)
	if err != nil {
		return false, false, err
	}
	if below.ok() && !white {
		return false, false, unix.EEXIST
	}
	return white, below.ok(), nil
}

// isWhiteout reports whether a file of the upper is one.
func (f *FS) isWhiteout(dir *node, d *dirHold, name string, st *unix.Stat_t) (bool, error) {
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
		return true, nil
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 || !dir.xwhite.Load():
		return false, nil
	}
	_, err := getXattr(fdPath(d.fd, name), f.ns.Attr(unionfs.Whiteout))
	if errors.Is(err, unix.ENODATA) {
		return false, nil
	}
	return err == nil, err
}

// inherit settles mode and group of a new file by its directory.
func (f *FS) inherit(b *birth, d *dirHold) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_ISGID != 0 {
		b.gid = st.Gid
		if b.mode&unix.S_IFMT == unix.S_IFDIR {
			b.mode |= unix.S_ISGID
		}
	}
	b.uid, b.gid = f.cfg.Owners.shown(b.uid, b.gid)
	if b.mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	has, err := f.hasDefaultACL(b.dir, d)
	if err != nil {
		return err
	}
	if !has {
		b.mode &^= b.umask & 0o777 // else the ACL takes its place
	}
	return nil
}

// hasDefaultACL reports whether files made in the directory take an ACL from it.
func (f *FS) hasDefaultACL(dir *node, d *dirHold) (bool, error) {
	if known := dir.acl.Load(); known != aclUnknown {
		return known == aclThere, nil
	}
	_, err := getXattr(fdPath(d.fd, ""), aclDefault)
	switch {
	case err == nil:
		dir.acl.Store(aclThere)
		return true, nil
	case errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP):
		dir.acl.Store(aclNone)
		return false, nil
	default:
		return false, err
	}
}

// What is known of a directory's default ACL.
const (
	aclUnknown = iota
	aclNone
	aclThere
)

// makeAt makes the file under a name that is free and gives it its owner.
func (f *FS) makeAt(b *birth, dir int, name string, st *unix.Stat_t) (fd int, err error) {
	fd = -1
	perm := b.mode & 0o7777
	switch b.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = unix.Mkdirat(dir, name, perm)
	case unix.S_IFLNK:
		err = unix.Symlinkat(b.link, dir, name)
	case unix.S_IFREG:
		fd, err = unix.Openat(dir, name, b.flags|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, perm)
	default:
		err = unix.Mknodat(dir, name, b.mode, b.rdev)
	}
	if err != nil {
		return -1, err
	}
	if err = f.give(b, spot{fd: dir, name: name}, st); err != nil {
		if fd >= 0 {
			closeFD(fd)
		}
		flags := 0
		if b.mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
		}
		_ = unix.Unlinkat(dir, name, flags)
		return -1, err
	}
	return fd, nil
}

// give gives a new file to its owner and returns its attributes. The mode that it was
// made with may have become another by an ACL; only what the change of owner takes away
// is put back.
func (f *FS) give(b *birth, s spot, st *unix.Stat_t) error {
	if err := s.stat(st); err != nil {
		return err
	}
	mode := st.Mode
	special := b.mode & (unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX)
	given := st.Uid != b.uid || st.Gid != b.gid
	if given {
		if err := s.chown(int(b.uid), int(b.gid)); err != nil {
			return err
		}
		st.Mode &^= unix.S_ISUID | unix.S_ISGID
	}
	lacks := !isLink(mode) && special&^st.Mode != 0
	if lacks {
		if err := s.chmod(mode&0o777 | special); err != nil {
			return err
		}
	}
	if given || lacks {
		return s.stat(st)
	}
	return nil
}

// makeOver makes the file out of sight and then puts it in the place of a whiteout.
// covers says that a lower layer has the name, so that a directory must be opaque.
func (f *FS) makeOver(b *birth, d *dirHold, covers bool, st *unix.Stat_t) (fd int, err error) {
	room, leave, err := f.room(b.dir, d)
	if err != nil {
		return -1, err
	}
	defer leave()
	tmp := f.work.name()
	if fd, err = f.makeAt(b, room, tmp, st); err != nil {
		return -1, err
	}
	isDir := b.mode&unix.S_IFMT == unix.S_IFDIR
	if isDir && covers {
		err = setXattr(fdPath(room, tmp), f.ns.Attr(unionfs.Opaque), unionfs.OpaqueYes, 0)
	}
	flags := uint(0)
	if isDir {
		flags = unix.RENAME_EXCHANGE // a directory cannot replace a file
	}
	if err == nil {
		err = unix.Renameat2(room, tmp, d.fd, b.name, flags)
	}
	if err != nil {
		if fd >= 0 {
			closeFD(fd)
		}
		if isDir {
			_ = unix.Unlinkat(room, tmp, unix.AT_REMOVEDIR)
		} else {
			_ = unix.Unlinkat(room, tmp, 0)
		}
		return -1, fmt.Errorf("replace whiteout: %w", err)
	}
	if isDir {
		_ = unix.Unlinkat(room, tmp, 0) // the whiteout; the work directory is cleared at the next mount
	}
	return fd, nil
}

// room returns a directory in which files get the ACL that they would get in dir.
func (f *FS) room(dir *node, d *dirHold) (fd int, leave func(), err error) {
	if dir.acl.Load() != aclThere {
		return f.work.dir, func() {}, nil
	}
	acl, err := getXattr(fdPath(d.fd, ""), aclDefault)
	if err != nil {
		return -1, nil, err
	}
	tmp := f.work.name()
	if err := unix.Mkdirat(f.work.dir, tmp, 0o700); err != nil {
		return -1, nil, err
	}
	fd, err = openAt(f.work.dir, tmp, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err == nil {
		err = setXattr(fdPath(f.work.dir, tmp), aclDefault, acl, 0)
	}
	leave = func() {
		if fd >= 0 {
			closeFD(fd)
		}
		_ = unix.Unlinkat(f.work.dir, tmp, unix.AT_REMOVEDIR)
	}
	if err != nil {
		leave()
		return -1, nil, err
	}
	return fd, leave, nil
}

// makeUnnamed makes a file that has no name, on the upper's file system.
func (f *FS) makeUnnamed(in *fuse.CreateIn, b *birth, out *fuse.EntryOut) (fd int, err error) {
	b.uid, b.gid = in.Uid, in.Gid
	if b.dir, err = f.parent(in.NodeId); err != nil {
		return -1, err
	}
	f.names.RLock()
	defer f.names.RUnlock()
	d, err := f.dir(b.dir)
	if err != nil {
		return -1, err
	}
	defer f.dirs.release(d)
	if err := f.inherit(b, d); err != nil {
		return -1, err
	}
	room, leave, err := f.room(b.dir, d)
	if err != nil {
		return -1, err
	}
	defer leave()
	var st unix.Stat_t
	if fd, err = unix.Openat(room, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, b.mode&0o7777); err != nil {
		return -1, err
	}
	n, err := f.unnamedNode(b, fd, &st)
	if err == nil {
		err = f.entry(f.enter(n, true), out)
	}
	if err != nil {
		closeFD(fd)
		return -1, err
	}
	return fd, nil
}

// unnamedNode makes the node of a file without a name, which stays reachable by a
// descriptor of its own.
func (f *FS) unnamedNode(b *birth, fd int, st *unix.Stat_t) (*node, error) {
	pin, err := openMagic(fd, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	if err := f.give(b, spot{fd: pin}, st); err != nil {
		closeFD(pin)
		return nil, err
	}
	n := f.newborn(b, st)
	n.parent, n.name, n.gone, n.pin = nil, "", true, pin
	return n, nil
}

// Link gives a file another name.
func (f *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.status(f.link(in, name, out))
}

func (f *FS) link(in *fuse.LinkIn, name string, out *fuse.EntryOut) error {
	if len(name) > unix.NAME_MAX {
		return unix.ENAMETOOLONG
	}
	n, err := f.object(in.Oldnodeid)
	if err != nil {
		return err
	}
	dir, err := f.parent(in.NodeId)
	if err != nil {
		return err
	}
	unlock := f.ids.lock(n.id)
	defer unlock()
	if err := f.copyUpLocked(n, copyMeta); err != nil {
		return err
	}
	if err := f.redirectFile(n); err != nil {
		return err
	}
	f.names.RLock()
	defer f.names.RUnlock()
	s, err := f.spot(n)
	if err != nil {
		return err
	}
	defer f.release(s)
	d, err := f.dir(dir)
	if err != nil {
		return err
	}
	defer f.dirs.release(d)
	white, _, err := f.freeName(dir, d, name)
	if err != nil {
		return err
	}
	if err := f.markImpure(dir, d); err != nil {
		return err
	}
	to, at := d.fd, name
	if white {
		to, at = f.work.dir, f.work.name()
	}
	if s.name == "" {
		// Needs no privilege by this path, unlike by AT_EMPTY_PATH.
		err = unix.Linkat(unix.AT_FDCWD, s.path(), to, at, unix.AT_SYMLINK_FOLLOW)
	} else {
		err = unix.Linkat(s.fd, s.name, to, at, 0)
	}
	if err == nil && white {
		if err = unix.Renameat(to, at, d.fd, name); err != nil {
			f.work.drop(at)
		}
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	wasGone := n.gone
	n.mu.Unlock()
	if wasGone {
		f.renameTo(n, dir, name)
	}
	f.know(n)
	return f.entry(file{id: n.id, n: n}, out)
}
