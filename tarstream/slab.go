package tarstream

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	slabSize = 128 << 10 // bytes in an ordinary slab
	maxWhole = 8 << 20   // contents up to this many bytes are handled in one piece

	// slabBudget is what the slabs of one import may use for each worker. More would
	// only let the parser run ahead, until what it has read is no longer in a cache
	// when it is hashed. A larger slab waits until little else is in flight.
	slabBudget = 512 << 10
	slabKeep   = 2 * maxWhole // bytes in free slabs that are kept for reuse
)

// slab is a buffer that the tar is read into. It goes back to its pool when the last
// user has released it.
type slab struct {
	buf  []byte
	refs atomic.Int32
	pool *slabPool
}

func (s *slab) retain() { s.refs.Add(1) }

func (s *slab) release() {
	if s.refs.Add(-1) == 0 {
		s.pool.put(s)
	}
}

// slabPool hands out slabs, sizes being powers of two, and waits when too many are in
// flight. Only one goroutine takes from it.
type slabPool struct {
	mu     sync.Mutex
	freed  sync.Cond
	used   int // bytes handed out
	kept   int // bytes in free
	budget int
	free   map[int][]*slab // by size
}

func newSlabPool(workers int) *slabPool {
	p := &slabPool{budget: workers * slabBudget, free: make(map[int][]*slab)}
	p.freed.L = &p.mu
	return p
}

// take returns a slab of at least n bytes with one reference. Held is nil or the slab
// that the caller itself holds on to, for which waiting would be in vain.
func (p *slabPool) take(n int, held *slab) *slab {
	size, own := slabSize, 0
	if n > size {
		size = 1 << bits.Len(uint(n-1))
	}
	if held != nil {
		own = len(held.buf)
	}
	p.mu.Lock()
	for limit := max(p.budget, 2*size); p.used > own && p.used+size > limit; {
		p.freed.Wait()
	}
	p.used += size
	var s *slab
	if list := p.free[size]; len(list) > 0 {
		s = list[len(list)-1]
		p.free[size] = list[:len(list)-1]
		p.kept -= size
	}
	p.mu.Unlock()
	if s == nil {
		s = &slab{buf: make([]byte, size), pool: p}
	}
	s.refs.Store(1)
	return s
}

func (p *slabPool) put(s *slab) {
	size := len(s.buf)
	p.mu.Lock()
	p.used -= size
	if p.kept+size <= slabKeep {
		p.kept += size
		p.free[size] = append(p.free[size], s)
	}
	p.mu.Unlock()
	p.freed.Signal()
}
