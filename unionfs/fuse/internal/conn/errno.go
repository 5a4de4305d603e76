package conn

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Errno returns what a system call on the mount is to fail with for err: the errno that
// err is or wraps, else that of the class that it wraps, else EIO. It is 0 for nil.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if errno == 0 {
			return syscall.EIO // an error that says success is a mistake of ours
		}
		return errno
	}
	for _, class := range []struct {
		is    error
		errno syscall.Errno
	}{
		{fs.ErrNotExist, syscall.ENOENT},
		{fs.ErrExist, syscall.EEXIST},
		{fs.ErrPermission, syscall.EPERM},
		{errors.ErrUnsupported, syscall.EOPNOTSUPP},
		{context.Canceled, syscall.EINTR},
		{os.ErrDeadlineExceeded, syscall.ETIMEDOUT},
		{io.ErrShortWrite, syscall.ENOSPC},
	} {
		if errors.Is(err, class.is) {
			return class.errno
		}
	}
	// fs.ErrInvalid is not among them: damaged layers wrap it, and that is no mistake
	// of the caller.
	return syscall.EIO
}

// Status is Errno in the terms of the FUSE library.
func Status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	return fuse.Status(Errno(err))
}
