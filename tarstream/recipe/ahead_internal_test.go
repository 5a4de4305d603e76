package recipe

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
)

// slowSource has objects whose contents are their size in copies of one byte; it counts
// those that are open.
type slowSource struct {
	mu      sync.Mutex
	missing tree.ObjectID
	open    atomic.Int64
	most    atomic.Int64
	sizes   map[tree.ObjectID]int64
}

func (s *slowSource) OpenObject(_ context.Context, id tree.ObjectID) (cas.Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == s.missing {
		return nil, fs.ErrNotExist
	}
	n := s.open.Add(1)
	s.most.Store(max(n, s.most.Load()))
	return &countedReader{bytes.NewReader(bytes.Repeat(id[:1], int(s.sizes[id]))), s}, nil
}

type countedReader struct {
	*bytes.Reader
	s *slowSource
}

func (c *countedReader) Close() error {
	c.s.open.Add(-1)
	return nil
}

func TestAhead(t *testing.T) {
	src := &slowSource{sizes: map[tree.ObjectID]int64{}}
	var refs []ObjectRef
	for i := range 50 {
		id := tree.ObjectID{byte(i), 1}
		src.sizes[id] = []int64{0, 1, aheadBytes - 1, aheadBytes, aheadBytes + 1}[i%5]
		refs = append(refs, ObjectRef{ID: id, Size: src.sizes[id]})
	}
	a := openAhead(t.Context(), src, refs)
	for i, ref := range refs {
		o, err := a.next(t.Context())
		if err != nil || o.err != nil {
			t.Fatal(err, o.err)
		}
		want := bytes.Repeat([]byte{byte(i)}, int(min(ref.Size, aheadBytes)))
		if o.r.Size() != ref.Size || !bytes.Equal(o.head, want) {
			t.Errorf("object %d: %d bytes, of which %d are there", i, o.r.Size(), len(o.head))
		}
		if err := a.done(o); err != nil {
			t.Error(err)
		}
	}
	if err := a.close(); err != nil || src.open.Load() != 0 || src.most.Load() > aheadCount {
		t.Errorf("%v; %d are open, %d were", err, src.open.Load(), src.most.Load())
	}
}

// TestAheadStops ends before all was taken, after an error and by the context.
func TestAheadStops(t *testing.T) {
	src := &slowSource{sizes: map[tree.ObjectID]int64{}, missing: tree.ObjectID{3}}
	var refs []ObjectRef
	for i := range 100 {
		refs = append(refs, ObjectRef{ID: tree.ObjectID{byte(i)}})
	}
	for _, taken := range []int{0, 1, 4, 20} {
		a := openAhead(t.Context(), src, refs)
		for i := range taken {
			o, err := a.next(t.Context())
			if err != nil || errors.Is(o.err, fs.ErrNotExist) != (i == 3) {
				t.Error(i, err, o.err)
			}
			if err := a.done(o); err != nil {
				t.Error(err)
			}
		}
		if err := a.close(); err != nil || src.open.Load() != 0 {
			t.Errorf("after %d: %v, %d are open", taken, err, src.open.Load())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	a := openAhead(ctx, src, refs)
	cancel()
	for {
		o, err := a.next(ctx)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			break
		}
		if err := a.done(o); err != nil {
			t.Error(err)
		}
	}
	if err := a.close(); err != nil || src.open.Load() != 0 {
		t.Errorf("cancelled: %v, %d are open", err, src.open.Load())
	}
}
