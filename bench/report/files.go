package report

import (
	"bytes"
	"os"
	"path/filepath"
)

// Files are where a report is written to; an empty name is not written.
type Files struct {
	Results  string // results.json
	HTML     string
	Markdown string
}

// Kept are the files that the repository at root keeps.
func Kept(root string) Files {
	return Files{
		Results:  filepath.Join(root, "bench", "results.json"),
		HTML:     filepath.Join(root, "docs", "performance.html"),
		Markdown: filepath.Join(root, "docs", "performance.md"),
	}
}

// Write writes all files, each whole or not at all. The pages are made of what results.json
// holds, whose figures are rounded, so that they are the same when they are made again.
func (f Files) Write(r *Report) error {
	text, err := r.JSON()
	if err != nil {
		return err
	}
	if r, err = Read(bytes.NewReader(text)); err != nil {
		return err
	}
	for _, out := range []struct {
		name string
		text func() ([]byte, error)
	}{{f.Results, r.JSON}, {f.HTML, r.HTML}, {f.Markdown, r.Markdown}} {
		if out.name == "" {
			continue
		}
		data, err := out.text()
		if err != nil {
			return err
		}
		if err := os.WriteFile(out.name+".tmp", data, 0o644); err != nil {
			return err
		}
		if err := os.Rename(out.name+".tmp", out.name); err != nil {
			return err
		}
	}
	return nil
}
