package conn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
)

// Command is the argument that all server processes have first.
const Command = "fuse-server"

// flushTime is how long Unmount waits for a server to write out what it holds.
const flushTime = 5 * time.Minute

// answerTime is how long a server may take to answer before a forced unmount counts it as
// one that never will.
const answerTime = 5 * time.Second

// Unmount unmounts target and waits for the process that served it to end, which is
// when the upper directory is complete and flushed. It needs nothing of the server, so
// one that hangs or was killed stops it no longer than flushTime. With force a server that
// does not answer is killed, which ends the calls that wait for it. Otherwise it is
// [mountapi.Unmount]; an ordinary user's mount goes by fusermount3.
func Unmount(ctx context.Context, target string, force bool) error {
	servers := processes(target)
	defer func() {
		for _, fd := range servers {
			_ = unix.Close(fd) // a handle of a process
		}
	}()
	if force && len(servers) > 0 && !answers(target) {
		for _, fd := range servers {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may have ended
		}
	}
	err := mountapi.Unmount(ctx, target, force)
	if errors.Is(err, unix.EPERM) {
		err = unmountAsUser(ctx, target, force)
	}
	if err != nil {
		return err
	}
	if force {
		return nil // it ends with its last user
	}
	deadline := time.Now().Add(flushTime)
	for _, fd := range servers {
		for ctx.Err() == nil {
			left := time.Until(deadline)
			if left <= 0 {
				return fmt.Errorf("unmount %s: the server has not ended within %v: %w", target, flushTime, os.ErrDeadlineExceeded)
			}
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(min(left, time.Second).Milliseconds())+1)
			if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	return nil
}

// answers reports whether the server of a mount answers in time. A call that gets no
// answer goes on until the mount's connection ends.
func answers(target string) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var st unix.Statfs_t
		_ = unix.Statfs(target, &st) // an error is an answer
	}()
	select {
	case <-done:
		return true
	case <-time.After(answerTime):
		return false
	}
}

// unmountAsUser tries a busy mount for about half a second, as mountapi.Unmount does.
func unmountAsUser(ctx context.Context, target string, force bool) error {
	wait := 2 * time.Millisecond
	for try := 1; ; try++ {
		err := FusermountUnmount(ctx, target, force)
		if !errors.Is(err, unix.EBUSY) || try == 8 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("unmount %s: %w", target, errors.Join(ctx.Err(), err))
		case <-time.After(wait):
			wait *= 2
		}
	}
}

// processes returns handles (pidfds) of the processes that serve what is mounted at
// target. What cannot be read is passed over: it belongs to another user.
func processes(target string) []int {
	minor, err := Minor(target)
	if err != nil {
		return nil
	}
	var found []int
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	own := strconv.Itoa(os.Getpid())
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err != nil || !serves(line, minor) {
			continue
		}
		name := filepath.Base(filepath.Dir(path))
		pid, err := strconv.Atoi(name)
		if err != nil || name == own {
			continue
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			found = append(found, fd)
		}
	}
	return found
}

// serves reports whether a command line is that of a server of the mount.
func serves(cmdline []byte, minor string) bool {
	args := bytes.Split(bytes.TrimSuffix(cmdline, []byte{0}), []byte{0})
	return len(args) > 2 && string(args[1]) == Command && string(args[len(args)-1]) == minor
}
