package union

import "sync"

// handles are open files by the number that the kernel is given; 0 is none.
type handles[T any] struct {
	mu   sync.RWMutex
	all  []*T
	free []uint64
}

func newHandles[T any]() handles[T] { return handles[T]{all: []*T{nil}} }

func (h *handles[T]) add(one *T) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last := len(h.free) - 1; last >= 0 {
		fh := h.free[last]
		h.free = h.free[:last]
		h.all[fh] = one
		return fh
	}
	h.all = append(h.all, one)
	return uint64(len(h.all) - 1)
}

// get returns nil for 0 and for numbers that nobody has.
func (h *handles[T]) get(fh uint64) *T {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if fh >= uint64(len(h.all)) {
		return nil
	}
	return h.all[fh]
}

func (h *handles[T]) remove(fh uint64) *T {
	h.mu.Lock()
	defer h.mu.Unlock()
	if fh == 0 || fh >= uint64(len(h.all)) || h.all[fh] == nil {
		return nil
	}
	one := h.all[fh]
	h.all[fh] = nil
	h.free = append(h.free, fh)
	return one
}

// take removes all.
func (h *handles[T]) take() []*T {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.all
	h.all, h.free = []*T{nil}, nil
	return all
}
