package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// docker is a Docker daemon of the test's own.
type docker struct {
	t      testing.TB
	socket string
	group  string // parent of its containers' control groups
}

// in returns the same daemon for a subtest.
func (d *docker) in(t testing.TB) *docker { return &docker{t, d.socket, d.group} }

const (
	dockerStart = 30 * time.Second
	dockerStop  = 20 * time.Second
)

// startDocker starts a daemon that shares nothing with another on the machine, in a mount
// namespace of its own, so that its mounts end with it. It skips the test where no
// daemon can run. Options are more of the daemon's.
func startDocker(t testing.TB, options ...string) *docker {
	t.Helper()
	testenv.Root(t)
	testenv.Tools(t, "dockerd", "docker", "containerd")
	dir := shortPlace(t)
	d := &docker{t: t, socket: "unix://" + filepath.Join(dir, "s"), group: fmt.Sprintf("layerfs-test-%d", os.Getpid())}
	log := &bytes.Buffer{}
	args := append([]string{"--host", d.socket, "--data-root", dir + "/data", "--exec-root", dir + "/exec", "--pidfile", dir + "/pid",
		"--cgroup-parent", "/" + d.group, "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver", "overlay2"}, options...)
	cmd := exec.Command("dockerd", args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir) // where a daemon that it finds slow writes its stacks
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(unix.SIGTERM); err == nil {
			select {
			case <-ended:
			case <-time.After(dockerStop):
				t.Errorf("dockerd did not end in %v", dockerStop)
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
				<-ended
			}
		}
		d.removeGroups()
	})
	for limit := time.Now().Add(dockerStart); ; time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Skipf("dockerd cannot run here: %v\n%s", err, lastLines(log.String(), 5))
		default:
		}
		if exec.CommandContext(t.Context(), "docker", "--host", d.socket, "version").Run() == nil {
			return d
		}
		if time.Now().After(limit) {
			t.Skipf("dockerd does not answer within %v", dockerStart)
		}
	}
}

// removeGroups removes the control groups that containers had; the daemon leaves their
// parent.
func (d *docker) removeGroups() {
	for _, pattern := range []string{"/sys/fs/cgroup/" + d.group, "/sys/fs/cgroup/*/" + d.group} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			d.t.Error(err)
		}
		for _, dir := range dirs {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				d.t.Errorf("remove control group %s: %v", dir, err)
			}
		}
	}
}

// run runs a command of the client.
func (d *docker) run(args ...string) string {
	d.t.Helper()
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(context.WithoutCancel(d.t.Context()), "docker", append([]string{"--host", d.socket}, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		d.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSuffix(stdout.String(), "\n")
}

func lastLines(s string, n int) string {
	lines := splitLines(strings.TrimSpace(s))
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
