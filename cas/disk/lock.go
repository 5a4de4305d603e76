package disk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Lock takes the exclusive lock of that name, across processes, and waits for it until
// ctx ends. It serves to do work once: take it, look whether the work is done, do it.
// The names need not exist and nothing is created, so a full disk does not matter.
// unlock may be called more than once.
func (s *Store) Lock(ctx context.Context, name string) (unlock func() error, err error) {
	unlock, err = s.lockName(ctx, "name:"+name, true)
	if err != nil {
		return nil, fmt.Errorf("lock %q: %w", name, err)
	}
	return unlock, nil
}

// TryLock is Lock without waiting; ok is false when somebody else has the lock.
func (s *Store) TryLock(ctx context.Context, name string) (unlock func() error, ok bool, err error) {
	unlock, err = s.lockName(ctx, "name:"+name, false)
	if errors.Is(err, errLocked) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("lock %q: %w", name, err)
	}
	return unlock, true, nil
}

// errLocked is returned by lockName when it is not to wait.
var errLocked = errors.New("locked by another process")

// lockName locks one byte of the file of names, far beyond its end, at an offset that
// is a hash of the name. Two names share an offset once in 2^62 pairs, and then merely
// wait for each other.
func (s *Store) lockName(ctx context.Context, name string, wait bool) (unlock func() error, err error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	f, err := s.root.OpenFile(namesFile, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(name))
	lock := func(f *os.File, wait bool) error {
		cmd := unix.F_OFD_SETLK
		if wait {
			cmd = unix.F_OFD_SETLKW
		}
		return unix.FcntlFlock(f.Fd(), cmd, &unix.Flock_t{
			Type:  unix.F_WRLCK,
			Start: int64(binary.BigEndian.Uint64(sum[:]) >> 2),
			Len:   1,
		})
	}
	if !wait {
		if err := lock(f, false); err != nil {
			if wouldBlock(err) {
				err = errLocked
			}
			return nil, errors.Join(err, f.Close())
		}
		return unlocker(f), nil
	}
	return waitLock(ctx, f, lock)
}

// Share takes the store lock together with all others who share it. While it is held,
// no sweep runs: what exists goes on to exist. Hold it briefly, never while data moves.
func (s *Store) Share(ctx context.Context) (unlock func() error, err error) {
	if err := s.passGate(ctx); err != nil {
		return nil, fmt.Errorf("share the store lock: %w", err)
	}
	f, err := s.root.Open(lockFile)
	if err != nil {
		return nil, fmt.Errorf("share the store lock: %w", err)
	}
	unlock, err = waitLock(ctx, f, flockOf(unix.LOCK_SH))
	if err != nil {
		return nil, fmt.Errorf("share the store lock: %w", err)
	}
	return unlock, nil
}

// gatePatience is how long one who shares the store lock stands back for one who waits
// to have it alone. It is finite, so that sharing it twice is not a deadlock.
const (
	gatePatience = time.Second
	gateStep     = 5 * time.Millisecond
)

// passGate waits while someone waits for the store lock to be exclusive: else those
// who share it, one after another, could keep him from ever getting it.
func (s *Store) passGate(ctx context.Context) error {
	f, err := s.root.Open(gateFile)
	if err != nil {
		return err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	for waited := time.Duration(0); err != nil && waited < gatePatience; waited += gateStep {
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(gateStep):
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	}
	return f.Close()
}

// Exclusive takes the store lock alone: until it is unlocked nobody publishes, and
// nobody else sweeps. It is for changes that take away, and must be short.
func (s *Store) Exclusive(ctx context.Context) (unlock func() error, err error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	gate, err := s.root.Open(gateFile)
	if err != nil {
		return nil, fmt.Errorf("take the store lock: %w", err)
	}
	openGate, err := waitLock(ctx, gate, flockOf(unix.LOCK_EX))
	if err != nil {
		return nil, fmt.Errorf("take the store lock: %w", err)
	}
	f, err := s.root.Open(lockFile)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take the store lock: %w", err), openGate())
	}
	unlock, err = waitLock(ctx, f, flockOf(unix.LOCK_EX))
	if err := errors.Join(err, openGate()); err != nil {
		return nil, fmt.Errorf("take the store lock: %w", err)
	}
	return unlock, nil
}

// flockOf returns the lock function that takes an flock of that kind.
func flockOf(how int) func(f *os.File, wait bool) error {
	return func(f *os.File, wait bool) error {
		if !wait {
			return unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		}
		return unix.Flock(int(f.Fd()), how)
	}
}

func wouldBlock(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES)
}

// waitLock takes a lock on f and returns what releases it by closing f. It owns f
// whatever happens.
//
// The kernel's wait cannot be interrupted, so it happens in a goroutine. When ctx ends
// first, the goroutine is left behind and closes f as soon as it has the lock.
func waitLock(ctx context.Context, f *os.File, lock func(f *os.File, wait bool) error) (unlock func() error, err error) {
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	err = lock(f, false)
	if err == nil {
		return unlocker(f), nil
	}
	if !wouldBlock(err) {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	var (
		mu        sync.Mutex
		abandoned bool
		done      = make(chan error, 1)
	)
	go func() {
		err := lock(f, true)
		for errors.Is(err, unix.EINTR) {
			err = lock(f, true)
		}
		mu.Lock()
		defer mu.Unlock()
		if abandoned {
			err = errors.Join(err, f.Close())
		}
		done <- err
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		mu.Lock()
		defer mu.Unlock()
		select {
		case err = <-done: // it came just now
		default:
			abandoned = true
			return nil, context.Cause(ctx)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return unlocker(f), nil
}

// unlocker returns a function that closes f, once.
func unlocker(f *os.File) func() error { return sync.OnceValue(f.Close) }
