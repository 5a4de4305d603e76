package union

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

// Names in the work directory. The kernel's overlayfs has "work" there and, in it, the
// mark of a volatile mount; so an upper that one of the two mounted volatile is refused
// by the other too.
const (
	workName     = "fuse"                   // our own
	poolName     = "whiteout"               // in it: what all whiteouts are links to
	volatileName = "work/incompat/volatile" // Documentation/filesystems/overlayfs.rst
)

// work makes files out of sight before they get their name in the upper.
type work struct {
	dir  int // O_PATH descriptor; -1 when there is none
	path string
	ns   unionfs.Namespace
	next atomic.Uint64

	mu   sync.Mutex // guards what follows
	pool bool       // poolName is there
	attr bool       // whiteouts are attributes: devices cannot be made here
}

func (w *work) open(path string, upperDev uint64, ns unionfs.Namespace, volatile bool) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Dev != upperDev {
		return fmt.Errorf("it is not on the file system of the upper directory: %w", fs.ErrInvalid)
	}
	mark := filepath.Join(path, volatileName)
	if _, err := os.Lstat(mark); err == nil {
		return fmt.Errorf("the upper directory was mounted volatile before, so its contents may be torn; throw it away, or remove %s if no crash has happened since: %w", filepath.Dir(mark), fs.ErrInvalid)
	}
	if volatile {
		if err := os.MkdirAll(mark, 0o700); err != nil {
			return err
		}
	}
	w.path, w.ns = filepath.Join(path, workName), ns
	// What a killed server has left.
	if err := os.RemoveAll(w.path); err != nil {
		return err
	}
	if err := os.Mkdir(w.path, 0o700); err != nil {
		return err
	}
	fd, err := openDir(w.path)
	w.dir = fd
	return err
}

func (w *work) close() error {
	if w.dir < 0 {
		return nil
	}
	closeFD(w.dir)
	w.dir = -1
	return os.RemoveAll(w.path)
}

// name returns a name that nobody has.
func (w *work) name() string { return strconv.FormatUint(w.next.Add(1), 36) }

// onlyAttr reports whether it is known that devices cannot be made here.
func (w *work) onlyAttr() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.attr
}

// drop removes a temporary file, if it is there still.
func (w *work) drop(name string) { _ = unix.Unlinkat(w.dir, name, 0) }

// whiteout makes a whiteout and returns its temporary name.
func (w *work) whiteout() (name string, attr bool, err error) {
	name = w.name()
	attr, err = w.whiteoutAt(w.dir, name)
	return name, attr, err
}

// whiteoutAt makes a whiteout under a name that is free. All of them are links to one
// inode, as far as the file system allows. attr says that it is one only in a directory
// marked for it.
func (w *work) whiteoutAt(dir int, name string) (attr bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for try := 0; ; try++ {
		if !w.pool {
			if err := w.fillPool(); err != nil {
				return false, err
			}
			w.pool = true
		}
		err := unix.Linkat(w.dir, poolName, dir, name, 0)
		switch {
		case err == nil:
			return w.attr, nil
		case (errors.Is(err, unix.EMLINK) || errors.Is(err, unix.ENOENT)) && try == 0:
			w.pool = false // as many links as there can be: start with another
			_ = unix.Unlinkat(w.dir, poolName, 0)
		default:
			return false, err
		}
	}
}

func (w *work) fillPool() error {
	_ = unix.Unlinkat(w.dir, poolName, 0)
	err := unix.Mknodat(w.dir, poolName, unix.S_IFCHR, 0)
	if err == nil || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EOPNOTSUPP) {
		w.attr = false
		return err
	}
	fd, err := unix.Openat(w.dir, poolName, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	w.attr = true
	return unix.Fsetxattr(fd, w.ns.Attr(unionfs.Whiteout), nil, 0)
}

// empty removes a directory from the work directory with the whiteouts in it.
func (w *work) empty(name string) error {
	dir, err := openAt(w.dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	all, err := readDirents(dir)
	if err == nil {
		for _, e := range all {
			if err = unix.Unlinkat(dir, e.name, 0); err != nil {
				break
			}
		}
	}
	closeFD(dir)
	if err != nil {
		return err
	}
	return unix.Unlinkat(w.dir, name, unix.AT_REMOVEDIR)
}
