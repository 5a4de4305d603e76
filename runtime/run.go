package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	goruntime "runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultGrace is Docker's time between the polite and the other signal.
const defaultGrace = 10 * time.Second

// Run starts the container as [Start] does and waits for its end, which is the end of
// its first process. All other processes of it are killed then, and its mounts undone,
// by the end of its namespaces, which Run waits for.
//
// An error says that the container could not be started, and Status.ExitCode has the
// code for it; or that the context ended and the container was stopped for it, in which
// case the error wraps the context's cause and Status is how it ended. An exit code
// other than 0 is no error. Errors of a step are an [*Error].
//
// Unlike Start, it makes the process on the caller's thread, so that a goroutine that is
// locked to a thread hands on that thread's namespaces and credentials.
func Run(ctx context.Context, c Config) (Status, error) {
	// The kernel kills the process when the thread that made it ends.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	p, err := start(ctx, &c)
	if err != nil {
		return Status{ExitCode: StartCode(err)}, err
	}
	if c.Started != nil {
		c.Started(p.Pid())
	}
	status, err := p.follow(ctx, &c)
	if h := c.Spec.Hooks; h != nil {
		err = errors.Join(err, RunHooks(context.WithoutCancel(ctx), "poststop", h.Poststop, c.state(specs.StateStopped, 0)))
	}
	return status, errors.Join(err, p.Close())
}

// ended is the outcome of waiting for a process.
type ended struct {
	status Status
	err    error
}

// follow passes signals on until the process ends.
func (p *Process) follow(ctx context.Context, c *Config) (Status, error) {
	grace := c.Grace
	if grace == 0 {
		grace = defaultGrace
	}
	end := make(chan ended, 1)
	go func() {
		status, err := p.Wait()
		end <- ended{status, err}
	}()
	signals, done := c.Signals, ctx.Done()
	var kill <-chan time.Time
	for {
		select {
		case s, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			if err := p.forward(s); err != nil {
				c.Logger.Warn("signal not forwarded", "signal", s.String(), "error", err)
			}
		case <-done:
			done = nil
			first := unix.SIGTERM
			if grace < 0 {
				first = unix.SIGKILL
			} else {
				timer := time.NewTimer(grace)
				defer timer.Stop()
				kill = timer.C
			}
			if err := p.Signal(first); err != nil {
				c.Logger.Warn("container not signalled", "signal", first.String(), "error", err)
			}
		case <-kill:
			kill = nil
			if err := p.Signal(unix.SIGKILL); err != nil {
				c.Logger.Warn("container not signalled", "signal", "killed", "error", err)
			}
		case e := <-end:
			switch {
			case e.err != nil:
				return Status{ExitCode: ExitFailed}, e.err
			case done == nil && ctx.Err() != nil:
				return e.status, fmt.Errorf("container stopped: %w", context.Cause(ctx))
			}
			return e.status, nil
		}
	}
}

func (p *Process) forward(s os.Signal) error {
	number, ok := s.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v: %w", s, fs.ErrInvalid)
	}
	if number == unix.SIGCHLD || number == unix.SIGURG {
		return nil
	}
	return p.Signal(number)
}
