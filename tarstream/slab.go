package tarstream

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	slabSize = 1 << 20  // bytes in an ordinary slab
	maxWhole = 16 << 20 // contents up to this many bytes are handled in one piece
	// slabBudget bounds the slabs of one import. It has room for the slab being
	// parsed, one that takes over from it, and as much in flight.
	slabBudget = 64 << 20
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

func newSlabPool(budget int) *slabPool {
	p := &slabPool{budget: budget, free: make(map[int][]*slab)}
	p.freed.L = &p.mu
	return p
}

// take returns a slab of at least n bytes with one reference. Held says how many bytes
// the caller itself holds on to, for which waiting would be in vain.
func (p *slabPool) take(n, held int) *slab {
	size := slabSize
	if n > size {
		size = 1 << bits.Len(uint(n-1))
	}
	p.mu.Lock()
	for p.used > held && p.used+size > p.budget {
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
	p.mu.Lock()
	size := len(s.buf)
	p.used -= size
	if p.kept+p.used+size <= p.budget {
		p.kept += size
		p.free[size] = append(p.free[size], s)
	}
	p.mu.Unlock()
	p.freed.Signal()
}
