package report

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Markdown is the report as a document of the repository.
func (r *Report) Markdown() ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "# layerfs beside its peers\n\n<!-- Generated from bench/results.json: make bench-docs. -->\n\n%s\n\n", intro)
	out.WriteString("`make bench-peers` measures, and shows [the same with charts](peers.html). ")
	out.WriteString("In the table, *peer* is the cost of the best peer in that of layerfs (below 1 the peer is ahead), *limit* the cost of layerfs in that of the limit.\n\n")
	out.WriteString("| work | by | layerfs | best peer | peer | limit |\n|---|---|---:|---|---:|---:|\n")
	for _, w := range r.compared() {
		v := w.Verdict()
		best := "none"
		if v.Best != nil {
			best = v.Best.Name + ", " + Seconds(v.Best.Median(w.Judge.Of))
		}
		peer := times(v.ToPeer)
		if v.Behind() {
			peer = "**" + peer + "**"
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | %s |\n", w.label, w.Judge, Seconds(v.Layerfs.Median(w.Judge.Of)), best, peer, times(v.ToLimit))
	}
	for _, l := range r.Lines {
		l.markdown(&out)
	}
	return out.Bytes(), nil
}

func (l *Line) markdown(out io.Writer) {
	fmt.Fprintf(out, "\n## %s: %s\n\n", l.Name, l.Title)
	m := l.Machine
	fmt.Fprintf(out, "Measured %s on %d × %s, Linux %s, %s; commit %s; load of the machine %g to %g.\n", m.Date, m.CPUs, m.CPU, m.Kernel, m.Go, m.Commit, m.LoadStart, m.LoadEnd)
	for _, p := range l.Notes() {
		fmt.Fprintf(out, "\n%s\n", p)
	}
	for _, w := range l.Works {
		fmt.Fprintf(out, "\n### %s\n\n", w.Name)
		if w.About != "" {
			fmt.Fprintf(out, "%s\n\n", w.About)
		}
		fmt.Fprintf(out, "| %s |\n|---%s|\n", strings.Join(Columns(), " | "), strings.Repeat("|---:", len(Columns())-1))
		for _, e := range w.Entries {
			row := w.Row(e)
			for i := range row {
				row[i] = strings.ReplaceAll(row[i], "|", `\|`)
			}
			fmt.Fprintf(out, "| %s |\n", strings.Join(row, " | "))
		}
	}
	if len(l.Ratios) > 0 {
		fmt.Fprintf(out, "\n| | ratio | least | greatest | wanted |\n|---|---:|---:|---:|---:|\n")
		for _, x := range l.Ratios {
			fmt.Fprintf(out, "| %s | %s | %s | %s | %s |\n", x.Name, digits(x.Value), digits(x.Low), digits(x.High), times(x.Target))
		}
	}
	if len(l.Figures) > 0 {
		fmt.Fprintf(out, "\n| | |\n|---|---:|\n")
		for _, f := range l.Figures {
			fmt.Fprintf(out, "| %s | %s |\n", f.Name, amount(f))
		}
	}
}
