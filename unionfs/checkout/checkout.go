// Package checkout writes a tree as directories, for those who cannot mount it: a kernel
// without EROFS, AUFS, and an ordinary user's overlayfs that is to do without a server.
//
// A checkout is made once for a stack and is then a lower layer like any directory. It
// comes in two kinds. With contents it is the whole tree. Without, a file whose content
// is an object is a hole of its size with the marks from which overlayfs finds the
// content in a data-only lower layer, so that no byte is copied.
//
// Contents are cloned where the file system can do that, linked to the object where all
// that an inode has agrees, and copied otherwise. Whiteouts and marks of a layer appear as
// in the image: see package treeview.
package checkout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/internal/treeview"
)

// Owners are the ids that files can have.
type Owners = treeview.Owners

// Range is a run of ids.
type Range = treeview.Range

// Options say what to write.
type Options struct {
	Tree string // path of the image
	// Data are directories of contents by redirect. Without any, files are written that
	// say where their content is.
	Data      []string
	Namespace unionfs.Namespace // of the overlay above
	Owners    Owners
	// NoDevices writes an empty file in place of a device. A user namespace cannot make
	// devices, and would not be let open any.
	NoDevices bool
}

// maxDepth limits how deep directories lie, each of which is a descriptor while it is
// written.
const maxDepth = tree.MaxDepth

// Make makes dir a checkout of a tree, unless it is one already. It is whole and durable
// when it has its name; until then it has another one in the same directory, which a
// process that is killed leaves behind, see [Unfinished].
func Make(ctx context.Context, dir string, o Options) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	place, err := os.MkdirTemp(filepath.Dir(dir), unfinished)
	if err != nil {
		return fmt.Errorf("check out tree: %w", err)
	}
	tmp := filepath.Join(place, "tree")
	err = Write(ctx, tmp, o)
	if err == nil {
		err = publish(tmp, dir)
	}
	return errors.Join(err, Remove(place))
}

const unfinished = ".unfinished-"

// Unfinished reports whether a name is that of a checkout that is not finished.
func Unfinished(name string) bool { return strings.HasPrefix(name, unfinished) }

// publish flushes a checkout and gives it its name.
func publish(tmp, dir string) (err error) {
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parent.Close()) }()
	// One flush for all is cheaper than one for each file.
	if err := unix.Syncfs(int(parent.Fd())); err != nil {
		return fmt.Errorf("flush checkout: %w", err)
	}
	err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return nil // another process was faster
	}
	if err != nil {
		return fmt.Errorf("name checkout %s: %w", dir, err)
	}
	return parent.Sync()
}

// Write writes a tree into dir, which must not exist and is gone again after an error.
// Nothing is flushed: see [Make].
func Write(ctx context.Context, dir string, o Options) (err error) {
	image, err := erofs.Open(o.Tree)
	if err != nil {
		return fmt.Errorf("check out tree: %w", err)
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("check out tree: %w", err)
	}
	w := &writer{
		ctx: ctx, image: image, opts: o, data: o.Data, links: map[erofs.NID]string{},
		view: treeview.View{Namespace: o.Namespace, Contents: len(o.Data) > 0, Owners: o.Owners},
	}
	if err = w.write(dir); err != nil {
		return errors.Join(fmt.Errorf("check out tree %s: %w", o.Tree, err), Remove(dir))
	}
	return nil
}

// Remove removes a checkout, whatever the modes of its directories are.
func Remove(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700) //nolint:gosec // a directory to be removed
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

type writer struct {
	ctx   context.Context //nolint:containedctx // of one call of Write
	image *erofs.Image
	opts  Options
	view  treeview.View
	data  []string
	root  int                  // handle of the directory
	links map[erofs.NID]string // paths below root of files with several names
}

func (w *writer) write(dir string) error {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(root) }() // opened for reading
	w.root = root
	st, err := w.image.Stat(w.image.Root())
	if err != nil {
		return err
	}
	if err := w.children(root, w.image.Root(), "", 0); err != nil {
		return err
	}
	return w.metadata(root, w.image.Root(), &st)
}

