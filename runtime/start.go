package runtime

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	goruntime "runtime"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime/cgroup"
)

// Config is a container to start.
type Config struct {
	Spec *specs.Spec // Root.Path is not used; Root.Readonly is
	Root Root

	// The streams of the process; nil is the null device. They are passed as they are,
	// and stay the caller's to close. With Spec.Process.Terminal they must be nil.
	Stdin, Stdout, Stderr *os.File

	// Cgroup is the group to start in, with its limits applied; nil is the caller's. It
	// stays the caller's to remove.
	Cgroup *cgroup.Group

	// Detach lets the container outlive the caller. Without it, it is killed when this
	// process dies.
	Detach bool

	// Gate, if not nil, is a listening Unix socket at which the container waits before its
	// program, when all else is done: Start returns then, and [OpenGate] lets it go. It
	// takes Detach, and stays the caller's to close.
	Gate *os.File

	// Made, if not nil, is called for each file and directory that is made in the root to
	// mount on. The directories that they lie in keep their times of modification then.
	Made func(MountPoint)

	// What hooks are told of the container.
	ID, Bundle string

	Logger *slog.Logger // nil discards

	// What follows is for [Run] alone.

	// Signals are forwarded to the process, but for SIGCHLD and SIGURG, which are about
	// the caller. It may be nil, and may be closed. The first process of a pid namespace
	// gets only signals that it handles, and SIGKILL.
	Signals <-chan os.Signal

	// Grace is the time between SIGTERM and SIGKILL when the context ends; 0 means ten
	// seconds, and a negative one that there is no SIGTERM.
	Grace time.Duration

	// Started, if not nil, is called with the id of the process, as the caller's pid
	// namespace has it, once the program runs.
	Started func(pid int)
}

// Start prepares and starts the container and returns once its program runs. An error
// says why it could not, as an [*Error] where a step failed, and [StartCode] has the exit
// code for it; nothing is left then. The context bounds the start alone: what it ends
// later is no business of the container.
//
// The caller waits for the process and closes it. Without Config.Detach the process is
// made by a thread that lives as long as it does, so what a goroutine changed of the
// thread that it is locked to is not handed on.
func Start(ctx context.Context, c Config) (*Process, error) {
	if c.Detach {
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		return start(ctx, &c)
	}
	return keep(func() (*Process, error) { return start(ctx, &c) })
}

// keep starts a process on a thread that stays until it has ended, since the end of the
// thread would kill it.
func keep(start func() (*Process, error)) (*Process, error) {
	type outcome struct {
		p   *Process
		err error
	}
	started := make(chan outcome, 1)
	go func() {
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		p, err := start()
		if err != nil {
			started <- outcome{nil, err}
			return
		}
		end := make(chan ended, 1)
		p.end = end
		started <- outcome{p, nil}
		status, err := reap(p.pid)
		end <- ended{status, err}
	}()
	o := <-started
	return o.p, o.err
}

// start starts a container from the calling thread, which is locked to its goroutine.
func start(ctx context.Context, c *Config) (*Process, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("start container: %w", context.Cause(ctx))
	}
	p, err := begin(ctx, c.Logger, func(failed int) (*plan, error) { return makePlan(c, failed, false) })
	if err != nil || c.Gate != nil || c.Spec.Hooks == nil {
		return p, err
	}
	if err := RunHooks(ctx, "poststart", c.Spec.Hooks.Poststart, c.state(specs.StateRunning, p.pid)); err != nil {
		killErr := p.Signal(unix.SIGKILL)
		_, waitErr := reap(p.pid)
		return nil, errors.Join(err, killErr, waitErr, p.Close())
	}
	return p, nil
}

