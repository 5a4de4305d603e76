package userns_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/userns"
)

// The test program is its own keeper, the process that enters and what runs inside. Its
// first argument says which.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || !strings.HasPrefix(os.Args[1], "as-") {
		os.Exit(m.Run())
	}
	code, err := play(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func play(part string, args []string) (int, error) {
	switch part {
	case "as-keeper":
		return 0, userns.Keep(args[0])
	case "as-outside": // FILE SINGLE COMMAND...
		s := space(args[0])
		s.Single = args[1] == "single"
		dir, err := os.Getwd()
		if err != nil {
			return 1, err
		}
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		return s.Run(userns.Command{Args: append([]string{"test", "as-inside"}, args[2:]...), Env: append(os.Environ(), "INSIDE=yes"), Dir: dir, Signals: signals})
	case "as-inside":
		return inside(args)
	}
	return 2, fmt.Errorf("no part %q", part)
}

func space(file string) userns.Space {
	return userns.Space{File: file, Keeper: []string{"test", "as-keeper", file}}
}

func inside(args []string) (int, error) {
	switch args[0] {
	case "report":
		m, err := userns.Current()
		if err != nil {
			return 1, err
		}
		dir, err := os.Getwd()
		fmt.Printf("uid %d gid %d initial %v single %v dir %s env %s\n", os.Getuid(), os.Getgid(), m.Initial(), m.Single(), dir, os.Getenv("INSIDE"))
		return 7, err
	case "mount":
		return 0, unix.Mount("tmpfs", args[1], "tmpfs", 0, "size=64k")
	case "touch":
		return 0, os.WriteFile(args[1], nil, 0o600)
	case "unmount":
		return 0, unix.Unmount(args[1], 0)
	case "chown":
		return 0, os.Chown(args[1], 33, 33)
	case "killed":
		return 0, unix.Kill(os.Getpid(), unix.SIGKILL)
	case "wait":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("waiting")
		<-c
		return 9, nil
	}
	return 2, fmt.Errorf("no task %q", args[0])
}

// outside is a command that enters the space of a file.
func outside(t *testing.T, file, how string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, append([]string{"as-outside", file, how}, args...)...)
	cmd.Dir = filepath.Dir(file)
	return cmd
}

// run enters and wants an exit code.
func run(t *testing.T, code int, file, how string, args ...string) string {
	t.Helper()
	cmd := outside(t, file, how, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("%q ended with %d, want %d: %s", args, got, code, stderr.String())
	}
	return stdout.String()
}

// newFile returns a lock file in a directory of the test, and waits for its keeper's end
// when the test is done.
func newFile(t *testing.T) string {
	t.Helper()
	testenv.Rootless(t)
	file := filepath.Join(t.TempDir(), "lock")
	t.Cleanup(func() { waitForEnd(t, file) })
	return file
}

func waitForEnd(t *testing.T, file string) {
	t.Helper()
	for range 1000 {
		pid, err := space(file).Find()
		if err != nil {
			t.Fatal(err)
		}
		if pid == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the keeper does not end")
}

func TestRun(t *testing.T) {
	file := newFile(t)
	for _, how := range []string{"all", "single"} {
		waitForEnd(t, file)
		m, why := userns.Allowed()
		single := how == "single" || why != nil && m.Single()
		want := fmt.Sprintf("uid 0 gid 0 initial false single %v dir %s env yes\n", single, filepath.Dir(file))
		if got := run(t, 7, file, how, "report"); got != want {
			t.Errorf("%s: inside it is %q, want %q", how, got, want)
		}
	}
}

// TestMountsStay mounts in one process and finds the mount in the next one, and nothing
// of it outside.
func TestMountsStay(t *testing.T) {
	file := newFile(t)
	dir := filepath.Join(filepath.Dir(file), "m")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, 0, file, "all", "mount", dir)
	time.Sleep(1500 * time.Millisecond) // longer than a keeper stays for nothing
	run(t, 0, file, "all", "touch", filepath.Join(dir, "x"))
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("outside there is %v, %v", entries, err)
	}
	run(t, 0, file, "all", "unmount", dir)
}

