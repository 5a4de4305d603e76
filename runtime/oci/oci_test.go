package oci

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/runtime"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newBundle makes a bundle with a static busybox that runs a script.
func newBundle(t *testing.T, text string, change ...func(*specs.Spec)) string {
	t.Helper()
	testenv.Root(t)
	testenv.Tools(t, "busybox")
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "rootfs/bin"), 0o755))
	from, err := exec.LookPath("busybox")
	must(t, err)
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "rootfs/bin/sh"), b, 0o755))
	s := runtime.DefaultSpec()
	s.Root = &specs.Root{Path: "rootfs"}
	s.Process.Args = []string{"/bin/sh", "-c", text}
	s.Linux.CgroupsPath = "layerfs-test-oci-" + strconv.Itoa(os.Getpid())
	for _, f := range change {
		f(s)
	}
	must(t, writeJSON(filepath.Join(dir, "config.json"), s))
	return dir
}

func status(t *testing.T, s *Store, id string) specs.ContainerState {
	t.Helper()
	c, err := s.Load(id)
	must(t, err)
	return c.State().Status
}

// reap waits for a container that is a child of the test.
func reap(t *testing.T, c *Container) {
	t.Helper()
	var ws unix.WaitStatus
	if _, err := unix.Wait4(c.rec.Pid, &ws, 0, nil); err != nil {
		t.Errorf("wait for %d: %v", c.rec.Pid, err)
	}
}

func TestLife(t *testing.T) {
	bundle := newBundle(t, "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done")
	s := NewStore(filepath.Join(t.TempDir(), strings.Repeat("long/", 30))) // longer than the address of a socket
	r, w, err := os.Pipe()
	must(t, err)
	pidFile := filepath.Join(t.TempDir(), "pid")
	c, err := s.Create(t.Context(), "box", bundle, Options{PidFile: pidFile, Stdout: w})
	must(t, err)
	if got := status(t, s, "box"); got != specs.StateCreated {
		t.Errorf("created: %s", got)
	}
	if b, err := os.ReadFile(pidFile); err != nil || string(b) != strconv.Itoa(c.rec.Pid) {
		t.Errorf("pid file %q, %v", b, err)
	}
	if _, err := s.Create(t.Context(), "box", bundle, Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("twice: %v", err)
	}
	must(t, c.Start(t.Context(), slog.New(slog.DiscardHandler)))
	line := make([]byte, 3)
	if _, err := r.Read(line); err != nil || string(line) != "up\n" {
		t.Errorf("the container says %q, %v", line, err)
	}
	if err := c.Start(t.Context(), nil); !errors.Is(err, ErrNotCreated) {
		t.Errorf("started twice: %v", err)
	}
	must(t, c.Pause(t.Context()))
	if got := status(t, s, "box"); got != Paused {
		t.Errorf("paused: %s", got)
	}
	must(t, c.Resume(t.Context()))
	if err := c.Delete(t.Context(), false); !errors.Is(err, ErrNotStopped) {
		t.Errorf("deleted while it runs: %v", err)
	}
	must(t, c.Update(strings.NewReader(`{"pids":{"limit":40}}`)))
	if pids, err := c.Processes(); err != nil || len(pids) == 0 {
		t.Errorf("processes %v, %v", pids, err)
	}
	must(t, c.Signal(unix.SIGTERM, false))
	reap(t, c)
	if got := status(t, s, "box"); got != specs.StateStopped {
		t.Errorf("stopped: %s", got)
	}
	if err := c.Signal(unix.SIGTERM, false); !errors.Is(err, ErrNotRunning) {
		t.Errorf("signalled after its end: %v", err)
	}
	must(t, c.Delete(t.Context(), false))
	if _, err := s.Load("box"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleted: %v", err)
	}
	must(t, errors.Join(r.Close(), w.Close()))
}

func TestConsoleIsSent(t *testing.T) {
	bundle := newBundle(t, "test -t 0 && echo terminal", func(s *specs.Spec) { s.Process.Terminal = true })
	s := NewStore(t.TempDir())
	path := filepath.Join(t.TempDir(), "console")
	l, err := net.Listen("unix", path)
	must(t, err)
	got := make(chan *os.File, 1)
	go func() {
		defer close(got)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		b, oob := make([]byte, 64), make([]byte, 64)
		_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		messages, _ := unix.ParseSocketControlMessage(oob[:n])
		if len(messages) == 1 {
			if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
				got <- os.NewFile(uintptr(fds[0]), "console")
			}
		}
		_ = conn.Close()
	}()
	if _, err := s.Create(t.Context(), "box", bundle, Options{}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("without a socket: %v", err)
	}
	c, err := s.Create(t.Context(), "box", bundle, Options{ConsoleSocket: path})
	must(t, err)
	console := <-got
	if console == nil {
		t.Fatal("no terminal arrived")
	}
	must(t, c.Start(t.Context(), slog.New(slog.DiscardHandler)))
	b := make([]byte, 64)
	n, err := console.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), "terminal") {
		t.Errorf("terminal says %q, %v", b[:n], err)
	}
	reap(t, c)
	must(t, errors.Join(c.Delete(t.Context(), false), console.Close(), l.Close()))
}

