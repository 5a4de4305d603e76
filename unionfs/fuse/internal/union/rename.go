package union

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/unionfs"
)

// Rename moves a file or, with RENAME_EXCHANGE, two.
func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	return f.status(f.rename(in, from, to))
}

// side is one of the two names of a rename.
type side struct {
	dir   *node
	d     *dirHold
	name  string
	file  file
	there bool
	white bool // the upper has a whiteout there
	below bool // a lower layer has the name, so that it needs a whiteout when it is free
}

func (f *FS) rename(in *fuse.RenameIn, from, to string) (err error) {
	if len(to) > unix.NAME_MAX {
		return unix.ENAMETOOLONG
	}
	exchange := in.Flags&unix.RENAME_EXCHANGE != 0
	if in.Flags&^(unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE) != 0 {
		return unix.EINVAL
	}
	src, dst := side{name: from}, side{name: to}
	if src.dir, err = f.parent(in.NodeId); err != nil {
		return err
	}
	if dst.dir, err = f.parent(in.Newdir); err != nil {
		return err
	}
	if src.file, err = f.peek(src.dir, from); err != nil {
		return err
	}
	dst.file, err = f.peek(dst.dir, to)
	dst.there = err == nil
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	switch {
	case exchange && !dst.there:
		return unix.ENOENT
	case dst.there && in.Flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case dst.there && src.file.id == dst.file.id:
		return nil // two names of one file
	}
	defer f.lockBoth(src.file.id, dst.file.id, dst.there)()
	if err := f.prepare(&src); err != nil {
		return err
	}
	if exchange {
		if err := f.prepare(&dst); err != nil {
			return err
		}
	}
	f.names.Lock()
	defer f.names.Unlock()
	for _, s := range []*side{&src, &dst} {
		if s.d, err = f.dir(s.dir); err != nil {
			return err
		}
		defer f.dirs.release(s.d)
		below, err := f.child(s.dir.lowers, s.name)
		if err != nil {
			return err
		}
		s.below = below.ok()
	}
	if err := f.mark(&src, &dst); err != nil {
		return err
	}
	if exchange {
		if err := f.mark(&dst, &src); err != nil {
			return err
		}
		if err := unix.Renameat2(src.d.fd, from, dst.d.fd, to, unix.RENAME_EXCHANGE); err != nil {
			return err
		}
		f.tables.move(dst.file.n, src.dir, from)
		f.tables.move(src.file.n, dst.dir, to)
		return nil
	}
	return f.moveOver(&src, &dst)
}

// lockBoth locks one or two ids by number.
func (f *FS) lockBoth(a, b uint64, both bool) (unlock func()) {
	if !both {
		return f.ids.lock(a)
	}
	first := f.ids.lock(min(a, b))
	second := f.ids.lock(max(a, b))
	return func() { second(); first() }
}

// prepare brings a file into the upper, to be renamed. Its id is locked.
func (f *FS) prepare(s *side) (err error) {
	n, err := f.object(s.file.id)
	if err != nil {
		return err
	}
	s.file.n = n
	if !n.isDir() {
		if err := f.copyUpLocked(n, copyMeta); err != nil {
			return err
		}
		return f.redirectFile(n)
	}
	if len(n.lowers) > 0 && f.ns != unionfs.Trusted {
		// Where attributes are user.overlay.*, overlayfs does not follow redirects.
		return unix.EXDEV
	}
	return f.copyUpDirLocked(n)
}

// redirectFile gives a file that has only metadata in the upper the path of its
// content, so that it can have another name. Its id is locked.
func (f *FS) redirectFile(n *node) error {
	data := n.data.Load()
	if data == nil {
		return nil
	}
	f.names.RLock()
	s, err := f.spot(n)
	if err != nil {
		f.names.RUnlock()
		return err
	}
	err = f.setRedirect(n, s.path(), *data)
	f.release(s)
	f.names.RUnlock()
	if err != nil {
		return f.completeData(n, copyAll) // a path too long, or a layer without one
	}
	return nil
}

func (f *FS) setRedirect(n *node, path string, data ref) error {
	attr := f.ns.Attr(unionfs.Redirect)
	if have, err := getXattr(path, attr); err == nil && have != "" && have[0] == '/' {
		return nil
	}
	if data.layer == dataLayer {
		return unix.EXDEV
	}
	to, err := f.pathBelow(n)
	if err != nil {
		return err
	}
	return setXattr(path, attr, to, 0)
}

