// Package report is what runs of the benchmarks measured: it is kept as results.json, and
// shown as tables on a terminal, as Markdown and as a page of HTML. Nothing here measures.
//
// A report has lines, a line has works, and a work has an entry for every contender that
// does it. What could not be measured has an entry too, which says why.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Report is the content of results.json. Each line has the machine of its own and each work
// its time, since they are measured in runs of their own and merged.
type Report struct {
	Lines []*Line `json:"lines"`
}

// Line is one kind of work.
type Line struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Machine Machine  `json:"machine"`
	Works   []*Work  `json:"works"`
	Ratios  []Ratio  `json:"ratios,omitempty"`
	Figures []Figure `json:"figures,omitempty"`
}

// Anchor is the name of the line's section, as those who show Markdown derive it from the
// heading.
func (l *Line) Anchor() string {
	var s strings.Builder
	for _, r := range strings.ToLower(l.Name + ": " + l.Title) {
		switch {
		case r == ' ':
			s.WriteByte('-')
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			s.WriteRune(r)
		}
	}
	return s.String()
}

// Machine says on what a line was measured. Works that were measured on different
// machines are not kept side by side.
type Machine struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memory_bytes"`
	Go     string `json:"go"`
}

// When says of what and in what circumstances a work was measured.
type When struct {
	Date      string  `json:"date"` // RFC 3339, of the work's start
	Commit    string  `json:"commit"`
	LoadStart float64 `json:"load_average_at_start"` // what else the machine did
	LoadEnd   float64 `json:"load_average_at_end"`
}

// String is a sentence for people.
func (w When) String() string {
	return fmt.Sprintf("Measured %s of commit %s; load of the machine %g to %g.", w.Date, w.Commit, w.LoadStart, w.LoadEnd)
}

// Work is one piece of work that all its contenders did in turns, with equal results.
type Work struct {
	Name string `json:"name"`
	// About says what each contender does where that is not obvious.
	About   string   `json:"about,omitempty"`
	When    When     `json:"when"`
	Judge   Measure  `json:"judge"`
	Entries []*Entry `json:"entries"`
}

// Measure is what contenders are compared by.
type Measure string

// The measures. Processor time is the steadier one on a machine that does other things;
// wall time counts where contenders wait for the disk or for each other.
const (
	Wall Measure = "wall"
	CPU  Measure = "cpu"
)

// Kind says what a contender is in a work.
type Kind string

// The kinds of contenders.
const (
	Layerfs Kind = "layerfs"
	Peer    Kind = "peer"
	Limit   Kind = "limit" // what the machine needs for the unavoidable part of the work
	Other   Kind = "other" // another way to do it, for orientation
)

// Entry is all turns of one contender.
type Entry struct {
	Name    string `json:"name"`
	Kind    Kind   `json:"kind"`
	Version string `json:"version,omitempty"`
	// Absent says why there are no samples.
	Absent  string  `json:"absent,omitempty"`
	Samples Samples `json:"samples,omitempty"`
	// Calls is how many system calls one further turn made, 0 where that was not counted.
	Calls int64 `json:"system_calls,omitempty"`
}

// Sample is what one turn cost.
type Sample struct {
	Wall float64 // seconds
	CPU  float64 // seconds, daemons included
	// Flush is how long it then took until the file system had written everything, in
	// seconds: what a contender leaves to the kernel.
	Flush   float64
	RSS     int64 // peak of resident memory in bytes: of the largest process, and of daemons
	Read    int64 // bytes that the process itself asked the kernel to read
	Written int64 // bytes that reached the device, those of Flush included
	Disk    int64 // bytes by which the file system is fuller, 0 where that was not asked
}

// Ratio compares two contenders by the median of the ratios within a round. A target of
// 0 is none.
type Ratio struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Low    float64 `json:"low"` // the smallest and largest within one round
	High   float64 `json:"high"`
	Least  float64 `json:"of_the_least,omitempty"` // the fastest turns of both, least disturbed
	Target float64 `json:"at_most,omitempty"`
}

// Figure is a single number that is not compared.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// Samples is kept in columns, which is a tenth of the text.
type Samples []Sample

type columns struct {
	Wall    []float64 `json:"wall_seconds"`
	CPU     []float64 `json:"cpu_seconds"`
	Flush   []float64 `json:"flush_seconds"`
	RSS     []int64   `json:"peak_resident_bytes"`
	Read    []int64   `json:"read_bytes"`
	Written []int64   `json:"written_bytes"`
	Disk    []int64   `json:"disk_bytes,omitempty"`
}

