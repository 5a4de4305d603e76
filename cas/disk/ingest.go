package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/internal/durable"
	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

// Stats counts what a batch has taken in, published or not.
type Stats struct {
	Objects Sum // objects that were new to the store
	Known   Sum // objects that the store or the batch had already, counted at each put
	Blobs   Sum // blobs that were new to the store
}

// Ingest is one batch across blobs, objects and records. All that it takes in becomes
// visible, and durable, in [Ingest.Publish]. It is safe for concurrent use. A process
// that dies leaves a directory below ingest/, which [Store.CleanIngest] removes.
type Ingest struct {
	s       *Store
	id      string
	dir     *os.File // ingest/<id>
	owner   *os.File // flock'ed as long as the ingest lives
	flusher *durable.Flusher
	chmod   bool   // the umask takes away bits of 0444
	sweeps  uint64 // when it was last known that everything found is there
	crowd   int64  // how many objects a directory holds, about

	gate   sync.RWMutex // held shared to put, exclusively to publish and close
	closed bool
	early  earlyFlush
	shards [256]shard // by the first byte of the id, as the directories are

	mu    sync.Mutex
	idle  []*slab // open, the last used last
	full  []*slab
	slabs int                     // made so far
	files []file                  // complete and not published, in order
	blobs map[string]bool         // paths of those among files, now or before
	next  int                     // number of the next file's name
	open  map[*tempFile]struct{}  // writers that are neither committed nor closed
	locks map[string]func() error // of the blobs being written, by digest
	kept  map[string]bool         // records named in the owner file
	noted int                     // bytes of their lines
	// Objects that were found or published, and blobs and records that were found:
	// Publish looks whether they still are.
	promised []objectRef
	found    []string
	touched  map[string]bool // directories that received contents and are not flushed
	fail     error           // why nothing can be published any more
	stats    Stats
}

// objectRef is an object and its size.
type objectRef struct {
	id   tree.ObjectID
	size int64
}

// file is complete content or a record under a temporary name in the ingest directory.
type file struct {
	temp   string        // name in the ingest directory
	rel    string        // where it belongs, below the root
	size   int64         // bytes
	id     tree.ObjectID // not zero for an object
	record bool
}

// slabFiles is how many small objects are created in one directory. Few keep data that
// was imported together together, and the directory small.
const slabFiles = 1000

// slab is a directory of small objects, named by their index in objects.
type slab struct {
	name    string // below the ingest directory
	dir     *os.File
	objects []objectRef
	made    int // files created, so the next name
}

var (
	_ cas.ObjectSink   = (*Ingest)(nil)
	_ cas.ObjectSource = (*Store)(nil)
)

// Begin starts a batch. The caller closes it.
func (s *Store) Begin(ctx context.Context) (_ *Ingest, err error) {
	if err := s.writable(); err != nil {
		return nil, fmt.Errorf("begin ingest: %w", err)
	}
	in := &Ingest{
		s: s, id: rand.Text(),
		blobs: map[string]bool{}, open: map[*tempFile]struct{}{}, locks: map[string]func() error{}, kept: map[string]bool{},
		touched: map[string]bool{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("begin ingest: %w", err), in.Close())
		}
	}()
	usage, err := s.readUsage(ctx)
	if err != nil {
		return nil, err
	}
	in.sweeps = usage.Sweeps
	in.crowd = usage.Objects.Count / int64(len(in.shards))
	// Who looks for dead ingests locks out that one is half begun.
	parent, err := s.root.Open(ingestDir)
	if err != nil {
		return nil, err
	}
	unlock, err := waitLock(ctx, parent, flockOf(unix.LOCK_SH))
	if err != nil {
		return nil, err
	}
	return in, errors.Join(in.create(), unlock())
}

// create makes the directory with its locked owner file.
func (in *Ingest) create() error {
	root := in.s.root
	if err := root.Mkdir(in.path(""), 0o700); err != nil {
		return err
	}
	var err error
	if in.dir, err = root.Open(in.path("")); err != nil {
		return err
	}
	if in.owner, err = root.OpenFile(in.path(ownerFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o444); err != nil {
		return err
	}
	fi, err := in.owner.Stat()
	if err != nil {
		return err
	}
	in.chmod = fi.Mode().Perm() != 0o444
	if err := unix.Flock(int(in.owner.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", in.owner.Name(), err)
	}
	if _, err := fmt.Fprintf(in.owner, "pid %d\nstarted %d\n", os.Getpid(), time.Now().Unix()); err != nil {
		return err
	}
	in.flusher, err = durable.NewFlusher(root, in.s.opts.NoSync)
	return err
}

// path returns the path below the root of a name in the ingest directory.
func (in *Ingest) path(name string) string {
	if name == "" {
		return ingestDir + "/" + in.id
	}
	return ingestDir + "/" + in.id + "/" + name
}

// ID returns the name of the directory below ingest/.
func (in *Ingest) ID() string { return in.id }

// Stats returns what the batch has taken in so far.
func (in *Ingest) Stats() Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.stats
}

// usable returns why nothing can be put any more. The caller holds gate.
func (in *Ingest) usable(ctx context.Context) error {
	if in.closed {
		return fmt.Errorf("ingest %s: %w", in.id, fs.ErrClosed)
	}
	return ctx.Err()
}

// poison makes Publish fail: something was promised that is not there.
func (in *Ingest) poison(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.fail == nil {
		in.fail = err
	}
}

// Close removes the ingest directory with all that was not published. Writers that are
// still open fail from then on. Close again does nothing. It needs no free space.
func (in *Ingest) Close() error {
	in.gate.Lock()
	defer in.gate.Unlock()
	if in.closed {
		return nil
	}
	in.closed = true
	in.early.stop()
	in.mu.Lock()
	defer in.mu.Unlock()
	var errs []error
	for _, sl := range in.idle {
		errs = append(errs, sl.dir.Close())
	}
	for t := range in.open {
		errs = append(errs, t.f.Close())
	}
	for _, unlock := range in.locks {
		errs = append(errs, unlock())
	}
	clear(in.open)
	clear(in.locks)
	if in.flusher != nil {
		errs = append(errs, in.flusher.Close())
	}
	if in.dir != nil {
		// A publication that failed in the middle has left its mark.
		errs = append(errs, in.dir.Close(), in.s.settle(context.Background(), in.id), in.s.root.RemoveAll(in.path("")))
	}
	// The lock goes last, so that nobody takes the remains for a dead ingest.
	if in.owner != nil {
		errs = append(errs, in.owner.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close ingest %s: %w", in.id, err)
	}
	return nil
}
