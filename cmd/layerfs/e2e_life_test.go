package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// tiny imports an image of busybox alone.
func (s *store) tiny() string {
	s.t.Helper()
	testenv.Root(s.t)
	testenv.Tools(s.t, "busybox")
	dir := s.t.TempDir()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		s.t.Fatal(err)
	}
	script := `mkdir -p bin proc dev sys tmp && cp "$0" bin/busybox && for n in sh sleep cat stty echo trap; do ln -s busybox bin/$n; done && tar -cf ../root.tar .`
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", script, busybox)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	s.ok("import", filepath.Join(dir, "root.tar"), "tiny:1")
	s.t.Cleanup(func() {
		if ids := strings.Fields(s.ok("ps", "-aq")); len(ids) > 0 {
			s.call(append([]string{"rm", "-f"}, ids...)...)
		}
	})
	return "tiny:1"
}

// pids returns the processes of a container and of its monitor.
func (s *store) pids(name string) (process, monitor int) {
	s.t.Helper()
	out := s.ok("inspect", "-f", "{{.State.Pid}} {{.State.MonitorPid}}", name)
	if _, err := fmt.Sscan(out, &process, &monitor); err != nil {
		s.t.Fatalf("inspect printed %q: %v", out, err)
	}
	return process, monitor
}

func gone(t testing.TB, pid int) {
	t.Helper()
	for range 500 {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d lives on", pid)
}

// nothing fails the test unless nothing of any container is left.
func (s *store) nothing() {
	s.t.Helper()
	if out := s.ok("ps", "-aq"); out != "" {
		s.t.Errorf("containers are left: %s", out)
	}
	if out := s.ok("snapshots", "-q", "-a"); out != "" {
		s.t.Errorf("snapshots are left: %s", out)
	}
	for _, pattern := range []string{"containers/names/*", "containers/" + strings.Repeat("[0-9a-f]", 64), "volumes/*", "network/containers/*"} {
		left, err := filepath.Glob(filepath.Join(s.root, pattern))
		if err != nil || len(left) > 0 {
			s.t.Errorf("left: %v (%v)", left, err)
		}
	}
	s.sound()
}

// A monitor has nothing open that its caller left open.
func TestMonitorInheritsNothing(t *testing.T) {
	s := newStore(t)
	image := s.tiny()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := s.command(t.Context(), "run", "-d", "--name", "own", image, "sleep", "1000")
	cmd.ExtraFiles = []*os.File{w, w}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// The pipe has ended, unless somebody else can write to it.
	if err := r.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the caller's pipe is open still: %v", err)
	}
	s.ok("rm", "-f", "own")
}

