// Package union is a FUSE file system that shows layers as one tree, as overlayfs does:
// EROFS trees and directories below, a directory in overlayfs's format above.
//
// # Files and their numbers
//
// The kernel names files by node ids. A file of a tree that nothing has touched has an
// id that tells layer and inode, and no memory here ([treeID]); all it takes to answer
// for it is the mapped tree. What is in the upper, in a layer that is a directory, or a
// directory that several layers have, has a [node]. A node keeps its id when the file
// is copied up, so the kernel goes on with what it has open and cached.
//
// # Changes
//
// A change of a lower file first copies it up: it is made whole under a temporary name
// in the work directory and renamed into the upper, parents first. A change of metadata
// alone copies no content where the format allows it (see [FS.copyUp]). A file with
// several names is copied up under all of them, so that they stay one file, here and
// for everybody who reads the upper later.
//
// # Locks
//
// The kernel serialises changes of one directory. The rest is done here, in this order:
//
//	ids      one lock for each file being copied up, removed, linked or renamed; that of
//	         a file before that of its directory, that before the one above; several
//	         files by number
//	└─ names   shared to use names in the upper, exclusive to rename
//	   └─ tables.mu, then node.mu
//	   └─ times, dirs.mu, files.mu, lists.mu
//
// Contents are copied under the lock of the file's id alone, so that only who changes
// that very file waits.
package union

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse/internal/conn"
)

// forever is for how long the kernel may keep what it has been told: only the kernel
// itself asks for changes.
const forever = 365 * 24 * time.Hour

// FS is a union. It is safe for concurrent use.
type FS struct {
	fuse.RawFileSystem // refuses what is not here
	cfg                Config
	log                *slog.Logger
	ns                 unionfs.Namespace
	lower              []lower
	data               []int // O_PATH descriptors of the data directories
	upper              int   // O_PATH descriptor, -1 when there is none
	lockFD             int   // holds the lock of the upper
	work               work
	root               *node
	uid, gid           uint32 // whom new files belong to at first

	tables
	ids   keyLocks
	times keyLocks // held to change a directory of the upper and restore its times
	names sync.RWMutex
	dirs  openDirs
	files openFiles

	unlinked atomic.Int64 // when the last file lost its name, in nanoseconds

	lists lists

	closeOnce sync.Once
	closeErr  error
}

