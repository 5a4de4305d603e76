package union

import (
	"errors"
	"io"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Open says that there is no need to open files: all requests come with the node id.
// The kernel does not ask again, for any file. So nothing is noticed when a file is
// opened that only the upper's file system knows; a write to an immutable file fails
// where elsewhere opening it does.
func (f *FS) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// Release has nothing to release.
func (f *FS) Release(<-chan struct{}, *fuse.ReleaseIn) {}

// opened tells the kernel about a file that was just made, and keeps it open for the
// writes to come.
func (f *FS) opened(id uint64, fd int, out *fuse.OpenOut) {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	f.files.put(id, fd)
}

// writer returns a regular file opened for changes, and copies it up first if need be.
// The caller releases it.
func (f *FS) writer(id uint64) (*openFile, error) {
	if file := f.files.find(id, true); file != nil {
		return file, nil
	}
	n, err := f.object(id)
	if err != nil {
		return nil, err
	}
	if err := f.copyUp(n, copyAll); err != nil {
		return nil, err
	}
	return f.files.take(id, true, func() (int, openMode, error) { return f.openInUpper(n, true) })
}

// reader calls read with a descriptor of the content of a regular file as it is now.
// For content that a tree holds itself the descriptor is -1 and from says where.
func (f *FS) reader(id uint64, read func(fd int, from ref) error) error {
	file, err := f.file(id)
	if err != nil {
		return err
	}
	from := file.r
	if n := file.n; n != nil {
		upper, data := n.upper.Load(), n.data.Load()
		switch {
		case data != nil:
			from = *data
		case upper:
			return f.readOpen(id, func() (int, openMode, error) { return f.openInUpper(n, false) }, read)
		default:
			from = n.lowers[0]
		}
	}
	if from.layer >= 0 {
		if im := f.lower[from.layer].image; im != nil {
			_, object, err := im.Object(from.nid)
			if err != nil {
				return err
			}
			if !object {
				return read(-1, from)
			}
		}
	}
	return f.readOpen(id, func() (int, openMode, error) {
		fd, err := f.openContent(from)
		return fd, forReading, err
	}, read)
}

func (f *FS) readOpen(id uint64, open func() (int, openMode, error), read func(fd int, from ref) error) error {
	file, err := f.files.take(id, false, open)
	if err != nil {
		return err
	}
	defer f.files.release(file)
	return read(file.fd, ref{})
}

// Read reads content, into the buffer that is sent to the kernel.
func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := 0
	err := f.reader(in.NodeId, func(fd int, from ref) (err error) {
		if fd < 0 {
			n, err = f.lower[from.layer].image.ReadAt(from.nid, buf, int64(in.Offset))
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		n, err = pread(fd, buf, int64(in.Offset))
		return err
	})
	if err != nil {
		return nil, f.status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Write writes content.
func (f *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	file, err := f.writer(in.NodeId)
	if err != nil {
		return 0, f.status(err)
	}
	defer f.files.release(file)
	if file.mode == forAppending && in.Flags&unix.O_APPEND == 0 {
		return 0, fuse.EPERM
	}
	done := 0
	err = f.space(func() error {
		for done < len(data) {
			n, err := unix.Pwrite(file.fd, data[done:], int64(in.Offset)+int64(done))
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			done += max(n, 0)
		}
		return nil
	})
	if err != nil && done == 0 {
		return 0, f.status(err)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if err := dropPrivileges(spot{fd: file.fd}); err != nil {
			return 0, f.status(err)
		}
	}
	return uint32(done), fuse.OK
}

// Flush is told when a descriptor is closed; nothing waits for that.
func (f *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Fsync makes a file durable, with its name.
func (f *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return f.status(f.fsync(in))
}

func (f *FS) fsync(in *fuse.FsyncIn) error {
	file, err := f.file(in.NodeId)
	if err != nil {
		return err
	}
	n := file.n
	if n == nil || !n.upper.Load() || f.cfg.Volatile || f.cfg.ReadOnly {
		return nil // what is below is durable
	}
	sync := unix.Fsync
	if in.FsyncFlags&1 != 0 { // FUSE_FSYNC_FDATASYNC
		sync = unix.Fdatasync
	}
	fd := -1
	if open := f.files.find(in.NodeId, true); open != nil {
		defer f.files.release(open)
		fd = open.fd
	} else {
		// Not kept: with metadata only here, content is read elsewhere.
		if fd, _, err = f.openInUpper(n, false); err != nil {
			return err
		}
		defer closeFD(fd)
	}
	return retry(func() error { return sync(fd) })
}

// FsyncDir makes the names in a directory durable.
func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	file, err := f.file(in.NodeId)
	if err == nil && file.n != nil && file.n.upper.Load() && !f.cfg.Volatile && !f.cfg.ReadOnly {
		err = f.syncDir(file.n)
	}
	return f.status(err)
}

func (f *FS) syncDir(n *node) error {
	fd, err := f.openSpot(n, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	return retry(func() error { return unix.Fsync(fd) })
}

// Fallocate reserves, zeroes or gives up space of a file.
func (f *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	file, err := f.writer(in.NodeId)
	if err != nil {
		return f.status(err)
	}
	defer f.files.release(file)
	return f.status(f.space(func() error {
		return retry(func() error { return unix.Fallocate(file.fd, in.Mode, int64(in.Offset), int64(in.Length)) })
	}))
}

// Lseek finds data and holes.
func (f *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	return f.status(f.reader(in.NodeId, func(fd int, from ref) error {
		if fd >= 0 {
			off, err := unix.Seek(fd, int64(in.Offset), int(in.Whence))
			out.Offset = uint64(off)
			return err
		}
		size, err := f.sizeOf(from)
		switch {
		case err != nil:
			return err
		case in.Offset >= uint64(size):
			return unix.ENXIO
		case in.Whence == unix.SEEK_HOLE:
			out.Offset = uint64(size)
		default:
			out.Offset = in.Offset
		}
		return nil
	}))
}

// CopyFileRange copies from one file to another, without the bytes passing by.
func (f *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	dst, err := f.writer(in.NodeIdOut)
	if err != nil {
		return 0, f.status(err)
	}
	defer f.files.release(dst)
	done := 0
	err = f.reader(in.NodeId, func(fd int, _ ref) (err error) {
		if fd < 0 {
			return unix.EOPNOTSUPP // the kernel copies by reading and writing
		}
		from, to := int64(in.OffIn), int64(in.OffOut)
		done, err = unix.CopyFileRange(fd, &from, dst.fd, &to, int(min(in.Len, copyChunk)), 0)
		return err
	})
	return uint32(max(done, 0)), f.status(err)
}
