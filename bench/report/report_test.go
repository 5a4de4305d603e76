package report_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/bench/report"
)

// sample is a report with one of everything.
func sample() *report.Report {
	of := func(walls ...float64) report.Samples {
		var s report.Samples
		for _, w := range walls {
			s = append(s, report.Sample{Wall: w, CPU: w / 2, Flush: 0.001, RSS: 12 << 20, Read: 100, Written: 4096})
		}
		return s
	}
	work := &report.Work{Name: "load, small", When: report.When{Date: "2026-11-22T21:00:00Z", Commit: "abc"}, Judge: report.Wall, About: "Loading <it>.", Entries: []*report.Entry{
		{Name: "layerfs", Kind: report.Layerfs, Samples: of(2, 4, 3), Calls: 77},
		{Name: "slow", Kind: report.Peer, Version: "1.0", Samples: of(20, 40, 30)},
		{Name: "quick", Kind: report.Peer, Samples: of(1, 2, 1.5)},
		{Name: "gone", Kind: report.Peer, Absent: "executable file | not found"},
		{Name: "floor", Kind: report.Limit, Samples: of(0.5, 1, 0.75)},
	}}
	work.Entries[1].Samples[0].Disk = 1 << 20
	return &report.Report{Lines: []*report.Line{{
		Name: "load", Title: "load an image", Machine: report.Machine{CPUs: 2},
		Works:   []*report.Work{work},
		Ratios:  []report.Ratio{{Name: "load / floor", Value: 1.5, Low: 1, High: 2, Target: 1.25}},
		Figures: []report.Figure{{Name: "disk", Value: 5e6, Unit: "bytes"}},
	}}}
}

func TestJSON(t *testing.T) {
	want := sample()
	data, err := want.JSON()
	if err != nil {
		t.Fatal(err)
	}
	got, err := report.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read back\n%s", data)
	}
	if !bytes.Contains(data, []byte(`"wall_seconds": [2, 4, 3]`)) {
		t.Errorf("numbers are not on one line:\n%s", data)
	}
	if _, err := report.Read(strings.NewReader(`{"lines":[{"works":[{"entries":[{"samples":{"wall_seconds":[1,2],"cpu_seconds":[1]}}]}]}]}`)); err == nil {
		t.Error("columns of unequal length were read")
	}
}

func TestPut(t *testing.T) {
	works := func(r *report.Report) (names []string) {
		for _, l := range r.Lines {
			for _, w := range l.Works {
				names = append(names, l.Name+" "+w.Name+" "+w.About)
			}
		}
		return names
	}
	line := func(name string, works ...string) *report.Line {
		l := &report.Line{Name: name}
		for _, w := range works {
			l.Works = append(l.Works, &report.Work{Name: w, About: name})
		}
		return l
	}
	for _, c := range []struct {
		what  string
		put   *report.Line
		whole bool
		want  []string
	}{
		{"a part", &report.Line{Name: "b", Works: []*report.Work{{Name: "3", About: "new"}, {Name: "2", About: "new"}}}, false, []string{"a 1 a", "b 1 b", "b 2 new", "b 3 new"}},
		{"a whole line", &report.Line{Name: "b", Works: []*report.Work{{Name: "2", About: "new"}}}, true, []string{"a 1 a", "b 2 new"}},
		{"another machine", &report.Line{Name: "b", Machine: report.Machine{CPUs: 1}, Works: []*report.Work{{Name: "2", About: "new"}}}, false, []string{"a 1 a", "b 2 new"}},
		{"a line that is not known", line("dropped", "1"), true, []string{"a 1 a", "b 1 b", "b 2 b"}},
	} {
		r := &report.Report{Lines: []*report.Line{line("b", "1", "2"), line("a", "1")}}
		r.Put(c.put, c.whole)
		r.Order([]string{"a", "b"})
		if got := works(r); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: works %q, want %q", c.what, got, c.want)
		}
		if w := r.Work("b", "2"); w == nil || r.Work("b", "4") != nil || r.Work("c", "2") != nil {
			t.Errorf("%s: work 2 of b is %v", c.what, w)
		}
	}
}

func TestVerdict(t *testing.T) {
	v := sample().Lines[0].Works[0].Verdict(report.Wall)
	if v.Best.Name != "quick" || v.ToPeer != 0.5 || v.ToLimit != 4 || !v.Behind() {
		t.Errorf("verdict %+v", v)
	}
}

func TestStatistics(t *testing.T) {
	if m := report.Median([]float64{5, 1, 2, 4}); m != 3 {
		t.Errorf("median %v, want 3", m)
	}
	if low, high := report.Spread([]float64{9, 1, 5}); low != 1 || high != 9 {
		t.Errorf("spread of few %v to %v, want the extremes", low, high)
	}
	if low, high := report.Spread([]float64{0, 1, 2, 3, 4, 5, 6, 7, 8}); low != 2 || high != 6 {
		t.Errorf("spread of many %v to %v, want the quartiles", low, high)
	}
}

func TestDocuments(t *testing.T) {
	r := sample()
	for name, f := range map[string]func() ([]byte, error){"html": r.HTML, "markdown": r.Markdown} {
		data, err := f()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"slow 1.0", "absent: executable file", "load / floor", "5.00 MB", "2026-11-22"} {
			if !bytes.Contains(data, []byte(want)) {
				t.Errorf("%s lacks %q:\n%s", name, want, data)
			}
		}
		for _, foreign := range []string{"<script", "src=", "@import", "url("} {
			if bytes.Contains(data, []byte(foreign)) {
				t.Errorf("%s has %q: it is to need nothing else", name, foreign)
			}
		}
	}
	html, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(html, []byte("Loading <it>")) {
		t.Error("text is not escaped")
	}
}

// TestCurrent compares what is generated from bench/results.json with what is kept.
func TestCurrent(t *testing.T) {
	kept := report.Kept("../..")
	r, err := report.ReadFile(kept.Results)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	again := report.Files{Results: filepath.Join(dir, "r"), HTML: filepath.Join(dir, "h"), Markdown: filepath.Join(dir, "m")}
	if err := again.Write(r); err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{kept.Results: again.Results, kept.HTML: again.HTML, kept.Markdown: again.Markdown} {
		a, err := os.ReadFile(got)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(want)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s is not what bench/results.json gives: make bench-docs", got)
		}
	}
}

// TestNotesLead follows the links of the notes to sections of the page.
func TestNotesLead(t *testing.T) {
	r, err := report.ReadFile(report.Kept("../..").Results)
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, l := range r.Lines {
		anchors[l.Anchor()] = true
	}
	link := regexp.MustCompile(`\]\(([^)]*)\)`)
	for _, l := range r.Lines {
		for _, n := range l.Notes() {
			for _, m := range link.FindAllStringSubmatch(n.Text, -1) {
				section, inside := strings.CutPrefix(m[1], "#")
				if inside && !anchors[section] {
					t.Errorf("%s: no section %q", l.Name, section)
				}
				if _, err := os.Stat(filepath.Join("../../docs", m[1])); !inside && err != nil {
					t.Errorf("%s: %v", l.Name, err)
				}
			}
		}
	}
}
