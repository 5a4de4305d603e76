package runtime

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Status is how a process ended.
type Status struct {
	// ExitCode is what the process passed to exit, or 128 plus the number of the signal
	// that ended it, or one of the Exit constants if it never ran.
	ExitCode int
	Signal   syscall.Signal // what ended it, or 0
}

// Process is a process of a container that runs or has ended, made by [Start] or [Exec].
// Its methods may be called at once. The caller waits for it and closes it.
type Process struct {
	pid     int
	pidfd   *os.File
	console *os.File     // or nil
	gate    *GateSteps   // of one that stands at its gate, or nil
	end     <-chan ended // of the thread that keeps it, or nil
}

// Pid is the id of the process in the caller's pid namespace. It may belong to another
// process once Wait has returned.
func (p *Process) Pid() int { return p.pid }

// Console is the master end of the terminal of a process that has one, else nil. It
// belongs to the Process: Close closes it, upon which the kernel sends SIGHUP to the
// session.
func (p *Process) Console() *os.File { return p.console }

// Signal sends a signal. To a process that has ended it does nothing.
func (p *Process) Signal(s syscall.Signal) error {
	if err := signal(p.pidfd, s); err != nil {
		return fmt.Errorf("send signal %d to process %d: %w", s, p.pid, err)
	}
	return nil
}

func signal(pidfd *os.File, s syscall.Signal) error {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := conn.Control(func(fd uintptr) {
		sendErr = unix.PidfdSendSignal(int(fd), s, nil, 0)
	}); err != nil {
		return err
	}
	if errors.Is(sendErr, unix.ESRCH) {
		return nil
	}
	return sendErr
}

// Wait returns how the process ended, once it has. The end of a container's first process
// is the end of the container: all its other processes have ended, too. It can be called
// once.
func (p *Process) Wait() (Status, error) {
	if p.end == nil {
		return reap(p.pid)
	}
	e := <-p.end
	return e.status, e.err
}

// Close releases the handles on the process. It neither ends it nor waits for it.
func (p *Process) Close() error {
	err := p.pidfd.Close()
	if p.console != nil {
		err = errors.Join(err, p.console.Close())
	}
	if err != nil {
		return fmt.Errorf("close handles on process %d: %w", p.pid, err)
	}
	return nil
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

// reap waits for the end of a child, and thereby of its pid namespace if it is the first
// in one.
func reap(pid int) (Status, error) {
	const exited = 1 // CLD_EXITED; the others are killed and dumped core
	var info waitInfo
	for {
		err := waitid(pid, &info)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return Status{ExitCode: ExitFailed}, &Error{Step: "wait for the container's process", Err: err}
		}
		break
	}
	if info.code == exited {
		return Status{ExitCode: int(info.status) & 0xff}, nil
	}
	const signalled = 128
	return Status{ExitCode: signalled + int(info.status), Signal: syscall.Signal(info.status)}, nil
}