// MarshalJSON writes columns, times to a microsecond.
func (s Samples) MarshalJSON() ([]byte, error) {
	var c columns
	micro := func(v float64) float64 { return float64(int64(v*1e6+0.5)) / 1e6 }
	disk := slices.ContainsFunc(s, func(x Sample) bool { return x.Disk != 0 })
	for _, x := range s {
		c.Wall, c.CPU, c.Flush = append(c.Wall, micro(x.Wall)), append(c.CPU, micro(x.CPU)), append(c.Flush, micro(x.Flush))
		c.RSS, c.Read, c.Written = append(c.RSS, x.RSS), append(c.Read, x.Read), append(c.Written, x.Written)
		if disk {
			c.Disk = append(c.Disk, x.Disk)
		}
	}
	return json.Marshal(c)
}

// UnmarshalJSON reads columns of equal length.
func (s *Samples) UnmarshalJSON(data []byte) error {
	var c columns
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	n := len(c.Wall)
	for _, m := range []int{len(c.CPU), len(c.Flush), len(c.RSS), len(c.Read), len(c.Written)} {
		if m != n {
			return fmt.Errorf("columns of %d and %d samples", n, m)
		}
	}
	*s = make(Samples, n)
	for i := range *s {
		(*s)[i] = Sample{Wall: c.Wall[i], CPU: c.CPU[i], Flush: c.Flush[i], RSS: c.RSS[i], Read: c.Read[i], Written: c.Written[i]}
		if i < len(c.Disk) {
			(*s)[i].Disk = c.Disk[i]
		}
	}
	return nil
}

// Read reads a results.json.
func Read(r io.Reader) (*Report, error) {
	out := &Report{}
	if err := json.NewDecoder(r).Decode(out); err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	return out, nil
}

// ReadFile reads a results.json.
func ReadFile(name string) (*Report, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return Read(bytes.NewReader(data))
}

// numbers matches an array of numbers that was written a number a line.
var numbers = regexp.MustCompile(`\[[-+0-9.eE,\s]+\]`)

// JSON is the text of results.json: indented, but lists of numbers on one line.
func (r *Report) JSON() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, err
	}
	data = numbers.ReplaceAllFunc(data, func(b []byte) []byte {
		return bytes.ReplaceAll(bytes.Join(bytes.Fields(b), nil), []byte(","), []byte(", "))
	})
	return append(data, '\n'), nil
}

// Put adds a line, in the place of one with its name. A line that is not whole keeps what
// the earlier one has of works, ratios and figures that it has not, if it was measured on
// the same machine.
func (r *Report) Put(l *Line, whole bool) {
	i := slices.IndexFunc(r.Lines, func(x *Line) bool { return x.Name == l.Name })
	switch {
	case i < 0:
		r.Lines = append(r.Lines, l)
	case whole || r.Lines[i].Machine != l.Machine:
		r.Lines[i] = l
	default:
		old, merged := r.Lines[i], *l
		merged.Works = merge(old.Works, l.Works, func(w *Work) string { return w.Name })
		merged.Ratios = merge(old.Ratios, l.Ratios, func(x Ratio) string { return x.Name })
		merged.Figures = merge(old.Figures, l.Figures, func(f Figure) string { return f.Name })
		r.Lines[i] = &merged
	}
}

// merge returns old with what is newer in its place, and what is new at the end.
func merge[T any](old, newer []T, name func(T) string) []T {
	out := slices.Clone(old)
	for _, x := range newer {
		i := slices.IndexFunc(out, func(o T) bool { return name(o) == name(x) })
		if i < 0 {
			out = append(out, x)
			continue
		}
		out[i] = x
	}
	return out
}

// Line returns the line of that name, nil where there is none.
func (r *Report) Line(name string) *Line {
	i := slices.IndexFunc(r.Lines, func(l *Line) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return r.Lines[i]
}

// Work returns a work of a line, nil where there is none.
func (r *Report) Work(line, work string) *Work {
	l := r.Line(line)
	if l == nil {
		return nil
	}
	i := slices.IndexFunc(l.Works, func(w *Work) bool { return w.Name == work })
	if i < 0 {
		return nil
	}
	return l.Works[i]
}

// Order sorts lines as names has them; lines that it does not name are left out.
func (r *Report) Order(names []string) {
	var out []*Line
	for _, n := range names {
		for _, l := range r.Lines {
			if l.Name == n {
				out = append(out, l)
			}
		}
	}
	r.Lines = out
}
