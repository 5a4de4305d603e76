package external

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/layerfs/layerfs/runtime"
)

// Process is a process that a runtime made, and this one's child. Its methods may be
// called at once.
type Process struct {
	pid     int
	handle  *os.Process
	console *os.File                   // or nil
	kill    func(syscall.Signal) error // of the first of a container, or nil
	waited  func(pid int)
}

// Pid is its id in the caller's pid namespace.
func (p *Process) Pid() int { return p.pid }

// Console is the master end of its terminal, or nil. Close closes it.
func (p *Process) Console() *os.File { return p.console }

// Signal sends a signal; to a process that has ended it does nothing. The first process
// of a container gets it by the runtime.
func (p *Process) Signal(s syscall.Signal) error {
	err := p.handle.Signal(syscall.Signal(0))
	if err == nil && p.kill != nil {
		if err = p.kill(s); err != nil && errors.Is(p.handle.Signal(syscall.Signal(0)), os.ErrProcessDone) {
			err = nil // meanwhile
		}
	} else if err == nil {
		err = p.handle.Signal(s)
	}
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("send signal %d to process %d: %w", s, p.pid, err)
	}
	return nil
}

// Wait returns how the process ended, once it has. It can be called once.
func (p *Process) Wait() (runtime.Status, error) {
	st, err := p.handle.Wait()
	p.waited(p.pid)
	if err != nil {
		return runtime.Status{ExitCode: runtime.ExitFailed}, fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		const signalled = 128
		return runtime.Status{ExitCode: signalled + int(ws.Signal()), Signal: ws.Signal()}, nil
	}
	return runtime.Status{ExitCode: st.ExitCode()}, nil
}

// Close releases the handles on the process. It neither ends it nor waits for it.
func (p *Process) Close() error {
	err := p.handle.Release()
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.EINVAL) {
		err = nil // it was waited for
	}
	if p.console != nil {
		err = errors.Join(err, p.console.Close())
	}
	if err != nil {
		return fmt.Errorf("close handles on process %d: %w", p.pid, err)
	}
	return nil
}
