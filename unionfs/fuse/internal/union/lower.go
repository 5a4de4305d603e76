package union

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
)

// lower is one read-only layer.
type lower struct {
	image *erofs.Image      // a tree
	dir   int               // O_PATH descriptor of a directory; -1 for a tree
	ns    unionfs.Namespace // of its own attributes
	near  bool              // the directory is on the upper's file system

	names reverse // of the tree
}

// dataLayer is the layer of a ref into the data directories.
const dataLayer = -2

// ref names a file of a lower layer.
type ref struct {
	layer int32
	nid   erofs.NID // in a tree
	path  string    // in a directory, from its root, "" for that
}

// entry is a name found in one lower layer.
type entry struct {
	ref
	mode     uint32 // type bits only
	whiteout bool
	opaque   bool
	redirect string
	metacopy bool
}

func (e *entry) isDir() bool { return e.mode == unix.S_IFDIR }

// found is a name as a stack of lower layers shows it. The zero value is none.
type found struct {
	mode uint32 // type bits
	refs []ref  // a directory's members, top first; one file
	data ref    // of a regular file: where its content is
}

func (f *found) ok() bool    { return len(f.refs) > 0 }
func (f *found) isDir() bool { return f.mode == unix.S_IFDIR }

// lookupIn finds a name in one directory of one layer.
func (f *FS) lookupIn(dir ref, name string) (entry, bool, error) {
	l := &f.lower[dir.layer]
	if l.image == nil {
		return f.lookupInDir(dir, name)
	}
	nid, ok, err := l.image.Lookup(dir.nid, name)
	if err != nil || !ok {
		return entry{}, false, err
	}
	st, err := l.image.Stat(nid)
	if err != nil {
		return entry{}, false, err
	}
	e := entry{ref: ref{layer: dir.layer, nid: nid}, mode: erofs.TypeBits(st.Type)}
	if !l.image.Layer() {
		return e, true, nil
	}
	switch st.Type {
	case tree.CharDevice:
		e.whiteout = st.Rdev == tree.Device{}
	case tree.Directory:
		v, ok, err := l.image.Xattr(nid, l.ns.Attr(unionfs.Opaque))
		if err != nil {
			return entry{}, false, err
		}
		e.opaque = ok && string(v) == unionfs.OpaqueYes
	default:
	}
	return e, true, nil
}

// lookupInDir is lookupIn for a layer that is a directory.
func (f *FS) lookupInDir(dir ref, name string) (entry, bool, error) {
	e := entry{ref: ref{layer: dir.layer, path: join(dir.path, name)}}
	at, err := f.openRef(e.ref, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		return entry{}, false, nil
	}
	if err != nil {
		return entry{}, false, err
	}
	defer closeFD(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return entry{}, false, err
	}
	e.mode = st.Mode & unix.S_IFMT
	m, err := readMarks(fdPath(at, ""), f.lower[dir.layer].ns, &st)
	if err != nil {
		return entry{}, false, err
	}
	e.whiteout, e.opaque, e.redirect, e.metacopy = m.whiteout, m.opaque, m.redirect, m.metacopy
	return e, true, nil
}

// child finds a name in the directory that the members make up, as overlayfs does: the
// first layer that has the name decides, and directories merge until one is opaque.
func (f *FS) child(members []ref, name string) (found, error) {
	var out found
	if err := f.merge(&out, members, name, 0); err != nil {
		return found{}, err
	}
	return out, nil
}

// maxRedirects bounds what one lookup follows; each redirect goes down one layer.
const maxRedirects = unionfs.MaxLayers

func (f *FS) merge(out *found, members []ref, name string, depth int) error {
	for i, dir := range members {
		e, ok, err := f.lookupIn(dir, name)
		if err != nil {
			return err
		}
		switch {
		case !ok:
			continue
		case e.whiteout:
			return nil
		case !e.isDir():
			if out.ok() {
				return nil // what is below a directory and none itself is hidden
			}
			out.mode, out.refs, out.data = e.mode, []ref{e.ref}, e.ref
			if e.metacopy {
				out.data, err = f.content(&e, members[i+1:], name, depth)
			}
			return err
		}
		out.mode = e.mode
		out.refs = append(out.refs, e.ref)
		switch {
		case e.opaque:
			return nil
		case e.redirect == "":
		case depth == maxRedirects:
			return fmt.Errorf("redirects of %q: %w", name, unix.ELOOP)
		case e.redirect[0] == '/':
			below, err := f.resolve(e.layer+1, e.redirect, depth+1)
			if err == nil && below.isDir() {
				out.refs = append(out.refs, below.refs...)
			}
			return err
		default:
			return f.merge(out, members[i+1:], e.redirect, depth+1)
		}
	}
	return nil
}

// content finds the content of a file that has only metadata of its own.
func (f *FS) content(e *entry, below []ref, name string, depth int) (ref, error) {
	if depth == maxRedirects {
		return ref{}, fmt.Errorf("redirects of %q: %w", name, unix.ELOOP)
	}
	var at found
	var err error
	switch {
	case strings.HasPrefix(e.redirect, "/"):
		at, err = f.resolve(e.layer+1, e.redirect, depth+1)
		if err == nil && !at.ok() {
			return ref{layer: dataLayer, path: strings.TrimPrefix(e.redirect, "/")}, nil
		}
	case e.redirect != "":
		err = f.merge(&at, below, e.redirect, depth+1)
	default:
		err = f.merge(&at, below, name, depth+1)
	}
	if err != nil {
		return ref{}, err
	}
	if !at.ok() || at.mode != unix.S_IFREG {
		return ref{}, fmt.Errorf("the content of %q is missing in the layers below: %w", name, unix.EIO)
	}
	return at.data, nil
}