// begin makes a plan and a process that carries it out, from the calling thread, and
// returns once its program runs.
func begin(ctx context.Context, logger *slog.Logger, plan func(failed int) (*plan, error)) (*Process, error) {
	began := time.Now()
	ch, err := launch(plan)
	if err != nil {
		return nil, err
	}
	p := &Process{pid: ch.pid, pidfd: ch.pidfd, gate: ch.gate}
	err = ch.started(ctx)
	if ch.sync != nil {
		err = errors.Join(err, ch.sync.Close())
	}
	if err == nil && ch.terminal != nil {
		p.console, err = receiveTerminal(ch.terminal)
	}
	if ch.terminal != nil {
		err = errors.Join(err, ch.terminal.Close())
	}
	if err != nil {
		return nil, errors.Join(err, ch.abandon())
	}
	logger.Debug("process started", "pid", ch.pid, "took", time.Since(began))
	return p, nil
}

// child is a process that runs its table.
type child struct {
	pid      int
	pidfd    *os.File
	report   *os.File       // the end to read
	terminal *os.File       // what a terminal arrives on, or nil
	sync     io.WriteCloser // what it waits on, or nil
	steps    []step
	stages   []stage
	gate     *GateSteps // or nil
}

func launch(make func(failed int) (*plan, error)) (_ *child, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe for reports: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	p, err := make(int(w.Fd()))
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	back, err := p.visitAll()
	var pid, pidfd int
	if err == nil {
		pid, pidfd, err = fork(p.cloneFlags(), p.cgroup, p.table, int(w.Fd()))
	}
	backErr := back()
	goruntime.KeepAlive(p.streams)
	ch := &child{pid: pid, report: r, terminal: p.terminal, steps: p.table.steps, stages: p.stages, gate: p.gateSteps()}
	if p.sync != nil {
		ch.sync = p.sync
	}
	p.terminal, p.sync = nil, nil
	closeErr := errors.Join(backErr, w.Close(), p.close())
	if err == nil {
		ch.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
		if len(p.mapping.users) > 0 && closeErr == nil {
			if closeErr = p.mapping.write(pid); closeErr == nil {
				closeErr = ch.release()
			}
		}
		if closeErr != nil {
			err = errors.Join(closeErr, ch.abandon())
		}
	}
	if err != nil {
		if ch.terminal != nil {
			err = errors.Join(err, ch.terminal.Close())
		}
		if ch.sync != nil {
			err = errors.Join(err, ch.sync.Close())
		}
		return nil, err
	}
	return ch, nil
}

// started waits until the program runs. It returns why the start failed otherwise.
func (ch *child) started(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		_ = ch.report.SetReadDeadline(time.Unix(1, 0)) // closed: then nobody reads
	})
	defer stop()
	err := ch.follow(ctx, ch.report)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("start container: %w", context.Cause(ctx))
	}
	return errors.Join(err, ch.report.Close())
}

// follow reads reports and does what they ask for, until the program runs, the container
// stands at its gate or the start has failed.
func (ch *child) follow(ctx context.Context, from io.Reader) error {
	for {
		var b [8]byte
		n, err := io.ReadFull(from, b[:])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read report of the container's process: %d bytes: %w", n, err)
		}
		row := int(binary.NativeEndian.Uint32(b[:4]))
		errno := syscall.Errno(binary.NativeEndian.Uint32(b[4:]))
		switch {
		case row >= stageMark:
			if ch.gate != nil && row-stageMark == ch.gate.stage {
				return nil
			}
			if err := ch.pass(ctx, row-stageMark); err != nil {
				return err
			}
		case row >= len(ch.steps):
			return fmt.Errorf("report of the container's process: row %d of %d: %w", row, len(ch.steps), fs.ErrInvalid)
		default:
			return startError(ch.steps[row], errno)
		}
	}
}

// abandon ends a child that did not become what it should.
func (ch *child) abandon() error {
	err := signal(ch.pidfd, unix.SIGKILL)
	_, waitErr := reap(ch.pid)
	return errors.Join(err, waitErr, ch.pidfd.Close())
}
