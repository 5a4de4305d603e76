package union

import (
	"container/list"
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// maxFiles is the number of files that are kept open while nobody uses them.
const maxFiles = 256

// openFiles keeps contents of regular files open, the ones used last, by node id. The
// kernel is told that opening needs no request, so nobody says when a file is used no
// more. It is safe for concurrent use.
type openFiles struct {
	mu     sync.Mutex
	m      map[uint64]*openFile
	idle   *list.List // of *openFile, the one used last in front
	forgot uint64     // calls of forget
}

// openFile is an open file. Who has one from openFiles releases it.
type openFile struct {
	id    uint64
	fd    int
	mode  openMode
	users int
	stale bool // not in the map any more; closed by its last user
	at    *list.Element
}

type openMode int

const (
	forReading openMode = iota
	forWriting
	forAppending // for writing, of an append-only file
)

func newOpenFiles() openFiles { return openFiles{m: map[uint64]*openFile{}, idle: list.New()} }

// find returns the open file of an id, if it is open for writing or that is not needed.
func (o *openFiles) find(id uint64, write bool) *openFile {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.findLocked(id, write)
}

func (o *openFiles) findLocked(id uint64, write bool) *openFile {
	file := o.m[id]
	if file == nil || write && file.mode == forReading {
		return nil
	}
	file.users++
	if file.at != nil {
		o.idle.Remove(file.at)
		file.at = nil
	}
	return file
}

// take is find for a file that is opened if need be.
func (o *openFiles) take(id uint64, write bool, open func() (int, openMode, error)) (*openFile, error) {
	o.mu.Lock()
	file, before := o.findLocked(id, write), o.forgot
	o.mu.Unlock()
	if file != nil {
		return file, nil
	}
	fd, mode, err := open()
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if other := o.findLocked(id, write); other != nil {
		closeFD(fd)
		return other, nil
	}
	file = &openFile{id: id, fd: fd, mode: mode, users: 1}
	if o.forgot != before {
		file.stale = true // what was opened may be the content's old place
		return file, nil
	}
	o.drop(id)
	o.m[id] = file
	return file, nil
}

// put enters a file that was just made and opened for writing.
func (o *openFiles) put(id uint64, fd int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop(id)
	file := &openFile{id: id, fd: fd, mode: forWriting}
	o.m[id] = file
	o.rest(file)
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
	o.rest(file)
}

// rest notes that nobody uses a file, and closes the one that was used least lately.
func (o *openFiles) rest(file *openFile) {
	file.at = o.idle.PushFront(file)
	if o.idle.Len() <= maxFiles {
		return
	}
	if old, ok := o.idle.Remove(o.idle.Back()).(*openFile); ok {
		delete(o.m, old.id)
		closeFD(old.fd)
	}
}

// forget closes the file of an id once nobody uses it: its content is elsewhere now, or
// the kernel has forgotten it.
func (o *openFiles) forget(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forgot++
	o.drop(id)
}

// drop is forget for who holds the mutex.
func (o *openFiles) drop(id uint64) {
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
	o.idle.Init()
}

// openInUpper opens a file of the upper. Who may read or write it the kernel has checked;
// that it is append-only is noticed here.
func (f *FS) openInUpper(n *node, write bool) (int, openMode, error) {
	flags, mode := unix.O_RDONLY, forReading
	if write {
		flags, mode = unix.O_RDWR, forWriting
	}
	fd, err := f.openSpot(n, flags)
	if errors.Is(err, unix.EPERM) && write {
		mode = forAppending
		fd, err = f.openSpot(n, flags|unix.O_APPEND)
	}
	if errors.Is(err, unix.EACCES) && f.uid != 0 {
		fd, err = f.openForbidden(n, flags)
	}
	return fd, mode, err
}

func (f *FS) openSpot(n *node, flags int) (int, error) {
	f.names.RLock()
	defer f.names.RUnlock()
	s, err := f.spot(n)
	if err != nil {
		return -1, err
	}
	defer f.release(s)
	return s.open(flags)
}

// openForbidden opens a file of the server's own whose mode does not let it: somebody
// has it open since before the mode was that. Nobody sees the mode that it has meanwhile.
func (f *FS) openForbidden(n *node, flags int) (fd int, err error) {
	f.names.Lock()
	defer f.names.Unlock()
	s, err := f.spot(n)
	if err != nil {
		return -1, err
	}
	defer f.release(s)
	var st unix.Stat_t
	if err := s.stat(&st); err != nil {
		return -1, err
	}
	if st.Uid != f.uid {
		return -1, unix.EACCES
	}
	const ownerReadsAndWrites = 0o600
	mode := st.Mode & 0o7777
	if err := s.chmod(mode | ownerReadsAndWrites); err != nil {
		return -1, err
	}
	fd, err = s.open(flags)
	if cerr := s.chmod(mode); cerr != nil {
		if err == nil {
			closeFD(fd)
		}
		return -1, errors.Join(err, cerr)
	}
	return fd, err
}
