// Package treefs serves one tree, an EROFS image, as a read-only FUSE file system: what
// a mount of the image by the kernel is to root, this is to a user who may not mount
// EROFS. It is made to lie below overlayfs.
//
// # Two modes
//
// Without data directories it serves metadata: names, attributes, targets of links and
// contents that are in the image. A larger file shows where its content is by the
// attributes metacopy and redirect, from which overlayfs finds it in a data-only lower
// layer and reads it past this server. That needs Linux 6.16 in a user namespace.
//
// With data directories it serves all contents, opened by the same redirects, and shows
// none of these attributes: overlayfs of any version can lie on it.
//
// # How it saves requests
//
// A request costs far more than its answer, which is a few loads from the mapped image.
// So what can never change is told once: attributes, names and the absence of names are
// valid for ever, directories are read with the attributes of all their entries, and
// contents and listings stay in the page cache. Files and directories need not be opened
// (FUSE_NO_OPEN_SUPPORT, FUSE_NO_OPENDIR_SUPPORT), so that nothing is kept for an open
// file either. What is left on the first visit of a file are attributes, which the kernel
// does not cache: overlayfs asks each regular file for one, and each that has its
// content elsewhere for two more (its size, then its value).
//
// # What it keeps
//
// Nothing per inode: the node id is made from the inode's number in the image. In the
// second mode some open objects are kept, see maxOpen. The memory of a server is that of
// its requests, whatever the size of the tree; mapped pages of the image are given back
// now and then.
//
// # Owners and attributes
//
// Owners are ids of the user namespace that mounted; those that it lacks are replaced by
// Options.Owners. How attributes appear is said in package treeview.
package treefs

import (
	"errors"
	"fmt"
	"io"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/internal/treeview"
)

// Options say what to serve. They are passed to the server's process as JSON.
type Options struct {
	Tree      string            // path of the image
	Data      []string          // directories of contents; empty serves metadata
	Namespace unionfs.Namespace // that of the overlay above
	Owners    Owners
}

// Owners are the ids that files can have.
type Owners = treeview.Owners

// Range is a run of ids.
type Range = treeview.Range

// forever is how many seconds answers are valid for.
const forever = 1 << 30

// nodes are numbered after the root, which is 1 by the protocol (FUSE_ROOT_ID), by their
// number in the image. The same numbers are inode numbers.
const firstNode = fuse.FUSE_ROOT_ID + 1

// FS is the file system. It is safe for concurrent use.
type FS struct {
	fuse.RawFileSystem
	view  treeview.View
	image *erofs.Image
	data  *objects // nil serves metadata
}

// New opens a tree. The caller closes the result.
func New(o Options) (*FS, error) {
	switch o.Namespace {
	case unionfs.Trusted, unionfs.User:
	default:
		return nil, fmt.Errorf("serve %s: overlay namespace %q: %w", o.Tree, o.Namespace, unix.EINVAL)
	}
	image, err := erofs.Open(o.Tree)
	if err != nil {
		return nil, fmt.Errorf("serve tree: %w", err)
	}
	f := &FS{RawFileSystem: fuse.NewDefaultRawFileSystem(), image: image}
	f.view = treeview.View{Namespace: o.Namespace, Contents: len(o.Data) > 0, Owners: o.Owners}
	if f.view.Contents {
		if f.data, err = newObjects(o.Data); err != nil {
			return nil, errors.Join(fmt.Errorf("serve tree: %w", err), image.Close())
		}
	}
	return f, nil
}

// Close releases the image and what is open. No request may be under way.
func (f *FS) Close() error {
	err := f.image.Close()
	if f.data != nil {
		err = errors.Join(err, f.data.close())
	}
	return err
}

// Trim gives mapped pages of the image back.
func (f *FS) Trim() { f.image.DropPages() }

// mountOptions are the capabilities that the file system wants of the protocol.
func mountOptions() fuse.MountOptions {
	return fuse.MountOptions{
		MaxWrite:                 maxRead,
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		EnableAcl:                true,
		ExtraCapabilities:        fuse.CAP_NO_OPENDIR_SUPPORT,
	}
}

// maxRead is the largest request in bytes, which bounds the buffers of the server.
const maxRead = 256 << 10

// String names the file system.
func (f *FS) String() string { return "layerfs tree" }

// nid returns the number in the image of a node.
func (f *FS) nid(node uint64) erofs.NID {
	if node == fuse.FUSE_ROOT_ID {
		return f.image.Root()
	}
	return erofs.NID(node - firstNode)
}

func (f *FS) node(n erofs.NID) uint64 {
	if n == f.image.Root() {
		return fuse.FUSE_ROOT_ID
	}
	return uint64(n) + firstNode
}

// status is the answer for an error of the image.
func status(err error) fuse.Status {
	var errno unix.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.As(err, &errno):
		return fuse.Status(errno)
	default:
		return fuse.EIO // the image is damaged
	}
}

// Lookup finds a name. That it is absent is told as a fact that stays, too.
func (f *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	n, ok, err := f.image.Lookup(f.nid(h.NodeId), name)
	switch {
	case err != nil:
		return status(err)
	case !ok:
		out.EntryValid = forever
		return fuse.OK
	}
	return f.entry(n, out)
}

func (f *FS) entry(n erofs.NID, out *fuse.EntryOut) fuse.Status {
	st, err := f.image.Stat(n)
	if err != nil {
		return status(err)
	}
	f.attr(&st, n, &out.Attr)
	out.NodeId, out.EntryValid, out.AttrValid = f.node(n), forever, forever
	return fuse.OK
}

// Forget has nothing to forget.
func (f *FS) Forget(uint64, uint64) {}

