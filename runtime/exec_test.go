package runtime_test

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime"
)

// up starts a container that does nothing until it is killed.
func up(t *testing.T, dir string, change ...func(*runtime.Config)) *runtime.Process {
	t.Helper()
	root := runtime.RootPath(dir)
	spec, err := runtime.SpecFor(root, script("cd /tmp; echo up; sleep 1000"))
	must(t, err)
	c := runtime.Config{Spec: spec, Root: root}
	for _, f := range change {
		f(&c)
	}
	p, _ := started(t, c)
	return p
}

// inside runs a script in a running container and returns what it writes and how it
// ends.
func inside(t *testing.T, p *runtime.Process, text string, change ...func(*runtime.ExecConfig)) (string, runtime.Status, error) {
	t.Helper()
	process := runtime.DefaultSpec().Process
	process.Args = []string{"/bin/sh", "-c", text}
	r, w, err := os.Pipe()
	must(t, err)
	c := runtime.ExecConfig{Pid: p.Pid(), Process: process, Stdout: w, Stderr: w}
	for _, f := range change {
		f(&c)
	}
	e, err := runtime.Exec(t.Context(), c)
	must(t, w.Close())
	if err != nil {
		must(t, r.Close())
		return "", runtime.Status{ExitCode: runtime.StartCode(err)}, err
	}
	out, err := io.ReadAll(r)
	must(t, errors.Join(err, r.Close()))
	status, err := e.Wait()
	must(t, e.Close())
	return strings.TrimSuffix(string(out), "\n"), status, err
}

func TestExec(t *testing.T) {
	p := up(t, newRoot(t), func(c *runtime.Config) { c.Spec.Hostname = "box" })
	for _, detach := range []bool{false, true} {
		out, status, err := inside(t, p, `hostname; pwd; echo $PPID; grep -E '^(CapEff|NoNewPrivs|NSpid):' /proc/self/status | cut -f2; cat /proc/self/oom_score_adj; ls /proc/self/fd | tr '\n' ' '; exit 5`,
			func(c *runtime.ExecConfig) {
				c.Detach = detach
				c.Process.Cwd = "/tmp"
				score := 99
				c.Process.OOMScoreAdj = &score
			})
		lines := strings.Split(out, "\n")
		const pidLine = 3 // its number in the container's pid namespace alone
		if len(lines) > pidLine {
			if pid, err := strconv.Atoi(lines[pidLine]); err != nil || pid > 100 {
				t.Errorf("process %q", lines[pidLine])
			}
			lines = slices.Delete(lines, pidLine, pidLine+1)
		}
		// Its parent is outside, and it has the three streams and what ls opens.
		want := []string{"box", "/tmp", "0", "00000000a80425fb", "1", "99", "0 1 2 3 "}
		if err != nil || status.ExitCode != 5 || !slices.Equal(lines, want) {
			t.Errorf("detach %v: status %+v, error %v, output %q, want %q", detach, status, err, lines, want)
		}
	}
	// All namespaces are the container's.
	const look = "for n in mnt pid net ipc uts cgroup; do test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo $n; done"
	if out, _, err := inside(t, p, look); err != nil || out != "" {
		t.Errorf("other namespaces: %q, error %v", out, err)
	}
}

func TestExecFails(t *testing.T) {
	dir := newRoot(t)
	p := up(t, dir)
	for name, c := range map[string]struct {
		change func(*runtime.ExecConfig)
		class  error
		code   int
	}{
		"missing program":   {func(c *runtime.ExecConfig) { c.Process.Args = []string{"nosuch"} }, fs.ErrNotExist, runtime.ExitNotFound},
		"missing directory": {func(c *runtime.ExecConfig) { c.Process.Cwd = "/no/such" }, fs.ErrNotExist, runtime.ExitFailed},
		"no process":        {func(c *runtime.ExecConfig) { c.Process = nil }, fs.ErrInvalid, runtime.ExitFailed},
		"missing container": {func(c *runtime.ExecConfig) { c.Pid = 1 << 30 }, unix.ESRCH, runtime.ExitFailed},
	} {
		_, status, err := inside(t, p, "true", c.change)
		if !errors.Is(err, c.class) && !(name == "missing container" && errors.Is(err, unix.EINVAL)) || status.ExitCode != c.code {
			t.Errorf("%s: status %+v, error %v", name, status, err)
		}
	}
	// It returns to where it came from.
	own, err := os.Readlink("/proc/self/ns/pid")
	must(t, err)
	for range 20 {
		if now, err := os.Readlink("/proc/thread-self/ns/pid_for_children"); err != nil || now != own {
			t.Errorf("pid namespace %s, error %v", now, err)
		}
	}
}

func TestExecEndsWithTheContainer(t *testing.T) {
	p := up(t, newRoot(t))
	process := runtime.DefaultSpec().Process
	process.Args = []string{"sleep", "1000"}
	e, err := runtime.Exec(t.Context(), runtime.ExecConfig{Pid: p.Pid(), Process: process, Detach: true})
	must(t, err)
	must(t, p.Signal(syscall.SIGKILL))
	if status, err := e.Wait(); err != nil || status.Signal != syscall.SIGKILL {
		t.Errorf("status %+v, error %v", status, err)
	}
	must(t, e.Close())
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
}

