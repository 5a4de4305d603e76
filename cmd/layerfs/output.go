package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/spf13/cobra"
)

// outputFlags are the flags of commands that print records.
type outputFlags struct {
	format string
	quiet  bool
}

func (o *outputFlags) add(cmd *cobra.Command, quiet string) {
	cmd.Flags().StringVar(&o.format, "format", "table", `"table", "json", or a Go template applied to each record`)
	if quiet != "" {
		cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, quiet)
	}
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)))
}

// column is one column of a table of T.
type column[T any] struct {
	head string
	cell func(T) string
}

// printRows prints records: for programs one JSON array or a template's output per
// record, for people a table, and with -q only what id gives, one per line.
func printRows[T any](w io.Writer, o outputFlags, rows []T, id func(T) string, cols []column[T]) error {
	switch {
	case o.quiet:
		for _, r := range rows {
			if _, err := fmt.Fprintln(w, id(r)); err != nil {
				return err
			}
		}
		return nil
	case o.format == "json":
		if rows == nil {
			rows = []T{}
		}
		return printJSON(w, rows)
	case o.format != "table" && o.format != "":
		t, err := parseTemplate(o.format)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := printTemplate(w, t, r); err != nil {
				return err
			}
		}
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	heads := make([]string, len(cols))
	for i, c := range cols {
		heads[i] = c.head
	}
	if _, err := fmt.Fprintln(tw, strings.Join(heads, "\t")); err != nil {
		return err
	}
	cells := make([]string, len(cols))
	for _, r := range rows {
		for i, c := range cols {
			cells[i] = c.cell(r)
		}
		if _, err := fmt.Fprintln(tw, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("format").Funcs(template.FuncMap{"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	}}).Parse(text)
	if err != nil {
		return nil, usageError{fmt.Errorf("--format: %w", err)}
	}
	return t, nil
}

func printTemplate(w io.Writer, t *template.Template, v any) error {
	if err := t.Execute(w, v); err != nil {
		return usageError{fmt.Errorf("--format: %w", err)}
	}
	_, err := fmt.Fprintln(w)
	return err
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func printJSONLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// size prints bytes as people read them, in powers of 1000 as Docker does.
func size(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return strconv.FormatInt(n, 10) + "B"
	}
	f, i := float64(n)/1000, 0
	for f >= 999.5 && i < len(units)-1 {
		f /= 1000
		i++
	}
	prec := 2
	if f >= 10 {
		prec = 1
	}
	if f >= 100 {
		prec = 0
	}
	return strconv.FormatFloat(f, 'f', prec, 64) + units[i:i+1] + "B"
}

// ago says how long ago a time was.
func ago(t, now time.Time) string {
	if t.IsZero() || t.Unix() == 0 {
		return "N/A"
	}
	d := now.Sub(t)
	plural := func(n int, unit string) string {
		if n == 1 {
			return "1 " + unit + " ago"
		}
		return strconv.Itoa(n) + " " + unit + "s ago"
	}
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return plural(int(d.Minutes()), "minute")
	case d < 48*time.Hour:
		return plural(int(d.Hours()), "hour")
	case d < 60*24*time.Hour:
		return plural(int(d.Hours()/24), "day")
	case d < 730*24*time.Hour:
		return plural(int(d.Hours()/24/30), "month")
	default:
		return plural(int(d.Hours()/24/365), "year")
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func parseInt(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }
