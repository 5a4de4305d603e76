package union

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// attr fills in the attributes of a file. The caller holds f.names if it is a node.
func (f *FS) attr(file file, out *fuse.Attr) error {
	if file.n == nil {
		if err := f.lowerAttr(file.r, out); err != nil {
			return err
		}
		out.Ino = file.id
		return f.linksOf(file, out)
	}
	n := file.n
	out.Ino = n.ino
	if !n.upper.Load() {
		if err := f.lowerAttr(n.lowers[0], out); err != nil {
			return err
		}
		if n.isDir() && len(n.lowers) > 1 {
			out.Nlink = 1
		}
		return f.linksOf(file, out)
	}
	s, err := f.spot(n)
	if err != nil {
		return err
	}
	defer f.release(s)
	var st unix.Stat_t
	if err := s.stat(&st); err != nil {
		return err
	}
	f.fillAttr(out, &st)
	if n.isDir() && len(n.lowers) > 0 && st.Nlink > 0 {
		out.Nlink = 1 // counting the subdirectories of all members would take long
	}
	if n.data.Load() != nil {
		out.Blocks = (out.Size + 511) / 512
	}
	return nil
}

// linksOf corrects the link count of a file of a lower layer by what was removed.
func (f *FS) linksOf(file file, out *fuse.Attr) error {
	if out.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if file.n != nil {
		if _, _, gone := file.n.where(); gone {
			out.Nlink = 0
			return nil
		}
	} else if out.Nlink == 1 {
		f.tables.mu.RLock()
		_, gone := f.tables.gone[file.id]
		f.tables.mu.RUnlock()
		if gone {
			out.Nlink = 0
		}
		return nil
	}
	r := file.r
	if file.n != nil {
		r = file.n.lowers[0]
	}
	if out.Nlink > 1 && f.lower[r.layer].image != nil && f.writable() {
		names, err := f.visible(r)
		if err != nil {
			return err
		}
		out.Nlink = uint32(len(names))
	}
	return nil
}

// shown is one name in the union.
type shown struct {
	dir  ref // the directory in its tree
	base string
}

// visible returns the names of a file of a tree under which the union shows it. The
// caller holds f.names.
func (f *FS) visible(r ref) ([]shown, error) {
	im := f.lower[r.layer].image
	all, err := f.lower[r.layer].names.of(im, r.nid)
	if err != nil {
		return nil, err
	}
	var out []shown
	for _, p := range all {
		dir, err := f.showing(ref{layer: r.layer, nid: p.dir})
		if err != nil {
			return nil, err
		}
		if dir == nil {
			out = append(out, shown{ref{layer: r.layer, nid: p.dir}, p.name}) // nothing has changed there
			continue
		}
		got, err := f.find(dir, p.name, false)
		if err == nil && got.n == nil && got.r == r || err == nil && got.n != nil && !got.n.upper.Load() && got.n.lowers[0] == r {
			out = append(out, shown{ref{layer: r.layer, nid: p.dir}, p.name})
		}
	}
	return out, nil
}

// showing returns the node of the directory that has the directory r of a tree as a
// member, or nil when that is untouched and so shows all that r has. A directory that
// is not shown at all gives one that is empty.
func (f *FS) showing(r ref) (*node, error) {
	if n := f.tables.get(treeID(r.layer, r.nid)); n != nil {
		if _, _, gone := n.where(); gone {
			return &node{mode: unix.S_IFDIR, pin: -1}, nil
		}
		return n, nil
	}
	im := f.lower[r.layer].image
	at, err := f.lower[r.layer].names.first(im, r.nid)
	if err != nil {
		return nil, err
	}
	above, err := f.showing(ref{layer: r.layer, nid: at.dir})
	if err != nil || above == nil {
		return nil, err
	}
	got, err := f.find(above, at.name, false)
	if err == nil && got.n == nil && got.r == r {
		return nil, nil
	}
	if err == nil && got.n != nil && got.n.isDir() {
		for _, m := range got.n.lowers {
			if m == r {
				return got.n, nil
			}
		}
	}
	return &node{mode: unix.S_IFDIR, pin: -1}, nil
}

// GetAttr reads attributes.
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return f.status(f.getAttr(in.NodeId, out))
}

func (f *FS) getAttr(id uint64, out *fuse.AttrOut) error {
	file, err := f.file(id)
	if err != nil {
		return err
	}
	f.names.RLock()
	defer f.names.RUnlock()
	out.SetTimeout(forever)
	return f.attr(file, &out.Attr)
}