// What the container puts in the way of a process that joins leads nowhere else.
func TestExecInAHostileContainer(t *testing.T) {
	dir, host := newRoot(t), hostDir(t)
	p := up(t, dir, func(c *runtime.Config) {
		c.Spec.Process.Args[2] = "ln -s / /self; ln -s /proc/self/fd/7 /seven; ln -s " + host + " /host; " +
			"mv /dev/null /dev/other; ln -s /dev/zero /dev/null; echo up; sleep 1000"
	})
	for _, cwd := range []string{"/host", "/seven", "/proc/self/fd/5", "/proc/self/cwd", "/../../.."} {
		out, status, err := inside(t, p, "test -e sentinel && echo escaped; readlink /proc/self/cwd", func(c *runtime.ExecConfig) { c.Process.Cwd = cwd })
		if strings.Contains(out, "escaped") || err == nil && (status.ExitCode != 0 || out != "/") {
			t.Errorf("working directory %s: %q, status %+v, error %v", cwd, out, status, err)
		}
	}
	for _, program := range []string{"/proc/self/exe", "/proc/self/fd/4"} {
		if _, status, err := inside(t, p, "", func(c *runtime.ExecConfig) { c.Process.Args = []string{program} }); err == nil {
			t.Errorf("program %s: status %+v", program, status)
		}
	}
}

func TestTerminal(t *testing.T) {
	dir := newRoot(t)
	root := runtime.RootPath(dir)
	s := script(`test -t 0 && test -t 2 && tty; stat -c %t:%T:%u /dev/console; stty size; ps -o tty= -p $$ 2>/dev/null; read line; echo "got $line"; trap 'echo int; exit 7' INT; echo ready; while :; do sleep 0.01; done`)
	s.User = "alice"
	spec, err := runtime.SpecFor(root, s)
	must(t, err)
	spec.Process.Terminal = true
	spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
	if _, err := runtime.Start(t.Context(), runtime.Config{Spec: spec, Root: root, Stdout: os.Stdout}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("with another stream: error %v", err)
	}
	p, err := runtime.Start(t.Context(), runtime.Config{Spec: spec, Root: root})
	must(t, err)
	defer func() { must(t, p.Close()) }()
	console := p.Console()
	if console == nil {
		t.Fatal("no terminal")
	}
	_, err = console.WriteString("hello\n")
	must(t, err)
	var lines []string
	in := bufio.NewScanner(console)
	for in.Scan() {
		line := strings.TrimSuffix(in.Text(), "\r")
		lines = append(lines, line)
		if line == "ready" {
			// The key that interrupts reaches the process, so the terminal is its own.
			_, err = console.Write([]byte{3})
			must(t, err)
		}
	}
	text := strings.Join(lines, "\n")
	for _, want := range []string{"/dev/pts/0", "88:0:1000", "33 77", "got hello", "int"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if status, err := p.Wait(); err != nil || status.ExitCode != 7 {
		t.Errorf("status %+v, error %v", status, err)
	}
}

// A process that got the number of the container's is not joined, nor is one that is in no
// container.
func TestExecWrongProcess(t *testing.T) {
	p := up(t, newRoot(t))
	wrong := errors.New("another process")
	for _, detach := range []bool{false, true} {
		_, status, err := inside(t, p, "echo joined", func(c *runtime.ExecConfig) {
			c.Verify, c.Detach = func() error { return wrong }, detach
		})
		if !errors.Is(err, wrong) || status.ExitCode != runtime.ExitFailed {
			t.Errorf("status %+v, error %v", status, err)
		}
		_, status, err = inside(t, p, "echo joined", func(c *runtime.ExecConfig) { c.Pid, c.Detach = os.Getpid(), detach })
		if !errors.Is(err, unix.ESRCH) || status.ExitCode != runtime.ExitFailed {
			t.Errorf("no container: status %+v, error %v", status, err)
		}
	}
	if out, _, err := inside(t, p, "echo joined", func(c *runtime.ExecConfig) { c.Verify = func() error { return nil } }); err != nil || out != "joined" {
		t.Errorf("the right one: %q, %v", out, err)
	}
}

func TestExecTerminal(t *testing.T) {
	p := up(t, newRoot(t))
	process := runtime.DefaultSpec().Process
	process.Terminal = true
	process.User.UID = 1000
	process.Args = []string{"/bin/sh", "-c", "tty; stat -c %u $(tty); echo x >/dev/tty; exit 4"}
	e, err := runtime.Exec(t.Context(), runtime.ExecConfig{Pid: p.Pid(), Process: process})
	must(t, err)
	out, _ := io.ReadAll(e.Console()) // it ends with EIO
	if got := strings.ReplaceAll(string(out), "\r", ""); got != "/dev/pts/0\n1000\nx\n" {
		t.Errorf("got %q", got)
	}
	if status, err := e.Wait(); err != nil || status.ExitCode != 4 {
		t.Errorf("status %+v, error %v", status, err)
	}
	must(t, e.Close())
}

// A container that offers something else as its terminal is found out.
func TestExecFalseTerminal(t *testing.T) {
	for name, text := range map[string]string{
		"file":   "umount /dev/pts; rm -rf /dev/pts; mkdir /dev/pts; echo x >/dev/pts/ptmx",
		"device": "umount /dev/pts; rm -rf /dev/pts; mkdir /dev/pts; mknod /dev/pts/ptmx c 1 5",
		"link":   "umount /dev/pts; ln -s /dev/zero /dev/pts/ptmx",
	} {
		p := up(t, newRoot(t), func(c *runtime.Config) {
			c.Spec.Process.Args[2] = text + "; echo up; sleep 1000"
			c.Spec.Linux.Seccomp = nil
			caps := c.Spec.Process.Capabilities
			for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
				*set = append(*set, "CAP_SYS_ADMIN")
			}
		})
		process := runtime.DefaultSpec().Process
		process.Terminal = true
		e, err := runtime.Exec(t.Context(), runtime.ExecConfig{Pid: p.Pid(), Process: process})
		if err == nil {
			t.Errorf("%s: taken for a terminal", name)
			must(t, e.Close())
		}
	}
}
