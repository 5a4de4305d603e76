package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Text writes the table of one work for a terminal.
func (w *Work) Text(out io.Writer) {
	fmt.Fprintf(out, "\n  %s (compared by %s)\n", w.Name, w.Judge)
	rows := [][]string{Columns()}
	for _, e := range w.Entries {
		rows = append(rows, w.Row(e))
	}
	width := make([]int, len(Columns()))
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 && len(row) < len(width) {
				continue // a sentence, not a column
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var s strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", max(0, width[i]-utf8.RuneCountInString(cell)))
			switch {
			case i == 0:
				s.WriteString("    " + cell + pad)
			case len(row) < len(width):
				s.WriteString("  " + cell)
			default:
				s.WriteString("  " + pad + cell)
			}
		}
		fmt.Fprintln(out, strings.TrimRight(s.String(), " "))
	}
}
