package union

import (
	"container/list"
	"errors"
	"io"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// backingFlags turns the flags of an open by a user into those for the file in the
// upper. The kernel does the appending and the synchronous writing, and reads of files
// open for writing alone when it caches.
func backingFlags(flags uint32) int {
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		return unix.O_RDONLY
	}
	return unix.O_RDWR
}

// handle is a file that is open for writing, or for reading by a server that could not
// open it again later. A lower file gets its descriptor with its first change.
type handle struct {
	n     *node
	flags int // O_RDONLY or O_RDWR

	mu sync.Mutex
	fd int // of the file in the upper; -1 before the first change
}

// writable returns the descriptor, if it is for writing.
func (h *handle) writable() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.flags == unix.O_RDONLY {
		return -1
	}
	return h.fd
}

// maxFiles is the number of files that are kept open for reading while nobody reads.
const maxFiles = 256

// openFiles keeps files open for reading, the ones used last, by node id.
type openFiles struct {
	mu   sync.Mutex
	m    map[uint64]*openFile
	idle *list.List // of *openFile, the one used last in front
}

type openFile struct {
	id    uint64
	fd    int
	users int
	stale bool
	at    *list.Element
}

func newOpenFiles() openFiles { return openFiles{m: map[uint64]*openFile{}, idle: list.New()} }

// take returns the open file of an id, or opens it.
func (o *openFiles) take(id uint64, open func() (int, error)) (*openFile, error) {
	o.mu.Lock()
	file := o.m[id]
	if file != nil {
		o.use(file)
		o.mu.Unlock()
		return file, nil
	}
	o.mu.Unlock()
	fd, err := open()
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if other := o.m[id]; other != nil {
		closeFD(fd)
		o.use(other)
		return other, nil
	}
	file = &openFile{id: id, fd: fd, users: 1}
	o.m[id] = file
	return file, nil
}

func (o *openFiles) use(file *openFile) {
	file.users++
	if file.at != nil {
		o.idle.Remove(file.at)
		file.at = nil
	}
}

func (o *openFiles) release(file *openFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if file.users--; file.users > 0 {
		return
	}
	if file.stale {
		closeFD(file.fd)
		return
	}
	file.at = o.idle.PushFront(file)
	if o.idle.Len() > maxFiles {
		if old, ok := o.idle.Remove(o.idle.Back()).(*openFile); ok {
			delete(o.m, old.id)
			closeFD(old.fd)
		}
	}
}

// forget closes the file of an id once nobody reads it: its content is elsewhere now,
// or the kernel has forgotten it.
func (o *openFiles) forget(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	file := o.m[id]
	if file == nil {
		return
	}
	delete(o.m, id)
	file.stale = true
	if file.at != nil {
		o.idle.Remove(file.at)
		file.at = nil
		closeFD(file.fd)
	}
}

func (o *openFiles) closeAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, file := range o.m {
		closeFD(file.fd)
		delete(o.m, id)
	}
}

// Open opens a file.
func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.stateless() {
		return fuse.ENOSYS // the kernel does not ask again
	}
	return f.status(f.open(in.NodeId, in.Flags, out))
}

func (f *FS) open(id uint64, flags uint32, out *fuse.OpenOut) error {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	file, err := f.file(id)
	if err != nil {
		return err
	}
	how := backingFlags(flags)
	if how == unix.O_RDONLY && (file.n == nil || f.uid == 0 || !file.n.upper.Load()) {
		return nil // opened by node id when it is read
	}
	n, err := f.object(id)
	if err != nil {
		return err
	}
	h := &handle{n: n, flags: how, fd: -1}
	if n.upper.Load() && n.data.Load() == nil {
		if h.fd, err = f.openUpperFile(n, how, flags); err != nil {
			return err
		}
	}
	out.Fh = f.handles.add(h)
	return nil
}

// opened gives the kernel a handle for a file that was just made.
func (f *FS) opened(id uint64, flags uint32, fd int, out *fuse.OpenOut) {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	out.Fh = f.handles.add(&handle{n: f.tables.get(id), flags: backingFlags(flags), fd: fd})
}

// openUpperFile opens a file in the upper. Who may read or write it the kernel has
// checked; that it is append-only is noticed here.
func (f *FS) openUpperFile(n *node, how int, flags uint32) (int, error) {
	f.names.RLock()
	defer f.names.RUnlock()
	s, err := f.spot(n)
	if err != nil {
		return -1, err
	}
	defer f.release(s)
	fd, err := s.open(how)
	if errors.Is(err, unix.EPERM) && flags&unix.O_APPEND != 0 {
		fd, err = s.open(how | unix.O_APPEND)
	}
	if errors.Is(err, unix.EACCES) && how == unix.O_RDWR && flags&unix.O_ACCMODE == unix.O_WRONLY {
		fd, err = s.open(unix.O_WRONLY) // of our own, but not readable
	}
	return fd, err
}

