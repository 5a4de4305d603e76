package runtime_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime"
)

// The test program is also the launcher that TestDiesWithCaller kills.
const asLauncher = "RUNTIME_TEST_ROOT"

func TestMain(m *testing.M) {
	if root := os.Getenv(asLauncher); root != "" {
		spec, err := runtime.SpecFor(runtime.RootPath(root), script("echo up; sleep 1000"))
		if err == nil {
			_, err = runtime.Run(context.Background(), runtime.Config{Spec: spec, Root: runtime.RootPath(root), Stdout: os.Stdout})
		}
		if err != nil {
			panic(err)
		}
		return
	}
	if os.Getenv(asSealed) != "" {
		sealAndWait()
		return
	}
	if root := os.Getenv(asStarter); root != "" {
		if err := startDetached(root); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

func TestExitCodes(t *testing.T) {
	dir := newRoot(t)
	write(t, dir, "bin/plain", "not a program")
	must(t, os.WriteFile(filepath.Join(dir, "bin/text"), []byte("neither script nor ELF"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "bin/orphan"), []byte("#!/no/such/interpreter\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "bin/script"), []byte("#!/bin/sh\nexit 9\n"), 0o755))
	root := runtime.RootPath(dir)
	for _, c := range []struct {
		name  string
		args  []string
		code  int
		class error
		text  string
	}{
		{"success", []string{"true"}, 0, nil, ""},
		{"failure", []string{"false"}, 1, nil, ""},
		{"largest code", []string{"sh", "-c", "exit 255"}, 255, nil, ""},
		{"absolute path", []string{"/bin/sh", "-c", "exit 3"}, 3, nil, ""},
		{"relative path", []string{"bin/sh", "-c", "exit 4"}, 4, nil, ""},
		{"script", []string{"script"}, 9, nil, ""},
		{"missing in PATH", []string{"nosuch"}, 127, fs.ErrNotExist, "nosuch"},
		{"missing path", []string{"/bin/nosuch"}, 127, fs.ErrNotExist, "/bin/nosuch"},
		{"path through a file", []string{"/bin/busybox/x"}, 127, fs.ErrNotExist, "/bin/busybox/x"},
		{"missing interpreter", []string{"orphan"}, 127, fs.ErrNotExist, "interpreter"},
		{"not executable", []string{"plain"}, 126, fs.ErrPermission, "plain"},
		{"not a program", []string{"text"}, 126, syscall.ENOEXEC, "text"},
		{"directory", []string{"/bin"}, 126, fs.ErrPermission, "/bin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, status, err := run(t, root, runtime.Settings{Args: c.args})
			if status.ExitCode != c.code {
				t.Errorf("exit code %d, want %d (error %v)", status.ExitCode, c.code, err)
			}
			if !errors.Is(err, c.class) {
				t.Errorf("error %v, want class %v", err, c.class)
			}
			if err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q does not name %q", err, c.text)
			}
		})
	}
}

func TestPathIsSearchedInOrder(t *testing.T) {
	dir := newRoot(t)
	must(t, os.MkdirAll(filepath.Join(dir, "first"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "second"), 0o755))
	// What cannot be executed is passed over when a later directory has the name.
	write(t, dir, "first/prog", "#!/bin/sh\nexit 1\n")
	must(t, os.WriteFile(filepath.Join(dir, "second/prog"), []byte("#!/bin/sh\nexit 42\n"), 0o755))
	s := runtime.Settings{Args: []string{"prog"}, Env: []string{"PATH=/none:/first:/second"}}
	if _, status, err := run(t, runtime.RootPath(dir), s); err != nil || status.ExitCode != 42 {
		t.Errorf("status %+v, error %v", status, err)
	}
	// An empty element is the working directory.
	s = runtime.Settings{Args: []string{"prog"}, Env: []string{"PATH=/none:"}, Cwd: "/second"}
	if _, status, err := run(t, runtime.RootPath(dir), s); err != nil || status.ExitCode != 42 {
		t.Errorf("in the working directory: status %+v, error %v", status, err)
	}
}

func TestFatalSignalIsReported(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	// The shell has no handler, so as the first process it would get nothing from
	// inside; from outside there is SIGKILL.
	signals := make(chan os.Signal, 1)
	_, status, err := run(t, root, runtime.Settings{Args: []string{"sleep", "1000"}}, func(c *runtime.Config) {
		c.Signals = signals
		c.Started = func(int) { signals <- syscall.SIGKILL }
	})
	if err != nil || status.ExitCode != 137 || status.Signal != syscall.SIGKILL {
		t.Errorf("status %+v, error %v", status, err)
	}
}

func TestSignalsAreForwarded(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	signals := make(chan os.Signal, 3)
	r, w, err := os.Pipe()
	must(t, err)
	go func() {
		// The trap is set when the first line arrives.
		if _, err := bufio.NewReader(r).ReadString('\n'); err == nil {
			signals <- syscall.SIGURG // about the caller: not forwarded
			signals <- syscall.SIGUSR1
			close(signals)
		}
	}()
	text := "trap 'exit 5' USR1; trap 'exit 6' URG; echo ready; while :; do sleep 0.01; done"
	_, status, err := run(t, root, script(text), func(c *runtime.Config) { c.Signals, c.Stdout = signals, w })
	if err != nil || status.ExitCode != 5 {
		t.Errorf("status %+v, error %v", status, err)
	}
	must(t, errors.Join(r.Close(), w.Close()))
}

func TestContextStops(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	for _, c := range []struct {
		name, text string
		grace      time.Duration
		code       int
	}{
		{"handled", "trap 'exit 11' TERM; echo ready; while :; do sleep 0.01; done", time.Minute, 11},
		{"ignored", "trap '' TERM; echo ready; sleep 1000", 50 * time.Millisecond, 137},
		{"without grace", "trap 'exit 11' TERM; echo ready; while :; do sleep 0.01; done", -1, 137},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec, err := runtime.SpecFor(root, script(c.text))
			must(t, err)
			r, w, err := os.Pipe()
			must(t, err)
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				_, err := bufio.NewReader(r).ReadString('\n')
				cancel(errors.Join(cause, err))
			}()
			status, err := runtime.Run(ctx, runtime.Config{Spec: spec, Root: root, Stdout: w, Grace: c.grace})
			if !errors.Is(err, cause) || status.ExitCode != c.code {
				t.Errorf("status %+v, error %v; want code %d", status, err, c.code)
			}
			must(t, errors.Join(r.Close(), w.Close()))
		})
	}
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		spec, err := runtime.SpecFor(root, script("true"))
		must(t, err)
		status, err := runtime.Run(ctx, runtime.Config{Spec: spec, Root: root})
		if !errors.Is(err, context.Canceled) || status.ExitCode != runtime.ExitFailed {
			t.Errorf("status %+v, error %v", status, err)
		}
	})
}

