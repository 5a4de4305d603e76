package report

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"strings"
)

//go:embed page.html
var pageText string

// Notes explain a line: what bounds layerfs where it is far from the limit or behind a
// peer. notes/NAME.txt has paragraphs of plain text, one a line.
//
//go:embed notes
var notes embed.FS

// Notes returns the paragraphs that explain a line.
func (l *Line) Notes() []string {
	data, err := fs.ReadFile(notes, "notes/"+l.Name+".txt")
	if err != nil {
		return nil
	}
	var out []string
	for p := range strings.Lines(string(data)) {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, p)
		}
	}
	return out
}

// intro says how to read what follows; the page and the Markdown file share it.
const intro = "Every contender does the same work as whole processes, in turns with the others, A B A B, after a turn that " +
	"does not count and in which results are compared (trees entry by entry, archives by the digests of their layers). " +
	"Stores and the daemons of peers lie on a journaled ext4 made for the run. Times are medians; the spread is from the first " +
	"to the third quartile, of fewer than eight rounds from the least to the greatest. Ratios are medians of the ratios within " +
	"a round, so that what else the machine did hits both alike. CPU includes daemons; peak memory is that of the largest " +
	"process and of all that stay, and at least what the measuring program itself has, 11 MB; written is what reached the device " +
	"until the flush after the turn was done, disk what the file system is fuller by, calls the system calls of one further turn."

type page struct {
	Report   *Report
	Intro    string
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
	Chart template.HTML
	Rows  []pageRow
}

type pageRow struct {
	Kind   Kind
	Cells  []string
	Absent string
}

// HTML is a page that needs nothing else: charts are SVG inside it, and it has no scripts.
func (r *Report) HTML() ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{"digits": digits, "amount": amount}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	p := page{Report: r, Intro: intro, Columns: Columns(), Overview: r.overviewChart()}
	for _, l := range r.Lines {
		pl := pageLine{Line: l}
		for _, w := range l.Works {
			pw := pageWork{Work: w, Chart: w.chart()}
			for _, e := range w.Entries {
				row := pageRow{Kind: e.Kind, Cells: w.Row(e)}
				if len(e.Samples) == 0 {
					row.Cells, row.Absent = row.Cells[:1], row.Cells[1]
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
	label string
}

// compared are the works of all lines in which layerfs and another were measured.
func (r *Report) compared() []comparison {
	var out []comparison
	for _, l := range r.Lines {
		for _, w := range l.Works {
			if v := w.Verdict(); v.Layerfs != nil && (v.Best != nil || v.Limit != nil) {
				out = append(out, comparison{w, l.Name + ": " + w.Name})
			}
		}
	}
	return out
}
