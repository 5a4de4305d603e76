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
	fmt.Fprintf(&out, "# Performance\n\n<!-- Generated from bench/results.json and bench/report/notes: make bench-docs. -->\n\n")
	fmt.Fprintf(&out, "layerfs beside its peers and beside the limits of the machine. `make bench-peers` measures, and shows [the same with charts](performance.html).\n\n%s\n", r.standing().Sentence)
	for i, behind := range r.standing().Behind {
		if i == 0 {
			out.WriteString("\n")
		}
		fmt.Fprintf(&out, "- %s\n", behind)
	}
	fmt.Fprintf(&out, "\n%s\n\n## Overview\n\n%s\n\n", intro, overviewIntro)
	out.WriteString("| work | wall | best peer | peer | limit | CPU | best peer | peer | limit |\n|---|---:|---|---:|---:|---:|---|---:|---:|\n")
	for _, row := range r.overview() {
		fmt.Fprintf(&out, "| %s", row.Label)
		for _, c := range row.By {
			if c.Behind {
				c.Peer = "**" + c.Peer + "**"
			}
			fmt.Fprintf(&out, " | %s | %s | %s | %s", c.Layerfs, c.Best, c.Peer, c.Limit)
		}
		out.WriteString(" |\n")
	}
	for _, l := range r.Lines {
		l.markdown(&out)
	}
	return out.Bytes(), nil
}

func (l *Line) markdown(out io.Writer) {
	fmt.Fprintf(out, "\n## %s: %s\n\n", l.Name, l.Title)
	m := l.Machine
	fmt.Fprintf(out, "Measured on %d × %s, %d GiB, Linux %s, %s.\n", m.CPUs, m.CPU, m.Memory>>30, m.Kernel, m.Go)
	for _, n := range l.Notes() {
		fmt.Fprintf(out, "\n%s\n", n.Text)
	}
	for i, w := range l.Works {
		fmt.Fprintf(out, "\n### %s\n\n", w.Name)
		if about := l.about(i); about != "" {
			fmt.Fprintf(out, "%s\n\n", about)
		}
		fmt.Fprintf(out, "%s\n\n", w.When)
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