// children writes what is in a directory of the image into the directory behind fd.
func (w *writer) children(fd int, dir erofs.NID, path string, depth int) error {
	if depth >= maxDepth {
		return fmt.Errorf("directories more than %d deep: %w", maxDepth, fs.ErrInvalid)
	}
	for e, err := range w.image.ReadDir(dir, 0) {
		if err == nil {
			err = w.ctx.Err()
		}
		if err != nil {
			return err
		}
		name := string(e.Name)
		if err := w.node(fd, e.NID, name, path+"/"+name, depth); err != nil {
			return fmt.Errorf("%s/%s: %w", path, name, err)
		}
	}
	return nil
}

// node writes one name into the directory behind dir.
func (w *writer) node(dir int, n erofs.NID, name, path string, depth int) error {
	st, err := w.image.Stat(n)
	if err != nil {
		return err
	}
	if st.Type != tree.Directory && st.Nlink > 1 {
		if first, ok := w.links[n]; ok {
			return unix.Linkat(w.root, first[1:], dir, name, 0)
		}
		w.links[n] = path
	}
	switch st.Type {
	case tree.Directory:
		if err := unix.Mkdirat(dir, name, 0o700); err != nil {
			return err
		}
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = w.children(fd, n, path, depth+1)
		if err == nil {
			err = w.metadata(fd, n, &st) // last: writing entries changes its time
		}
		return errors.Join(err, unix.Close(fd))
	case tree.Regular:
		return w.regular(dir, n, name, &st)
	case tree.Symlink:
		target, err := w.image.Readlink(n)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, dir, name); err != nil {
			return err
		}
	default:
		if err := w.special(dir, name, &st); err != nil {
			return err
		}
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(w.metadata(fd, n, &st), unix.Close(fd))
}

// special makes a device, a FIFO or a socket.
func (w *writer) special(dir int, name string, st *erofs.Stat) error {
	kind, dev := uint32(unix.S_IFIFO), 0
	switch st.Type {
	case tree.Socket:
		kind = unix.S_IFSOCK
	case tree.CharDevice, tree.BlockDevice:
		kind, dev = unix.S_IFCHR, int(unix.Mkdev(st.Rdev.Major, st.Rdev.Minor))
		if st.Type == tree.BlockDevice {
			kind = unix.S_IFBLK
		}
		if whiteout := kind == unix.S_IFCHR && dev == 0; w.opts.NoDevices && !whiteout { // everybody can make those
			kind, dev = unix.S_IFREG, 0
		}
	default: // a FIFO
	}
	return unix.Mknodat(dir, name, kind|0o600, dev)
}

// metadata gives the file behind fd, which may be a handle only, its attributes, owner,
// mode and time.
func (w *writer) metadata(fd int, n erofs.NID, st *erofs.Stat) error {
	self := "/proc/self/fd/" + strconv.Itoa(fd)
	uid, gid := w.view.Owners.UID(st.UID), w.view.Owners.GID(st.GID)
	if err := unix.Fchownat(fd, "", int(uid), int(gid), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", uid, gid, err)
	}
	attrs, err := w.image.Xattrs(n)
	if err != nil {
		return err
	}
	for _, x := range attrs {
		name, ok := w.view.Shown(x.Name)
		if !ok {
			continue
		}
		value := []byte(x.Value)
		w.view.Owners.MapValue(name, value)
		// A magic link leads to the file behind the handle, also if that is a link.
		if err := unix.Setxattr(self, name, value, 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if st.Type != tree.Symlink {
		if err := unix.Chmod(self, uint32(st.Mode)); err != nil {
			return fmt.Errorf("set mode %#o: %w", st.Mode, err)
		}
	}
	ts := unix.Timespec{Sec: st.MTime.Sec, Nsec: int64(st.MTime.Nsec)}
	if err := unix.UtimesNanoAt(fd, "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}
