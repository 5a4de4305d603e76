package report

import (
	"embed"
	"html/template"
	"io/fs"
	"regexp"
	"strings"
)

// Notes explain a line: what bounds layerfs where it is far from the limit or behind a
// peer. notes/NAME.md has blocks that blank lines part: paragraphs and tables, with code
// and links in them, and nothing else of Markdown.
//
//go:embed notes
var notes embed.FS

// Note is one block of an explanation: a paragraph, or a table whose first row is its head.
type Note struct {
	Text string // as Markdown
	Rows [][]string
}

// Notes returns what explains a line.
func (l *Line) Notes() []Note {
	data, err := fs.ReadFile(notes, "notes/"+l.Name+".md")
	if err != nil {
		return nil
	}
	var out []Note
	for block := range strings.SplitSeq(string(data), "\n\n") {
		n := Note{Text: strings.TrimSpace(block)}
		if n.Text == "" {
			continue
		}
		for row := range strings.Lines(n.Text) {
			if cells, ok := strings.CutPrefix(strings.TrimSpace(row), "|"); ok && !strings.HasPrefix(cells, "---") {
				n.Rows = append(n.Rows, strings.Split(strings.TrimSuffix(cells, "|"), "|"))
			}
		}
		out = append(out, n)
	}
	return out
}

var (
	noteCode = regexp.MustCompile("`([^`]+)`")
	noteLink = regexp.MustCompile(`\[([^\]]+)\]\(([^)]+)\)`)
)

// inline is the text of a note as HTML.
func inline(text string) template.HTML {
	text = template.HTMLEscapeString(strings.TrimSpace(text))
	text = noteCode.ReplaceAllString(text, "<code>$1</code>")
	return template.HTML(noteLink.ReplaceAllString(text, `<a href="$2">$1</a>`))
}