// pathBelow returns the path at which the layers below the upper have what the union
// shows as n: that of its directory, which may have been moved itself, and its name.
func (f *FS) pathBelow(n *node) (string, error) {
	parent, name, gone := n.where()
	if gone {
		return "", errGone
	}
	if parent == nil {
		return "", nil
	}
	if n.upper.Load() {
		s, err := f.spot(n)
		if err != nil {
			return "", err
		}
		redirect, err := getXattr(s.path(), f.ns.Attr(unionfs.Redirect))
		f.release(s)
		switch {
		case errors.Is(err, unix.ENODATA):
		case err != nil:
			return "", err
		case hasPrefix(redirect, "/"):
			return redirect, nil
		case redirect != "":
			name = redirect
		}
	}
	above, err := f.pathBelow(parent)
	return above + "/" + name, err
}

// mark gives a directory what it needs at its new place: the path of what lies below
// it, or the mark that nothing there does.
func (f *FS) mark(s, to *side) error {
	n := s.file.n
	if !n.isDir() {
		return f.markImpure(to.dir, to.d)
	}
	path := fdPath(s.d.fd, s.name)
	if len(n.lowers) > 0 {
		if err := f.setRedirect(n, path, ref{}); err != nil {
			return unix.EXDEV // too long: whoever moves it copies
		}
		return f.markImpure(to.dir, to.d)
	}
	if to.below {
		return setXattr(path, f.ns.Attr(unionfs.Opaque), unionfs.OpaqueYes, 0)
	}
	return nil
}

// moveOver renames within the upper, over what is there, and leaves a whiteout where a
// lower layer has the old name.
func (f *FS) moveOver(src, dst *side) error {
	n := src.file.n
	pin, err := f.displace(src, dst)
	if err != nil {
		return err
	}
	if err := f.renameUpper(src, dst); err != nil {
		if pin >= 0 {
			closeFD(pin)
		}
		return err
	}
	f.tables.move(n, dst.dir, dst.name)
	if !dst.there {
		return nil
	}
	switch v := dst.file.n; {
	case v != nil && v.isDir():
		f.removedDir(dst.file, dst.dir, dst.name, pin)
	case v != nil && pin >= 0:
		f.unnamed(v, dst.dir, dst.name, pin)
	default:
		return f.lostName(dst.file, dst.dir, dst.name)
	}
	return nil
}

// displace looks at what a rename will replace: a directory must be empty, and a file
// in the upper must stay reachable, for which the descriptor is.
func (f *FS) displace(src, dst *side) (pin int, err error) {
	if !dst.there {
		var st unix.Stat_t
		err := unix.Fstatat(dst.d.fd, dst.name, &st, unix.AT_SYMLINK_NOFOLLOW)
		dst.white = err == nil
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return -1, err
	}
	isDir := dst.file.n != nil && dst.file.n.isDir() || dst.file.n == nil && f.isTreeDir(dst.file.r)
	switch {
	case isDir && !src.file.n.isDir():
		return -1, unix.EISDIR
	case !isDir && src.file.n.isDir():
		return -1, unix.ENOTDIR
	}
	if isDir {
		if err := f.checkEmpty(dst.file); err != nil {
			return -1, err
		}
	}
	if dst.file.n == nil || !dst.file.n.upper.Load() {
		return -1, nil
	}
	return openAt(dst.d.fd, dst.name, unix.O_PATH|unix.O_NOFOLLOW)
}

func (f *FS) isTreeDir(r ref) bool {
	st, err := f.lower[r.layer].image.Stat(r.nid)
	return err == nil && erofs.TypeBits(st.Type) == unix.S_IFDIR
}

// renameUpper is the rename itself.
func (f *FS) renameUpper(src, dst *side) error {
	n := src.file.n
	replaced := dst.white || dst.there && dst.file.n != nil && dst.file.n.upper.Load()
	if n.isDir() && replaced {
		// A directory replaces neither a whiteout nor a directory with whiteouts in it.
		if err := unix.Renameat2(src.d.fd, src.name, dst.d.fd, dst.name, unix.RENAME_EXCHANGE); err != nil {
			return err
		}
		return f.leftover(src, dst.white)
	}
	if !src.below {
		return unix.Renameat(src.d.fd, src.name, dst.d.fd, dst.name)
	}
	if !f.work.onlyAttr() {
		err := unix.Renameat2(src.d.fd, src.name, dst.d.fd, dst.name, unix.RENAME_WHITEOUT)
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	// A crash between the two shows the lower file once more; nothing is lost.
	if err := unix.Renameat(src.d.fd, src.name, dst.d.fd, dst.name); err != nil {
		return err
	}
	return f.whiteout(src.dir, src.d, src.name)
}

// leftover turns what an exchange has put at the old name into nothing, or a whiteout.
func (f *FS) leftover(src *side, white bool) error {
	if white {
		if src.below {
			return f.allowWhiteout(src.dir, src.d, f.work.onlyAttr())
		}
		return unix.Unlinkat(src.d.fd, src.name, 0)
	}
	return f.removeUpperDir(src.dir, src.d, src.name, src.below)
}
