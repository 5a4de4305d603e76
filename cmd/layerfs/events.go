package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/spf13/cobra"
)

type eventsOptions struct {
	output       outputFlags
	since, until string
	filters      []string
}

func newEventsCmd(a *app) *cobra.Command {
	var o eventsOptions
	cmd := &cobra.Command{
		Use:   "events [flags]",
		Short: "Show what happens to containers",
		Long: `Events prints what happens to containers from now on, or since a time, until a time or
until it is interrupted. Times are as those of "layerfs logs". Filters are container=,
event= and type=.`,
		Example: `  layerfs events --since 1h --until 0s --filter event=die`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runEvents(cmd.Context(), o) },
	}
	o.output.addFormat(cmd, "", formatTable, `"table", "json" (an object a line), or a Go template applied to each event`)
	cmd.Flags().StringVar(&o.since, "since", "", "begin with what happened since this time (default: now)")
	cmd.Flags().StringVar(&o.until, "until", "", "end at this time")
	cmd.Flags().StringArrayVarP(&o.filters, "filter", "f", nil, "show only events that fit NAME=VALUE (repeatable)")
	return cmd
}

func (a *app) runEvents(ctx context.Context, o eventsOptions) error {
	now := time.Now()
	since, err := parseTime(o.since, now)
	if err != nil {
		return err
	}
	if o.since == "" {
		since = now
	}
	until, err := parseTime(o.until, now)
	if err != nil {
		return err
	}
	byName := map[string][]string{}
	for _, f := range o.filters {
		name, value, ok := strings.Cut(f, "=")
		if !ok || name != "container" && name != "event" && name != "type" {
			return usageError{fmt.Errorf("--filter %q: want container=, event= or type=", f)}
		}
		byName[name] = append(byName[name], value)
	}
	s, err := a.containers(ctx)
	if err != nil {
		return err
	}
	fits := func(e container.Event) bool {
		have := map[string][]string{"container": {e.ID, e.Attrs["name"]}, "event": {e.Action}, "type": {e.Type}}
		for name, wanted := range byName {
			found := false
			for _, w := range wanted {
				for _, h := range have[name] {
					found = found || h == w || name == "container" && w != "" && strings.HasPrefix(e.ID, w)
				}
			}
			if !found {
				return false
			}
		}
		return true
	}
	print := printEach(a.stdout, o.output, func(e container.Event) container.Event { return e }, func(w io.Writer, e container.Event) error {
		var attrs []string
		for k, v := range e.Attrs {
			attrs = append(attrs, k+"="+v)
		}
		sort.Strings(attrs)
		_, err := fmt.Fprintf(w, "%s %s %s %s (%s)\n", e.Time.Format(time.RFC3339Nano), e.Type, e.Action, e.ID, cell(strings.Join(attrs, ", ")))
		return err
	})
	err = s.Events(ctx, since, until, true, func(e container.Event) error {
		if !fits(e) {
			return nil
		}
		return print(e)
	})
	if errors.Is(err, context.Canceled) {
		return nil // that is how one ends it
	}
	return err
}
