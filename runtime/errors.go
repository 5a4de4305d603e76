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

// startError turns the report of a child into an error and an exit code.
func startError(s step, errno syscall.Errno) (int, error) {
	err := &Error{Step: s.what, Object: s.object, Err: errno}
	switch {
	case s.what == stepFind && (errors.Is(errno, syscall.ENOENT) || errors.Is(errno, syscall.ENOTDIR)):
		return ExitNotFound, err
	case s.what == stepFind && errors.Is(errno, syscall.ELOOP):
		return ExitNotExecutable, fmt.Errorf("%w (magic links of /proc are not executed)", err)
	case s.what == stepExecute && errors.Is(errno, syscall.ENOENT):
		return ExitNotFound, fmt.Errorf("%w (the program is there; its interpreter or dynamic linker is not)", err)
	case s.what == stepFind || s.what == stepExecute:
		return ExitNotExecutable, err
	case s.what == stepProtected && errors.Is(errno, syscall.ELOOP):
		return ExitFailed, fmt.Errorf("%w (it must be a directory, without symbolic links on the way)", err)
	default:
		return ExitFailed, err
	}
}
