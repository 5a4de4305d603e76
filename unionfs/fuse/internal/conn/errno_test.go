package conn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func TestErrno(t *testing.T) {
	damaged := fmt.Errorf("damaged image: %w", fs.ErrInvalid)
	for _, tt := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{syscall.ENOENT, syscall.ENOENT},
		{fmt.Errorf("open object: %w", syscall.ENOENT), syscall.ENOENT},
		{fmt.Errorf("outer: %w", fmt.Errorf("inner: %w", syscall.ENOSPC)), syscall.ENOSPC},
		{&os.PathError{Op: "open", Path: "x", Err: syscall.EDQUOT}, syscall.EDQUOT},
		{os.NewSyscallError("read", syscall.EIO), syscall.EIO},
		{errors.Join(errors.New("first"), syscall.EROFS), syscall.EROFS},
		{fs.ErrNotExist, syscall.ENOENT},
		{fmt.Errorf("wrapped: %w", fs.ErrNotExist), syscall.ENOENT},
		{fmt.Errorf("wrapped: %w", fs.ErrExist), syscall.EEXIST},
		{fmt.Errorf("wrapped: %w", fs.ErrPermission), syscall.EPERM},
		{fmt.Errorf("wrapped: %w", errors.ErrUnsupported), syscall.EOPNOTSUPP},
		{context.Canceled, syscall.EINTR},
		{io.ErrShortWrite, syscall.ENOSPC},
		{damaged, syscall.EIO},
		{io.ErrUnexpectedEOF, syscall.EIO},
		{errors.New("anything else"), syscall.EIO},
		{syscall.Errno(0), syscall.EIO},
	} {
		if got := Errno(tt.err); got != tt.want {
			t.Errorf("Errno(%v) = %v, want %v", tt.err, got, tt.want)
		}
		if got := Status(tt.err); got != fuse.Status(tt.want) {
			t.Errorf("Status(%v) = %v, want %v", tt.err, got, tt.want)
		}
	}
}