// SetAttr changes attributes. What does not touch the content of a lower file copies
// none of it.
func (f *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	return f.status(f.setAttr(in, out))
}

func (f *FS) setAttr(in *fuse.SetAttrIn, out *fuse.AttrOut) error {
	if err := f.ownable(in); err != nil {
		return err
	}
	n, err := f.object(in.NodeId)
	if err != nil {
		return err
	}
	want := copyMeta
	size, resize := in.GetSize()
	if resize {
		want = copyData(int64(size))
	}
	if err := f.copyUp(n, want); err != nil {
		return err
	}
	if resize {
		if err := f.resize(in, int64(size)); err != nil {
			return err
		}
	}
	f.names.RLock()
	defer f.names.RUnlock()
	s, err := f.spot(n)
	if err != nil {
		return err
	}
	defer f.release(s)
	if err := f.change(s, in); err != nil {
		return err
	}
	out.SetTimeout(forever)
	return f.attr(file{id: n.id, n: n}, &out.Attr)
}

// ownable refuses owners that there are not.
func (f *FS) ownable(in *fuse.SetAttrIn) error {
	o := f.cfg.Owners
	if o == nil {
		return nil
	}
	if uid, ok := in.GetUID(); ok && !has(o.UIDs, uid) {
		return unix.EPERM
	}
	if gid, ok := in.GetGID(); ok && !has(o.GIDs, gid) {
		return unix.EPERM
	}
	return nil
}

// change applies what was asked for, but for the size, to a file in the upper: owner
// before mode, since it clears bits of it, and times last.
func (f *FS) change(s spot, in *fuse.SetAttrIn) error {
	if in.Valid&fuse.FATTR_SIZE != 0 && in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		if err := dropPrivileges(s); err != nil {
			return err
		}
	}
	uid, hasUID := in.GetUID()
	gid, hasGID := in.GetGID()
	// To change neither is a request too: it clears setuid and setgid.
	none := in.Valid&(fuse.FATTR_MODE|fuse.FATTR_SIZE|fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0
	if hasUID || hasGID || none {
		u, g := -1, -1
		if hasUID {
			u = int(uid)
		}
		if hasGID {
			g = int(gid)
		}
		if err := s.chown(u, g); err != nil {
			return err
		}
	}
	if mode, ok := in.GetMode(); ok {
		if err := s.chmod(mode); err != nil {
			return err
		}
	}
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0 {
		return nil
	}
	stamp := func(set, now uint32, sec uint64, nsec uint32) unix.Timespec {
		switch {
		case in.Valid&set == 0:
			return unix.Timespec{Nsec: unix.UTIME_OMIT}
		case in.Valid&now != 0:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		default:
			return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
		}
	}
	return s.setTimes(stamp(fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		stamp(fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec))
}

func (f *FS) resize(in *fuse.SetAttrIn, size int64) error {
	file, err := f.writer(in.NodeId)
	if err != nil {
		return err
	}
	defer f.files.release(file)
	return retry(func() error { return unix.Ftruncate(file.fd, size) })
}

// dropPrivileges clears setuid, and setgid where it is one, as a write by an ordinary
// user does.
func dropPrivileges(s spot) error {
	var st unix.Stat_t
	if err := s.stat(&st); err != nil {
		return err
	}
	if mode := withoutPrivileges(st.Mode); mode != st.Mode {
		return s.chmod(mode & 0o7777)
	}
	return nil
}

// withoutPrivileges clears setuid, and setgid unless it stands for mandatory locking.
func withoutPrivileges(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// StatFs reports the file system of the upper, or of the layers.
func (f *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var st unix.Statfs_t
	path := "/"
	switch {
	case f.upper >= 0:
		path = fdPath(f.upper, "")
	case len(f.data) > 0:
		path = fdPath(f.data[0], "")
	case len(f.lower) > 0 && f.lower[0].dir >= 0:
		path = fdPath(f.lower[0].dir, "")
	}
	if err := retry(func() error { return unix.Statfs(path, &st) }); err != nil {
		return f.status(err)
	}
	out.Blocks, out.Bfree, out.Bavail = st.Blocks, st.Bfree, st.Bavail
	out.Files, out.Ffree = st.Files, st.Ffree
	out.Bsize, out.Frsize, out.NameLen = uint32(st.Bsize), uint32(st.Frsize), unix.NAME_MAX
	return fuse.OK
}
