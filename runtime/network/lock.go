package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Names of files that are locked.
const (
	lockFile  = "lock"
	setupFile = "setup"
)

// lock takes a lock of flock(2), unix.LOCK_SH or unix.LOCK_EX, and waits for it as long
// as the context lasts. Closing the file gives it back.
func (n *Networks) lock(ctx context.Context, name string, how int) (*os.File, error) {
	f, err := n.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of networks: %w", err)
	}
	// Locks are held for milliseconds. One that waits in the kernel could not be given up
	// when the context ends.
	const first, most = time.Millisecond / 4, 8 * time.Millisecond
	for pause := first; ; pause = min(2*pause, most) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock networks: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for lock of networks: %w", context.Cause(ctx)), f.Close())
		case <-time.After(pause):
		}
	}
}
