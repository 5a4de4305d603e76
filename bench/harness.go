package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/layerfs/layerfs/bench/report"
)

type options struct {
	rounds  int
	dir     string
	gib     int64
	out     string
	record  bool
	layerfs string
	form    string
	only    *regexp.Regexp
	with    []string // peers to measure, nil for all
}

// bench is what the lines share.
type bench struct {
	options
	disk    *disk
	work    string // directory for programs and made-up images, removed at the end
	group   group
	perf    bool // perf can count system calls
	strace  bool
	engines []engine
	report  recorder
}

func newBench(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{options: o, group: joinGroup(os.Getenv(groupName))}
	if b.work, err = os.MkdirTemp(o.dir, "layerfs-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	for _, p := range []string{"cmd/layerfs", "bench/floor", "bench/ingest", "bench/exercise", "bench/same", "bench/rawmount", "bench/empty"} {
		if err := b.build(ctx, p); err != nil {
			return nil, err
		}
	}
	_, err = run(ctx, []string{"perf", "stat", "-e", "raw_syscalls:sys_enter", "-o", os.DevNull, "true"})
	b.perf = err == nil
	_, err = exec.LookPath("strace")
	b.strace = err == nil
	if b.disk, err = newDisk(b.work, o.gib<<30); err != nil {
		return nil, err
	}
	// Large files that are unpacked on the way belong to the work: to the measured disk.
	if err := os.Setenv("TMPDIR", b.disk.path("tmp")); err != nil {
		return nil, err
	}
	b.engines = b.findEngines(ctx)
	return b, nil
}

func (b *bench) close() error {
	var err error
	if b.disk != nil {
		err = errors.Join(b.downAll(context.Background()), b.disk.close())
	}
	return errors.Join(err, os.RemoveAll(b.work))
}

// measure runs a line and writes what it measured. That is also done after each piece of
// work, so that an interrupted run has what was complete.
func (b *bench) measure(ctx context.Context, l line) error {
	if err := b.report.begin(ctx, l); err != nil {
		return err
	}
	err := errors.Join(l.run(ctx, b), b.downAll(ctx))
	if err != nil {
		return err
	}
	return b.report.end(b.out, b.record)
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
func (b *bench) lfs(args ...string) []string {
	return b.tool("cmd/layerfs", append([]string{"--root", b.disk.path("store")}, args...)...)
}

// fresh ends what peers run and mounts a new, empty file system.
func (b *bench) fresh(ctx context.Context) error {
	return errors.Join(b.downAll(ctx), b.disk.fresh(ctx))
}

// contender is one way to do a piece of work. The kind is by default layerfs for names
// that begin with it, and else another way.
type contender struct {
	name    string
	kind    report.Kind
	version string
	absent  string // why it cannot do this work: then nothing else is used
	aside   bool   // processes that are not its children do part of the work
	disk    bool   // by how much it fills the file system is of interest

	prepare func(ctx context.Context) error // before each turn, not measured; may be nil
	args    func() []string                 // the work as one command
	steps   func() [][]string               // or as several, one after another
	check   func(ctx context.Context) error // after each turn, not measured; may be nil
	verify  func(ctx context.Context) error // after the first turn, before check: a thorough one; may be nil
}

// command is a contender without preparation.
func command(name string, args ...string) contender {
	return contender{name: name, args: func() []string { return args }}
}

func (c contender) commands() [][]string {
	if c.steps != nil {
		return c.steps()
	}
	return [][]string{c.args()}
}

func (c contender) entry() *report.Entry {
	e := &report.Entry{Name: c.name, Kind: c.kind, Version: c.version, Absent: c.absent}
	if e.Kind == "" {
		e.Kind = report.Other
		if strings.Contains(c.name, "layerfs") {
			e.Kind = report.Layerfs
		}
	}
	return e
}

// inTurns is [bench.compete] by wall time in the line's only work.
func (b *bench) inTurns(ctx context.Context, rounds int, cs ...contender) ([]*report.Entry, error) {
	return b.compete(ctx, report.Work{Name: b.report.line.Title, Judge: report.Wall}, rounds, cs...)
}

// wanted reports whether a piece of work is to be done.
func (b *bench) wanted(name string) bool { return b.only == nil || b.only.MatchString(name) }

// compete runs the contenders in turns: one turn that does not count and in which results
// are verified, then rounds that do, then one in which system calls are counted. Every
// second round goes backwards. A peer that fails is from then on absent, with the reason;
// any other failure is an error. Entries are in the order of the contenders.
func (b *bench) compete(ctx context.Context, w report.Work, rounds int, cs ...contender) ([]*report.Entry, error) {
	w.Entries = make([]*report.Entry, len(cs))
	for i, c := range cs {
		w.Entries[i] = c.entry()
	}
	for round := range rounds + 2 {
		for i := range cs {
			if round%2 == 1 {
				i = len(cs) - 1 - i
			}
			e := w.Entries[i]
			if e.Absent != "" {
				continue
			}
			err := b.turn(ctx, cs[i], e, round == 0, round > rounds)
			if err == nil {
				continue
			}
			err = fmt.Errorf("%s: %w", cs[i].name, err)
			if e.Kind != report.Peer || ctx.Err() != nil {
				return nil, err
			}
			e.Absent, e.Samples = "failed: "+lastLine(err), nil
			fmt.Println("  failed:", err)
		}
	}
	b.report.add(&w)
	return w.Entries, b.report.end(b.out, b.record)
}

func lastLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	const most = 200
	last := strings.TrimSpace(lines[len(lines)-1])
	return last[max(0, len(last)-most):]
}

// turn is one turn of a contender: the first, one that counts, or one that counts calls.
func (b *bench) turn(ctx context.Context, c contender, e *report.Entry, first, calls bool) (err error) {
	if calls && c.disk {
		return nil // too long to run under a tracer for this
	}
	if c.prepare != nil {
		if err := c.prepare(ctx); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	var s report.Sample
	switch {
	case calls:
		if e.Calls, err = b.countCalls(ctx, c.commands(), c.aside); err != nil {
			return err
		}
	default:
		var before int64
		if c.disk {
			if before, err = b.disk.used(); err != nil {
				return err
			}
		}
		if s, err = b.measured(ctx, c.commands(), c.aside); err != nil {
			return err
		}
		if c.disk {
			after, err := b.disk.used()
			if err != nil {
				return err
			}
			s.Disk = after - before
		}
	}
	if first && c.verify != nil {
		if err := c.verify(ctx); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
	if c.check != nil {
		if err := c.check(ctx); err != nil {
			return fmt.Errorf("check: %w", err)
		}
	}
	if !first && !calls {
		e.Samples = append(e.Samples, s)
	}
	return nil
}