// What the kernel would not heed is left out, and said; what it would is not.
func TestUnheeded(t *testing.T) {
	source := t.TempDir()
	bind := func(options ...string) string {
		return newBundle(t, "cat /in/file", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/in", Source: source, Options: append(options, "bind", "ro")})
			if !runtime.HaveSELinux() {
				s.Linux.MountLabel = "system_u:object_r:container_file_t:s0"
			}
		})
	}
	must(t, os.WriteFile(filepath.Join(source, "file"), nil, 0o644))
	var said strings.Builder
	o := Options{Logger: slog.New(slog.NewTextHandler(&said, nil))}
	s := NewStore(t.TempDir())
	if ended, err := s.Run(t.Context(), "box", bind("mode=755"), false, o); err != nil || ended.ExitCode != 0 {
		t.Errorf("ended %+v, %v", ended, err)
	}
	if !strings.Contains(said.String(), "option=mode=755") && !strings.Contains(said.String(), `option="mode=755"`) {
		t.Errorf("said %q", said.String())
	}
	if _, err := s.Run(t.Context(), "box", bind("idmap=uids=0-1-10"), false, o); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a map of owners that is not known: %v", err)
	}
}

func TestRun(t *testing.T) {
	s := NewStore(t.TempDir())
	st, err := s.Run(t.Context(), "box", newBundle(t, "exit 6"), false, Options{})
	if err != nil || st.ExitCode != 6 {
		t.Errorf("status %+v, error %v", st, err)
	}
	st, err = s.Run(t.Context(), "box", newBundle(t, "", func(s *specs.Spec) { s.Process.Args = []string{"/no/such"} }), false, Options{})
	if !errors.Is(err, fs.ErrNotExist) || st.ExitCode != runtime.ExitNotFound {
		t.Errorf("status %+v, error %v", st, err)
	}
	all, err := s.List()
	if err != nil || len(all) != 0 {
		t.Errorf("left: %v, %v", all, err)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	s := NewStore(t.TempDir())
	for name, change := range map[string]func(*specs.Spec){
		"mount": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such"})
		},
		"limit":   func(s *specs.Spec) { s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}} },
		"systemd": func(s *specs.Spec) { s.Linux.CgroupsPath = "a:b:c" },
		"upwards": func(s *specs.Spec) { s.Linux.CgroupsPath = "/../x" },
		"no root": func(s *specs.Spec) { s.Root = nil },
	} {
		if _, err := s.Create(t.Context(), "box", newBundle(t, "true", change), Options{}); err == nil {
			t.Errorf("%s: created", name)
		}
		if entries, err := os.ReadDir(s.root); err == nil && len(entries) > 0 {
			t.Errorf("%s: left %v", name, entries)
		}
	}
}

func TestRecordsAreUntrusted(t *testing.T) {
	s := NewStore(t.TempDir())
	for _, id := range []string{"", ".", "..", "a/b", "../x", "a b", "a\x00", strings.Repeat("a", maxID+1)} {
		if _, err := s.Load(id); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("id %.20q: %v", id, err)
		}
	}
	if err := checkID(strings.Repeat("a", maxID)); err != nil {
		t.Error(err)
	}
	var v any
	if err := decode(strings.NewReader(`"`+strings.Repeat("a", maxConfig-2)+`"`), &v); err != nil {
		t.Error(err)
	}
	if err := decode(strings.NewReader(`"`+strings.Repeat("a", maxConfig-1)+`"`), &v); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("one byte too many: %v", err)
	}
	// A process that has the number of an ended one is another.
	c := &Container{dir: t.TempDir(), rec: record{Pid: os.Getpid(), StartTime: 1}, Spec: &specs.Spec{}}
	if got := c.status(); got != specs.StateStopped {
		t.Errorf("taken for the container: %s", got)
	}
	must(t, c.signal(unix.SIGKILL)) // or this test ends here
	if err := c.verify(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("taken for the container's process: %v", err)
	}
}

func TestDeleteAfterAnInterruptedCreate(t *testing.T) {
	s := NewStore(t.TempDir())
	must(t, os.Mkdir(filepath.Join(s.root, "box"), 0o700))
	if _, err := s.Load("box"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load: %v", err)
	}
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("list: %v, %v", all, err)
	}
	must(t, s.Prune(t.Context(), "box", slog.New(slog.DiscardHandler)))
	if entries, err := os.ReadDir(s.root); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func FuzzDecode(f *testing.F) {
	text, err := json.Marshal(record{ID: "box", Pid: 1, Created: time.Unix(0, 0), Gate: &runtime.GateSteps{First: 1, Steps: [][2]string{{"a", "b"}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Fuzz(func(_ *testing.T, text string) {
		var r record
		_ = decode(strings.NewReader(text), &r)
		_ = checkID(r.ID)
	})
}
