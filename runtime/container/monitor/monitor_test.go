package monitor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/container"
	"golang.org/x/sys/unix"
)

// proc is a process of this machine in the place of a container's first.
type proc struct{ *exec.Cmd }

func start(t *testing.T, streams [3]*os.File, script string) *Started {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "/bin/sh", "-c", script)
	if streams[1] != nil {
		cmd.Stdout = streams[1]
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &Started{Process: proc{cmd}}
}

func (p proc) Pid() int                      { return p.Process.Pid }
func (p proc) Console() *os.File             { return nil }
func (p proc) Signal(s syscall.Signal) error { return p.Process.Signal(s) }
func (p proc) Close() error                  { return nil }

func (p proc) Wait() (runtime.Status, error) {
	var exit *exec.ExitError
	if err := p.Cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return runtime.Status{}, err
	}
	ws, _ := p.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return runtime.Status{ExitCode: 128 + int(ws.Signal())}, nil
	}
	return runtime.Status{ExitCode: ws.ExitStatus()}, nil
}

func newContainer(t *testing.T, rec container.Record) (*container.Store, container.ID) {
	t.Helper()
	var mu sync.Mutex // one for all names does
	s, err := container.Open(container.Options{Dir: filepath.Join(t.TempDir(), "containers"), Lock: func(context.Context, string) (func() error, error) {
		mu.Lock()
		return func() error { mu.Unlock(); return nil }, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	rec.Name, rec.Image, rec.Snapshot = "box", "image:1", "snap"
	if err := s.Create(t.Context(), &rec); err != nil {
		t.Fatal(err)
	}
	return s, rec.ID
}

func mark(t *testing.T, s *container.Store, id container.ID, f func(*container.State)) {
	t.Helper()
	if _, err := s.Change(t.Context(), id, func(st *container.State) error { f(st); return nil }); err != nil {
		t.Error(err)
	}
}

// Who stops a container that is about to be started again means that start, too.
func TestStoppedWhileItStarts(t *testing.T) {
	s, id := newContainer(t, container.Record{Restart: container.RestartPolicy{Mode: container.RestartAlways}})
	starts := 0
	st, err := Run(t.Context(), Config{Store: s, ID: id, Start: func(_ context.Context, _ *container.Record, streams [3]*os.File) (*Started, error) {
		if starts++; starts == 1 {
			return start(t, streams, "exit 1"), nil
		}
		mark(t, s, id, func(st *container.State) { st.Stopped = true })
		return start(t, streams, "exec sleep 1000"), nil
	}})
	if err != nil || starts != 2 || st.Status != container.Exited || st.ExitCode != 128+int(unix.SIGKILL) {
		t.Errorf("%d starts, %v, state %+v", starts, err, st)
	}
}

// A start that somebody asked for and that fails is how the container ended.
func TestStartAgainFails(t *testing.T) {
	s, id := newContainer(t, container.Record{})
	starts := 0
	_, err := Run(t.Context(), Config{Store: s, ID: id, Start: func(_ context.Context, _ *container.Record, _ [3]*os.File) (*Started, error) {
		if starts++; starts > 1 {
			return nil, errors.New("no more")
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		go func() {
			_, _ = s.Wait(context.WithoutCancel(t.Context()), id, func(st *container.State) bool { return st.Status == container.Running })
			mark(t, s, id, func(st *container.State) { st.StartAgain = true })
			_ = w.Close()
		}()
		out := exec.CommandContext(context.WithoutCancel(t.Context()), "/bin/cat")
		out.Stdin = r
		return &Started{Process: proc{out}}, errors.Join(out.Start(), r.Close())
	}})
	if err == nil {
		t.Error("the start that failed is not told")
	}
	st, err := s.State(id)
	if err != nil || st.Status != container.Exited || st.ExitCode != runtime.ExitFailed || st.Error != "no more" {
		t.Errorf("%v, state %+v", err, st)
	}
}

// Neither a process elsewhere that has the output open and writes on, nor a client that
// takes none, keeps a monitor whose container has ended.
func TestOutputEnds(t *testing.T) {
	s, id := newContainer(t, container.Record{})
	conn, other, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Hello(Hello{Output: true}); err != nil {
		t.Fatal(err)
	}
	var writing sync.WaitGroup
	st, err := Run(t.Context(), Config{Store: s, ID: id, Detached: true, Client: other, Start: func(_ context.Context, _ *container.Record, streams [3]*os.File) (*Started, error) {
		fd, err := unix.FcntlInt(streams[1].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		held := os.NewFile(uintptr(fd), "held")
		quiet, err := unix.FcntlInt(streams[2].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(err, held.Close())
		}
		t.Cleanup(func() { _ = unix.Close(quiet) })
		writing.Go(func() {
			for chunk := bytes.Repeat([]byte("x"), 4096); ; {
				if _, err := held.Write(chunk); err != nil { // nobody reads any more
					_ = held.Close()
					return
				}
			}
		})
		return start(t, streams, "exit 3"), nil
	}})
	if err != nil || st.Status != container.Exited || st.ExitCode != 3 {
		t.Errorf("%v, state %+v", err, st)
	}
	writing.Wait()
}