// Release closes a file.
func (f *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if h := f.handles.remove(in.Fh); h != nil && h.fd >= 0 {
		closeFD(h.fd)
	}
}

// descriptor returns the descriptor for changes through a handle, and copies the file
// up first if need be.
func (f *FS) descriptor(fh uint64) (int, error) {
	h := f.handles.get(fh)
	if h == nil || h.flags == unix.O_RDONLY {
		return -1, unix.EBADF
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd >= 0 {
		return h.fd, nil
	}
	if err := f.copyUp(h.n, copyAll); err != nil {
		return -1, err
	}
	fd, err := f.openUpperFile(h.n, h.flags, unix.O_APPEND)
	if err == nil {
		h.fd = fd
	}
	return fd, err
}

// reader calls read with a descriptor of the content of a regular file as it is now.
// For content that a tree holds itself the descriptor is -1 and from says where.
func (f *FS) reader(id, fh uint64, read func(fd int, from ref) error) error {
	if h := f.handles.get(fh); h != nil {
		h.mu.Lock()
		fd := h.fd
		h.mu.Unlock()
		if fd >= 0 {
			err := read(fd, ref{})
			if !errors.Is(err, unix.EBADF) {
				return err // else it is for writing only
			}
		}
	}
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
			return f.readOpen(id, func() (int, error) { return f.openUpperFile(n, unix.O_RDONLY, 0) }, read)
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
	return f.readOpen(id, func() (int, error) { return f.openContent(from) }, read)
}

func (f *FS) readOpen(id uint64, open func() (int, error), read func(fd int, from ref) error) error {
	file, err := f.files.take(id, open)
	if err != nil {
		return err
	}
	defer f.files.release(file)
	return read(file.fd, ref{})
}

// Read reads content, into the buffer that is sent to the kernel.
func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := 0
	err := f.reader(in.NodeId, in.Fh, func(fd int, from ref) (err error) {
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
	fd, err := f.descriptor(in.Fh)
	if err != nil {
		return 0, f.status(err)
	}
	done := 0
	err = f.space(func() error {
		for done < len(data) {
			n, err := unix.Pwrite(fd, data[done:], int64(in.Offset)+int64(done))
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
		if err := dropPrivileges(spot{fd: fd}); err != nil {
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
	if file.n == nil || !file.n.upper.Load() || f.cfg.Volatile || f.cfg.ReadOnly {
		return nil // what is below is durable
	}
	sync := unix.Fsync
	if in.FsyncFlags&1 != 0 { // FUSE_FSYNC_FDATASYNC
		sync = unix.Fdatasync
	}
	if h := f.handles.get(in.Fh); h != nil {
		h.mu.Lock()
		fd := h.fd
		h.mu.Unlock()
		if fd >= 0 {
			return retry(func() error { return sync(fd) })
		}
	}
	return f.syncNode(file.n, sync)
}

// syncNode flushes a file or directory of the upper by a descriptor of its own.
func (f *FS) syncNode(n *node, sync func(int) error) error {
	flags := unix.O_RDONLY
	if n.isDir() {
		flags |= unix.O_DIRECTORY
	}
	f.names.RLock()
	s, err := f.spot(n)
	if err != nil {
		f.names.RUnlock()
		return err
	}
	fd, err := s.open(flags)
	f.release(s)
	f.names.RUnlock()
	if err != nil {
		return err
	}
	defer closeFD(fd)
	return retry(func() error { return sync(fd) })
}

// FsyncDir makes the names in a directory durable.
func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	file, err := f.file(in.NodeId)
	if err == nil && file.n != nil && file.n.upper.Load() && !f.cfg.Volatile && !f.cfg.ReadOnly {
		err = f.syncNode(file.n, unix.Fsync)
	}
	return f.status(err)
}

// Fallocate reserves, zeroes or gives up space of a file.
func (f *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	fd, err := f.descriptor(in.Fh)
	if err == nil {
		err = f.space(func() error {
			return retry(func() error { return unix.Fallocate(fd, in.Mode, int64(in.Offset), int64(in.Length)) })
		})
	}
	return f.status(err)
}

// Lseek finds data and holes.
func (f *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	return f.status(f.reader(in.NodeId, in.Fh, func(fd int, from ref) error {
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

// CopyFileRange copies from one open file to another, without the bytes passing by.
func (f *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	dst, err := f.descriptor(in.FhOut)
	if err != nil {
		return 0, f.status(err)
	}
	done := 0
	err = f.reader(in.NodeId, in.FhIn, func(fd int, _ ref) (err error) {
		if fd < 0 {
			return unix.EOPNOTSUPP // the kernel copies by reading and writing
		}
		from, to := int64(in.OffIn), int64(in.OffOut)
		done, err = unix.CopyFileRange(fd, &from, dst, &to, int(min(in.Len, copyChunk)), 0)
		return err
	})
	return uint32(max(done, 0)), f.status(err)
}
