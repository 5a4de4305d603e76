package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
)

// The tests named TestLimits… run a process that exceeds a limit of its container. They say
// nothing of how the kernel does it: `make test` runs them on this machine's control groups,
// `make test-vm` on those of version 2 and Linux 6.1.

// limited runs a shell command in a container with flags, where the machine can enforce
// them. Where it cannot, layerfs says so in plain words, and the test is skipped with them.
func (s *store) limited(script string, flags ...string) result {
	s.t.Helper()
	args := append(append([]string{"run", "--rm", "--network", "none"}, flags...), s.tinyOnce(), "sh", "-c", script)
	r := s.call(args...)
	s.enforced(r)
	return r
}

// enforced skips the test where the machine lacks what a limit takes.
func (s *store) enforced(r result) {
	s.t.Helper()
	if r.code == 0 || !strings.Contains(r.stderr, "is not enforced") {
		return
	}
	if r.code != 125 || !strings.Contains(r.stderr, "unsupported operation") {
		s.t.Fatalf("a limit is refused without the reason: %s", r)
	}
	s.t.Skip(strings.TrimSpace(r.stderr))
}

// tinyOnce is tiny for a store that may have it.
func (s *store) tinyOnce() string {
	s.t.Helper()
	if s.call("inspect", "tiny:1").code == 0 {
		return "tiny:1"
	}
	return s.tiny()
}

// touch takes memory, in MiB, and uses each page of it.
func touch(mib int) string {
	return fmt.Sprintf("dd if=/dev/zero of=/dev/null bs=%dM count=1 2>/dev/null", mib)
}

func TestLimitsMemory(t *testing.T) {
	s := newStore(t)
	image := s.tiny()
	if r := s.limited(touch(64), "-m", "32m", "--memory-swap", "32m"); r.code != 137 {
		t.Errorf("64 MiB in 32: %s", r)
	}
	if r := s.limited(touch(64), "-m", "128m", "--memory-swap", "128m"); r.code != 0 {
		t.Errorf("64 MiB in 128: %s", r)
	}
	s.ok("run", "-d", "--network", "none", "--name", "big", "-m", "32m", "--memory-swap", "32m", image, "sh", "-c", touch(64)+"; exit $?")
	if out := s.ok("wait", "big"); out != "137" {
		t.Errorf("64 MiB in 32: code %s", out)
	}
	if out := s.ok("inspect", "-f", "{{.State.OOMKilled}}", "big"); out != "true" {
		t.Errorf("killed for memory: %s", out)
	}
	s.ok("rm", "big")
	// Taken and given while it runs.
	s.ok("run", "-d", "--network", "none", "--name", "grown", "-m", "32m", "--memory-swap", "32m", image, "sleep", "1000")
	if out := s.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", "grown"); !strings.HasSuffix(out, " / 32MiB") {
		t.Errorf("stats: %q", out)
	}
	if r := s.call("exec", "grown", "sh", "-c", touch(64)); r.code != 137 {
		t.Errorf("64 MiB in 32, beside its process: %s", r)
	}
	s.ok("update", "-m", "128m", "--memory-swap", "128m", "grown")
	if r := s.call("exec", "grown", "sh", "-c", touch(64)); r.code != 0 {
		t.Errorf("64 MiB in 128, after the update: %s", r)
	}
	s.ok("rm", "-f", "grown")
	s.nothing()
}

func TestLimitsSwap(t *testing.T) {
	if swaps, err := os.ReadFile("/proc/swaps"); err != nil || bytes.Count(swaps, []byte("\n")) < 2 {
		t.Skip("the machine has no swap space; make test-vm runs it")
	}
	s := newStore(t)
	if r := s.limited(touch(64), "-m", "32m", "--memory-swap", "128m"); r.code != 0 {
		t.Errorf("64 MiB in 32 and 96 of swap space: %s", r)
	}
	if r := s.limited(touch(64), "-m", "32m", "--memory-swap", "40m"); r.code != 137 {
		t.Errorf("64 MiB in 32 and 8 of swap space: %s", r)
	}
}

func TestLimitsPids(t *testing.T) {
	s := newStore(t)
	// The shell ends when it cannot fork, and what it started with it.
	r := s.limited("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & echo up; done; exit 0", "--pids-limit", "8")
	if n := strings.Count(r.stdout, "up"); r.code == 0 || n > 7 || n < 4 || !strings.Contains(r.stderr, "fork") {
		t.Errorf("12 processes in 8: %s", r)
	}
}

func TestLimitsCPU(t *testing.T) {
	s := newStore(t)
	// times prints what the shell's children have used, in its second line. The clock is the
	// kernel's: what kills the loop after a second gets a tenth of a processor, too.
	r := s.limited("read from x </proc/uptime; timeout -s KILL 1 sh -c 'while :; do :; done'; read to x </proc/uptime; times; echo $from $to", "--cpus", "0.1")
	lines := splitLines(strings.TrimSpace(r.stdout))
	if len(lines) != 3 {
		t.Fatal(r)
	}
	var used time.Duration
	for _, f := range strings.Fields(lines[1]) {
		d, err := time.ParseDuration(f)
		if err != nil {
			t.Fatalf("%v: %s", err, r)
		}
		used += d
	}
	var from, to float64
	if _, err := fmt.Sscan(lines[2], &from, &to); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	if share := used.Seconds() / (to - from); share <= 0 || share > 0.4 {
		t.Errorf("a loop with a tenth of a processor used %.2f of one: %s", share, r)
	}
}

func TestLimitsCpuset(t *testing.T) {
	s := newStore(t)
	if r := s.limited("busybox nproc", "--cpuset-cpus", "0"); strings.TrimSpace(r.stdout) != "1" {
		t.Errorf("bound to one processor: %s", r)
	}
	if r := s.call("run", "--rm", "--network", "none", "--cpuset-cpus", "4000", "tiny:1", "true"); r.code != 125 || !strings.Contains(r.stderr, "cpu.cpus") {
		t.Errorf("bound to a processor that is not there: %s", r)
	}
}

func TestLimitsDevices(t *testing.T) {
	testenv.FuseDevice(t)
	s := newStore(t)
	const open = "busybox mknod -m 666 /tmp/node c 10 229 && exec 3<>/tmp/node"
	if r := s.limited(open); r.code == 0 || !strings.Contains(r.stderr, "Operation not permitted") {
		t.Errorf("a device that it was not given: %s", r)
	}
	if r := s.limited("exec 3<>/dev/fuse", "--device", "/dev/fuse"); r.code != 0 {
		t.Errorf("a device that it was given: %s", r)
	}
	if r := s.limited("exec 3</dev/fuse && ! (exec 3>/dev/fuse) 2>/dev/null", "--device", "/dev/fuse:/dev/fuse:r"); r.code != 0 {
		t.Errorf("a device that it was given to read: %s", r)
	}
}

func TestLimitsFreezeAndKill(t *testing.T) {
	s := newStore(t)
	image := s.tiny()
	count := filepath.Join(t.TempDir(), "count")
	if err := os.WriteFile(count, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	// It counts, and makes processes all the time.
	s.ok("run", "-d", "--network", "none", "--name", "busy", "-v", count+":/count", image, "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/count; (sleep 1000 &); sleep 0.01; done")
	now := func() int {
		data, err := os.ReadFile(count)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			return 0 // between the shell's emptying and writing
		}
		return n
	}
	beyond := func(n int) {
		t.Helper()
		for range 1000 {
			if now() > n {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("it does not count beyond %d", n)
	}
	beyond(3)
	s.ok("pause", "busy")
	still := now()
	time.Sleep(200 * time.Millisecond)
	if n := now(); n != still {
		t.Errorf("it counts from %d to %d while it is paused", still, n)
	}
	s.ok("unpause", "busy")
	beyond(still + 3)
	s.ok("pause", "busy")
	s.ok("unpause", "busy")
	s.ok("kill", "busy")
	s.ok("rm", "-f", "busy")
	s.nothing()
}
