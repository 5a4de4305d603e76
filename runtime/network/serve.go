package network

import (
	"context"
	"errors"
	"net"

	"golang.org/x/sync/errgroup"
)

// Serve does what the container's network needs to be done all the time, until the
// context ends, and returns nil then: it answers questions for names, and where the host's
// network may not be changed it brings published ports in. It returns at once where there
// is nothing to do, and is called at most once.
func (a *Attachment) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// One that ends by an error ends the others.
	loops, inner := errgroup.WithContext(ctx)
	if a.names != nil {
		a.names.serve(inner, loops)
	}
	if a.proxy != nil {
		if err := a.proxy.serve(inner, loops); err != nil {
			cancel()
			return errors.Join(err, ignore(loops.Wait(), net.ErrClosed))
		}
	}
	err := loops.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return ignore(err, net.ErrClosed)
}
