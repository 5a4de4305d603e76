package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Watch tells when something in a directory changes. Close it when done.
type Watch struct{ f *os.File }

// NewWatch watches the files of a directory: those that are written to, made, renamed
// and removed.
func NewWatch(dir string) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	const events = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_DELETE_SELF
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", dir, err), f.Close())
	}
	return &Watch{f}, nil
}

// Close ends the watch.
func (w *Watch) Close() error { return w.f.Close() }

// Next waits until something has changed since the last call, or for the given time,
// whichever is first. It returns the context's error when that ends.
func (w *Watch) Next(ctx context.Context, most time.Duration) error {
	if err := w.f.SetReadDeadline(time.Now().Add(most)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = w.f.SetReadDeadline(time.Unix(1, 0)) // it only fails on a closed file, which wakes as well
	})
	defer stop()
	// What changed does not matter: who is woken looks for himself.
	var buf [4096]byte
	_, err := w.f.Read(buf[:])
	if cerr := ctx.Err(); cerr != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// attention is how often one who waits looks whether the monitor still lives: its death
// changes no file.
const attention = time.Second

// Wait waits until done says so of a container's state, and returns that state. It
// returns an error that wraps fs.ErrNotExist when the container is removed.
func (s *Store) Wait(ctx context.Context, id ID, done func(*State) bool) (_ *State, err error) {
	if st, err := s.State(id); err != nil || done(st) {
		return st, err
	}
	w, err := NewWatch(s.Dir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("container %s: %w", id.Short(), fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for {
		st, err := s.State(id)
		if err != nil || done(st) {
			return st, err
		}
		if err := w.Next(ctx, attention); err != nil {
			return st, err
		}
	}
}
