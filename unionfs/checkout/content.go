package checkout

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// regular writes a regular file.
func (w *writer) regular(dir int, n erofs.NID, name string, st *erofs.Stat) (err error) {
	id, isObject, err := w.image.Object(n)
	if err != nil {
		return err
	}
	var object *os.File
	if isObject && w.view.Contents {
		if object, err = w.open(id); err != nil {
			return err
		}
		defer func() { _ = object.Close() }() // opened for reading
		if linked, err := w.link(dir, n, name, st, object); linked || err != nil {
			return err
		}
	}
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { err = errors.Join(err, f.Close()) }()
	switch {
	case object != nil:
		err = fill(f, object, st.Size)
	case isObject:
		err = f.Truncate(st.Size) // the content is elsewhere, and the marks say where
	default:
		_, err = io.Copy(f, io.NewSectionReader(reader{w.image, n}, 0, st.Size))
	}
	if err != nil {
		return fmt.Errorf("write content: %w", err)
	}
	return w.metadata(fd, n, st)
}

// reader is content in the image.
type reader struct {
	image *erofs.Image
	nid   erofs.NID
}

func (r reader) ReadAt(p []byte, off int64) (int, error) { return r.image.ReadAt(r.nid, p, off) }

// open opens an object in the first data directory that has it.
func (w *writer) open(id tree.ObjectID) (*os.File, error) {
	for _, dir := range w.data {
		f, err := os.Open(filepath.Join(dir, id.Path()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return f, err
	}
	return nil, fmt.Errorf("object %s: %w", id.Path(), fs.ErrNotExist)
}

// link links name to the object where that has all that the file shall have. It reports
// whether it did.
func (w *writer) link(dir int, n erofs.NID, name string, st *erofs.Stat, object *os.File) (bool, error) {
	var have unix.Stat_t
	if err := unix.Fstat(int(object.Fd()), &have); err != nil {
		return false, err
	}
	if have.Mode&0o7777 != uint32(st.Mode) || have.Uid != w.view.Owners.UID(st.UID) || have.Gid != w.view.Owners.GID(st.GID) ||
		have.Mtim.Sec != st.MTime.Sec || have.Mtim.Nsec != int64(st.MTime.Nsec) || st.Nlink > 1 {
		return false, nil
	}
	attrs, err := w.image.Xattrs(n)
	if err != nil {
		return false, err
	}
	for _, x := range attrs {
		if _, ok := w.view.Shown(x.Name); ok {
			return false, nil
		}
	}
	err = unix.Linkat(unix.AT_FDCWD, object.Name(), dir, name, 0)
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM) {
		return false, nil
	}
	return err == nil, err
}

// fill gives a new file the content of an object: the very blocks where the file system
// can share them, else a copy that keeps holes.
func fill(f, object *os.File, size int64) error {
	if err := unix.IoctlFileClone(int(f.Fd()), int(object.Fd())); err == nil {
		return nil
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(object.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(object.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if end = min(end, size); start >= end {
			return nil
		}
		if err := copyRange(f, object, start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

func copyRange(f, object *os.File, start, end int64) error {
	from, to := start, start
	for from < end {
		n, err := unix.CopyFileRange(int(object.Fd()), &from, int(f.Fd()), &to, int(end-from), 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP):
			_, err := io.Copy(io.NewOffsetWriter(f, from), io.NewSectionReader(object, from, end-from))
			return err
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
	}
	return nil
}
