package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// ociRuntime is a path that runs this program as an OCI runtime: a script, since engines
// clear the environment that makes the test program the program.
func ociRuntime(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), ociName)
	script := "#!/bin/sh\nexec env " + asProgram + "=1 " + self + " oci \"$@\"\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// boxRoot is the tar of a root file system with little in it.
func boxRoot(t testing.TB) string {
	t.Helper()
	testenv.Tools(t, "busybox", "tar")
	root := t.TempDir()
	testenv.Output(t, "sh", "-ec", `mkdir -p "$1/bin"; cp "$(command -v busybox)" "$1/bin/busybox"; for a in sh sleep echo ps cat; do ln -s busybox "$1/bin/$a"; done; tar -C "$1" -cf "$1.tar" .`, "sh", root)
	return root + ".tar"
}

// TestInteropDockerRuntime has a Docker daemon run containers by this program.
func TestInteropDockerRuntime(t *testing.T) {
	testenv.Root(t)
	testenv.Long(t)
	d := startDocker(t, "--add-runtime", "layerfs="+ociRuntime(t))
	d.run("import", boxRoot(t), "box:1")
	run := func(args ...string) string {
		return d.run(append([]string{"run", "--runtime", "layerfs", "--network", "none"}, args...)...)
	}
	if out := run("--rm", "box:1", "echo", "hello"); out != "hello" {
		t.Errorf("run: %q", out)
	}
	if out := run("--rm", "--memory", "64m", "--pids-limit", "50", "--read-only", "--tmpfs", "/t", "-u", "7", "-w", "/t", "box:1", "sh", "-c", "pwd; busybox id -u; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true"); out != "/t\n7\n50" {
		t.Errorf("settings: %q", out)
	}
	run("-d", "--name", "box", "box:1", "sleep", "1000")
	if out := d.run("exec", "box", "ps"); !strings.Contains(out, "sleep 1000") {
		t.Errorf("exec: %q", out)
	}
	d.run("pause", "box")
	d.run("unpause", "box")
	d.run("update", "--pids-limit", "60", "box")
	d.run("stop", "-t", "0", "box")
	if out := d.run("inspect", "-f", "{{.HostConfig.Runtime}} {{.State.ExitCode}}", "box"); out != "layerfs 137" {
		t.Errorf("runtime and exit code %q", out)
	}
	d.run("start", "box")
	d.run("rm", "-f", "box")
}

// TestInteropContainerdRuntime has containerd run containers by this program.
func TestInteropContainerdRuntime(t *testing.T) {
	testenv.Root(t)
	testenv.Long(t)
	testenv.Tools(t, "containerd", "ctr")
	s := newStore(t)
	s.ok("import", boxRoot(t), "box:1")
	archive := filepath.Join(t.TempDir(), "box.tar")
	s.ok("save", "--quiet", "--format", "docker", "-o", archive, "box:1")
	ctr := startContainerd(t)
	ctr("images", "import", archive)
	image := strings.TrimSpace(ctr("images", "ls", "-q"))
	runtime := ociRuntime(t)
	run := func(args ...string) string {
		return ctr(append([]string{"run", "--runc-binary", runtime, "--snapshotter", "native"}, args...)...)
	}
	if out := run("--rm", image, "one", "/bin/echo", "hello"); out != "hello\n" {
		t.Errorf("run: %q", out)
	}
	run("-d", "--memory-limit", "67108864", image, "two", "/bin/sleep", "1000")
	if out := ctr("tasks", "exec", "--exec-id", "e", "two", "/bin/ps"); !strings.Contains(out, "sleep 1000") {
		t.Errorf("exec: %q", out)
	}
	ctr("tasks", "pause", "two")
	ctr("tasks", "resume", "two")
	if out := ctr("tasks", "ls"); !strings.Contains(out, "RUNNING") {
		t.Errorf("tasks: %q", out)
	}
	ctr("tasks", "kill", "-s", "9", "two")
	for begin := time.Now(); !strings.Contains(ctr("tasks", "ls"), "STOPPED"); time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > dockerStop {
			t.Fatal("the task did not end")
		}
	}
	ctr("tasks", "rm", "--force", "two")
	ctr("containers", "rm", "two")
}

// startContainerd starts a daemon that shares nothing with another on the machine, as
// startDocker does, and returns what runs commands of its client.
func startContainerd(t testing.TB) func(args ...string) string {
	t.Helper()
	dir := shortPlace(t)
	socket := dir + "/s"
	// Without the plugin that needs a configured network.
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("containerd", "--config", config, "--root", dir+"/root", "--state", dir+"/state", "--address", socket)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := cmd.Process.Signal(unix.SIGTERM)
		_, waitErr := cmd.Process.Wait()
		if err := errors.Join(err, waitErr, log.Close()); err != nil {
			t.Error(err)
		}
	})
	client := func(args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "ctr", append([]string{"--address", socket}, args...)...)
	}
	for begin := time.Now(); client("version").Run() != nil; time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > dockerStart {
			text, err := os.ReadFile(log.Name())
			t.Fatalf("containerd does not answer within %v: %v\n%s", dockerStart, err, lastLines(string(text), 5))
		}
	}
	return func(args ...string) string {
		t.Helper()
		var stdout, stderr strings.Builder
		c := client(args...)
		c.Stdout, c.Stderr = &stdout, &stderr
		if err := c.Run(); err != nil {
			t.Fatalf("ctr %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
		}
		return stdout.String()
	}
}

// TestInteropPodmanRuntime has podman run containers by this program.
func TestInteropPodmanRuntime(t *testing.T) {
	testenv.Root(t)
	testenv.Long(t)
	testenv.Tools(t, "busybox", "conmon", "tar")
	p := newPodman(t)
	p.run("import", boxRoot(t), "box:1")
	p.args = append(p.args, "--runtime", ociRuntime(t), "--cgroup-manager", "cgroupfs")
	// As many files and processes as this machine lets be set.
	limits := []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none"}
	run := func(args ...string) string {
		return p.run(append(append([]string{"run"}, limits...), args...)...)
	}
	if out := run("--rm", "box:1", "echo", "hello"); out != "hello" {
		t.Errorf("run: %q", out)
	}
	if out := run("--rm", "--memory", "64m", "--pids-limit", "50", "box:1", "sh", "-c", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true"); out != "50" {
		t.Errorf("limit of processes: %q", out)
	}
	run("-d", "--name", "box", "box:1", "sleep", "1000")
	if out := p.run("exec", "box", "ps"); !strings.Contains(out, "sleep 1000") {
		t.Errorf("exec: %q", out)
	}
	p.run("pause", "box")
	p.run("unpause", "box")
	p.run("stop", "-t", "0", "box")
	if out := p.run("inspect", "-f", "{{.State.ExitCode}}", "box"); out != "137" {
		t.Errorf("exit code %q", out)
	}
	p.run("rm", "box")
}
