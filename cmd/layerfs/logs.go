package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/logs"
	"github.com/spf13/cobra"
)

type logsOptions struct {
	follow, timestamps bool
	tail, since, until string
}

func newLogsCmd(a *app) *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs [flags] CONTAINER",
		Short: "Show what a container wrote",
		Long: `Logs prints what a container wrote, what went to its standard error to standard error.
Times are such as 2026-01-02T15:04:05, a number of seconds since 1970, or how long ago, as
in 10m. With -f it goes on until the container has ended.`,
		Example:           `  layerfs logs -f --tail 100 web`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runLogs(cmd.Context(), o, args[0]) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on with what comes")
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "begin each line with its time")
	f.StringVarP(&o.tail, "tail", "n", "all", "show only so many of the last lines")
	f.StringVar(&o.since, "since", "", "show only what came since this time")
	f.StringVar(&o.until, "until", "", "show only what came until this time")
	return cmd
}

// parseTime reads a point in time: a date, seconds since 1970, or how long ago.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f >= 0 && f < 1e12 {
		return time.UnixMilli(int64(f * 1000)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError{fmt.Errorf("time %q: want 2006-01-02T15:04:05, seconds since 1970, or how long ago as in 10m", s)}
}

func (a *app) runLogs(ctx context.Context, o logsOptions, word string) (err error) {
	read := logs.ReadOptions{Tail: -1}
	if o.tail != "all" {
		if read.Tail, err = strconv.Atoi(o.tail); err != nil {
			return usageError{fmt.Errorf("--tail %q: want a number or all", o.tail)}
		}
	}
	now := time.Now()
	if read.Since, err = parseTime(o.since, now); err != nil {
		return err
	}
	if read.Until, err = parseTime(o.until, now); err != nil {
		return err
	}
	s, c, err := a.container(ctx, word)
	if err != nil {
		return err
	}
	if c.Log.Driver == container.LogNone {
		return fmt.Errorf("container %s keeps no log: it was made with --log-driver none: %w", c.Name, errors.ErrUnsupported)
	}
	root, err := os.OpenRoot(s.Dir(c.ID))
	if err != nil {
		return err
	}
	defer join(&err, root.Close)
	if o.follow {
		w, err := container.NewWatch(s.Dir(c.ID))
		if err != nil {
			return err
		}
		defer join(&err, w.Close)
		read.Follow = func(ctx context.Context) (bool, error) {
			const look = time.Second
			st, err := s.State(c.ID)
			if errors.Is(err, fs.ErrNotExist) {
				return false, nil // it was removed
			}
			if err != nil || !st.Active() {
				return false, err
			}
			return true, w.Next(ctx, look)
		}
	}
	return logs.Read(ctx, root, read, func(r logs.Record) error {
		text := r.Text
		if o.timestamps {
			text = r.Time.Format("2006-01-02T15:04:05.000000000Z07:00") + " " + text
		}
		to := a.stdout
		if r.Stream == logs.Stderr {
			to = a.stderr
		}
		_, err := io.WriteString(to, text)
		return err
	})
}
