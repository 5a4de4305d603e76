package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// currentNamespace is the network namespace of the calling thread.
const currentNamespace = "/proc/thread-self/ns/net"

// newNamespace makes a network namespace and calls f in it, on the thread that is in it.
// The namespace lasts as long as a handle of it is open or a process is in it; the
// caller closes the one returned. The caller's own thread stays where it is.
func newNamespace(f func(ns *os.File) error) (*os.File, error) {
	var ns *os.File
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if ns, err = os.Open(currentNamespace); err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		return f(ns)
	})
	if err != nil && ns != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, err
}

// inNamespace calls f on a thread in a network namespace.
func inNamespace(ns *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onThread calls f, which may change the network namespace of its thread, and brings
// the thread back to where it was.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		here, err := os.Open(currentNamespace)
		if err != nil {
			done <- fmt.Errorf("open network namespace: %w", err)
			return // ends the thread, as below
		}
		err = f()
		back := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET)
		if back == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine and serves no other
		done <- errors.Join(err, here.Close())
	}()
	return <-done
}

// isNetworkNamespace says whether a file is a handle of a network namespace.
func isNetworkNamespace(f *os.File) error {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%s is no network namespace: %w", f.Name(), errors.Join(fs.ErrInvalid, err))
	}
	return nil
}
