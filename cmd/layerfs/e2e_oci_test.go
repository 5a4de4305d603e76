package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
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

// TestInteropPodmanRuntime has podman run containers by this program.
func TestInteropPodmanRuntime(t *testing.T) {
	testenv.Root(t)
	testenv.Long(t)
	testenv.Tools(t, "busybox", "conmon", "tar")
	p := newPodman(t)
	root := t.TempDir()
	testenv.Output(t, "sh", "-ec", `mkdir -p "$1/bin"; cp "$(command -v busybox)" "$1/bin/busybox"; for a in sh sleep echo ps cat; do ln -s busybox "$1/bin/$a"; done; tar -C "$1" -cf "$1.tar" .`, "sh", root)
	p.run("import", root+".tar", "box:1")
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
