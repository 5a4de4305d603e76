package main

import (
	"context"
	"errors"
	"time"

	"github.com/layerfs/layerfs/snapshot"
)

// clockStep is by how much the time of a file may lag behind the clock: file systems
// count in ticks of the kernel, a few milliseconds, or in whole seconds.
const clockStep = time.Second

// beginSession begins a session for a command that adds to the store. What it returns
// ends the session, and if the command failed, takes back what it had stored until
// then: a layer that was sound is of no use when the image was refused. Whatever
// somebody else has come to need meanwhile stays.
func (a *app) beginSession(ctx context.Context) (*snapshot.Session, func(*error), error) {
	began := time.Now().Add(-clockStep)
	epoch, err := a.disk.Epoch(ctx)
	if err != nil {
		return nil, nil, err
	}
	sess, err := a.snaps.Begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	return sess, func(err *error) {
		*err = errors.Join(*err, sess.Close())
		if *err == nil {
			return
		}
		ctx := context.WithoutCancel(ctx)
		if now, eerr := a.disk.Epoch(ctx); eerr == nil && now == epoch {
			return // nothing was stored
		}
		if _, cerr := a.snaps.Collect(ctx, a.roots, snapshot.CollectOptions{Since: began}); cerr != nil {
			// It does no harm where it is, and the next gc finds it.
			a.logger().Warn("what a failed command stored is still there", "error", cerr)
		}
	}, nil
}
