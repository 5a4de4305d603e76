package main

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/bench/report"
)

func TestLinesHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, l := range lines() {
		if seen[l.name] || l.name == "" || l.title == "" || l.run == nil {
			t.Errorf("line %+v", l)
		}
		seen[l.name] = true
	}
	if _, err := chosen([]string{"load", "no such line"}); err == nil {
		t.Error("an unknown line was chosen")
	}
	if some, err := chosen([]string{"start", "load"}); err != nil || len(some) != 2 || some[0].name != "start" {
		t.Errorf("chose %v, %v", some, err)
	}
}

func TestCountIn(t *testing.T) {
	for text, want := range map[string]int64{
		"# started on\n\n1361,,raw_syscalls:sys_enter,1009090,100.00,,\n":                          1361,
		"% time     seconds  usecs/call     calls    errors syscall\n100.00    0.1 5 77 3 total\n": 77,
		"<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n":                                       0,
		"<not supported>,,raw_syscalls:sys_enter\n":                                                -1,
		"": -1,
	} {
		name := filepath.Join(t.TempDir(), "counted")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := countIn(name)
		if want < 0 && err == nil || want >= 0 && (n != want || err != nil) {
			t.Errorf("%q: %d, %v, want %d", text, n, err, want)
		}
	}
}

func TestReadSteps(t *testing.T) {
	const log = `7 100.5 execve("layerfs", ["layerfs"]) = 0
7 100.75 +++ exited with 0 +++
8 101.0 mkdirat(3, "other", 0700) = 0
8 101.5 mkdirat(3, "/snapshots/a", 0700) = 0
7 102.0 exit_group(0) = ?
8 104.0 exit_group(0) = ?
`
	steps := []step{{name: "one", call: "mkdirat(", part: "/snapshots/"}, {name: "two", call: "exit_group("}, {name: "three", call: "exit_group(", last: true}}
	if took, err := readSteps(strings.NewReader(log), steps); err != nil || !slices.Equal(took, []float64{1, 0.5, 2}) {
		t.Errorf("steps of %v s (%v)", took, err)
	}
	if _, err := readSteps(strings.NewReader(log), append(steps, step{name: "four", call: "mount("})); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a step that does not end: %v, want fs.ErrNotExist", err)
	}
	if _, err := readSteps(strings.NewReader("7 x execve("), steps); err == nil {
		t.Error("a line without a time was read")
	}
}

func TestMeasuring(t *testing.T) {
	s, err := run(t.Context(), []string{"sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"})
	if err != nil || s.Wall <= 0 || s.CPU <= 0 || s.RSS <= 0 {
		t.Errorf("sample %+v, error %v", s, err)
	}
	if _, err := run(t.Context(), []string{"sh", "-c", "echo why >&2; false"}); err == nil || lastLine(err) != "why" {
		t.Errorf("error %v, want what the command said", err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for text, want := range map[string]string{
		"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3": "1.6.20",
		"Docker version 28.2.2, build e6534b4":                                        "28.2.2",
		"tool version v2.3.4+unknown":                                                 "2.3.4",
	} {
		if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\necho '"+text+"'\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, got, err := find(t.Context(), "tool", "--version"); err != nil || got != want {
			t.Errorf("%q: version %q, %v, want %q", text, got, err, want)
		}
	}
	if _, _, err := find(t.Context(), "no-such-tool"); err == nil {
		t.Error("found a tool that is not there")
	}
}

// lacksAll is an engine that can do nothing.
type lacksAll struct{ lacking }

func (lacksAll) about() about { return about{name: "nothing", kind: report.Peer} }

func TestAbsentContendersSayWhy(t *testing.T) {
	b := &bench{}
	e := lacksAll{lacking{"nothing"}}
	c := b.contend(e, func() ([][]string, string) { return e.no("does not load images") })
	if c.absent != "nothing does not load images" || c.steps != nil {
		t.Errorf("contender %+v", c)
	}
	failed := lastLine(errors.New("start: it said\nthe reason"))
	if failed != "the reason" {
		t.Errorf("reason %q", failed)
	}
}

func TestMadeUpImagesAreTheSame(t *testing.T) {
	var sums [2][32]byte
	for i := range sums {
		b := &bench{work: t.TempDir()}
		a, err := b.madeUpArchive("made-up", 1, 3, 20)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(a.file)
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(data)
		if left, err := filepath.Glob(b.work + "/layer*"); err != nil || len(left) > 0 {
			t.Errorf("left over: %v, %v", left, err)
		}
	}
	if sums[0] != sums[1] {
		t.Error("the same arguments gave other bytes")
	}
}

func TestTurns(t *testing.T) {
	for _, c := range []struct {
		rounds, most int
		one          time.Duration
		want         int
	}{
		{0, 20, time.Millisecond, 20},
		{0, 20, 500 * time.Millisecond, 4},
		{0, 20, slowTurn, 2},
		{0, 20, slowTurn + 1, 1},
		{1, 20, time.Millisecond, 1},
		{100, 20, 0, 20},
	} {
		b := &bench{options: options{rounds: c.rounds, per: 2 * time.Second}}
		if got := b.turns(c.most, c.one); got != c.want {
			t.Errorf("at most %d of %d rounds, %v a turn: %d turns, want %d", c.rounds, c.most, c.one, got, c.want)
		}
	}
	late := &bench{options: options{within: 1}}
	if _, err := late.contest(t.Context(), []*report.Work{{Name: "late"}}, 1, nil); !errors.Is(err, errLate) {
		t.Errorf("a work began after the end of the run: %v", err)
	}
}