func TestSubordinateOwners(t *testing.T) {
	file := newFile(t)
	if _, err := userns.Allowed(); err != nil {
		t.Skip(err)
	}
	path := filepath.Join(filepath.Dir(file), "f")
	run(t, 0, file, "all", "touch", path)
	run(t, 0, file, "all", "chown", path)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Uid == uint32(os.Getuid()) {
		t.Errorf("owner %d, %v: want a subordinate id", st.Uid, err)
	}
	waitForEnd(t, file)
	// With one id there is no other owner.
	run(t, 1, file, "single", "chown", path)
}

func TestSignals(t *testing.T) {
	file := newFile(t)
	run(t, 128+9, file, "all", "killed")
	cmd := outside(t, file, "all", "wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Errorf("a process that was sent SIGTERM ended with %v, want code 9", err)
	}
}

// TestDiesWithCaller kills the process outside and waits for the one inside.
func TestDiesWithCaller(t *testing.T) {
	file := newFile(t)
	cmd := outside(t, file, "all", "wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The pipe ends when nobody holds it any more.
	if _, err := out.Read(make([]byte, 16)); err == nil {
		t.Error("the process inside goes on writing")
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a killed process ended well")
	}
}

// TestAtOnce lets many start at the same time: all get the same namespaces.
func TestAtOnce(t *testing.T) {
	file := newFile(t)
	dir := filepath.Join(filepath.Dir(file), "m")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var cmds []*exec.Cmd
	var outs []io.Reader
	for range 8 {
		cmd := outside(t, file, "all", "wait")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	for _, out := range outs {
		if _, err := out.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
	}
	pid, err := space(file).Find()
	if err != nil || pid == 0 {
		t.Fatalf("no keeper: %v", err)
	}
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range cmds {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for child := range strings.FieldsSeq(string(children)) {
			if got, err := os.Readlink("/proc/" + child + "/ns/mnt"); err != nil || got != want {
				t.Errorf("a process is in %q, %v, the keeper in %s", got, err, want)
			}
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range cmds {
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 9 {
			t.Error(err)
		}
	}
}

func TestErrors(t *testing.T) {
	testenv.Rootless(t)
	_, err := space(filepath.Join(t.TempDir(), "none", "lock")).Run(userns.Command{Args: []string{"x"}})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a lock in a missing directory: %v", err)
	}
	file := newFile(t)
	_, err = space(file).Run(userns.Command{Args: []string{"x"}, Dir: "/does/not/exist"})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "enter directory /does/not/exist") {
		t.Errorf("a missing directory: %v", err)
	}
	_, err = space(file).Run(userns.Command{Args: []string{"x\x00"}})
	if !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, unix.EINVAL) {
		t.Errorf("an argument with a NUL byte: %v", err)
	}
	broken := userns.Space{File: filepath.Join(t.TempDir(), "lock"), Keeper: []string{"test", "as-nothing"}}
	if _, err := broken.Run(userns.Command{Args: []string{"x"}}); err == nil {
		t.Error("a keeper that does not keep is taken for one")
	}
}

func TestHas(t *testing.T) {
	ranges := []userns.Range{{Inside: 0, Outside: 1000, Count: 1}, {Inside: 1, Outside: 100000, Count: 65536}}
	for id, want := range map[uint32]bool{0: true, 1: true, 65536: true, 65537: false, 1<<32 - 2: false} {
		if got := userns.Has(ranges, id); got != want {
			t.Errorf("id %d is there: %v, want %v", id, got, want)
		}
	}
	m := userns.Mapping{UIDs: []userns.Range{{Count: 1<<32 - 1}}, GIDs: []userns.Range{{Count: 1<<32 - 1}}}
	if !m.Initial() || m.Single() {
		t.Errorf("the mapping of all ids: initial %v, single %v", m.Initial(), m.Single())
	}
}
