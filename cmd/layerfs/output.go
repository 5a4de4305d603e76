package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/spf13/cobra"
)

// outputFlags are the flags of commands that print records: everywhere --format takes
// the same three kinds of value.
type outputFlags struct {
	format string
	quiet  bool

	template *template.Template // parsed, when format is one
}

// The values of --format that are not templates.
const (
	formatTable = "table"
	formatJSON  = "json"
)

// add adds --format, of which a template is applied to each of what, and with a text
// for it --quiet, which prints something shorter.
func (o *outputFlags) add(cmd *cobra.Command, what, quiet string) {
	o.addFormat(cmd, "", formatTable, fmt.Sprintf(`"table", "json", or a Go template applied to %s`, what))
	if quiet != "" {
		cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, quiet)
		parse := cmd.PreRunE
		cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
			if o.quiet && cmd.Flags().Changed("format") {
				return usageError{errors.New("--quiet and --format exclude each other")}
			}
			return parse(cmd, args)
		}
	}
}

// addFormat adds --format alone. It is checked before the command begins.
func (o *outputFlags) addFormat(cmd *cobra.Command, short, preset, help string) {
	cmd.Flags().StringVarP(&o.format, "format", short, preset, help)
	words := []string{formatTable, formatJSON}
	if preset == formatJSON {
		words = words[1:]
	}
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
	cmd.PreRunE = func(*cobra.Command, []string) error { return o.parse(preset, words) }
}

func (o *outputFlags) parse(preset string, words []string) (err error) {
	if o.format == "" {
		o.format = preset
	}
	for _, w := range words {
		if o.format == w {
			return nil
		}
	}
	if !strings.Contains(o.format, "{{") {
		return usageError{fmt.Errorf("--format %q is neither %s nor a Go template such as '{{json .}}'", o.format, strings.Join(words, ", "))}
	}
	// Shells pass \t and \n on as they are written.
	text := strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(o.format)
	o.template, err = template.New("--format").Funcs(template.FuncMap{
		"json":  func(v any) (string, error) { b, err := marshal(v, ""); return string(bytes.TrimSpace(b)), err },
		"join":  func(list []string, sep string) string { return strings.Join(list, sep) },
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
	}).Parse(text)
	if err != nil {
		return formatError(err)
	}
	return nil
}

func formatError(err error) error {
	return usageError{errors.New(strings.TrimPrefix(err.Error(), "template: "))}
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
	case o.format == formatJSON:
		if rows == nil {
			rows = []T{}
		}
		return printJSON(w, rows)
	case o.template != nil:
		for _, r := range rows {
			if err := o.printTemplate(w, r); err != nil {
				return err
			}
		}
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	cells := make([]string, len(cols))
	for i, c := range cols {
		cells[i] = c.head
	}
	if _, err := fmt.Fprintln(tw, strings.Join(cells, "\t")); err != nil {
		return err
	}
	for _, r := range rows {
		for i, c := range cols {
			cells[i] = cell(c.cell(r))
		}
		if _, err := fmt.Fprintln(tw, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// cell keeps what comes from images and labels from breaking a table or a terminal.
func cell(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// printOne prints a single record, for people as table does.
func printOne(w io.Writer, o outputFlags, v any, table func(io.Writer) error) error {
	switch {
	case o.format == formatJSON:
		return printJSON(w, v)
	case o.template != nil:
		return o.printTemplate(w, v)
	}
	return table(w)
}

// printEach returns a function that prints one record of many as it comes, for people
// as table does. JSON is one object a line, so that a listing of any size can be read
// before its end.
func printEach[T, R any](w io.Writer, o outputFlags, row func(T) R, table func(io.Writer, T) error) func(T) error {
	switch {
	case o.format == formatJSON:
		return func(v T) error { return printJSONLine(w, row(v)) }
	case o.template != nil:
		return func(v T) error { return o.printTemplate(w, row(v)) }
	}
	return func(v T) error { return table(w, v) }
}

func (o *outputFlags) printTemplate(w io.Writer, v any) error {
	if err := o.template.Execute(w, v); err != nil {
		var bad template.ExecError
		if errors.As(err, &bad) {
			return formatError(err)
		}
		return err // the writer's
	}
	_, err := fmt.Fprintln(w)
	return err
}

func marshal(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", indent)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

func printJSON(w io.Writer, v any) error {
	b, err := marshal(v, "  ")
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

func printJSONLine(w io.Writer, v any) error {
	b, err := marshal(v, "")
	if err == nil {
		_, err = w.Write(b)
	}
	return err
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

// count says how many there are of something.
func count[N int | int64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.FormatInt(int64(n), 10) + " " + what + "s"
}

func itoa(n int) string { return strconv.Itoa(n) }

func parseInt(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }
