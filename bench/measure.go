package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/layerfs/layerfs/bench/report"
	"golang.org/x/sys/unix"
)

// run runs a command to its end and measures it, its waited-for children included. The
// kernel counts as peak memory at least what this program had when it started the
// process, so lines must not hold much.
func run(ctx context.Context, args []string) (report.Sample, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGINT) }
	cmd.WaitDelay = 30 * time.Second
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return report.Sample{}, err
	}
	// What /proc knows of it can be read as long as nobody has waited for it.
	var ended unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &ended, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	s := report.Sample{Wall: time.Since(start).Seconds(), Read: readChars(cmd.Process.Pid)}
	if err := cmd.Wait(); err != nil {
		return s, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	s.CPU = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.RSS = u.Maxrss << 10
	}
	return s, nil
}

// output runs a command that is not measured and returns what it printed.
func output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func readChars(pid int) int64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/io")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), "\n")
	n, _ := strconv.ParseInt(strings.TrimPrefix(first, "rchar: "), 10, 64)
	return n
}

// measured runs the steps of a turn one after another and adds up what they cost. Aside
// says that other processes than those take part, daemons above all: then processor time
// is that of everything that this program has started, and peak memory includes the
// peaks of all processes that live on.
func (b *bench) measured(ctx context.Context, steps [][]string, aside bool) (report.Sample, error) {
	var s report.Sample
	if err := b.disk.sync(); err != nil {
		return s, err
	}
	if aside {
		for _, pid := range bystanders() {
			// 5 sets the peak of resident memory to what there is now, see proc(5).
			_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/clear_refs", []byte("5"), 0) // it may have ended
		}
	}
	written, err := b.disk.written()
	if err != nil {
		return s, err
	}
	used := b.group.cpu()
	for _, args := range steps {
		one, err := run(ctx, args)
		if err != nil {
			return s, err
		}
		s.Wall, s.CPU, s.Read, s.RSS = s.Wall+one.Wall, s.CPU+one.CPU, s.Read+one.Read, max(s.RSS, one.RSS)
	}
	if aside {
		s.CPU = max(s.CPU, (b.group.cpu() - used).Seconds())
		for _, pid := range bystanders() {
			s.RSS += peak(pid)
		}
	}
	start := time.Now()
	if err := b.disk.sync(); err != nil {
		return s, err
	}
	s.Flush = time.Since(start).Seconds()
	now, err := b.disk.written()
	s.Written = now - written
	return s, err
}

// bystanders are the processes of this process namespace, without this one and the
// namespace's first.
func bystanders() []int {
	var pids []int
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(filepath.Base(name)); err == nil && pid > 1 && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// peak is the peak of resident memory of a live process in bytes, 0 when it has ended.
func peak(pid int) int64 { return memory(pid, "VmHWM:") }

// resident is what it has now.
func resident(pid int) int64 { return memory(pid, "VmRSS:") }

func memory(pid int, field string) int64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(l, field); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// countCalls runs the steps once more, unmeasured, and returns how many system calls they
// and all processes aside made: by the kernel's tracepoint where perf can use it, else
// under strace, which does not see those aside. It returns 0 where there is neither.
func (b *bench) countCalls(ctx context.Context, steps [][]string, aside bool) (int64, error) {
	log := filepath.Join(b.work, "calls")
	var sum int64
	for _, args := range steps {
		count := []string{"perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-o", log}
		logs := []string{log}
		switch {
		case !b.perf && !b.strace:
			return 0, nil
		case !b.perf:
			count = append([]string{"strace", "-f", "-c", "-q", "-o", log}, args...)
		default:
			count = append(append(count, "--"), args...)
			if others := bystanders(); aside && len(others) > 0 {
				list := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(others)), ","), "[]")
				outer := []string{"perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-o", log + "-aside", "-p", list, "--"}
				count, logs = append(outer, count...), append(logs, log+"-aside")
			}
		}
		if _, err := run(ctx, count); err != nil {
			return 0, err
		}
		for _, name := range logs {
			n, err := countIn(name)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

// countIn reads the number of calls in what perf or strace left.
func countIn(name string) (int64, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(data)) {
		if strings.Contains(l, "raw_syscalls:sys_enter") {
			n, _, _ := strings.Cut(l, ",")
			if n == "<not counted>" {
				return 0, nil // what was counted ended before it made a call
			}
			return strconv.ParseInt(n, 10, 64)
		}
		if f := strings.Fields(l); len(f) >= 4 && f[len(f)-1] == "total" {
			return strconv.ParseInt(f[3], 10, 64)
		}
	}
	return 0, fmt.Errorf("no number of system calls in what was counted:\n%s", data)
}
