package runtime_test

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/cgroup"
)

// started is a container that runs a script and says a line when it is up.
func started(t *testing.T, c runtime.Config) (*runtime.Process, *bufio.Reader) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	c.Stdout = w
	p, err := runtime.Start(t.Context(), c)
	must(t, errors.Join(err, w.Close()))
	t.Cleanup(func() {
		must(t, p.Signal(syscall.SIGKILL))
		must(t, errors.Join(p.Close(), r.Close()))
	})
	out := bufio.NewReader(r)
	if line, err := out.ReadString('\n'); err != nil || line != "up\n" {
		t.Fatalf("the container says %q, %v", line, err)
	}
	return p, out
}

func TestStart(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	for _, detach := range []bool{false, true} {
		spec, err := runtime.SpecFor(root, script("trap 'exit 6' USR1; echo up; while :; do sleep 0.01; done"))
		must(t, err)
		p, _ := started(t, runtime.Config{Spec: spec, Root: root, Detach: detach})
		if _, err := os.Stat("/proc/" + strconv.Itoa(p.Pid()) + "/root/bin/busybox"); err != nil {
			t.Error(err)
		}
		must(t, p.Signal(syscall.SIGUSR1))
		status, err := p.Wait()
		if err != nil || status.ExitCode != 6 {
			t.Errorf("status %+v, error %v", status, err)
		}
		must(t, p.Signal(syscall.SIGUSR1)) // nothing: it has ended
	}
}

func TestStartFails(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	spec, err := runtime.SpecFor(root, runtime.Settings{Args: []string{"nosuch"}})
	must(t, err)
	_, err = runtime.Start(t.Context(), runtime.Config{Spec: spec, Root: root})
	if !errors.Is(err, fs.ErrNotExist) || runtime.StartCode(err) != runtime.ExitNotFound {
		t.Errorf("error %v, code %d", err, runtime.StartCode(err))
	}
	if code := runtime.StartCode(nil); code != 0 {
		t.Errorf("code %d without an error", code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := runtime.Start(ctx, runtime.Config{Spec: spec, Root: root}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// The test program is also a launcher that leaves a container behind.
const asStarter = "RUNTIME_TEST_DETACHED_ROOT"

func startDetached(dir string) error {
	root := runtime.RootPath(dir)
	spec, err := runtime.SpecFor(root, script("read x; echo got $x"))
	if err != nil {
		return err
	}
	_, err = runtime.Start(context.Background(), runtime.Config{Spec: spec, Root: root, Detach: true, Stdin: os.Stdin, Stdout: os.Stdout})
	return err
}

func TestDetachedOutlivesCaller(t *testing.T) {
	dir := newRoot(t)
	self, err := os.Executable()
	must(t, err)
	in, feed, err := os.Pipe()
	must(t, err)
	out, w, err := os.Pipe()
	must(t, err)
	starter := exec.Command(self)
	starter.Env = append(os.Environ(), asStarter+"="+dir)
	starter.Stdin, starter.Stdout = in, w
	must(t, starter.Run()) // it has ended, and the container waits for a line
	must(t, errors.Join(w.Close(), in.Close()))
	_, err = feed.WriteString("word\n")
	must(t, err)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "got word\n" {
		t.Errorf("the container says %q, %v", line, err)
	}
	must(t, errors.Join(feed.Close(), out.Close()))
}

func newCgroup(t *testing.T) *cgroup.Group {
	t.Helper()
	testenv.Root(t)
	g, err := cgroup.Open(t.Context(), cgroup.Options{Path: "layerfs-test-runtime-" + strconv.Itoa(os.Getpid())})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		must(t, g.Kill(context.Background()))
		must(t, g.Remove(context.Background()))
	})
	return g
}

func TestContainerIsInItsCgroup(t *testing.T) {
	g := newCgroup(t)
	root := runtime.RootPath(newRoot(t))
	limit := int64(20)
	spec, err := runtime.SpecFor(root, script("sleep 1000 & cat /proc/self/cgroup | cut -d: -f3 | sort -u; echo up; wait"))
	must(t, err)
	spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	for _, err := range g.Apply(spec.Linux.Resources) {
		t.Error(err)
	}
	r, w, err := os.Pipe()
	must(t, err)
	p, err := runtime.Start(t.Context(), runtime.Config{Spec: spec, Root: root, Cgroup: g, Stdout: w})
	must(t, errors.Join(err, w.Close()))
	var lines []string
	for in := bufio.NewScanner(r); in.Scan(); lines = append(lines, in.Text()) {
		if in.Text() == "up" {
			break
		}
	}
	// In its namespace the group is the root, in each hierarchy that has one of ours.
	if !slices.Contains(lines, "/") || strings.Contains(strings.Join(lines, " "), "layerfs") {
		t.Errorf("groups as the container sees them: %q", lines)
	}
	pids, err := g.Procs()
	must(t, err)
	if len(pids) != 2 || !slices.Contains(pids, p.Pid()) {
		t.Errorf("processes %v, the first is %d", pids, p.Pid())
	}
	must(t, g.Kill(t.Context()))
	if status, err := p.Wait(); err != nil || status.Signal != syscall.SIGKILL {
		t.Errorf("status %+v, error %v", status, err)
	}
	must(t, errors.Join(p.Close(), r.Close()))
}
