package runtime

import (
	"errors"
	"fmt"
	"syscall"
)

// Exit codes of a container that could not be started, as Docker's command line gives
// them.
const (
	ExitFailed        = 125 // the container could not be prepared
	ExitNotExecutable = 126 // the program is there and cannot be executed
	ExitNotFound      = 127 // the program is not there
)

// Error is a failed step of preparing or starting a container.
type Error struct {
	Step   string // what was tried, such as "mount proc" or "execute"
	Object string // the path or name it was about; may be ""
	Err    error  // the errno
}

func (e *Error) Error() string {
	if e.Object == "" {
		return fmt.Sprintf("%s: %v", e.Step, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Step, e.Object, e.Err)
}

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Err }

// Steps of starting the program, which decide the exit code.
const (
	stepFind    = "find program"
	stepExecute = "execute"
)

// StartCode is the exit code for a container or process that could not be started: one
// of the Exit constants, or 0 without an error.
func StartCode(err error) int {
	var e *Error
	if err == nil {
		return 0
	}
	if !errors.As(err, &e) {
		var other interface{ StartCode() int } // of a container that something else started
		if errors.As(err, &other) {
			return other.StartCode()
		}
		return ExitFailed
	}
	switch {
	case e.Step == stepFind && (errors.Is(e.Err, syscall.ENOENT) || errors.Is(e.Err, syscall.ENOTDIR)),
		e.Step == stepExecute && errors.Is(e.Err, syscall.ENOENT):
		return ExitNotFound
	case e.Step == stepFind || e.Step == stepExecute:
		return ExitNotExecutable
	default:
		return ExitFailed
	}
}

// startError turns the report of a child into an error.
func startError(s step, errno syscall.Errno) error {
	err := &Error{Step: s.what, Object: s.object, Err: errno}
	switch {
	case s.what == stepFind && errors.Is(errno, syscall.ELOOP):
		return fmt.Errorf("%w (magic links of /proc are not executed)", err)
	case s.what == stepExecute && errors.Is(errno, syscall.ENOENT):
		return fmt.Errorf("%w (the program is there; its interpreter or dynamic linker is not)", err)
	case s.what == stepProtected && errors.Is(errno, syscall.ELOOP):
		return fmt.Errorf("%w (it must be a directory, without symbolic links on the way)", err)
	default:
		return err
	}
}
