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
)

// defaultGrace is Docker's time between the polite and the other signal.
const defaultGrace = 10 * time.Second

// Config is a container to run.
type Config struct {
	Spec *specs.Spec // Root.Path is not used; Root.Readonly is
	Root Root

	// The streams of the process; nil is the null device. They are passed as they are,
	// and stay the caller's to close.
	Stdin, Stdout, Stderr *os.File

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

	Logger *slog.Logger // nil discards
}

// Status is how a container ended.
type Status struct {
	// ExitCode is what the process passed to exit, or 128 plus the number of the signal
	// that ended it, or one of the Exit constants if it never ran.
	ExitCode int
	Signal   syscall.Signal // what ended it, or 0
}

// Run starts the container and waits for its end, which is the end of its first process.
// All other processes of it are killed then, and its mounts undone, by the end of its
// namespaces, which Run waits for. It is killed if this process dies.
//
// An error says that the container could not be started, and Status.ExitCode has the
// code for it; or that the context ended and the container was stopped for it, in which
// case the error wraps the context's cause and Status is how it ended. An exit code
// other than 0 is no error. Errors of a step are an [*Error].
func Run(ctx context.Context, c Config) (Status, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	if err := ctx.Err(); err != nil {
		return Status{ExitCode: ExitFailed}, fmt.Errorf("start container: %w", context.Cause(ctx))
	}
	// The kernel kills the child when the thread that made it ends.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()

	began := time.Now()
	child, err := launch(&c)
	if err != nil {
		return Status{ExitCode: ExitFailed}, err
	}
	status, err := child.wait(ctx, &c, began)
	if closeErr := child.pidfd.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("close handle on the container's process: %w", closeErr)
	}
	return status, err
}

// child is a process that runs its table or, later, its program.
type child struct {
	pid    int
	pidfd  *os.File
	report *os.File // the end to read
	steps  []step
}

func launch(c *Config) (_ *child, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe for reports: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	p, err := makePlan(c.Spec, c.Root, [3]*os.File{c.Stdin, c.Stdout, c.Stderr}, int(w.Fd()), c.Logger)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	pid, pidfd, err := start(p.flags, p.table, int(w.Fd()))
	for _, f := range []*os.File{c.Stdin, c.Stdout, c.Stderr} {
		goruntime.KeepAlive(f)
	}
	closeErr := errors.Join(w.Close(), p.close())
	if err != nil {
		return nil, errors.Join(err, closeErr)
	}
	ch := &child{pid: pid, pidfd: os.NewFile(uintptr(pidfd), "pidfd"), report: r, steps: p.table.steps}
	if closeErr != nil {
		return nil, errors.Join(closeErr, ch.signal(unix.SIGKILL), ch.reap(nil), ch.pidfd.Close())
	}
	return ch, nil
}

// started waits until the program runs. It returns how the start failed otherwise.
func (ch *child) started() (int, error) {
	var b [8]byte
	n, err := io.ReadFull(ch.report, b[:])
	closeErr := ch.report.Close()
	switch {
	case errors.Is(err, io.EOF):
		return 0, closeErr
	case err != nil:
		return ExitFailed, fmt.Errorf("read report of the container's process: %d bytes: %w", n, err)
	}
	row := int(binary.NativeEndian.Uint32(b[:4]))
	errno := syscall.Errno(binary.NativeEndian.Uint32(b[4:]))
	if row >= len(ch.steps) {
		return ExitFailed, fmt.Errorf("report of the container's process: row %d of %d: %w", row, len(ch.steps), fs.ErrInvalid)
	}
	return startError(ch.steps[row], errno)
}

// ended is the outcome of the goroutine that waits for the process.
type ended struct {
	status Status
	err    error
}

// wait follows the process to its end.
func (ch *child) wait(ctx context.Context, c *Config, began time.Time) (Status, error) {
	type startOutcome struct {
		code int
		err  error
	}
	starting := make(chan startOutcome, 1)
	go func() {
		code, err := ch.started()
		starting <- startOutcome{code, err}
	}()
	end := make(chan ended, 1)
	go func() {
		var e ended
		e.err = ch.reap(&e.status)
		end <- e
	}()

	signals, done := c.Signals, ctx.Done()
	var kill <-chan time.Time
	var start startOutcome
	outcomes := starting
	for {
		select {
		case start = <-outcomes:
			outcomes = nil
			if start.err == nil {
				c.Logger.Debug("container started", "pid", ch.pid, "took", time.Since(began))
				if c.Started != nil {
					c.Started(ch.pid)
				}
			}
		case s, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			if err := ch.forward(s); err != nil {
				c.Logger.Warn("signal not forwarded", "signal", s.String(), "error", err)
			}
		case <-done:
			done = nil
			first := unix.SIGTERM
			if c.Grace < 0 {
				first = unix.SIGKILL
			} else {
				timer := time.NewTimer(c.Grace)
				defer timer.Stop()
				kill = timer.C
			}
			if err := ch.signal(first); err != nil {
				c.Logger.Warn("container not signalled", "signal", first.String(), "error", err)
			}
		case <-kill:
			kill = nil
			if err := ch.signal(unix.SIGKILL); err != nil {
				c.Logger.Warn("container not signalled", "signal", "killed", "error", err)
			}
		case e := <-end:
			if outcomes != nil {
				start = <-outcomes
			}
			switch {
			case start.err != nil:
				return Status{ExitCode: start.code}, start.err
			case e.err != nil:
				return Status{ExitCode: ExitFailed}, e.err
			case done == nil && ctx.Err() != nil:
				return e.status, fmt.Errorf("container stopped: %w", context.Cause(ctx))
			}
			return e.status, nil
		}
	}
}

func (ch *child) forward(s os.Signal) error {
	number, ok := s.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v: %w", s, fs.ErrInvalid)
	}
	if number == unix.SIGCHLD || number == unix.SIGURG {
		return nil
	}
	return ch.signal(number)
}

// signal sends a signal; to a process that is gone already it does nothing.
func (ch *child) signal(s syscall.Signal) error {
	err := unix.PidfdSendSignal(int(ch.pidfd.Fd()), s, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// waitInfo is the part of siginfo_t that waitid fills in, as all 64-bit machines with
// the generic layout have it (include/uapi/asm-generic/siginfo.h).
type waitInfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

// reap waits for the end of the process, and thereby of its pid namespace.
func (ch *child) reap(status *Status) error {
	const exited = 1 // CLD_EXITED; the others are killed and dumped core
	var info waitInfo
	for {
		err := waitid(int(ch.pidfd.Fd()), &info)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return &Error{Step: "wait for the container's process", Err: err}
		}
		break
	}
	if status == nil {
		return nil
	}
	if info.code == exited {
		*status = Status{ExitCode: int(info.status) & 0xff}
	} else {
		const signalled = 128
		*status = Status{ExitCode: signalled + int(info.status), Signal: syscall.Signal(info.status)}
	}
	return nil
}
