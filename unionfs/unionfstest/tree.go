package unionfstest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
)

// inlineMax is the largest content in bytes that the trees of these tests hold
// themselves; a small one, so that both kinds of file are common.
const inlineMax = 100

// errNoTree says that a directory holds what a tree cannot say.
var errNoTree = errors.New("not expressible as a tree")

// AsTree makes a tree of a directory in upper format whose marks are in ns, with
// contents beyond inlineMax as objects in a data directory that all layers of one test
// share. Redirects and whiteouts as attributes are for directories only: such a layer
// stays one.
func AsTree(t testing.TB, dir string, ns unionfs.Namespace) (unionfs.Lower, []string) {
	t.Helper()
	objects := filepath.Join(filepath.Dir(dir), "objects")
	if err := os.MkdirAll(objects, 0o755); err != nil {
		t.Fatal(err)
	}
	reader := treeReader{ns: ns, objects: objects, inodes: map[uint64]*tree.Inode{}}
	root, err := reader.node(dir, "")
	if errors.Is(err, errNoTree) {
		return unionfs.Lower{Dir: dir}, []string{objects}
	}
	if err != nil {
		t.Fatal(err)
	}
	image := dir + ".erofs"
	WriteTree(t, image, root)
	return unionfs.Lower{Tree: image}, []string{objects}
}

// WriteTree writes an EROFS image that is known by the digest of its path.
func WriteTree(t testing.TB, image string, root *tree.Node) {
	t.Helper()
	opts := erofs.Options{Namespace: erofs.Trusted, Layer: true}
	digest := sha256.Sum256([]byte(image))
	copy(opts.UUID[:], digest[:])
	var b bytes.Buffer
	if _, err := erofs.Write(&b, root, opts); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

type treeReader struct {
	ns      unionfs.Namespace
	objects string
	inodes  map[uint64]*tree.Inode
}

func (r treeReader) node(path, name string) (*tree.Node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		return &tree.Node{Name: name, Whiteout: true}, nil
	}
	n := &tree.Node{Name: name, Inode: r.inodes[st.Ino]}
	if n.Inode != nil {
		return n, nil
	}
	xattrs, opaque, err := r.xattrs(path)
	if err != nil {
		return nil, err
	}
	n.Opaque = opaque
	n.Inode = &tree.Inode{
		Mode: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid, Xattrs: xattrs,
		MTime: tree.Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)},
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		r.inodes[st.Ino] = n.Inode
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.Inode.Type, n.Inode.Size = tree.Regular, st.Size
		return n, r.content(path, n.Inode)
	case unix.S_IFDIR:
		n.Inode.Type = tree.Directory
		// Through its descriptor a directory deeper than PATH_MAX has a short path.
		dir, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		entries, err := dir.ReadDir(-1)
		if err != nil {
			return nil, err
		}
		slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		for _, e := range entries {
			child, err := r.node(filepath.Join(fmt.Sprint("/proc/self/fd/", dir.Fd()), e.Name()), e.Name())
			if err != nil {
				return nil, err
			}
			n.Children = append(n.Children, child)
		}
		return n, nil
	case unix.S_IFLNK:
		n.Inode.Type = tree.Symlink
		n.Inode.Link, err = os.Readlink(path)
		n.Inode.Size = int64(len(n.Inode.Link))
		return n, err
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Inode.Type = tree.CharDevice
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			n.Inode.Type = tree.BlockDevice
		}
		n.Inode.Rdev = tree.Device{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}
		return n, nil
	case unix.S_IFIFO:
		n.Inode.Type = tree.Fifo
		return n, nil
	default:
		n.Inode.Type = tree.Socket
		return n, nil
	}
}

// xattrs reads the visible attributes of a file and whether it is opaque.
func (r treeReader) xattrs(path string) (xattrs []tree.Xattr, opaque bool, err error) {
	names := make([]byte, 64*1024)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		return nil, false, err
	}
	value := make([]byte, 64*1024)
	for stored := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if stored == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, stored, value)
		if err != nil {
			return nil, false, err
		}
		name, visible := r.ns.Unescape(stored)
		switch {
		case visible:
			xattrs = append(xattrs, tree.Xattr{Name: name, Value: string(value[:n])})
		case stored == r.ns.Attr(unionfs.Opaque) && string(value[:n]) == unionfs.OpaqueYes:
			opaque = true
		default:
			return nil, false, errNoTree
		}
	}
	slices.SortFunc(xattrs, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return xattrs, opaque, nil
}

// content reads a file into the inode, or copies it to the objects, keeping holes.
func (r treeReader) content(path string, ino *tree.Inode) error {
	if ino.Size <= inlineMax {
		content, err := os.ReadFile(path)
		ino.Inline = string(content)
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return err
	}
	hash.Sum(ino.Object[:0])
	object := filepath.Join(r.objects, ino.Object.Path())
	if err := os.MkdirAll(filepath.Dir(object), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(object, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if errors.Is(err, fs.ErrExist) {
		return nil // another file has the same content
	}
	if err != nil {
		return err
	}
	block := make([]byte, 64*1024)
	for at := int64(0); at < ino.Size; at += int64(len(block)) {
		n, err := f.ReadAt(block, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return errors.Join(err, out.Close())
		}
		if len(bytes.TrimLeft(block[:n], "\x00")) > 0 {
			if _, err := out.WriteAt(block[:n], at); err != nil {
				return errors.Join(err, out.Close())
			}
		}
	}
	return errors.Join(out.Truncate(ino.Size), out.Close())
}
