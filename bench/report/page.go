package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strings"
)

//go:embed page.html
var pageText string

// intro says how to read what follows; the page and the Markdown file share it.
const intro = "Every contender does the same work as whole processes, in turns with the others, A B A B, after a turn that " +
	"does not count and in which results are compared (trees entry by entry, archives by the digests of their layers). " +
	"Stores and the daemons of peers lie on a journaled ext4 made for the run. Times are medians; the spread is from the first " +
	"to the third quartile, of fewer than eight turns from the least to the greatest; contenders whose turns take long have fewer of them. " +
	"Ratios are medians of the ratios within a round, so that what else the machine did hits both alike. CPU includes daemons; " +
	"peak memory is that of the largest process and of all that stay, and at least what the measuring program itself has, 11 MB; " +
	"written is what reached the device until the flush after the turn was done, disk what the file system is fuller by, calls the " +
	"system calls of one turn that does not count."

// overviewIntro explains the first table.
const overviewIntro = "For each work, by wall time and by CPU: what layerfs needs, the cost of the best peer in that of layerfs " +
	"(above 1 layerfs is ahead), and the cost of layerfs in that of the limit, which is what the machine needs for the part that nobody " +
	"can leave out."

// standing says in how many works layerfs is ahead of every peer, and where it is not.
type standing struct {
	Sentence string
	Behind   []string
}

func (r *Report) standing() standing {
	var s standing
	works := 0
	for _, w := range r.compared() {
		var by []string
		for _, v := range []Verdict{w.Verdict(Wall), w.Verdict(CPU)} {
			if v.Best == nil {
				continue
			}
			if v.By == Wall {
				works++
			}
			if v.Behind() {
				by = append(by, fmt.Sprintf("%s by %s time, %s of that of layerfs", v.Best.Name, v.By, digits(v.ToPeer)))
			}
		}
		if len(by) > 0 {
			s.Behind = append(s.Behind, w.label+": "+strings.Join(by, "; "))
		}
	}
	s.Sentence = fmt.Sprintf("layerfs needs less than every peer, by wall time and by CPU time, in %d of %d works.", works-len(s.Behind), works)
	if len(s.Behind) > 0 {
		s.Sentence += " In these a peer needs less, and their sections say what bounds layerfs:"
	}
	return s
}

type page struct {
	Report   *Report
	Intro    string
	Standing standing
	About    string // of the overview
	Rows     []overviewRow
	Columns  []string
	Overview template.HTML
	Lines    []pageLine
}

type pageLine struct {
	*Line
	Works []pageWork
}

type pageWork struct {
	*Work
	About  string // unless the work before says the same
	Chart  template.HTML
	Rows   []pageRow
	Absent []string
}

type pageRow struct {
	Kind   Kind
	Cells  []string
	Absent string
}

// HTML is a page that needs nothing else: charts are SVG inside it, and it has no scripts.
func (r *Report) HTML() ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{"digits": digits, "amount": amount, "inline": inline, "join": strings.Join}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	p := page{Report: r, Intro: intro, Standing: r.standing(), About: overviewIntro, Rows: r.overview(), Columns: Columns(), Overview: r.overviewChart()}
	for _, l := range r.Lines {
		pl := pageLine{Line: l}
		for i, w := range l.Works {
			pw := pageWork{Work: w, About: l.about(i), Chart: w.chart()}
			for _, e := range w.Entries {
				row := pageRow{Kind: e.Kind, Cells: w.Row(e)}
				if len(e.Samples) == 0 {
					row.Cells, row.Absent = row.Cells[:1], row.Cells[1]
					pw.Absent = append(pw.Absent, e.Name+" ("+e.Absent+")")
				}
				pw.Rows = append(pw.Rows, row)
			}
			pl.Works = append(pl.Works, pw)
		}
		p.Lines = append(p.Lines, pl)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, p); err != nil {
		return nil, fmt.Errorf("write page: %w", err)
	}
	return out.Bytes(), nil
}

// about explains a work, unless the one before it has the same explanation.
func (l *Line) about(i int) string {
	if i > 0 && l.Works[i-1].About == l.Works[i].About {
		return ""
	}
	return l.Works[i].About
}

// amount writes a figure with its unit.
func amount(f Figure) string {
	if f.Unit == "bytes" {
		return digits(f.Value/1e6) + " MB"
	}
	return strings.TrimSpace(digits(f.Value) + " " + f.Unit)
}

// comparison is a work with the name that it has among those of all lines.
type comparison struct {
	*Work
	line  string // anchor of its section
	label string
}

// compared are the works of all lines in which layerfs and another were measured.
func (r *Report) compared() []comparison {
	var out []comparison
	for _, l := range r.Lines {
		for _, w := range l.Works {
			if v := w.Verdict(Wall); v.Layerfs != nil && (v.Best != nil || v.Limit != nil) {
				out = append(out, comparison{w, l.Anchor(), l.Name + ": " + w.Name})
			}
		}
	}
	return out
}

// overviewRow is how layerfs stands in one work.
type overviewRow struct {
	Line, Label string
	By          [2]overviewCell // wall and CPU
}

type overviewCell struct {
	Layerfs, Best, Peer, Limit string
	Behind                     bool
}

func (r *Report) overview() []overviewRow {
	var out []overviewRow
	for _, w := range r.compared() {
		row := overviewRow{Line: w.line, Label: w.label}
		for i, m := range []Measure{Wall, CPU} {
			v := w.Verdict(m)
			c := overviewCell{Layerfs: Seconds(v.Layerfs.Median(m.Of)), Peer: times(v.ToPeer), Limit: times(v.ToLimit), Behind: v.Behind()}
			if v.Best != nil {
				c.Best = v.Best.Name
			}
			row.By[i] = c
		}
		out = append(out, row)
	}
	return out
}