func TestStreams(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	in, feed, err := os.Pipe()
	must(t, err)
	_, err = feed.WriteString("from outside")
	must(t, errors.Join(err, feed.Close()))
	r, w, err := os.Pipe()
	must(t, err)
	// Each stream is another file, so that an exchange would show.
	out := output(t, root, "cat; echo oops >&2", func(c *runtime.Config) { c.Stdin, c.Stderr = in, w })
	must(t, errors.Join(in.Close(), w.Close()))
	line, err := bufio.NewReader(r).ReadString('\n')
	must(t, errors.Join(err, r.Close()))
	if out != "from outside" || line != "oops\n" {
		t.Errorf("stdout %q, stderr %q", out, line)
	}
}

func TestNullStreamIsTheContainers(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	host, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	must(t, err)
	defer func() { must(t, host.Close()) }()
	before, err := host.Stat()
	must(t, err)
	// Whoever gets the host's own can change it through /proc/self/fd.
	for name, in := range map[string]*os.File{"nil": nil, "the host's": host} {
		if out := output(t, root, "chmod 600 /proc/self/fd/0; stat -c %t:%T:%a /dev/null", func(c *runtime.Config) { c.Stdin = in }); out != "1:3:600" {
			t.Errorf("%s: the container's null device is %s", name, out)
		}
		after, err := host.Stat()
		must(t, err)
		if before.Mode() != after.Mode() {
			must(t, host.Chmod(before.Mode().Perm()))
			t.Errorf("%s: the container changed the host's null device to %v", name, after.Mode())
		}
	}
}

