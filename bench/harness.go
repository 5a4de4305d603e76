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
	"time"

	"github.com/layerfs/layerfs/bench/report"
)

type options struct {
	rounds  int           // at most so many for every work, 0 for as many as it asks for
	per     time.Duration // what the counted turns of a contender may take together
	within  time.Duration // no work begins later, 0 for no limit
	dir     string
	gib     int64
	out     string
	record  bool
	resume  bool
	layerfs string
	form    string
	only    *regexp.Regexp
	with    []string // peers to measure, nil for all
}

// narrowed reports whether lines are to be measured in part only.
func (o options) narrowed() bool { return o.form != "" || o.only.String() != "" || o.with != nil }

// bench is what the lines share.
type bench struct {
	options
	began   time.Time
	disk    *disk
	work    string // directory for programs and made-up images, removed at the end
	group   group
	perf    bool // perf can count system calls
	strace  bool
	engines []engine
	report  recorder
}

func newBench(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{options: o, began: time.Now(), group: joinGroup(os.Getenv(groupName))}
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
	b.report, err = newRecorder(ctx, o)
	return b, err
}

func (b *bench) close() error {
	var err error
	if b.disk != nil {
		err = errors.Join(b.downAll(context.Background()), b.disk.close())
	}
	return errors.Join(err, os.RemoveAll(b.work))
}

// measure runs a line and keeps what it measured. That is also done after each piece of
// work, so that an interrupted run has what was complete.
func (b *bench) measure(ctx context.Context, l line) error {
	if err := b.report.begin(l); err != nil {
		return err
	}
	err := errors.Join(l.run(ctx, b), b.downAll(ctx))
	if err != nil {
		return err
	}
	return b.report.keep(!b.narrowed())
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

	// then goes on with what a turn has left, before check, and is a contender in the next
	// work of [bench.contest]; may be nil.
	then *contender
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

// inTurns is [bench.compete] by wall time for works that need no explanation.
func (b *bench) inTurns(ctx context.Context, name string, most int, cs ...contender) ([]*report.Entry, error) {
	return b.compete(ctx, report.Work{Name: name, Judge: report.Wall}, most, cs...)
}

// wanted reports whether a piece of work is to be done.
func (b *bench) wanted(name string) bool { return b.only == nil || b.only.MatchString(name) }

// most is how many rounds there are of a work that asks for so many.
func (b *bench) most(rounds int) int {
	if b.rounds > 0 {
		return min(b.rounds, rounds)
	}
	return rounds
}

// A contender has at least so many counted turns, but one whose turn is so slow has one.
const (
	leastTurns = 2
	slowTurn   = 8 * time.Second
)

// turns is how many of the rounds a contender takes part in whose turn takes so long.
func (b *bench) turns(most int, one time.Duration) int {
	most = b.most(most)
	least := min(leastTurns, most)
	if one > slowTurn {
		least = 1
	}
	return max(least, min(most, int(b.per/max(one, 1))))
}

// errLate is why works are not begun any more.
var errLate = errors.New("the time of the run is over; -resume goes on with it")

// compete is [bench.contest] in one work.
func (b *bench) compete(ctx context.Context, w report.Work, most int, cs ...contender) ([]*report.Entry, error) {
	entries, err := b.contest(ctx, []*report.Work{&w}, most, cs)
	if err != nil {
		return nil, err
	}
	return entries[0], nil
}

// contest runs the contenders in turns: one turn that does not count and in which results
// are verified, then rounds that do, then one in which system calls are counted where that
// was not done in the first. Every second round goes backwards. Contenders whose turns
// take long take part in the first rounds only. A peer that fails is from then on absent,
// with the reason; any other failure is an error.
//
// A turn goes through the works one after another, those but the first by the contenders'
// then. Entries are in the order of the contenders, for each work.
func (b *bench) contest(ctx context.Context, works []*report.Work, most int, cs []contender) ([][]*report.Entry, error) {
	if entries := b.measuredBefore(works, cs); entries != nil {
		return entries, nil
	}
	start := time.Now()
	if b.within > 0 && start.After(b.began.Add(b.within)) {
		return nil, errLate
	}
	load, err := loadAverage()
	if err != nil {
		return nil, err
	}
	entries := make([][]*report.Entry, len(works))
	for n, w := range works {
		w.When = report.When{Date: now(), Commit: b.report.commit, LoadStart: load}
		for i := range cs {
			c := cs[i].nth(n)
			if c == nil {
				entries[n] = append(entries[n], nil)
				continue
			}
			e := c.entry()
			entries[n], w.Entries = append(entries[n], e), append(w.Entries, e)
		}
	}
	turns := make([]int, len(cs))
	rounds, kind := 0, firstTurn
	for round := 0; kind != noTurn; round++ {
		for i := range cs {
			if round%2 == 1 {
				i = len(cs) - 1 - i
			}
			if entries[0][i].Absent != "" || kind == countedTurn && round > turns[i] {
				continue
			}
			took, err := b.turn(ctx, cs[i], entries, i, kind)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", cs[i].name, err)
			}
			if kind == firstTurn && entries[0][i].Absent == "" {
				turns[i] = b.turns(most, took)
				rounds = max(rounds, turns[i])
			}
		}
		switch {
		case kind == callsTurn:
			kind = noTurn
		case round >= rounds:
			kind = callsTurn
		default:
			kind = countedTurn
		}
	}
	if load, err = loadAverage(); err != nil {
		return nil, err
	}
	for _, w := range works {
		w.When.LoadEnd = load
		b.report.add(w)
	}
	fmt.Printf("    in %.0f s\n", time.Since(start).Seconds())
	return entries, b.report.keep(false)
}