// GetAttr returns attributes of a node.
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.nid(in.NodeId)
	st, err := f.image.Stat(n)
	if err != nil {
		return status(err)
	}
	f.attr(&st, n, &out.Attr)
	out.AttrValid = forever
	return fuse.OK
}

func (f *FS) attr(st *erofs.Stat, n erofs.NID, out *fuse.Attr) {
	const sector = 512
	*out = fuse.Attr{
		Ino: f.node(n), Size: uint64(st.Size), Blocks: uint64(st.Size+sector-1) / sector, Blksize: erofs.BlockSize,
		Mtime: uint64(st.MTime.Sec), Mtimensec: st.MTime.Nsec, Mode: erofs.TypeBits(st.Type) | uint32(st.Mode), Nlink: st.Nlink,
		Owner: fuse.Owner{Uid: f.view.Owners.UID(st.UID), Gid: f.view.Owners.GID(st.GID)},
	}
	out.Atime, out.Atimensec, out.Ctime, out.Ctimensec = out.Mtime, out.Mtimensec, out.Mtime, out.Mtimensec
	if st.Type == tree.CharDevice || st.Type == tree.BlockDevice {
		out.Rdev = uint32(unix.Mkdev(st.Rdev.Major, st.Rdev.Minor))
	}
}

// Readlink returns the target of a symbolic link.
func (f *FS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := f.image.Readlink(f.nid(h.NodeId))
	return []byte(target), status(err)
}

// OpenDir and Open say that there is no need to open anything.
func (f *FS) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// Open is like OpenDir.
func (f *FS) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// Flush has nothing to write.
func (f *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Ioctl answers overlayfs, which asks for inode flags before it copies a file up.
func (f *FS) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}

// ReadDir lists names. The offset of an entry is its place in the directory, which never
// changes, so nothing is kept between two requests.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(in, func(e *fuse.DirEntry, _ erofs.NID) (bool, fuse.Status) {
		return out.AddDirEntry(*e), fuse.OK
	})
}

// ReadDirPlus lists names with what Lookup says about each.
func (f *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(in, func(e *fuse.DirEntry, n erofs.NID) (bool, fuse.Status) {
		entry := out.AddDirLookupEntry(*e)
		if entry == nil {
			return false, fuse.OK
		}
		if e.Name == "." || e.Name == ".." {
			return true, fuse.OK // without a node id: the kernel wants none
		}
		return true, f.entry(n, entry)
	})
}

// Offsets of directory entries: "." and "..", then those of the image.
const (
	afterDot    = 1
	afterDotDot = 2
)

func (f *FS) readDir(in *fuse.ReadIn, add func(*fuse.DirEntry, erofs.NID) (more bool, st fuse.Status)) fuse.Status {
	dir := f.nid(in.NodeId)
	from := in.Offset
	if from < afterDotDot {
		parent, err := f.image.Parent(dir)
		if err != nil {
			return status(err)
		}
		dots := [...]struct {
			name string
			nid  erofs.NID
		}{{".", dir}, {"..", parent}}
		for _, d := range dots[from:] {
			from++
			e := fuse.DirEntry{Name: d.name, Mode: unix.S_IFDIR, Ino: f.node(d.nid), Off: from}
			if more, st := add(&e, d.nid); !more || st != fuse.OK {
				return st
			}
		}
	}
	var e fuse.DirEntry
	for entry, err := range f.image.ReadDir(dir, from-afterDotDot) {
		if err != nil {
			return status(err)
		}
		// The name is used before the image is closed.
		e = fuse.DirEntry{Name: alias(entry.Name), Mode: erofs.TypeBits(entry.Type), Ino: f.node(entry.NID), Off: entry.Next + afterDotDot}
		if more, st := add(&e, entry.NID); !more || st != fuse.OK {
			return st
		}
	}
	return fuse.OK
}

// StatFs describes the image.
func (f *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{
		Bsize: erofs.BlockSize, Frsize: erofs.BlockSize, Blocks: uint64(f.image.Size()) / erofs.BlockSize,
		Files: f.image.Inodes(), NameLen: tree.MaxName,
	}
	return fuse.OK
}

// Read returns content of a regular file.
func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := f.nid(in.NodeId)
	if in.Offset > 1<<63-1 {
		return nil, fuse.EINVAL
	}
	var k int
	o, err := f.object(n)
	switch {
	case err != nil:
		return nil, status(err)
	case o != nil:
		k, err = o.file.ReadAt(buf, int64(in.Offset))
		o.release()
	default:
		k, err = f.image.ReadAt(n, buf, int64(in.Offset))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, status(err)
	}
	return fuse.ReadResultData(buf[:k]), fuse.OK
}

// Lseek finds holes and data.
func (f *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	n := f.nid(in.NodeId)
	st, err := f.image.Stat(n)
	if err != nil {
		return status(err)
	}
	if in.Offset >= uint64(st.Size) {
		return fuse.Status(unix.ENXIO)
	}
	o, err := f.object(n)
	if err != nil {
		return status(err)
	}
	if o != nil {
		at, err := o.seek(int64(in.Offset), int(in.Whence))
		o.release()
		out.Offset = uint64(at)
		return status(err)
	}
	switch in.Whence {
	case unix.SEEK_DATA:
		out.Offset = in.Offset
	case unix.SEEK_HOLE:
		out.Offset = uint64(st.Size)
	default:
		return fuse.EINVAL
	}
	return fuse.OK
}

// object opens the object that holds a file's content; nil where the image does, or
// where only metadata is served.
func (f *FS) object(n erofs.NID) (*object, error) {
	if f.data == nil {
		return nil, nil //nolint:nilnil // no object is no error
	}
	id, ok, err := f.image.Object(n)
	if err != nil || !ok {
		return nil, err
	}
	return f.data.open(id)
}