// resolve finds a path from the root in the layers from a certain one down.
func (f *FS) resolve(from int32, path string, depth int) (found, error) {
	at := found{mode: unix.S_IFDIR}
	for i := from; int(i) < len(f.lower); i++ {
		at.refs = append(at.refs, f.rootOf(i))
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if !at.isDir() {
			return found{}, nil
		}
		var next found
		if err := f.merge(&next, at.refs, name, depth); err != nil || !next.ok() {
			return found{}, err
		}
		at = next
	}
	return at, nil
}

func (f *FS) rootOf(layer int32) ref {
	r := ref{layer: layer}
	if im := f.lower[layer].image; im != nil {
		r.nid = im.Root()
	}
	return r
}

// lowerAttr fills in the attributes of a file of a lower layer, but for its inode
// number.
func (f *FS) lowerAttr(r ref, out *fuse.Attr) error {
	l := &f.lower[r.layer]
	if l.image == nil {
		at, err := f.openRef(r, unix.O_PATH)
		if err != nil {
			return err
		}
		defer closeFD(at)
		var st unix.Stat_t
		if err := unix.Fstat(at, &st); err != nil {
			return err
		}
		f.fillAttr(out, &st)
		return nil
	}
	st, err := l.image.Stat(r.nid)
	if err != nil {
		return err
	}
	out.Mode = erofs.TypeBits(st.Type) | uint32(st.Mode)
	out.Nlink = st.Nlink
	out.Size = uint64(st.Size)
	out.Blocks = (out.Size + 511) / 512
	out.Blksize = erofs.BlockSize
	out.Uid, out.Gid = f.cfg.Owners.shown(st.UID, st.GID)
	out.Mtime, out.Mtimensec = uint64(st.MTime.Sec), st.MTime.Nsec
	out.Atime, out.Atimensec = out.Mtime, out.Mtimensec
	out.Ctime, out.Ctimensec = out.Mtime, out.Mtimensec
	if st.Type == tree.CharDevice || st.Type == tree.BlockDevice {
		out.Rdev = uint32(unix.Mkdev(st.Rdev.Major, st.Rdev.Minor))
	}
	return nil
}

// fillAttr takes over what stat says, but for the inode number.
func (f *FS) fillAttr(out *fuse.Attr, st *unix.Stat_t) {
	out.Mode = st.Mode
	out.Nlink = uint32(st.Nlink)
	out.Size = uint64(st.Size)
	out.Blocks = uint64(st.Blocks)
	out.Blksize = uint32(st.Blksize)
	out.Uid, out.Gid = f.cfg.Owners.shown(st.Uid, st.Gid)
	out.Rdev = uint32(st.Rdev)
	out.Atime, out.Atimensec = uint64(st.Atim.Sec), uint32(st.Atim.Nsec)
	out.Mtime, out.Mtimensec = uint64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	out.Ctime, out.Ctimensec = uint64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
}

// lowerIno returns the inode number of a file of a lower layer.
func (f *FS) lowerIno(r ref) (uint64, error) {
	l := &f.lower[r.layer]
	if l.image != nil {
		return treeID(r.layer, r.nid), nil
	}
	at, err := f.openRef(r, unix.O_PATH)
	if err != nil {
		return 0, err
	}
	defer closeFD(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return 0, err
	}
	return f.dirIno(r.layer, st.Ino), nil
}

// dirIno makes the inode number of a file of a layer that is a directory.
func (f *FS) dirIno(layer int32, ino uint64) uint64 {
	if f.lower[layer].near {
		return ino & nidMask
	}
	return treeID(layer, erofs.NID(ino&nidMask))
}

// openRef opens a file of a layer that is a directory, or of a data directory.
func (f *FS) openRef(r ref, flags int) (int, error) {
	if r.layer != dataLayer {
		return openBelow(f.lower[r.layer].dir, r.path, flags)
	}
	err := error(unix.ENOENT)
	for _, dir := range f.data {
		fd, derr := openBelow(dir, r.path, flags)
		if derr == nil {
			return fd, nil
		}
		if !errors.Is(derr, unix.ENOENT) {
			err = derr
		}
	}
	return -1, err
}

// openContent opens the content of a regular file for reading. For content that a tree
// holds itself it returns -1.
func (f *FS) openContent(r ref) (int, error) {
	if r.layer >= 0 && f.lower[r.layer].image != nil {
		id, ok, err := f.lower[r.layer].image.Object(r.nid)
		if err != nil || !ok {
			return -1, err
		}
		r = ref{layer: dataLayer, path: id.Path()}
	}
	fd, err := f.openRef(r, unix.O_RDONLY|unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		fd, err = f.openRef(r, unix.O_RDONLY)
	}
	if errors.Is(err, unix.ENOENT) && r.layer == dataLayer {
		return -1, fmt.Errorf("object %s is missing: %w", r.path, unix.EIO)
	}
	return fd, err
}

// sizeOf returns the size of a regular file's content.
func (f *FS) sizeOf(r ref) (int64, error) {
	if r.layer >= 0 && f.lower[r.layer].image != nil {
		st, err := f.lower[r.layer].image.Stat(r.nid)
		return st.Size, err
	}
	fd, err := f.openRef(r, unix.O_PATH)
	if err != nil {
		return 0, err
	}
	defer closeFD(fd)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return st.Size, err
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