// nth is the contender in the nth work, nil where it takes no part.
func (c *contender) nth(n int) *contender {
	for ; n > 0 && c != nil; n-- {
		c = c.then
	}
	return c
}

// measuredBefore returns the entries that an earlier run has left of all works, or nil.
func (b *bench) measuredBefore(works []*report.Work, cs []contender) [][]*report.Entry {
	var before []*report.Work
	var entries [][]*report.Entry
	for n, w := range works {
		e := b.report.earlier(w.Name)
		if e == nil {
			return nil
		}
		left := e.Entries
		var row []*report.Entry
		for i := range cs {
			c := cs[i].nth(n)
			switch {
			case c == nil:
				row = append(row, nil)
				continue
			case len(left) == 0 || left[0].Name != c.name:
				return nil
			}
			row, left = append(row, left[0]), left[1:]
		}
		before, entries = append(before, e), append(entries, row)
	}
	for _, w := range before {
		fmt.Printf("  %s: measured before\n", w.Name)
		b.report.add(w)
	}
	return entries
}

func lastLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	const most = 200
	last := strings.TrimSpace(lines[len(lines)-1])
	return last[max(0, len(last)-most):]
}

// turnKind says what a turn is for.
type turnKind int

const (
	firstTurn   turnKind = iota // warms up, is verified, and says how long a turn takes
	countedTurn                 // is measured
	callsTurn                   // has its system calls counted
	noTurn
)

// turn is one turn of contender i in all works. It returns how long that took, without
// verification. A peer that fails is from there on absent.
func (b *bench) turn(ctx context.Context, c contender, entries [][]*report.Entry, i int, kind turnKind) (time.Duration, error) {
	if kind == callsTurn && c.disk {
		return 0, nil
	}
	start := time.Now()
	var verifying time.Duration
	var err error
	at := 0
	if c.prepare != nil {
		if err = c.prepare(ctx); err != nil {
			err = fmt.Errorf("prepare: %w", err)
		}
	}
	for ; err == nil && at < len(entries); at++ {
		part := c.nth(at)
		if part == nil || entries[at][i].Absent != "" {
			break
		}
		if err = b.do(ctx, part, entries[at][i], kind); err != nil {
			break
		}
		if kind == firstTurn && part.verify != nil {
			from := time.Now()
			if err = part.verify(ctx); err != nil {
				err = fmt.Errorf("verify: %w", err)
				break
			}
			verifying += time.Since(from)
		}
	}
	if err == nil && c.check != nil {
		if err = c.check(ctx); err != nil {
			at, err = 0, fmt.Errorf("check: %w", err)
		}
	}
	if err == nil {
		return time.Since(start) - verifying, nil
	}
	if entries[0][i].Kind != report.Peer || ctx.Err() != nil {
		return 0, err
	}
	fmt.Printf("  failed: %s: %v\n", c.name, err)
	for _, row := range entries[at:] {
		if e := row[i]; e != nil && e.Absent == "" {
			e.Absent, e.Samples, e.Calls = "failed: "+lastLine(err), nil, 0
		}
	}
	return time.Since(start) - verifying, nil
}

// do does a contender's work, and adds what it cost to its entry.
func (b *bench) do(ctx context.Context, c *contender, e *report.Entry, kind turnKind) error {
	// Turns that fill the disk are long ones: their calls are counted in the first turn, if
	// that costs next to nothing.
	if kind == callsTurn || kind == firstTurn && c.disk && b.perf {
		calls, err := b.countCalls(ctx, c.commands(), c.aside)
		e.Calls = calls
		return err
	}
	s, err := b.sample(ctx, c)
	if err == nil && kind == countedTurn {
		e.Samples = append(e.Samples, s)
	}
	return err
}

// sample measures a contender's work, and what it fills the disk by where that is wanted.
func (b *bench) sample(ctx context.Context, c *contender) (report.Sample, error) {
	if !c.disk {
		return b.measured(ctx, c.commands(), c.aside)
	}
	before, err := b.disk.used()
	if err != nil {
		return report.Sample{}, err
	}
	s, err := b.measured(ctx, c.commands(), c.aside)
	if err != nil {
		return s, err
	}
	after, err := b.disk.used()
	s.Disk = after - before
	return s, err
}
