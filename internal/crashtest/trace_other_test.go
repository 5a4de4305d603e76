//go:build !amd64

package crashtest

import (
	"errors"
	"syscall"
)

// canRefuse says that system calls can be changed here; how is known for amd64 only.
const canRefuse = false

func skipCall(int) error                 { return errors.ErrUnsupported }
func setResult(int, syscall.Errno) error { return errors.ErrUnsupported }
func setLength(int, uint64) error        { return errors.ErrUnsupported }
