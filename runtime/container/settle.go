package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Settle brings the state of a container that nobody attends any more to its end: a
// first process that outlived its monitor is killed, and the state says that the
// container has exited. It returns the state; of a container that is attended, or does
// not run, as it is.
func (s *Store) Settle(ctx context.Context, id ID) (*State, error) {
	st, err := s.state(id)
	if err != nil {
		return nil, fmt.Errorf("state of container %s: %w", id.Short(), err)
	}
	if !st.Active() || st.Monitor.Alive() {
		return st, nil
	}
	if err := s.end(ctx, st.Process); err != nil {
		return nil, fmt.Errorf("end container %s, whose monitor was killed: %w", id.Short(), err)
	}
	return s.Change(ctx, id, func(st *State) error {
		st.Monitor, st.Process = Proc{}, Proc{}
		return nil
	})
}

// end kills a process, if it runs, and waits until it has gone: its mounts and its
// children have gone then as well.
func (s *Store) end(ctx context.Context, p Proc) error {
	handle, err := p.Open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer handle.Release() //nolint:errcheck // a handle without content
	if err := handle.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return Gone(ctx, p)
}

// Gone waits until a process of this pid namespace has ended.
func Gone(ctx context.Context, p Proc) error {
	const longest = 50 * time.Millisecond
	for step := time.Millisecond; p.Alive(); step = min(2*step, longest) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(step):
		}
	}
	return nil
}
