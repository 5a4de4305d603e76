package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is everything that a run measured; results.json is this.
type report struct {
	Machine machine   `json:"machine"`
	Results []*result `json:"results"`
	Ratios  []ratio   `json:"ratios"`
	Figures []figure  `json:"figures"`
}

// result is all turns of one contender.
type result struct {
	Line    string   `json:"line"`
	Name    string   `json:"name"`
	Samples []sample `json:"samples"`
}

// ratio compares medians. A target of 0 is none.
type ratio struct {
	Line   string  `json:"line"`
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Low    float64 `json:"low"` // the smallest and largest within one round
	High   float64 `json:"high"`
	Least  float64 `json:"of_the_least,omitempty"` // the fastest turns of both, least disturbed
	Target float64 `json:"at_most,omitempty"`
}

// figure is a single number that is no time.
type figure struct {
	Line  string  `json:"line"`
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

type machine struct {
	Date   string  `json:"date"`
	Commit string  `json:"commit"`
	Kernel string  `json:"kernel"`
	CPU    string  `json:"cpu"`
	CPUs   int     `json:"cpus"`
	Memory int64   `json:"memory_bytes"`
	Load   float64 `json:"load_average_at_start"` // what else the machine did
	Go     string  `json:"go"`
}

func describeMachine(ctx context.Context) (machine, error) {
	m := machine{Date: time.Now().UTC().Format(time.RFC3339), CPUs: runtime.NumCPU(), Go: runtime.Version()}
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
	m.Load = float64(si.Loads[0]) / (1 << 16)
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
	fmt.Printf("%s, %d × %s, %d GiB, Linux %s, %s, load %.1f, commit %s\n",
		m.Date, m.CPUs, m.CPU, m.Memory>>30, m.Kernel, m.Go, m.Load, m.Commit)
	return m, nil
}

func values(r *result, of func(sample) float64) []float64 {
	out := make([]float64, len(r.Samples))
	for i, s := range r.Samples {
		out[i] = of(s)
	}
	return out
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

func wall(s sample) float64 { return s.Wall }
func cpu(s sample) float64  { return s.cpu() }

// add records and prints a result.
func (r *report) add(res *result) {
	r.Results = append(r.Results, res)
	c, w := values(res, cpu), values(res, wall)
	last := res.Samples[len(res.Samples)-1]
	fmt.Printf("  %-44s cpu %s (%s to %s)  wall %s (%s to %s)  peak %d MB",
		res.Name, seconds(median(c)), seconds(slices.Min(c)), seconds(slices.Max(c)),
		seconds(median(w)), seconds(slices.Min(w)), seconds(slices.Max(w)), last.RSS>>20)
	if last.Calls > 0 {
		fmt.Printf("  read %d kB  %d calls", last.RChar>>10, last.Calls)
	}
	fmt.Println()
}

func seconds(s float64) string {
	if s < 0.1 {
		return fmt.Sprintf("%.2f ms", s*1000)
	}
	return fmt.Sprintf("%.2f s", s)
}

// compare records how a compares to b: the median of the ratios of each round, whose
// turns were next to each other.
func (r *report) compare(what string, a, b *result, of func(sample) float64, target float64) {
	va, vb := values(a, of), values(b, of)
	each := make([]float64, len(va))
	for i := range va {
		each[i] = va[i] / vb[i]
	}
	r.ratio(ratio{Line: a.Line, Name: what, Value: median(each), Low: slices.Min(each), High: slices.Max(each),
		Least: slices.Min(va) / slices.Min(vb), Target: target})
}

func (r *report) ratio(x ratio) {
	r.Ratios = append(r.Ratios, x)
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

func (r *report) figure(line, name string, value float64, unit string) {
	r.Figures = append(r.Figures, figure{line, name, value, unit})
	fmt.Printf("  %-60s %.6g %s\n", name, value, unit)
}

// write puts results.json into dir. Lines measured in earlier runs are not kept.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "results.json"), append(data, '\n'), 0o644)
}
