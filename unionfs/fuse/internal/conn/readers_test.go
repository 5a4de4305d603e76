package conn

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/internal/testenv"
)

// waiter answers some requests only when another one has come.
type waiter struct {
	empty
	blocked sync.WaitGroup // requests that wait
	release chan struct{}
	trims   atomic.Int32
}

func (w *waiter) Trim() { w.trims.Add(1) }

func (w *waiter) GetXAttr(_ <-chan struct{}, _ *fuse.InHeader, name string, _ []byte) (uint32, fuse.Status) {
	switch name {
	case "user.wait":
		w.blocked.Done()
		<-w.release
	case "user.release":
		close(w.release)
	}
	return 0, fuse.ENODATA
}

// TestSlowRequests has many requests wait for one that comes after them all.
func TestSlowRequests(t *testing.T) {
	testenv.FuseDevice(t)
	testenv.Root(t)
	m, err := Open(t.Context(), MountOptions{})
	must(t, err)
	w := &waiter{empty: empty{RawFileSystem: fuse.NewDefaultRawFileSystem(), Mode: 0o711}, release: make(chan struct{})}
	s, err := Start(m.Device, w, fuse.MountOptions{})
	must(t, err)
	path := mountapi.FdPath(m.FD())
	ask := func(name string) error {
		_, err := unix.Getxattr(path, name, nil)
		return err
	}
	const slow = 20
	w.blocked.Add(slow)
	var done sync.WaitGroup
	for range slow {
		done.Go(func() {
			if err := ask("user.wait"); !errors.Is(err, unix.ENODATA) {
				t.Error(err)
			}
		})
	}
	w.blocked.Wait()
	if err := ask("user.release"); !errors.Is(err, unix.ENODATA) {
		t.Error(err)
	}
	done.Wait()
	for range 2 * trimEvery {
		if err := ask("user.quick"); !errors.Is(err, unix.ENODATA) {
			t.Fatal(err)
		}
	}
	if n := w.trims.Load(); n < 2 {
		t.Errorf("%d calls of Trim, want 2", n)
	}
	// Those that were added have ended, but for one that may be about to.
	if n := s.waiting.Load(); n > s.enough+1 {
		t.Errorf("%d readers wait, want %d", n, s.enough)
	}
	must(t, m.Close())
	<-s.Ended()
	if n := s.all.Load(); n != 0 {
		t.Errorf("%d readers are left", n)
	}
}
