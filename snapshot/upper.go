package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
	"golang.org/x/sys/unix"
)

// An upper directory is what a union file system wrote: see package unionfs for its
// format. Reading one costs a walk over what changed, by directory handles only, so
// that names in it are never followed out of it and depth is not bounded by PATH_MAX.

// Limits on what an upper may hold; an upper is written by the processes of a
// container and so is not trusted.
const (
	maxUpperEntries = 20_000_000
	maxXattrBytes   = 1 << 20 // names plus values of one file
)

// upperNode is one name in an upper directory as it lies there, markers understood
// but not yet resolved against what is below.
type upperNode struct {
	name     string
	inode    *tree.Inode // nil for a whiteout
	children []*upperNode

	whiteout bool
	opaque   bool   // directory: nothing below shows through
	metacopy bool   // regular file: metadata only, the data is below
	redirect string // directory or metacopy: where below it comes from
}

func (n *upperNode) child(name string) *upperNode {
	i := sort.Search(len(n.children), func(i int) bool { return n.children[i].name >= name })
	if i < len(n.children) && n.children[i].name == name {
		return n.children[i]
	}
	return nil
}

// upperReader reads one upper directory.
type upperReader struct {
	// ns is the namespace that the mounts of the upper use. Attributes of the other are
	// those of files: any process in a container may set user.overlay.opaque, which a
	// mount by root shows like any other attribute and takes for nothing.
	ns      unionfs.Namespace
	inodes  map[[2]uint64]*tree.Inode // hard links
	entries int
	buf     []byte
}

// readUpper reads the whole upper directory behind the handle dirfd, which mounts with
// the namespace ns have written.
func readUpper(ctx context.Context, dirfd int, ns unionfs.Namespace) (*upperNode, error) {
	r := &upperReader{ns: ns, inodes: map[[2]uint64]*tree.Inode{}, buf: make([]byte, 64<<10)}
	root := &upperNode{}
	var st unix.Stat_t
	if err := unix.Fstat(dirfd, &st); err != nil {
		return nil, fmt.Errorf("stat upper directory: %w", err)
	}
	if err := r.fill(root, dirfd, &st); err != nil {
		return nil, fmt.Errorf("read upper directory: %w", err)
	}
	if err := r.readDir(ctx, root, "", dirfd, 0); err != nil {
		return nil, err
	}
	return root, nil
}

// readDir reads the children of dir at p, whose handle is fd. One handle stays open for
// each directory on the way down.
func (r *upperReader) readDir(ctx context.Context, dir *upperNode, p tree.Path, fd, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("read upper directory %s: %w", p.Abs(), err)
	}
	if len(names) > 0 && (depth >= tree.MaxDepth || len(p) >= tree.MaxPath) {
		return fmt.Errorf("paths of more than %d names or %d bytes: %w", tree.MaxDepth, tree.MaxPath, errors.ErrUnsupported)
	}
	if r.entries += len(names); r.entries > maxUpperEntries {
		return fmt.Errorf("upper directory has more than %d entries: %w", maxUpperEntries, errors.ErrUnsupported)
	}
	sort.Strings(names)
	dir.children = make([]*upperNode, 0, len(names))
	for _, name := range names {
		n, sub, err := r.readNode(fd, name)
		if errors.Is(err, unix.ENOENT) {
			continue // removed while we look: the mount is in use
		}
		if err != nil {
			return fmt.Errorf("read upper %s: %w", p.Join(name).Abs(), err)
		}
		dir.children = append(dir.children, n)
		if sub < 0 {
			continue
		}
		err = r.readDir(ctx, n, p.Join(name), sub, depth+1)
		_ = unix.Close(sub)
		if err != nil {
			return err
		}
	}
	return nil
}

// readNode reads one name in the directory behind dirfd. For a directory, sub is a
// handle to read it by, which the caller closes; else it is negative.
func (r *upperReader) readNode(dirfd int, name string) (n *upperNode, sub int, err error) {
	fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, -1, err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, -1, err
	}
	n = &upperNode{name: name}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		n.whiteout = true
		return n, -1, nil
	}
	if err := r.fill(n, fd, &st); err != nil || n.whiteout {
		return n, -1, err
	}
	if n.inode.Type == tree.Directory {
		// By the handle, not the name: what was looked at is what is read.
		sub, err = unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return n, sub, err
	}
	if st.Nlink > 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if ino, ok := r.inodes[id]; ok {
			n.inode = ino
		} else {
			r.inodes[id] = n.inode
		}
	}
	return n, -1, nil
}