func TestDiesWithCaller(t *testing.T) {
	dir := newRoot(t)
	self, err := os.Executable()
	must(t, err)
	launcher := exec.Command(self)
	launcher.Env = append(os.Environ(), asLauncher+"="+dir)
	out, err := launcher.StdoutPipe()
	must(t, err)
	must(t, launcher.Start())
	// The container holds the pipe too: its end of file is the container's end.
	read := bufio.NewReader(out)
	if line, err := read.ReadString('\n'); err != nil || line != "up\n" {
		t.Fatalf("launcher says %q, %v", line, err)
	}
	must(t, launcher.Process.Kill())
	end := make(chan error, 1)
	go func() { _, err := read.ReadByte(); end <- err }()
	select {
	case err := <-end:
		if err == nil {
			t.Error("the container wrote more than it was told")
		}
	case <-time.After(time.Minute):
		t.Error("the container outlives its launcher")
	}
	if err := launcher.Wait(); err == nil {
		t.Error("the launcher was not killed")
	}
}

func TestUnsupportedIsRefused(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	for name, change := range map[string]func(*specs.Spec){
		"listener":  func(s *specs.Spec) { s.Linux.Seccomp.ListenerPath = "/x" },
		"resources": func(s *specs.Spec) { s.Linux.Resources = &specs.LinuxResources{} },
		"apparmor":  func(s *specs.Spec) { s.Process.ApparmorProfile = "x" },
		"other user namespace": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/self/ns/user"})
		},
		"host's processes": func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
		},
		"cgroup mount of the host": func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/c", Type: "cgroup"})
		},
	} {
		_, status, err := run(t, root, script("true"), func(c *runtime.Config) { change(c.Spec) })
		if !errors.Is(err, errors.ErrUnsupported) || status.ExitCode != runtime.ExitFailed {
			t.Errorf("%s: status %+v, error %v", name, status, err)
		}
	}
}

func TestInvalidIsRefused(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	for name, change := range map[string]func(*runtime.Config){
		"no root":            func(c *runtime.Config) { c.Root = runtime.Root{} },
		"no process":         func(c *runtime.Config) { c.Spec.Process = nil },
		"no program":         func(c *runtime.Config) { c.Spec.Process.Args = nil },
		"NUL in argument":    func(c *runtime.Config) { c.Spec.Process.Args = []string{"sh", "a\x00b"} },
		"relative cwd":       func(c *runtime.Config) { c.Spec.Process.Cwd = "tmp" },
		"unknown capability": func(c *runtime.Config) { c.Spec.Process.Capabilities.Bounding = []string{"CAP_ALL"} },
		"unknown limit":      func(c *runtime.Config) { c.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		"crossed limit": func(c *runtime.Config) {
			c.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 2, Hard: 1}}
		},
		"relative mount":    func(c *runtime.Config) { c.Spec.Mounts[0].Destination = "proc" },
		"mount on the root": func(c *runtime.Config) { c.Spec.Mounts[0].Destination = "/x/.." },
		"mount without type": func(c *runtime.Config) {
			c.Spec.Mounts[0].Type = ""
		},
		"device elsewhere": func(c *runtime.Config) {
			c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/etc/null", Type: "c", Major: 1, Minor: 3}}
		},
		"user namespace without ids": func(c *runtime.Config) {
			c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		},
		"ids without a user namespace": func(c *runtime.Config) {
			c.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
		},
		"namespace twice": func(c *runtime.Config) {
			c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
		},
		"relative hook":       func(c *runtime.Config) { c.Spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "true"}}} },
		"unknown propagation": func(c *runtime.Config) { c.Spec.Linux.RootfsPropagation = "everywhere" },
		"unknown scheduler":   func(c *runtime.Config) { c.Spec.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_X"} },
		"unknown io class":    func(c *runtime.Config) { c.Spec.Process.IOPriority = &specs.LinuxIOPriority{Class: "X"} },
		"unknown personality": func(c *runtime.Config) { c.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: "X"} },
		"clocks without a namespace": func(c *runtime.Config) {
			c.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}}
		},
		"sysctl out of its tree": func(c *runtime.Config) { c.Spec.Linux.Sysctl["net/../../uptime"] = "1" },
	} {
		_, status, err := run(t, root, script("true"), change)
		if err == nil || status.ExitCode != runtime.ExitFailed {
			t.Errorf("%s: status %+v, error %v", name, status, err)
		}
	}
	_, _, err := run(t, root, script("true"), func(c *runtime.Config) { c.Spec.Linux.Sysctl["kernel.panic"] = "0" })
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a sysctl of the host: error %v", err)
	}
}

