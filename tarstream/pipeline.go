package tarstream

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"runtime"
	"sync"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/internal/twinhash"
	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

const (
	maxWorkers  = 16
	workQueue   = 256 // files that wait for a worker
	digestQueue = 256 // pieces of the tar that wait to be hashed
	streamQueue = 16  // pieces of one large file that wait to be hashed or written
)

// pipeline is what Import and Pack have in common: the goroutine that hashes the tar, and
// with it the contents in it, and those that put contents into the sink, and hash those
// that do not stand in the tar as they are. The first error stops it; its goroutines then
// only drain what they are given, so that the producer, which looks at err now and then,
// is never stuck.
type pipeline struct {
	ctx    context.Context //nolint:containedctx // lives for one call of Import or Pack
	cancel context.CancelCauseFunc
	sink   cas.ObjectSink
	pool   *slabPool

	digest  chan step
	work    chan task
	sum     [32]byte
	hasher  sync.WaitGroup // of the tar
	group   sync.WaitGroup // workers
	streams sync.WaitGroup
}

// piece is a part of a slab with a reference to it.
type piece struct {
	slab *slab
	data []byte
	hole int64 // this many zeros instead
}

// task is the whole contents of one file.
type task struct {
	piece
	ino  *tree.Inode
	id   tree.ObjectID // zero when it is still to be computed
	name string
	off  int64
}

// step is the next bytes of the tar: the whole contents of a file when it has an inode, a
// part of them when it has a stream, else anything. The last of a stream has no bytes.
type step struct {
	task
	stream *stream
	last   bool
}

func newPipeline(ctx context.Context, sink cas.ObjectSink, workers int) *pipeline {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	workers = min(workers, maxWorkers)
	ctx, cancel := context.WithCancelCause(ctx)
	p := &pipeline{
		ctx:    ctx,
		cancel: cancel,
		sink:   sink,
		pool:   newSlabPool(workers),
		digest: make(chan step, digestQueue),
		work:   make(chan task, workQueue),
	}
	p.hasher.Go(p.hashTar)
	for range workers {
		p.group.Go(p.storeFiles)
	}
	return p
}

// finish ends the goroutines and returns the first error, that of the producer
// included.
func (p *pipeline) finish(err error) error {
	if err != nil {
		p.cancel(err)
	}
	p.streams.Wait()
	close(p.digest)
	p.hasher.Wait() // it hands on tasks
	close(p.work)
	p.group.Wait()
	err = context.Cause(p.ctx)
	p.cancel(nil)
	return err
}

// passed takes what the producer has passed of a slab, and its reference.
func (p *pipeline) passed(s *slab, data []byte) {
	p.digest <- step{task: task{piece: piece{slab: s, data: data}}}
}

// storePassed takes the whole contents of a file, which stand in the tar as they are: it
// is passed and store in one.
func (p *pipeline) storePassed(s *slab, data []byte, ino *tree.Inode, name string, off int64) {
	s.retain()
	p.digest <- step{task: task{piece: piece{slab: s, data: data}, ino: ino, name: name, off: off}}
}

func (p *pipeline) hashTar() {
	h := twinhash.New()
	for s := range p.digest {
		live := p.ctx.Err() == nil
		switch {
		case s.stream != nil:
			s.stream.hashPassed(h, s, live)
		case live && s.ino != nil:
			s.id = h.AddSum(s.data)
			p.work <- s.task // with its reference
			continue
		case live:
			h.Add(s.data)
		}
		if s.slab != nil {
			s.slab.release()
		}
	}
	p.sum = h.Sum()
}

func (p *pipeline) storeFiles() {
	for t := range p.work {
		if p.ctx.Err() == nil {
			if err := p.storeFile(t); err != nil {
				p.cancel(&EntryError{Name: t.name, Offset: t.off, Err: err})
			}
		}
		t.slab.release()
	}
}

func (p *pipeline) storeFile(t task) error {
	if t.id.IsZero() {
		t.id = sha256.Sum256(t.data)
	}
	t.ino.Object = t.id
	if err := p.sink.PutObject(p.ctx, t.id, t.data); err != nil {
		return fmt.Errorf("store contents: %w", err)
	}
	return nil
}

// store hands over contents that lie within s, without the producer's reference.
func (p *pipeline) store(s *slab, data []byte, ino *tree.Inode, name string, off int64) {
	s.retain()
	p.work <- task{piece: piece{slab: s, data: data}, ino: ino, name: name, off: off}
}

// stream takes the contents of one large or sparse file piece by piece. Hashing and
// writing go on side by side.
type stream struct {
	p             *pipeline
	sum           *twinhash.Hash // of contents that stand in the tar as they are, else nil
	hash, write   chan piece     // hash is nil when sum is not
	ino           *tree.Inode
	name          string
	off           int64
	id            chan tree.ObjectID
	stored, holes int64
}

