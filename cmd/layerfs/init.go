package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/layerfs/layerfs/runtime"
	"golang.org/x/sys/unix"
)

// runInit is the first process of a container that was made with --init: this program,
// which the container sees through a mount that cannot be written to, so that it cannot
// change it for others. It starts the program, passes signals on, takes away processes
// whose parents have ended, and ends as the program does:
//
//	container-init -- PROGRAM [ARG...]
func runInit(args []string) int {
	if len(args) < 2 || args[0] != "--" {
		fmt.Fprintln(os.Stderr, "init: want -- PROGRAM [ARG...]")
		return runtime.ExitFailed
	}
	args = args[1:]
	// Before there is a child: none of its signals is to be missed.
	signals := make(chan os.Signal, 64)
	signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
	signal.Notify(signals)
	path, err := exec.LookPath(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		if errors.Is(err, fs.ErrPermission) {
			return runtime.ExitNotExecutable
		}
		return runtime.ExitNotFound
	}
	attr := &syscall.SysProcAttr{Setpgid: true}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		attr.Foreground, attr.Ctty = true, 0
	}
	child, err := syscall.ForkExec(path, args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: attr})
	if err != nil {
		fmt.Fprintf(os.Stderr, "init: %s: %v\n", path, err)
		return runtime.ExitNotExecutable
	}
	for s := range signals {
		switch n, ok := s.(syscall.Signal); {
		case !ok, n == syscall.SIGURG: // the Go runtime's own
		case n == syscall.SIGCHLD:
			if code, ended := reapAll(child); ended {
				return code
			}
		default:
			_ = syscall.Kill(child, n) // it has ended, which SIGCHLD tells
		}
	}
	return 0
}

// reapAll takes away all processes that have ended, and tells how the child did if it is
// among them.
func reapAll(child int) (code int, ended bool) {
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return code, ended
		}
		if pid != child {
			continue
		}
		const signalled = 128
		if code, ended = st.ExitStatus(), true; st.Signaled() {
			code = signalled + int(st.Signal())
		}
	}
}
