package union

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// copyChunk is the number of bytes copied by one call, so that a copy can be noticed
// to fail on a full disk before all of it has been tried.
const copyChunk = 64 << 20

// copyContent copies size bytes from the start of a lower file into dst, which has at
// least that size and no data. Holes stay holes, and where the file system can share
// blocks nothing is copied.
func (f *FS) copyContent(dst int, from ref, size int64) error {
	src, err := f.openContent(from)
	if err != nil {
		return err
	}
	if src < 0 {
		return f.copyInline(dst, from, size)
	}
	defer closeFD(src)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	if st.Size == size && unix.IoctlFileClone(dst, src) == nil {
		return nil
	}
	if st.Size < size {
		return fmt.Errorf("content has %d bytes, its file says %d or more: %w", st.Size, size, unix.EIO)
	}
	for off := int64(0); off < size; {
		data, err := unix.Seek(src, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole to the end
		}
		end := size
		if err != nil {
			data = off // a file system that cannot tell
		} else if hole, err := unix.Seek(src, data, unix.SEEK_HOLE); err == nil {
			end = min(hole, size)
		}
		if data >= size {
			return nil
		}
		if err := copyRange(dst, src, data, end); err != nil {
			return err
		}
		off = end
	}
	return nil
}

func copyRange(dst, src int, from, to int64) error {
	for from < to {
		in, out := from, from
		n, err := unix.CopyFileRange(src, &in, dst, &out, int(min(to-from, copyChunk)), 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL):
			return copyByHand(dst, src, from, to)
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("content ends at byte %d: %w", from, unix.EIO)
		}
		from += int64(n)
	}
	return nil
}

func copyByHand(dst, src int, from, to int64) error {
	buf := make([]byte, min(to-from, 1<<20))
	for from < to {
		n, err := pread(src, buf[:min(int64(len(buf)), to-from)], from)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("content ends at byte %d: %w", from, unix.EIO)
		}
		if err := pwriteAll(dst, buf[:n], from); err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// copyInline copies content that a tree holds itself.
func (f *FS) copyInline(dst int, from ref, size int64) error {
	im := f.lower[from.layer].image
	buf := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size; {
		n, err := im.ReadAt(from.nid, buf[:min(int64(len(buf)), size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			return fmt.Errorf("content ends at byte %d: %w", off, unix.EIO)
		}
		if err := pwriteAll(dst, buf[:n], off); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

func pread(fd int, p []byte, off int64) (n int, err error) {
	err = retry(func() error { n, err = unix.Pread(fd, p, off); return err })
	return max(n, 0), err
}

func pwriteAll(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