// stream begins the contents of a file that stand in the tar with holes left out.
func (p *pipeline) stream(ino *tree.Inode, name string, off int64) *stream {
	s := p.newStream(ino, name, off)
	s.hash = make(chan piece, streamQueue)
	p.streams.Go(s.runHash)
	p.streams.Go(s.runWrite)
	return s
}

// streamPassed begins the contents of a file that stand in the tar as they are: what is
// added to it is passed too.
func (p *pipeline) streamPassed(ino *tree.Inode, name string, off int64) *stream {
	s := p.newStream(ino, name, off)
	s.sum = twinhash.New()
	p.streams.Go(s.runWrite)
	return s
}

func (p *pipeline) newStream(ino *tree.Inode, name string, off int64) *stream {
	return &stream{
		p: p, ino: ino, name: name, off: off,
		write: make(chan piece, streamQueue),
		id:    make(chan tree.ObjectID, 1),
	}
}

// add takes the next bytes, which lie within from.
func (s *stream) add(from *slab, data []byte) {
	from.retain()
	from.retain()
	s.stored += int64(len(data))
	c := piece{slab: from, data: data}
	if s.sum != nil {
		s.p.digest <- step{task: task{piece: c}, stream: s}
	} else {
		s.hash <- c
	}
	s.write <- c
}

// hole adds n zeros to a stream that is not passed.
func (s *stream) hole(n int64) {
	s.holes += n
	s.hash <- piece{hole: n}
	s.write <- piece{hole: n}
}

// end says that no more comes.
func (s *stream) end() {
	if s.sum != nil {
		s.p.digest <- step{stream: s, last: true}
	} else {
		close(s.hash)
	}
	close(s.write)
}

// hashPassed adds a step of the stream to the hash of the tar too.
func (s *stream) hashPassed(tar *twinhash.Hash, c step, live bool) {
	if live {
		tar.AddBoth(s.sum, c.data)
	}
	if c.last {
		s.id <- s.sum.Sum()
	}
}

func (s *stream) runHash() {
	h := sha256.New()
	for c := range s.hash {
		if s.p.ctx.Err() == nil {
			h.Write(c.data)
			hashZeros(s.p.ctx, h, c.hole)
		}
		if c.slab != nil {
			c.slab.release()
		}
	}
	s.id <- tree.ObjectID(h.Sum(nil))
}

// hashZeros feeds n zeros to h, and gives up early when ctx ends.
func hashZeros(ctx context.Context, h hash.Hash, n int64) {
	if n == 0 {
		return
	}
	zeros := make([]byte, min(n, 1<<16))
	for i := 0; n > 0; i++ {
		k := min(n, int64(len(zeros)))
		h.Write(zeros[:k])
		n -= k
		if i%64 == 63 && ctx.Err() != nil {
			return
		}
	}
}

func (s *stream) runWrite() {
	err := s.writeAll()
	for c := range s.write {
		if c.slab != nil {
			c.slab.release()
		}
	}
	if err != nil {
		s.p.cancel(&EntryError{Name: s.name, Offset: s.off, Err: fmt.Errorf("store contents: %w", err)})
	}
}

func (s *stream) writeAll() (err error) {
	w, err := s.p.sink.CreateObject(s.p.ctx, s.ino.Size)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := w.Close(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	var n int64
	for c := range s.write {
		n += int64(len(c.data)) + c.hole
		if s.p.ctx.Err() == nil && err == nil {
			if c.hole > 0 {
				err = w.Skip(c.hole)
			} else {
				_, err = w.Write(c.data)
			}
		}
		if c.slab != nil {
			c.slab.release()
		}
		if err != nil {
			return err
		}
	}
	id := <-s.id
	if s.p.ctx.Err() != nil {
		return context.Cause(s.p.ctx)
	}
	if n != s.ino.Size {
		return fmt.Errorf("%d bytes came instead of %d", n, s.ino.Size)
	}
	s.ino.Object = id
	return w.Commit(id)
}

// addSparse feeds a stream with data and holes of a sparse file; next returns the next
// bytes of data, at most so many.
func (s *stream) addSparse(extents []recipe.Extent, next func(limit int64) (*slab, []byte, error)) error {
	end := int64(0)
	for _, e := range extents {
		if e.Offset > end {
			s.hole(e.Offset - end)
		}
		for n := e.Length; n > 0; {
			from, data, err := next(n)
			if err != nil {
				return err
			}
			s.add(from, data)
			n -= int64(len(data))
		}
		end = e.Offset + e.Length
	}
	if end < s.ino.Size {
		s.hole(s.ino.Size - end)
	}
	return nil
}
