package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	rounds  int
	dir     string
	gib     int64
	out     string
	layerfs string
	form    string
}

// bench is what the lines share.
type bench struct {
	options
	disk   *disk
	work   string // directory for programs and made-up images, removed at the end
	line   string
	report report
}

func newBench(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{options: o}
	if b.report.Machine, err = describeMachine(ctx); err != nil {
		return nil, err
	}
	if b.work, err = os.MkdirTemp(o.dir, "layerfs-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	for _, p := range []string{"cmd/layerfs", "bench/floor", "bench/ingest", "bench/readtree", "bench/empty"} {
		if err := b.build(ctx, p); err != nil {
			return nil, err
		}
	}
	b.disk, err = newDisk(b.work, o.gib<<30)
	return b, err
}

func (b *bench) close() error {
	var err error
	if b.disk != nil {
		err = b.disk.close()
	}
	return errors.Join(err, os.RemoveAll(b.work))
}

// build compiles one program of this module as the Makefile does.
func (b *bench) build(ctx context.Context, pkg string) error {
	if pkg == "cmd/layerfs" && b.layerfs != "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.program(pkg), "github.com/layerfs/layerfs/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

func (b *bench) program(pkg string) string {
	if pkg == "cmd/layerfs" && b.layerfs != "" {
		return b.layerfs
	}
	return filepath.Join(b.work, filepath.Base(pkg))
}

// tool is the command line of a program of this module.
func (b *bench) tool(pkg string, args ...string) []string {
	return append([]string{b.program(pkg)}, args...)
}

// lfs is a layerfs command line on the store in the measured file system.
func (b *bench) lfs(args ...string) []string { return b.lfsOn("store", args...) }

func (b *bench) lfsOn(store string, args ...string) []string {
	return b.tool("cmd/layerfs", append([]string{"--root", b.disk.path(store)}, args...)...)
}

// sample is what one run of a process cost, its waited-for children included.
type sample struct {
	Wall   float64 `json:"wall_seconds"`
	User   float64 `json:"user_seconds"`
	System float64 `json:"system_seconds"`
	// RSS is the peak of resident memory. The kernel counts what this program had when
	// it started the process, so lines must not hold much.
	RSS int64 `json:"peak_resident_bytes"`
	// RChar is how many bytes it asked the kernel to read, without its children.
	RChar int64 `json:"read_bytes"`
	// Calls is how many system calls it made, 0 where that was not counted.
	Calls int64 `json:"system_calls,omitempty"`
}

func (s sample) cpu() float64 { return s.User + s.System }

// run runs a command to its end and measures it.
func run(ctx context.Context, args []string) (sample, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGINT) }
	cmd.WaitDelay = 30 * time.Second
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	// What /proc knows of it can be read as long as nobody has waited for it.
	var ended unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &ended, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	s := sample{Wall: time.Since(start).Seconds(), RChar: readChars(cmd.Process.Pid)}
	if err := cmd.Wait(); err != nil {
		return s, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	s.User, s.System = cmd.ProcessState.UserTime().Seconds(), cmd.ProcessState.SystemTime().Seconds()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.RSS = u.Maxrss << 10
	}
	return s, nil
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

// countCalls runs a command under strace, unmeasured, and returns how many system calls
// it made; 0 where there is no strace.
func (b *bench) countCalls(ctx context.Context, args []string) (int64, error) {
	if _, err := exec.LookPath("strace"); err != nil {
		return 0, nil // the figure stays away
	}
	log := filepath.Join(b.work, "strace")
	if _, err := run(ctx, append([]string{"strace", "-f", "-c", "-q", "-o", log}, args...)); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(log)
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(data)) {
		f := strings.Fields(l)
		if len(f) >= 4 && f[len(f)-1] == "total" {
			return strconv.ParseInt(f[3], 10, 64)
		}
	}
	return 0, errors.New("strace printed no total")
}

// contender is one way to do a piece of work.
type contender struct {
	name    string
	prepare func(ctx context.Context) error // before each turn, not measured; may be nil
	args    func() []string
	check   func(ctx context.Context) error // after each turn, not measured; may be nil
}

// command is a contender without preparation.
func command(name string, args ...string) contender {
	return contender{name: name, args: func() []string { return args }}
}

// inTurns runs the contenders in turns, one turn that does not count and then rounds
// that do, and records a result for each. Every second round goes backwards.
func (b *bench) inTurns(ctx context.Context, rounds int, cs ...contender) ([]*result, error) {
	results := make([]*result, len(cs))
	for i, c := range cs {
		results[i] = &result{Line: b.line, Name: c.name}
	}
	for round := range rounds + 1 {
		for i := range cs {
			if round%2 == 1 {
				i = len(cs) - 1 - i
			}
			s, err := turn(ctx, cs[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", cs[i].name, err)
			}
			if round > 0 {
				results[i].Samples = append(results[i].Samples, s)
			}
		}
	}
	for _, r := range results {
		b.report.add(r)
	}
	return results, nil
}

func turn(ctx context.Context, c contender) (s sample, err error) {
	if c.prepare != nil {
		if err := c.prepare(ctx); err != nil {
			return s, fmt.Errorf("prepare: %w", err)
		}
	}
	if s, err = run(ctx, c.args()); err != nil {
		return s, err
	}
	if c.check != nil {
		if err := c.check(ctx); err != nil {
			return s, fmt.Errorf("check: %w", err)
		}
	}
	return s, nil
}
