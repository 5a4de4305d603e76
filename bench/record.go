package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/bench/report"
	"golang.org/x/sys/unix"
)

// recorder collects what a line measures and prints it.
type recorder struct {
	line *report.Line
}

func (r *recorder) begin(ctx context.Context, l line) error {
	m, err := describeMachine(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%s, %d × %s, %d GiB, Linux %s, %s, load %.1f, commit %s\n",
		m.Date, m.CPUs, m.CPU, m.Memory>>30, m.Kernel, m.Go, m.LoadStart, m.Commit)
	r.line = &report.Line{Name: l.name, Title: l.title, Machine: m}
	return nil
}

// end writes the line to results.json in dir, in the place of what an earlier run has
// left of the same line, and renews the page; also in the repository when record is set.
func (r *recorder) end(dir string, record bool) error {
	var err error
	if r.line.Machine.LoadEnd, err = loadAverage(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err = keep(r.line, report.Files{Results: filepath.Join(dir, "results.json"), HTML: filepath.Join(dir, "results.html")})
	if err == nil && record {
		err = keep(r.line, report.Kept("."))
	}
	return err
}

func keep(l *report.Line, f report.Files) error {
	all := &report.Report{}
	if _, err := os.Stat(f.Results); err == nil {
		if all, err = report.ReadFile(f.Results); err != nil {
			return err
		}
	}
	all.Put(l)
	all.Order(lineNames())
	return f.Write(all)
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

func (r *recorder) bytes(name string, value float64) {
	r.line.Figures = append(r.line.Figures, report.Figure{Name: name, Value: value, Unit: "bytes"})
	fmt.Printf("  %-60s %.6g bytes\n", name, value)
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

func describeMachine(ctx context.Context) (report.Machine, error) {
	m := report.Machine{Date: time.Now().UTC().Format(time.RFC3339), CPUs: runtime.NumCPU(), Go: runtime.Version()}
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
	var err error
	if m.LoadStart, err = loadAverage(); err != nil {
		return m, err
	}
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
	out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err == nil {
		m.Commit = strings.TrimSpace(string(out))
	}
	return m, nil
}
