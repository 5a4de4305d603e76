package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// inputFile opens a file, or standard input for "-". It returns the size of a regular
// file in bytes, else 0. Waiting for a slow pipe ends when ctx does.
func (a *app) inputFile(ctx context.Context, name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		f, ok := a.stdin.(*os.File)
		if !ok {
			return io.NopCloser(a.stdin), 0, nil
		}
		if term.IsTerminal(int(f.Fd())) {
			return nil, 0, usageError{errors.New("standard input is a terminal; give a file, or redirect")}
		}
		r, err := newPatientReader(ctx, f, false)
		return r, 0, err
	}
	flags := os.O_RDONLY
	pipe := isPipe(name)
	if pipe {
		flags |= unix.O_NONBLOCK // opening it must not wait for who writes
	}
	f, err := os.OpenFile(name, flags, 0)
	if err != nil {
		return nil, 0, err
	}
	if pipe {
		r, err := newPatientReader(ctx, f, true)
		if err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		return r, 0, nil
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if st.IsDir() {
		return nil, 0, errors.Join(fmt.Errorf("%s is a directory: %w", name, fs.ErrInvalid), f.Close())
	}
	if !st.Mode().IsRegular() {
		return f, 0, nil
	}
	return f, st.Size(), nil
}

func isPipe(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode()&fs.ModeNamedPipe != 0
}

// patientReader reads from a pipe, but does not wait for it any longer than a context
// lasts: a read that waits in the kernel would not notice a Ctrl-C.
type patientReader struct {
	f     *os.File
	owned bool         // f is closed too
	woken *os.File     // hangs up when the context is done
	done  func() error // why it hung up
	stop  func() bool  // gives up waiting for the context
	wake  func() error // makes woken hang up
}

func newPatientReader(ctx context.Context, f *os.File, owned bool) (*patientReader, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = w.Close() })
	return &patientReader{f: f, owned: owned, woken: r, done: ctx.Err, stop: stop, wake: w.Close}, nil
}

func (r *patientReader) Read(p []byte) (int, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(r.f.Fd()), Events: unix.POLLIN}, {Fd: int32(r.woken.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return 0, fmt.Errorf("wait for input: %w", err)
		}
		if err := r.done(); err != nil {
			return 0, err
		}
		if fds[0].Revents != 0 {
			return r.f.Read(p)
		}
	}
}

func (r *patientReader) Close() error {
	var err error
	if r.stop() {
		err = r.wake()
	}
	err = errors.Join(err, r.woken.Close())
	if r.owned {
		err = errors.Join(err, r.f.Close())
	}
	return err
}