func TestFailedStepIsNamed(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	_, status, err := run(t, root, script("true"), func(c *runtime.Config) {
		c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=much"}})
	})
	var step *runtime.Error
	if !errors.As(err, &step) || !errors.Is(err, unix.EINVAL) || status.ExitCode != runtime.ExitFailed {
		t.Fatalf("status %+v, error %v", status, err)
	}
	if !strings.Contains(step.Step, "size=much") || !strings.Contains(step.Object, "/data") {
		t.Errorf("error %q names neither option nor place", err)
	}
}

// withoutMknod runs f on a thread that may not make device nodes.
func withoutMknod(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		goruntime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		if err == nil {
			data[0].Effective &^= 1 << unix.CAP_MKNOD
			data[0].Permitted &^= 1 << unix.CAP_MKNOD
			err = unix.Capset(&header, &data[0])
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	must(t, <-done)
}

func TestDevicesAreBoundWhereNodesAreRefused(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	spec, err := runtime.SpecFor(root, script("for d in null zero full random urandom tty; do stat -c %n:%t:%T /dev/$d; done; cat /proc/keys"))
	must(t, err)
	r, w, err := os.Pipe()
	must(t, err)
	var log bytes.Buffer
	withoutMknod(t, func() {
		status, err := runtime.Run(t.Context(), runtime.Config{Spec: spec, Root: root, Stdout: w, Stderr: w, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil || status.ExitCode != 0 {
			t.Errorf("status %+v, error %v", status, err)
		}
	})
	must(t, w.Close())
	var out bytes.Buffer
	_, err = out.ReadFrom(r)
	must(t, errors.Join(err, r.Close()))
	want := "/dev/null:1:3\n/dev/zero:1:5\n/dev/full:1:7\n/dev/random:1:8\n/dev/urandom:1:9\n/dev/tty:5:0\n"
	if out.String() != want {
		t.Errorf("devices\n%swant\n%s", out.String(), want)
	}
	if !strings.Contains(log.String(), "CAP_MKNOD") {
		t.Errorf("a capability that is not there goes unmentioned: %q", log.String())
	}
}

// left counts what a container could leave behind in this process's view.
func left(t *testing.T) (mounts, fds, children int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue // ended meanwhile
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			children++
		}
	}
	return bytes.Count(b, []byte("\n")), len(entries), children
}

func TestNothingIsLeft(t *testing.T) {
	dir := newRoot(t)
	root := runtime.RootPath(dir)
	start := func(n int) {
		out, status, err := run(t, root, script("sleep 1000 & setsid sleep 1000 & mkdir -p /tmp/"+strconv.Itoa(n)+"; exit 7"))
		if err != nil || status.ExitCode != 7 {
			t.Errorf("start %d: status %+v, error %v, output %s", n, status, err, out)
		}
	}
	start(0)
	_, fds, children := left(t)
	for n := range 50 {
		start(n)
	}
	done := make(chan struct{})
	for n := range 8 {
		go func() { start(n); done <- struct{}{} }()
	}
	for range 8 {
		<-done
	}
	// Also where the start fails half-way.
	_, _, err := run(t, root, runtime.Settings{Args: []string{"nosuch"}})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	_, _, err = run(t, root, script("true"), func(c *runtime.Config) {
		c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such"})
	})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	_, fds2, children2 := left(t)
	if fds2 != fds || children2 != children {
		t.Errorf("open files %d, then %d; children %d, then %d", fds, fds2, children, children2)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if bytes.Contains(b, []byte(dir)) {
		t.Error("a mount below the root is left on the host")
	}
}
