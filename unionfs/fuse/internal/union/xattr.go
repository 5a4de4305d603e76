package union

import (
	"errors"
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

func hasPrefix(s, prefix string) bool { return strings.HasPrefix(s, prefix) }

// GetXAttr reads an attribute.
func (f *FS) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	value, err := f.xattr(in.NodeId, name)
	if err != nil {
		return 0, f.status(err)
	}
	if len(value) > len(dest) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (f *FS) xattr(id uint64, name string) (string, error) {
	file, err := f.file(id)
	if err != nil {
		return "", err
	}
	if file.n == nil {
		return f.lowerXattr(file.r, name)
	}
	f.names.RLock()
	defer f.names.RUnlock()
	if !file.n.upper.Load() {
		return f.lowerXattr(file.n.lowers[0], name)
	}
	s, err := f.spot(file.n)
	if err != nil {
		return "", err
	}
	defer f.release(s)
	return getXattr(s.path(), f.ns.Escape(name))
}

// lowerXattr reads an attribute of a lower file, by the name that the union shows.
func (f *FS) lowerXattr(r ref, name string) (string, error) {
	l := &f.lower[r.layer]
	if l.image != nil {
		value, ok, err := l.image.Xattr(r.nid, l.ns.Escape(name))
		if err == nil && !ok {
			err = unix.ENODATA
		}
		return string(value), err
	}
	fd, err := f.openRef(r, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer closeFD(fd)
	return getXattr(fdPath(fd, ""), l.ns.Escape(name))
}

// lowerXattrs returns all attributes that the union shows of a lower file.
func (f *FS) lowerXattrs(r ref) ([]tree.Xattr, error) {
	l := &f.lower[r.layer]
	var all []tree.Xattr
	if l.image != nil {
		stored, err := l.image.Xattrs(r.nid)
		if err != nil {
			return nil, err
		}
		all = stored
	} else {
		fd, err := f.openRef(r, unix.O_PATH)
		if err != nil {
			return nil, err
		}
		defer closeFD(fd)
		path := fdPath(fd, "")
		list, err := listXattr(path, make([]byte, smallList))
		if err != nil {
			return nil, err
		}
		for name := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
			if name == "" {
				continue
			}
			if _, own := l.ns.Own(name); own {
				continue
			}
			value, err := getXattr(path, name)
			if errors.Is(err, unix.ENODATA) {
				continue
			}
			if err != nil {
				return nil, err
			}
			all = append(all, tree.Xattr{Name: name, Value: value})
		}
	}
	kept := all[:0]
	for _, x := range all {
		if name, ok := l.ns.Unescape(x.Name); ok && !f.unmountable(r, name) {
			kept = append(kept, tree.Xattr{Name: name, Value: x.Value})
		}
	}
	return kept, nil
}

// unmountable tells attributes that a tree can hold but no mount shows: of namespaces
// that EROFS has no number for.
func (f *FS) unmountable(r ref, name string) bool {
	if f.lower[r.layer].image == nil {
		return false
	}
	return !hasPrefix(name, "user.") && !hasPrefix(name, "trusted.") && !hasPrefix(name, "security.") && name != aclAccess && name != aclDefault
}

// ListXAttr lists attributes. Those of the namespace trusted are for root alone.
func (f *FS) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	list, err := f.listXattrs(in.NodeId, in.Uid == 0)
	if err != nil {
		return 0, f.status(err)
	}
	if len(list) > len(dest) {
		return uint32(len(list)), fuse.ERANGE
	}
	return uint32(copy(dest, list)), fuse.OK
}

func (f *FS) listXattrs(id uint64, trusted bool) (string, error) {
	file, err := f.file(id)
	if err != nil {
		return "", err
	}
	f.names.RLock()
	defer f.names.RUnlock()
	var names []string
	if n := file.n; n != nil && n.upper.Load() {
		s, err := f.spot(n)
		if err != nil {
			return "", err
		}
		defer f.release(s)
		list, err := listXattr(s.path(), make([]byte, smallList))
		if err != nil {
			return "", err
		}
		for stored := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
			if name, ok := f.ns.Unescape(stored); ok && stored != "" {
				names = append(names, name)
			}
		}
	} else {
		r := file.r
		if n != nil {
			r = n.lowers[0]
		}
		all, err := f.lowerXattrs(r)
		if err != nil {
			return "", err
		}
		for _, x := range all {
			names = append(names, x.Name)
		}
	}
	if !trusted {
		names = slices.DeleteFunc(names, func(name string) bool { return hasPrefix(name, "trusted.") })
	}
	if len(names) == 0 {
		return "", nil
	}
	return strings.Join(names, "\x00") + "\x00", nil
}

// SetXAttr sets an attribute.
func (f *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	return f.status(f.setXattr(in, name, string(data)))
}

func (f *FS) setXattr(in *fuse.SetXAttrIn, name, value string) error {
	if len(name) > erofs.MaxXattrName {
		return unix.ERANGE
	}
	if in.Flags&unix.XATTR_REPLACE != 0 {
		if _, err := f.xattr(in.NodeId, name); err != nil {
			return err
		}
	}
	return f.changeXattrs(in.NodeId, name, func(s spot) error {
		if err := setXattr(s.path(), f.ns.Escape(name), value, int(in.Flags)); err != nil {
			return err
		}
		if name == aclAccess && in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
			return dropSetgid(s)
		}
		return nil
	})
}

// dropSetgid clears setgid.
func dropSetgid(s spot) error {
	var st unix.Stat_t
	if err := s.stat(&st); err != nil || st.Mode&unix.S_ISGID == 0 {
		return err
	}
	return s.chmod(st.Mode & 0o7777 &^ unix.S_ISGID)
}

// RemoveXAttr removes an attribute.
func (f *FS) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if _, err := f.xattr(in.NodeId, name); err != nil {
		return f.status(err)
	}
	return f.status(f.changeXattrs(in.NodeId, name, func(s spot) error {
		return removeXattr(s.path(), f.ns.Escape(name))
	}))
}

func (f *FS) changeXattrs(id uint64, name string, change func(spot) error) error {
	n, err := f.object(id)
	if err != nil {
		return err
	}
	if err := f.copyUp(n, copyMeta); err != nil {
		return err
	}
	f.names.RLock()
	defer f.names.RUnlock()
	s, err := f.spot(n)
	if err != nil {
		return err
	}
	defer f.release(s)
	if err := change(s); err != nil {
		return err
	}
	if name == aclDefault {
		n.acl.Store(aclUnknown)
	}
	return nil
}

// Readlink reads the target of a symbolic link.
func (f *FS) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := f.readlink(in.NodeId)
	return []byte(target), f.status(err)
}

func (f *FS) readlink(id uint64) (string, error) {
	file, err := f.file(id)
	if err != nil {
		return "", err
	}
	if file.n == nil {
		return f.lowerLink(file.r)
	}
	f.names.RLock()
	defer f.names.RUnlock()
	if !file.n.upper.Load() {
		return f.lowerLink(file.n.lowers[0])
	}
	s, err := f.spot(file.n)
	if err != nil {
		return "", err
	}
	defer f.release(s)
	return readlinkAt(s.fd, s.name)
}

// lowerLink reads the target of a symbolic link of a lower layer.
func (f *FS) lowerLink(r ref) (string, error) {
	if im := f.lower[r.layer].image; im != nil {
		return im.Readlink(r.nid)
	}
	fd, err := f.openRef(r, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer closeFD(fd)
	return readlinkAt(fd, "")
}

func readlinkAt(fd int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