// fill sets the inode and the markers of n from the file behind fd.
func (r *upperReader) fill(n *upperNode, fd int, st *unix.Stat_t) error {
	ino, err := statInode(st)
	if err != nil {
		return err
	}
	if ino.Type == tree.Symlink {
		k, err := unix.Readlinkat(fd, "", r.buf)
		if err != nil {
			return err
		}
		ino.Link = string(r.buf[:k])
		ino.Size = int64(k)
	}
	xattrs, err := listXattrs(fd, r.buf)
	if err != nil {
		return err
	}
	for _, x := range xattrs {
		if name, ok := r.ns.Unescape(x.Name); ok {
			ino.Xattrs = append(ino.Xattrs, tree.Xattr{Name: name, Value: x.Value})
			continue
		}
		marker, _ := r.ns.Own(x.Name)
		switch marker {
		case unionfs.Opaque:
			n.opaque = ino.Type == tree.Directory && x.Value == unionfs.OpaqueYes
		case unionfs.Redirect:
			n.redirect = x.Value
		case unionfs.Metacopy:
			n.metacopy = ino.Type == tree.Regular
		case unionfs.Whiteout:
			n.whiteout = ino.Type == tree.Regular && ino.Size == 0
		}
	}
	if n.whiteout {
		return nil
	}
	sort.Slice(ino.Xattrs, func(i, j int) bool { return ino.Xattrs[i].Name < ino.Xattrs[j].Name })
	n.inode = ino
	return nil
}

func statInode(st *unix.Stat_t) (*tree.Inode, error) {
	ino := &tree.Inode{
		Mode:  uint16(st.Mode & 0o7777),
		UID:   st.Uid,
		GID:   st.Gid,
		MTime: tree.Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)},
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		ino.Type, ino.Size = tree.Regular, st.Size
	case unix.S_IFDIR:
		ino.Type = tree.Directory
	case unix.S_IFLNK:
		ino.Type = tree.Symlink
	case unix.S_IFCHR:
		ino.Type = tree.CharDevice
	case unix.S_IFBLK:
		ino.Type = tree.BlockDevice
	case unix.S_IFIFO:
		ino.Type = tree.Fifo
	case unix.S_IFSOCK:
		ino.Type = tree.Socket
	default:
		return nil, fmt.Errorf("inode type %#o: %w", st.Mode&unix.S_IFMT, errors.ErrUnsupported)
	}
	if ino.Type == tree.CharDevice || ino.Type == tree.BlockDevice {
		ino.Rdev = tree.Device{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}
	}
	return ino, nil
}

// readNames returns the names in the directory behind fd, without "." and "..".
func readNames(fd int) ([]string, error) {
	dup, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "upper")
	names, err := f.Readdirnames(-1)
	return names, errors.Join(err, f.Close())
}

// listXattrs returns all extended attributes of the file behind fd, in any order.
//
// An O_PATH handle allows no f*xattr calls. Its name in /proc is a magic link that the
// kernel resolves to the handle's own inode and no further, so a handle on a symbolic
// link gives the link's own attributes and never those of what it points at.
func listXattrs(fd int, buf []byte) ([]tree.Xattr, error) {
	path := procFD(fd)
	k, err := unix.Listxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list xattrs: %w", err)
	}
	var out []tree.Xattr
	total := 0
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:k]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		v, err := readXattr(func(b []byte) (int, error) { return unix.Getxattr(path, name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read xattr %s: %w", name, err)
		}
		if total += len(name) + len(v); total > maxXattrBytes {
			return nil, fmt.Errorf("more than %d bytes of xattrs: %w", maxXattrBytes, errors.ErrUnsupported)
		}
		out = append(out, tree.Xattr{Name: name, Value: v})
	}
	return out, nil
}

func readXattr(get func([]byte) (int, error)) (string, error) {
	buf := make([]byte, 256)
	for {
		k, err := get(buf)
		if errors.Is(err, unix.ERANGE) {
			if len(buf) >= tree.MaxXattr {
				return "", err
			}
			buf = make([]byte, tree.MaxXattr)
			continue
		}
		if err != nil {
			return "", err
		}
		return string(buf[:k]), nil
	}
}

// openUpperDir opens the directory at p below the directory handle dirfd as a path only,
// one component at a time and following nothing.
func openUpperDir(dirfd int, p tree.Path) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	cur, err := unix.Openat(dirfd, ".", flags, 0)
	if err != nil {
		return -1, err
	}
	for p != "" {
		var name string
		name, p = p.Cut()
		next, err := unix.Openat(cur, name, flags, 0)
		_ = unix.Close(cur)
		if err != nil {
			return -1, fmt.Errorf("open upper %s: %w", name, err)
		}
		cur = next
	}
	return cur, nil
}

// openUpperFile opens the regular file called name in the directory behind dirfd. A
// container may go on changing the upper: what has become something else is refused
// unopened, since to open a device acts on it.
func openUpperFile(dirfd int, name string) (*os.File, error) {
	at, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open upper %s: %w", name, err)
	}
	defer func() { _ = unix.Close(at) }()
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return nil, fmt.Errorf("stat upper %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("upper %s is no regular file any more: %w", name, fs.ErrInvalid)
	}
	// A magic link: it leads to the very inode that was looked at.
	fd, err := unix.Open(procFD(at), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open upper %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
