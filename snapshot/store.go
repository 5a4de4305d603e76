// Package snapshot is the layer graph: layers as recipes, stacks of layers as trees,
// and snapshots, the places where a stack is looked at or written to.
//
// A layer (named by its [DiffID]) is imported once and never changes. A stack (named by
// its [ChainID]) is a list of layers; its trees are caches made from their recipes: one
// merged tree, or a merged tree of the lower part and a few deltas above. A snapshot
// (named by its [Key]) is a stack with, when it is active, an upper directory on top:
//
//	Prepare → Active ──Commit──▶ a new layer; the snapshot stays as it is
//	             │ ▲
//	             │ └─Reset: drops the upper
//	             └─Fork──▶ Sealed, with a new Active of the same name above it,
//	                       and another one for the fork
//	View → read-only
//
// Mounting is not done here: [Store.Mounts] says what to give to a union file system.
//
// Locks, in the order in which they are taken: a snapshot's, a layer's or blob's, a
// stack's, then the store's own (see package disk). Of one kind, several are taken like
// this: Fork holds the source's and the new snapshot's, in the order of their names, and
// then that of the sealed one, which nobody else knows yet; and who makes the tree of a
// stack may have to make those of the stacks that it stands on, top down.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/unionfs"
)

// Options of a Store. The zero value is usable.
type Options struct {
	// InlineMax is the size in bytes up to which file contents are kept in recipes and
	// trees instead of becoming objects; 0 is the default.
	InlineMax int
	// Namespace is that of the overlay attributes in upper directories that are made,
	// which are those that can be mounted; "" is unionfs.Trusted. It must be the one
	// that mounts use: what is a marker in one is an ordinary attribute of a file in the
	// other. Each snapshot remembers its own.
	Namespace unionfs.Namespace
	// Owners returns the owner that files made here can have instead of the one that an
	// image wants, in a user namespace that lacks the latter; nil is that they can have
	// any.
	Owners func(uid, gid uint32) (uint32, uint32)
	// Workers is how many goroutines hash and store contents per layer; 0 is one for
	// each processor.
	Workers int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Logger discards when nil.
	Logger *slog.Logger
}

// DefaultInlineMax is the largest content, in bytes, that is kept inline. It was chosen
// by measurement, see docs/decisions.
const DefaultInlineMax = 2048

// Store is the layer graph of one store on disk. It is safe for concurrent use, and
// several processes may use one store at once.
type Store struct {
	disk *disk.Store
	opts Options
	log  *slog.Logger
	now  func() time.Time

	ownedMu sync.Mutex
	owned   map[Key]func() error // locks of the ephemeral snapshots made here; guarded by ownedMu
}

// New returns the layer graph kept in d, which stays the caller's to close.
func New(d *disk.Store, o Options) (*Store, error) {
	if o.InlineMax < 0 || o.InlineMax > maxInline {
		return nil, fmt.Errorf("inline limit of %d bytes, want 0 to %d: %w", o.InlineMax, maxInline, fs.ErrInvalid)
	}
	if o.InlineMax == 0 {
		o.InlineMax = DefaultInlineMax
	}
	switch o.Namespace {
	case unionfs.Trusted, unionfs.User:
	case "":
		o.Namespace = unionfs.Trusted
	default:
		return nil, fmt.Errorf("overlay namespace %q: %w", o.Namespace, fs.ErrInvalid)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Owners == nil {
		o.Owners = func(uid, gid uint32) (uint32, uint32) { return uid, gid }
	}
	s := &Store{disk: d, opts: o, log: o.Logger, now: o.Now, owned: map[Key]func() error{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s, nil
}

// maxInline keeps inline contents small against a tree's metadata.
const maxInline = 64 << 10

// once runs make under the named lock unless have says that its result exists, asked
// before and again once the lock is held: several processes do the work once.
func (s *Store) once(ctx context.Context, name string, have func() (bool, error), do func() error) (err error) {
	ok, err := have()
	if err != nil || ok {
		return err
	}
	unlock, err := s.disk.Lock(ctx, name)
	if err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	defer func() {
		if uerr := unlock(); uerr != nil && err == nil {
			err = uerr
		}
	}()
	ok, err = have()
	if err != nil || ok {
		return err
	}
	return do()
}

// walkLayers visits the layers of the store.
func (s *Store) walkLayers(ctx context.Context, fn func(DiffID) error) error {
	return s.walkNames(ctx, layersDir, func(name string) error {
		d, err := ParseDiffID("sha256:" + name)
		if err != nil {
			return nil //nolint:nilerr // not a layer: some other program's file
		}
		return fn(d)
	})
}

// walkNames visits the names in a directory of the store, sorted; one that is not there
// has none.
func (s *Store) walkNames(ctx context.Context, dir string, fn func(string) error) error {
	entries, err := os.ReadDir(filepath.Join(s.disk.Root(), dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(e.Name()); err != nil {
			return err
		}
	}
	return nil
}
