package logs

import (
	"sync"
)

// Ring takes output of a container without ever holding it up: what a slow disk does
// not take in time is kept up to a limit, and beyond that the oldest is lost, as with
// Docker's mode=non-blocking. Close it when done.
type Ring struct {
	w    *Writer
	most int64

	mu      sync.Mutex // guards what follows
	wake    *sync.Cond
	queue   []chunk
	held    int64 // bytes in the queue
	lost    int64
	closed  bool
	err     error
	stopped chan struct{}
}

type chunk struct {
	stream Stream
	text   []byte
}

// DefaultBuffer is how many bytes a Ring keeps, as in Docker.
const DefaultBuffer = 1 << 20

// NewRing returns a Ring before a Writer, which it owns, of so many bytes; 0 is
// DefaultBuffer.
func NewRing(w *Writer, most int64) *Ring {
	if most <= 0 {
		most = DefaultBuffer
	}
	r := &Ring{w: w, most: most, stopped: make(chan struct{})}
	r.wake = sync.NewCond(&r.mu)
	go r.drain()
	return r
}

// Write takes a copy of p and returns the error that writing had before, if any.
func (r *Ring) Write(s Stream, p []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, chunk{s, append([]byte(nil), p...)})
	r.held += int64(len(p))
	for r.held > r.most && len(r.queue) > 1 {
		n := int64(len(r.queue[0].text))
		r.queue = r.queue[1:]
		r.held -= n
		r.lost += n
	}
	r.wake.Signal()
	return r.err
}

// Lost returns how many bytes were lost so far.
func (r *Ring) Lost() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

func (r *Ring) drain() {
	defer close(r.stopped)
	for {
		r.mu.Lock()
		for len(r.queue) == 0 && !r.closed {
			r.wake.Wait()
		}
		if len(r.queue) == 0 {
			r.mu.Unlock()
			return
		}
		c := r.queue[0]
		r.queue = r.queue[1:]
		r.held -= int64(len(c.text))
		r.mu.Unlock()
		if err := r.w.Write(c.stream, c.text); err != nil {
			r.mu.Lock()
			r.err = err
			r.mu.Unlock()
		}
	}
}

// Close writes what is kept and closes the Writer.
func (r *Ring) Close() error {
	r.mu.Lock()
	r.closed = true
	r.wake.Signal()
	r.mu.Unlock()
	<-r.stopped
	return r.w.Close()
}
