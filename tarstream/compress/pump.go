package compress

import "io"

// The pump keeps pumpBuffers buffers of pumpBuffer bytes: large enough that handing
// one over costs nothing against filling it, small enough to stay in a processor's
// cache on the way to the consumer.
const (
	pumpBuffer  = 256 << 10
	pumpBuffers = 4
)

// pump reads from a decoder in its own goroutine, a few buffers ahead of the consumer.
type pump struct {
	full chan chunk
	free chan []byte
	quit chan struct{} // closed by abort
	done chan struct{} // closed when the goroutine has ended
	cur  []byte        // the buffer that the consumer has now
}

type chunk struct {
	data []byte
	err  error // after data; the goroutine has ended
}

func startPump(r io.Reader) *pump {
	p := &pump{
		full: make(chan chunk, pumpBuffers),
		free: make(chan []byte, pumpBuffers),
		quit: make(chan struct{}),
		done: make(chan struct{}),
	}
	for range pumpBuffers {
		p.free <- nil // allocated when first needed: a short stream needs one
	}
	go p.run(r)
	return p
}

func (p *pump) run(r io.Reader) {
	defer close(p.done)
	for {
		var buf []byte
		select {
		case buf = <-p.free:
		case <-p.quit:
			return
		}
		if buf == nil {
			buf = make([]byte, pumpBuffer)
		}
		n := 0
		var err error
		// Half a buffer is enough: to wait for more would keep the consumer idle.
		for n < len(buf)/2 && err == nil {
			var k int
			k, err = r.Read(buf[n:])
			n += k
		}
		p.full <- chunk{data: buf[:n], err: err} // never blocks: one place per buffer
		if err != nil {
			return
		}
	}
}

// next returns the next bytes and takes back those that it returned before. The error
// belongs behind the bytes; no call may follow one.
func (p *pump) next() ([]byte, error) {
	if p.cur != nil {
		p.free <- p.cur[:cap(p.cur)]
	}
	c := <-p.full
	p.cur = c.data
	return c.data, c.err
}

// abort ends the goroutine and waits for it.
func (p *pump) abort() {
	close(p.quit)
	<-p.done
}
