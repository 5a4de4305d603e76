package disk

import (
	"context"
	"sync"
	"sync/atomic"
)

// earlyBytes is how many new bytes make it worth while to begin to flush before Publish.
// Of 1.3 GB in 40,000 objects, on ext4 and xfs on a busy machine, Publish took 0.12 to
// 0.44 times as long as without, and all together 0.5 to 0.85 times in five pairs of runs
// and 1.2 times in the sixth.
const earlyBytes = 128 << 20

// earlyFlush writes out a large batch while it is still being put, so that the disk does
// not stand idle until Publish.
type earlyFlush struct {
	bytes   atomic.Int64 // since the last one began
	running sync.Mutex   // held while one runs
	stopped bool         // guarded by running
}

// wrote counts bytes written by the batch.
func (in *Ingest) wrote(n int) {
	e := &in.early
	if e.bytes.Add(int64(n)) < earlyBytes || !e.running.TryLock() {
		return
	}
	e.bytes.Store(0)
	if e.stopped {
		e.running.Unlock()
		return
	}
	go func() {
		defer e.running.Unlock()
		if err := in.flusher.FlushAll(context.Background()); err != nil {
			in.poison(err)
		}
	}()
}

// wait waits until none runs, and has reported its error: the kernel tells an error of
// writing back to one flush only.
func (e *earlyFlush) wait() {
	e.running.Lock()
	defer e.running.Unlock()
}

// stop waits until none runs, and lets none begin any more.
func (e *earlyFlush) stop() {
	e.running.Lock()
	defer e.running.Unlock()
	e.stopped = true
}
