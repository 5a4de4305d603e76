package tarstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"sync"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
)

// memory is an object store for tests. It checks that ids are right.
type memory struct {
	mu      sync.Mutex
	objects map[tree.ObjectID][]byte
	holes   map[tree.ObjectID]int64
	open    int
	fail    error
}

func newMemory() *memory {
	return &memory{objects: map[tree.ObjectID][]byte{}, holes: map[tree.ObjectID]int64{}}
}

func (m *memory) PutObject(_ context.Context, id tree.ObjectID, data []byte) error {
	if m.fail != nil {
		return m.fail
	}
	if sha256.Sum256(data) != id {
		return fmt.Errorf("put object: id does not match")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects[id] == nil {
		m.objects[id] = bytes.Clone(data)
	}
	return nil
}

func (m *memory) CreateObject(_ context.Context, size int64) (cas.ObjectWriter, error) {
	if m.fail != nil {
		return nil, m.fail
	}
	m.mu.Lock()
	m.open++
	m.mu.Unlock()
	return &memoryWriter{m: m, size: size}, nil
}

func (m *memory) OpenObject(_ context.Context, id tree.ObjectID) (cas.Reader, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.objects[id]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return memoryReader{bytes.NewReader(data)}, nil
}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

type memoryWriter struct {
	m      *memory
	buf    []byte
	size   int64
	holes  int64
	closed bool
}

func (w *memoryWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	return len(p), nil
}

func (w *memoryWriter) Skip(n int64) error {
	w.buf = append(w.buf, make([]byte, n)...)
	w.holes += n
	return nil
}

func (w *memoryWriter) Commit(id tree.ObjectID) error {
	if int64(len(w.buf)) != w.size {
		return fmt.Errorf("commit object: %d bytes instead of %d", len(w.buf), w.size)
	}
	if sha256.Sum256(w.buf) != id {
		return fmt.Errorf("commit object: id does not match")
	}
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	if w.m.objects[id] == nil {
		w.m.objects[id] = w.buf
		w.m.holes[id] = w.holes
	}
	return nil
}

func (w *memoryWriter) Close() error {
	if !w.closed {
		w.closed = true
		w.m.mu.Lock()
		w.m.open--
		w.m.mu.Unlock()
	}
	return nil
}
