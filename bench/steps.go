package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/bench/report"
)

// A step of starting a container lasts from the end of the one before it to a system call
// that begins, or in the last steps ends, something else. What is said of a call is the
// beginning of its line in strace's log and a part of the rest.
type step struct {
	name       string
	call, part string
	last       bool // the last such call of all, not the next one
}

// stepsOfRun are the steps of "layerfs run --rm --network none". Few calls are traced, so
// that the tracer takes little of the time that it measures.
func stepsOfRun(store string) []step {
	return []step{
		{name: "start of the program", call: "execve(", part: `"/proc/self/fd/`},
		{name: "start of it from a mount that nobody can write to", call: "statfs(", part: store},
		{name: "store, image", call: "symlinkat("},
		{name: "record of the container", call: "mkdirat(", part: "/snapshots/"},
		{name: "snapshot", call: "fsopen("},
		{name: "mount, specification", call: "renameat(", part: `"config.json"`},
		{name: "control groups", call: "mkdirat(", part: `"/sys/fs/cgroup/`, last: true},
		{name: "mount points, table of calls", call: "clone3("},
		{name: "process and namespaces", call: "mount("},
		{name: "mounts in the container", call: "pivot_root("},
		{name: "devices hidden, paths masked, credentials", call: "seccomp("},
		{name: "system call filter", call: "execve("},
		{name: "the program itself", call: "exit_group("},
		{name: "exit, unmount, control groups removed", call: "renameat(", part: `"state.json"`, last: true},
		{name: "snapshot and records removed", call: "exit_group(", last: true},
	}
}

const tracedCalls = "execve,statfs,symlinkat,mkdirat,fsopen,renameat,clone3,mount,pivot_root,seccomp,exit_group"

// stepsLine shows what the start of a container is made of.
func stepsLine(ctx context.Context, b *bench) error {
	if !b.strace {
		return errors.New("strace is not installed")
	}
	a, _, err := b.smallContainers(ctx)
	if err != nil {
		return err
	}
	store := b.disk.path("store")
	steps := stepsOfRun(store)
	log := filepath.Join(b.work, "steps")
	trace := append([]string{"strace", "-f", "--seccomp-bpf", "-ttt", "-s", "4096", "-o", log, "-e", "trace=" + tracedCalls},
		b.lfs("run", "--rm", "--network", "none", a.ref, "/bin/true")...)
	times := make([][]float64, len(steps))
	var whole []float64
	for round := range b.most(40) + 1 {
		if _, err := run(ctx, trace); err != nil {
			return err
		}
		took, err := stepsIn(log, steps)
		if err != nil {
			return err
		}
		if round == 0 {
			continue // to warm up
		}
		sum := 0.0
		for i, t := range took {
			times[i] = append(times[i], t)
			sum += t
		}
		whole = append(whole, sum)
	}
	for i, s := range steps {
		b.report.milliseconds(s.name, report.Median(times[i]))
	}
	b.report.milliseconds("all of it, with few calls traced", report.Median(whole))
	return nil
}

// stepsIn reads from strace's log how long each step took, in seconds.
func stepsIn(log string, steps []step) (_ []float64, err error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return readSteps(f, steps)
}

func readSteps(log io.Reader, steps []step) ([]float64, error) {
	type event struct {
		at   float64
		text string
	}
	var events []event
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		// From strace(1), -f and -ttt: "PID SECONDS.MICROSECONDS CALL(…".
		_, rest, _ := strings.Cut(lines.Text(), " ")
		stamp, text, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
		at, err := strconv.ParseFloat(stamp, 64)
		if err != nil {
			return nil, fmt.Errorf("log of strace: line %q: %w", lines.Text(), err)
		}
		events = append(events, event{at, text})
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	took := make([]float64, len(steps))
	at := 0
	for i, s := range steps {
		found := -1
		for j := at + 1; j < len(events); j++ {
			if strings.HasPrefix(events[j].text, s.call) && strings.Contains(events[j].text, s.part) {
				if found = j; !s.last {
					break
				}
			}
		}
		if found < 0 {
			return nil, fmt.Errorf("log of strace: no %s…%s after step %q: %w", s.call, s.part, s.name, fs.ErrNotExist)
		}
		took[i] = events[found].at - events[at].at
		at = found
	}
	return took, nil
}