// A monitor that is killed takes its container with it; whoever looks next knows.
func TestMonitorKilled(t *testing.T) {
	s := newStore(t)
	image := s.tiny()
	for _, flags := range [][]string{{"--name", "lost"}, {"--name", "lost", "--restart", "always"}, {"--rm", "--name", "lost"}} {
		s.ok(append(append([]string{"run", "-d", "-v", "/data"}, flags...), image, "sh", "-c", "sleep 1000 & sleep 1000")...)
		process, monitor := s.pids("lost")
		if err := unix.Kill(monitor, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		gone(t, process)
		if out := s.ok("ps", "-a", "--format", "{{.Names}} {{.State}} {{.ExitCode}}"); out != "lost exited 137" {
			t.Errorf("ps after the monitor was killed: %q", out)
		}
		if out := s.ok("ps", "-q"); out != "" {
			t.Errorf("it is listed as running: %s", out)
		}
		if flags[0] != "--rm" {
			s.ok("start", "lost")
			if out := s.ok("ps", "--format", "{{.State}}"); out != "running" {
				t.Errorf("started again it is %q", out)
			}
			s.ok("rm", "-f", "-v", "lost")
		}
		s.ok("gc")
		s.nothing()
	}
}

// A container in the foreground ends with its command, however that ends.
func TestRunKilled(t *testing.T) {
	s := newStore(t)
	image := s.tiny()
	for _, flags := range [][]string{{"--rm"}, nil} {
		args := append(append([]string{"run", "--name", "fore"}, flags...), image, "sh", "-c", "echo up; exec sleep 1000")
		cmd := s.command(t.Context(), args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		process, monitor := s.pids("fore")
		if monitor != cmd.Process.Pid {
			t.Errorf("its monitor is %d, want the command, %d", monitor, cmd.Process.Pid)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("it was not killed")
		}
		gone(t, process)
		if out := s.ok("ps", "-a", "--format", "{{.State}} {{.ExitCode}}"); out != "exited 137" {
			t.Errorf("ps: %q", out)
		}
		if flags == nil {
			s.ok("rm", "-f", "fore")
		}
		s.ok("gc")
		s.nothing()
	}
}

// However early a command that starts a container is killed, nothing is left that gc does
// not remove, and the store is sound.
func TestKilledAtAnyTime(t *testing.T) {
	testenv.Long(t)
	s := newStore(t)
	image := s.tiny()
	for i := range 24 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*4*time.Millisecond)
		cmd := s.command(ctx, "run", "--rm", "-d", "--network", "none", image, "sleep", "1000")
		_ = cmd.Run() // killed, or not
		cancel()
	}
	for _, id := range strings.Fields(s.ok("ps", "-aq")) {
		s.call("rm", "-f", id)
	}
	// A monitor that was just started is no leftover: it has its say.
	for range 200 {
		s.ok("gc")
		if s.ok("ps", "-aq") == "" {
			break
		}
		for _, id := range strings.Fields(s.ok("ps", "-q")) {
			s.call("rm", "-f", id)
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.nothing()
}

// terminal runs layerfs on a terminal of its own and collects what that shows.
type terminal struct {
	t      testing.TB
	master console.Console
	cmd    *exec.Cmd
	mu     sync.Mutex
	shown  bytes.Buffer
}

func (s *store) terminal(args ...string) *terminal {
	s.t.Helper()
	master, name, err := console.NewPty()
	if err != nil {
		s.t.Fatal(err)
	}
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := master.Resize(console.WinSize{Height: 33, Width: 77}); err != nil {
		s.t.Fatal(err)
	}
	tt := &terminal{t: s.t, master: master, cmd: s.command(s.t.Context(), args...)}
	tt.cmd.Stdin, tt.cmd.Stdout, tt.cmd.Stderr = slave, slave, slave
	tt.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := errors.Join(tt.cmd.Start(), slave.Close()); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			tt.mu.Lock()
			tt.shown.Write(buf[:n])
			tt.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	s.t.Cleanup(func() { _ = master.Close() })
	return tt
}

func (tt *terminal) text() string {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	return tt.shown.String()
}

// want waits until the terminal shows a text, and forgets all up to it.
func (tt *terminal) want(text string) {
	tt.t.Helper()
	for range 1000 {
		tt.mu.Lock()
		i := strings.Index(tt.shown.String(), text)
		if i >= 0 {
			tt.shown.Next(i + len(text))
		}
		tt.mu.Unlock()
		if i >= 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	tt.t.Fatalf("the terminal does not show %q but %q", text, tt.text())
}

func (tt *terminal) typed(text string) {
	tt.t.Helper()
	if _, err := io.WriteString(tt.master, text); err != nil {
		tt.t.Fatal(err)
	}
}

func (tt *terminal) ends(code int) {
	tt.t.Helper()
	_ = tt.cmd.Wait()
	if got := tt.cmd.ProcessState.ExitCode(); got != code {
		tt.t.Errorf("%v ended with code %d, want %d; shown: %q", tt.cmd.Args, got, code, tt.text())
	}
}

func TestInteractive(t *testing.T) {
	s := newStore(t)
	image := s.tiny()
	tt := s.terminal("run", "-it", "--network", "none", "--name", "shell", image, "sh")
	tt.want("# ")
	tt.typed("stty size\r")
	tt.want("33 77")
	if err := tt.master.Resize(console.WinSize{Height: 20, Width: 60}); err != nil {
		t.Fatal(err)
	}
	// The size arrives by a signal, some time after.
	tt.typed("until [ \"$(stty size)\" = '20 60' ]; do sleep 0.02; done; echo re''sized\r")
	tt.want("resized")
	// Ctrl-C ends what the shell runs, and not the shell.
	tt.typed("sh -c 'echo wait\"\"ing; exec cat'\r")
	tt.want("waiting")
	tt.typed("\x03")
	tt.want("# ")
	tt.typed("echo al''ive\r")
	tt.want("alive")
	// Ctrl-Z stops it, for the shell to take it up again.
	tt.typed("sh -c 'echo wait\"\"ing; exec cat'\r")
	tt.want("waiting")
	tt.typed("\x1a")
	tt.want("Stopped")
	tt.typed("kill -9 %1; echo x''y\r")
	tt.want("xy")
	// The keys detach; half of them are typed through.
	tt.typed("\x10\x11")
	tt.want("read escape sequence")
	tt.ends(0)
	if out := s.ok("ps", "--format", "{{.State}}"); out != "running" {
		t.Errorf("after detaching it is %q", out)
	}
	again := s.terminal("attach", "shell")
	again.typed("echo ba''ck; exit 6\r")
	again.want("back")
	again.ends(6)
	if out := s.ok("ps", "-a", "--format", "{{.State}} {{.ExitCode}}"); out != "exited 6" {
		t.Errorf("at the end it is %q", out)
	}
	exec := s.terminal("start", "-ai", "shell")
	exec.want("# ")
	in := s.terminal("exec", "-it", "shell", "sh", "-c", "stty size; read x; echo got $x; exit 5")
	in.want("33 77")
	in.typed("words\r")
	in.want("got words")
	in.ends(5)
	exec.typed("exit 0\r")
	exec.ends(0)
	s.ok("rm", "shell")
	rm := s.terminal("run", "--rm", "-it", "--network", "none", image, "sh", "-c", "exit 3")
	rm.ends(3)
	s.nothing()
}
