package recipe

import (
	"context"
	"errors"
	"io"

	"github.com/layerfs/layerfs/cas"
)

const (
	// aheadCount is how many objects are opened and read before their turn. One after
	// another they would cost a disk that is cold one wait each.
	aheadCount = 8
	aheadBytes = 64 << 10 // of each
)

// opened is an object with its first bytes.
type opened struct {
	r    cas.Reader
	head []byte // the first aheadBytes, or all
	buf  []byte // of head, to be given back
	err  error
}

// ahead opens objects in the order in which they are wanted.
type ahead struct {
	cancel context.CancelFunc
	queue  chan chan opened // in order; closed at the end
	free   chan []byte
}

// openAhead begins to open objects. The caller takes them with next, and closes the
// ahead.
func openAhead(ctx context.Context, src cas.ObjectSource, refs []ObjectRef) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{cancel: cancel, queue: make(chan chan opened, aheadCount), free: make(chan []byte, aheadCount)}
	for range min(aheadCount, len(refs)) {
		a.free <- nil // made when needed
	}
	go func() {
		defer close(a.queue)
		for _, ref := range refs {
			var buf []byte
			select {
			case buf = <-a.free:
			case <-ctx.Done():
				return
			}
			o := make(chan opened, 1)
			a.queue <- o // never blocks: it has a place for each buffer
			go func() { o <- openOne(ctx, src, ref, buf) }()
		}
	}()
	return a
}

func openOne(ctx context.Context, src cas.ObjectSource, ref ObjectRef, buf []byte) opened {
	if buf == nil {
		buf = make([]byte, aheadBytes)
	}
	r, err := src.OpenObject(ctx, ref.ID)
	if err != nil {
		return opened{buf: buf, err: err}
	}
	n, err := r.ReadAt(buf[:min(int64(len(buf)), r.Size())], 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err != nil {
		n = 0 // whoever wants these bytes meets the error
	}
	return opened{r: r, head: buf[:n], buf: buf}
}

// next returns the next object; the caller gives it back with done. There is one for
// each of the references.
func (a *ahead) next(ctx context.Context) (opened, error) {
	select {
	case o, ok := <-a.queue:
		if ok {
			return <-o, nil
		}
		return opened{}, context.Cause(ctx)
	case <-ctx.Done():
		return opened{}, context.Cause(ctx)
	}
}

// done closes an object and lets another be opened.
func (a *ahead) done(o opened) error {
	var err error
	if o.r != nil {
		err = o.r.Close()
	}
	a.free <- o.buf // never blocks: it came from there
	return err
}

// close ends it, and closes what nobody took.
func (a *ahead) close() error {
	a.cancel()
	var errs []error
	for o := range a.queue {
		if left := <-o; left.r != nil {
			errs = append(errs, left.r.Close())
		}
	}
	return errors.Join(errs...)
}