// Open opens the layers and takes the upper for itself. What the kernel is told as a
// plain EIO is logged with its reason. The caller closes the result, or serves it,
// which does so at the end.
func Open(cfg Config, log *slog.Logger) (_ *FS, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	f := &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		cfg:           cfg, log: log, ns: cfg.Namespace, upper: -1, lockFD: -1, work: work{dir: -1},
		uid: uint32(unix.Geteuid()), gid: uint32(unix.Getegid()),
		tables: newTables(), ids: newKeyLocks(), times: newKeyLocks(), dirs: newOpenDirs(), files: newOpenFiles(), lists: newLists(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	var upperDev uint64
	if cfg.Layers.Upper != "" {
		if upperDev, err = f.openUpper(); err != nil {
			return nil, err
		}
	}
	f.lower = make([]lower, len(cfg.Layers.Lower))
	for i := range f.lower {
		f.lower[i].dir = -1
	}
	for i, l := range cfg.Layers.Lower {
		if err := f.openLower(&f.lower[i], l, upperDev); err != nil {
			return nil, fmt.Errorf("open lower layer %d of %d (%s): %w", i+1, len(f.lower), l, err)
		}
	}
	for i, path := range cfg.Layers.Data {
		fd, err := openDir(path)
		if err != nil {
			return nil, fmt.Errorf("open data directory %d of %d (%s): %w", i+1, len(cfg.Layers.Data), path, err)
		}
		f.data = append(f.data, fd)
	}
	return f, f.openRoot()
}

func openDir(path string) (int, error) {
	return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func (f *FS) openLower(l *lower, from unionfs.Lower, upperDev uint64) (err error) {
	l.ns = f.ns
	if from.Dir == "" {
		if l.image, err = erofs.Open(from.Tree); err != nil {
			return err
		}
		l.ns = unionfs.Trusted
		if l.image.Namespace() == erofs.User {
			l.ns = unionfs.User
		}
		return nil
	}
	if l.dir, err = openDir(from.Dir); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(l.dir, &st); err != nil {
		return err
	}
	l.near = upperDev != 0 && st.Dev == upperDev
	return nil
}

// openRoot makes the node of the root, which all layers have.
func (f *FS) openRoot() error {
	n := &node{id: rootID, ino: rootID, mode: unix.S_IFDIR, pin: -1}
	for i := range f.lower {
		n.lowers = append(n.lowers, f.rootOf(int32(i)))
	}
	if f.upper >= 0 {
		var st unix.Stat_t
		if err := unix.Fstat(f.upper, &st); err != nil {
			return err
		}
		m, err := readMarks(fdPath(f.upper, ""), f.ns, &st)
		if err != nil {
			return fmt.Errorf("read attributes of upper directory: %w", err)
		}
		n.upper.Store(true)
		n.uino = st.Ino
		n.impure.Store(m.impure)
		n.xwhite.Store(m.xwhite)
		fd, err := unix.FcntlInt(uintptr(f.upper), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f.dirs.put(n, fd) // never released: the root stays open
	}
	f.root = n
	f.tables.mu.Lock()
	defer f.tables.mu.Unlock()
	f.tables.add(n)
	return nil
}

// String names the file system in messages of the FUSE library.
func (f *FS) String() string { return "layerfs" }

// Options returns the capabilities that the file system is to be served with.
func (f *FS) Options() fuse.MountOptions {
	opts := fuse.MountOptions{
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		EnableAcl:                true,
		DisableSplice:            true, // contents are read into the reply: cheaper than two splices below 1 MiB
		ExtraCapabilities: fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO | fuse.CAP_DONT_MASK |
			fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT | fuse.CAP_NO_OPENDIR_SUPPORT,
	}
	return opts
}

// status turns an error into what the kernel is told.
func (f *FS) status(err error) fuse.Status {
	s := conn.Status(err)
	if s == fuse.EIO {
		f.log.Error("request failed", "error", err)
	}
	return s
}

// Init is called when the kernel and the server have agreed on the protocol.
func (f *FS) Init(*fuse.Server) {}

// Trim gives mapped pages of the trees back.
func (f *FS) Trim() {
	for i := range f.lower {
		if im := f.lower[i].image; im != nil {
			im.DropPages()
		}
	}
}

// OnUnmount is called when the mount has ended.
func (f *FS) OnUnmount() { f.closeOnce.Do(func() { f.closeErr = f.close(true) }) }

// Close releases everything. A union that was served is closed already; its error is
// returned once more.
func (f *FS) Close() error {
	f.closeOnce.Do(func() { f.closeErr = f.close(false) })
	return f.closeErr
}

func (f *FS) close(served bool) error {
	var errs []error
	f.files.closeAll()
	f.tables.mu.Lock()
	for _, n := range f.tables.byID {
		n.mu.Lock()
		if n.pin >= 0 {
			closeFD(n.pin)
			n.pin = -1
		}
		n.mu.Unlock()
	}
	f.tables.mu.Unlock()
	f.dirs.mu.Lock()
	for n, d := range f.dirs.dirs {
		closeFD(d.fd)
		delete(f.dirs.dirs, n)
	}
	f.dirs.mu.Unlock()
	if served && f.writable() && !f.cfg.Volatile {
		errs = append(errs, syncFS(f.upper))
	}
	errs = append(errs, f.work.close())
	for i := range f.lower {
		if im := f.lower[i].image; im != nil {
			errs = append(errs, im.Close())
		}
		if f.lower[i].dir >= 0 {
			closeFD(f.lower[i].dir)
		}
	}
	for _, fd := range append(f.data, f.upper, f.lockFD) {
		if fd >= 0 {
			closeFD(fd)
		}
	}
	return errors.Join(errs...)
}

// syncFS flushes the file system of an O_PATH descriptor.
func syncFS(dir int) error {
	fd, err := openMagic(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open upper directory: %w", err)
	}
	defer closeFD(fd)
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("flush upper directory: %w", err)
	}
	return nil
}

func (f *FS) writable() bool { return f.upper >= 0 && !f.cfg.ReadOnly }

// lockTime is how long Open waits for the server of an earlier mount of the same upper
// to end.
const lockTime = 10 * time.Second

// openUpper opens the upper and its work directory, and returns the upper's device.
func (f *FS) openUpper() (dev uint64, err error) {
	if f.upper, err = openDir(f.cfg.Layers.Upper); err != nil {
		return 0, fmt.Errorf("open upper directory %s: %w", f.cfg.Layers.Upper, err)
	}
	if f.lockFD, err = openMagic(f.upper, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		return 0, fmt.Errorf("open upper directory %s: %w", f.cfg.Layers.Upper, err)
	}
	how := unix.LOCK_EX
	if f.cfg.ReadOnly {
		how = unix.LOCK_SH
	}
	for deadline := time.Now().Add(lockTime); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(f.lockFD, how|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return 0, fmt.Errorf("lock upper directory %s, which another mount may be using: %w", f.cfg.Layers.Upper, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.upper, &st); err != nil {
		return 0, err
	}
	if f.cfg.ReadOnly {
		return st.Dev, nil
	}
	if err := f.work.open(f.cfg.Layers.Work, st.Dev, f.ns, f.cfg.Volatile); err != nil {
		return 0, fmt.Errorf("work directory %s: %w", f.cfg.Layers.Work, err)
	}
	return st.Dev, nil
}

// errGone tells a file that lost its last name before it was copied up.
var errGone = fmt.Errorf("file has no name any more: %w", fs.ErrNotExist)
