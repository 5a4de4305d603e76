package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/layerfs/layerfs/internal/durable"
	"golang.org/x/sys/unix"
)

// Names in the store root.
const (
	formatFile    = "format.json"
	lockFile      = "lock"
	usageFile     = "usage.json"
	ociLayoutFile = "oci-layout"
	indexFile     = "index.json"
	blobsDir      = "blobs"
	objectsDir    = "objects"
	ingestDir     = "ingest"
	quarantineDir = "quarantine"
	locksDir      = "locks"
	namesFile     = "locks/names"
	gateFile      = "locks/gate"
)

// Options say how to open a store.
type Options struct {
	// ReadOnly refuses every change. A store on a read-only mount, or one with a
	// feature that this program can only read, is read-only without it.
	ReadOnly bool
	// NoSync leaves out all flushing, so that a power cut may lose or tear anything.
	// It is for measuring what flushing costs.
	NoSync bool
	// Additional are directories of stores that this one stands on, see
	// [Store.Additional]; the first that has something is read.
	Additional []string
	// Logger is told of repairs and of leftovers; nil discards.
	Logger *slog.Logger
}

// Store is an open store. It is safe for concurrent use, by any number of processes.
type Store struct {
	dir      string
	root     *os.Root
	rootDir  *os.File // the same as root
	objects  *os.File // the objects directory
	opts     Options
	readOnly string // why nothing may be written, "" when it may
	log      *slog.Logger

	additional []*Store // that this one stands on
}

// Open opens the store in dir. One that is not there is made, with its parents, unless
// opts.ReadOnly is set, when the error wraps fs.ErrNotExist. A directory that holds
// something else is refused with fs.ErrInvalid, and a store of a format that this
// program does not know with errors.ErrUnsupported. The caller closes the store.
func Open(ctx context.Context, dir string, opts Options) (_ *Store, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{dir: dir, opts: opts, log: opts.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if opts.ReadOnly {
		s.readOnly = "it was opened for reading only"
	} else if err := makeRoot(dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.root, err = os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open store %s: %w", dir, err), s.Close())
		}
	}()
	if err := s.checkMount(); err != nil {
		return nil, err
	}
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	if s.rootDir, err = s.root.Open("."); err != nil {
		return nil, err
	}
	if s.objects, err = s.root.Open(objectsDir); err != nil {
		return nil, err
	}
	return s, s.openAdditional(ctx, opts.Additional)
}

// makeRoot makes the root directory itself.
func makeRoot(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	parent, err := os.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(parent, "."), parent.Close())
}

// checkMount makes the store read-only where its mount is.
func (s *Store) checkMount() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 && s.readOnly == "" {
		s.readOnly = "its file system is mounted read-only"
	}
	return nil
}

// load reads format.json, making the store first where there is none.
func (s *Store) load(ctx context.Context) error {
	b, err := s.readLimited(formatFile, maxFormatSize)
	if errors.Is(err, fs.ErrNotExist) {
		if s.readOnly != "" {
			return fmt.Errorf("there is no store, and none can be made because %s: %w", s.readOnly, err)
		}
		if err := s.init(ctx); err != nil {
			return err
		}
		b, err = s.readLimited(formatFile, maxFormatSize)
	}
	if err != nil {
		return err
	}
	f, err := parseFormat(b)
	if err != nil {
		return err
	}
	readOnly, err := f.check()
	if err != nil {
		return err
	}
	if readOnly != "" && s.readOnly == "" {
		s.readOnly = readOnly
		s.log.Warn("store is read-only", "reason", readOnly)
	}
	return nil
}

// readLimited reads a file of at most limit bytes.
func (s *Store) readLimited(name string, limit int64) (_ []byte, err error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // does not wait for a fifo
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	// The size is what to expect, no more: the file may be growing.
	var buf bytes.Buffer
	buf.Grow(int(min(max(fi.Size(), 0), limit)) + bytes.MinRead)
	_, err = buf.ReadFrom(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	b := buf.Bytes()
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: larger than %d bytes: %w", name, limit, fs.ErrInvalid)
	}
	return b, nil
}

// writable returns nil, or the error of every method that changes the store.
func (s *Store) writable() error {
	if s.readOnly != "" {
		return fmt.Errorf("store %s cannot be changed because %s: %w", s.dir, s.readOnly, fs.ErrPermission)
	}
	return nil
}

// Close releases the store's handles. Ingests, readers and locks of the store are
// closed by their users before.
func (s *Store) Close() error {
	var errs []error
	for _, below := range s.additional {
		errs = append(errs, below.Close())
	}
	if s.objects != nil {
		errs = append(errs, s.objects.Close())
	}
	if s.rootDir != nil {
		errs = append(errs, s.rootDir.Close())
	}
	if s.root != nil {
		errs = append(errs, s.root.Close())
	}
	return errors.Join(errs...)
}

// Root returns the absolute path of the store's root directory.
func (s *Store) Root() string { return s.dir }

// ObjectsDir returns the absolute path of the directory below which objects lie at
// [tree.ObjectID.Path].
func (s *Store) ObjectsDir() string { return filepath.Join(s.dir, objectsDir) }

// ReadOnly returns why the store cannot be changed, "" when it can be.
func (s *Store) ReadOnly() string { return s.readOnly }
