package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/bench/report"
	"golang.org/x/sys/unix"
)

// recorder collects what a line measures, prints it and keeps it.
type recorder struct {
	commit string
	places []report.Files // where what is measured is merged into
	before *report.Report // what an earlier run has left, to go on with; nil to measure everything
	line   *report.Line
}

func newRecorder(ctx context.Context, o options) (recorder, error) {
	r := recorder{commit: commit(ctx)}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return r, err
	}
	r.places = []report.Files{{Results: filepath.Join(o.out, "results.json"), HTML: filepath.Join(o.out, "results.html")}}
	if o.record {
		r.places = append(r.places, report.Kept("."))
	}
	if !o.resume {
		return r, nil
	}
	var err error
	r.before, err = readOrEmpty(r.places[len(r.places)-1].Results)
	return r, err
}

func (r *recorder) begin(l line) error {
	m, err := describeMachine()
	if err != nil {
		return err
	}
	load, err := loadAverage()
	if err != nil {
		return err
	}
	fmt.Printf("%s, %d × %s, %d GiB, Linux %s, %s, load %.1f, commit %s\n",
		now(), m.CPUs, m.CPU, m.Memory>>30, m.Kernel, m.Go, load, r.commit)
	r.line = &report.Line{Name: l.name, Title: l.title, Machine: m}
	return nil
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

// earlier returns a work that an earlier run has measured of the same commit on the same
// machine, or nil.
func (r *recorder) earlier(name string) *report.Work {
	if r.before == nil || r.commit == "" {
		return nil
	}
	w := r.before.Work(r.line.Name, name)
	if w == nil || w.When.Commit != r.commit || r.before.Line(r.line.Name).Machine != r.line.Machine {
		return nil
	}
	return w
}

// keep merges the line into what earlier runs have left, and renews the pages made of it.
// A whole line leaves nothing of an earlier one.
func (r *recorder) keep(whole bool) error {
	for _, f := range r.places {
		all, err := readOrEmpty(f.Results)
		if err != nil {
			return err
		}
		all.Put(r.line, whole)
		all.Order(lineNames())
		if err := f.Write(all); err != nil {
			return err
		}
	}
	return nil
}

func readOrEmpty(name string) (*report.Report, error) {
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return &report.Report{}, nil
	}
	return report.ReadFile(name)
}

func (r *recorder) add(w *report.Work) {
	r.line.Works = append(r.line.Works, w)
	w.Text(os.Stdout)
}

// compare records how a compares to b: the median of the ratios of each round, whose
// turns were next to each other.
func (r *recorder) compare(what string, a, b *report.Entry, of func(report.Sample) float64, target float64) {
	each := report.Rounds(a, b, of)
	if len(each) == 0 {
		return
	}
	r.ratio(report.Ratio{Name: what, Value: report.Median(each), Low: slices.Min(each), High: slices.Max(each),
		Least: slices.Min(a.Values(of)) / slices.Min(b.Values(of)), Target: target})
}

func (r *recorder) ratio(x report.Ratio) {
	r.line.Ratios = append(r.line.Ratios, x)
	fmt.Printf("  → %-60s %.2f (%.2f to %.2f)", x.Name, x.Value, x.Low, x.High)
	if x.Least > 0 {
		fmt.Printf(", of the least %.2f", x.Least)
	}
	switch {
	case x.Target == 0:
	case x.Value <= x.Target:
		fmt.Printf("  at most %.2f: met", x.Target)
	default:
		fmt.Printf("  at most %.2f: NOT met", x.Target)
	}
	fmt.Println()
}

func (r *recorder) bytes(name string, value float64) { r.figure(name, value, "bytes") }

func (r *recorder) figure(name string, value float64, unit string) {
	r.line.Figures = append(r.line.Figures, report.Figure{Name: name, Value: value, Unit: unit})
	fmt.Printf("  %-60s %.6g %s\n", name, value, unit)
}

// milliseconds records one of several times that make up another.
func (r *recorder) milliseconds(name string, seconds float64) {
	r.line.Figures = append(r.line.Figures, report.Figure{Name: name, Value: seconds * 1e3, Unit: "ms"})
	fmt.Printf("  %-60s %6.2f ms\n", name, seconds*1e3)
}

func wall(s report.Sample) float64 { return s.Wall }
func cpu(s report.Sample) float64  { return s.CPU }

func loadAverage() (float64, error) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 0, err
	}
	return float64(int64(float64(si.Loads[0])/(1<<16)*100)) / 100, nil
}

func describeMachine() (report.Machine, error) {
	m := report.Machine{CPUs: runtime.NumCPU(), Go: runtime.Version()}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(uts.Release[:])
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return m, err
	}
	m.Memory = int64(si.Totalram) * int64(si.Unit)
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, err
	}
	for l := range strings.Lines(string(info)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
			m.CPU = strings.TrimSpace(v)
			break
		}
	}
	return m, nil
}

// commit names what is measured: the commit of the work tree, and whether more than the
// results of earlier runs differs from it. It is empty where there is no repository.
func commit(ctx context.Context) string {
	kept := report.Kept(".")
	args := []string{"status", "--porcelain", "--untracked-files=no", "--", "."}
	for _, name := range []string{kept.Results, kept.HTML, kept.Markdown} {
		args = append(args, ":(exclude)"+name)
	}
	id, err := output(ctx, "git", "rev-parse", "--short", "HEAD")
	if err != nil {
		return ""
	}
	if changed, err := output(ctx, append([]string{"git"}, args...)...); err != nil || changed != "" {
		id += "-dirty"
	}
	return id
}
