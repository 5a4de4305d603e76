package compress

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// Workers is the number of processors that one [NewWriter] uses at most.
const Workers = 16

// block is a piece of the input, compressed on its own.
type block struct {
	in   []byte
	dict []byte // the end of the input before in, for encoders that want it
	out  []byte
	last bool
	err  error
	done chan struct{} // receives one value when out and err are set
}

// blockEncoder compresses blocks one after the other; each worker has its own. What it
// appends to b.out may depend on b.in, b.dict and b.last only.
type blockEncoder interface {
	encode(b *block) error
}

// parallel cuts its input into blocks of fixed size, has them compressed by several
// workers and writes the results in order. The goroutine that calls Write fills
// blocks, the workers take them from work, and one goroutine waits for them in the
// order of the input and writes. The number of blocks in being is fixed.
type parallel struct {
	w         io.Writer
	size      int // of a block
	dict      int // bytes of dictionary, 0 for none
	newWorker func() (blockEncoder, error)
	header    []byte
	trailer   func() []byte  // after the last block
	observe   func(p []byte) // all input, in order

	cur     *block
	started int // workers
	workers int
	closed  bool

	free  chan *block
	work  chan *block
	order chan *block
	wg    sync.WaitGroup
	wrote chan struct{} // closed when the writing goroutine has ended

	mu  sync.Mutex
	err error
}

func (p *parallel) start() *parallel {
	blocks := p.workers + 2 // one being filled, one being written
	p.free = make(chan *block, blocks)
	p.work = make(chan *block, blocks)
	p.order = make(chan *block, blocks)
	p.wrote = make(chan struct{})
	for range blocks {
		p.free <- &block{done: make(chan struct{}, 1)} // buffers come when needed
	}
	p.cur = <-p.free
	go p.write()
	return p
}

func (p *parallel) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

func (p *parallel) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Write compresses b. An error may belong to bytes of an earlier call.
func (p *parallel) Write(b []byte) (int, error) {
	if p.closed {
		return 0, fmt.Errorf("write to a closed compressor: %w", fs.ErrClosed)
	}
	written := 0
	for len(b) > 0 {
		if err := p.failure(); err != nil {
			return written, err
		}
		if p.cur.in == nil {
			p.cur.in = make([]byte, 0, p.size)
		}
		n := min(len(b), p.size-len(p.cur.in))
		p.observe(b[:n])
		p.cur.in = append(p.cur.in, b[:n]...)
		b = b[n:]
		written += n
		if len(p.cur.in) == p.size {
			p.submit(false)
		}
	}
	return written, nil
}

// submit hands the current block to the workers and takes a fresh one.
func (p *parallel) submit(last bool) {
	b := p.cur
	b.last = last
	if p.started < p.workers {
		p.started++
		p.wg.Go(p.run)
	}
	p.order <- b
	if last {
		p.cur = nil
		p.work <- b
		return
	}
	// The next block's dictionary is copied before the workers may hand b back.
	next := <-p.free
	next.in, next.out, next.err = next.in[:0], next.out[:0], nil
	next.dict = append(next.dict[:0], b.in[len(b.in)-p.dict:]...)
	p.cur = next
	p.work <- b
}

func (p *parallel) run() {
	enc, err := p.newWorker()
	for b := range p.work {
		if b.err = err; err == nil {
			b.err = enc.encode(b)
		}
		b.done <- struct{}{}
	}
}

func (p *parallel) write() {
	defer close(p.wrote)
	put := func(b []byte) {
		if p.failure() != nil || len(b) == 0 {
			return
		}
		n, err := p.w.Write(b)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			p.fail(err)
		}
	}
	put(p.header)
	for b := range p.order {
		<-b.done
		if b.err != nil {
			p.fail(fmt.Errorf("compress: %w", b.err))
		}
		put(b.out)
		last := b.last
		p.free <- b
		if last {
			put(p.trailer())
			return
		}
	}
}

// Close compresses what is left, finishes the stream and waits for all goroutines. It
// returns the first error of all.
func (p *parallel) Close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	p.submit(true)
	close(p.work)
	<-p.wrote
	p.wg.Wait()
	return errors.Join(p.failure())
}
