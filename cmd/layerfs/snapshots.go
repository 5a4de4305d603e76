package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

// snapshotRow is what is printed of a snapshot.
type snapshotRow struct {
	Name    string            `json:"name"`
	Kind    string            `json:"kind"`
	Image   string            `json:"image"`
	Digest  string            `json:"digest,omitempty"`
	Layers  int               `json:"layers"`
	Below   []snapshot.Key    `json:"below,omitempty"`
	Mounts  []string          `json:"mounts"`
	Size    int64             `json:"size"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
}

func newSnapshotsCmd(a *app) *cobra.Command {
	var o outputFlags
	var all bool
	list := func(cmd *cobra.Command, _ []string) error { return a.runSnapshots(cmd.Context(), o, all) }
	cmd := &cobra.Command{
		Use:   "snapshots",
		Short: "List snapshots; with rm, remove them",
		Args:  cobra.NoArgs,
		RunE:  list,
	}
	o.add(cmd, "each snapshot", "print names only")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list sealed snapshots too")
	ls := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List snapshots", Args: cobra.NoArgs, RunE: list}
	o.add(ls, "each snapshot", "print names only")
	ls.Flags().BoolVarP(&all, "all", "a", false, "list sealed snapshots too")
	rm := &cobra.Command{
		Use:               "rm SNAPSHOT...",
		Aliases:           []string{"remove"},
		Short:             "Remove snapshots with what was written to them",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeSnapshots(-1),
	}
	force := rm.Flags().BoolP("force", "f", false, "unmount it first if it is mounted")
	rm.RunE = func(cmd *cobra.Command, args []string) error {
		if err := a.enter(); err != nil {
			return err
		}
		var errs []error
		for _, name := range args {
			errs = append(errs, a.runSnapshotRm(cmd.Context(), name, *force))
		}
		return errors.Join(errs...)
	}
	inspect := &cobra.Command{
		Use: "inspect SNAPSHOT...", Short: "Print the records of snapshots as JSON", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeSnapshots(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var recs []*snapshot.Record
			for _, name := range args {
				rec, err := a.statSnapshot(cmd.Context(), name)
				if err != nil {
					return err
				}
				recs = append(recs, rec)
			}
			return printJSON(a.stdout, recs)
		},
	}
	cmd.AddCommand(ls, rm, inspect)
	return cmd
}

func (a *app) runSnapshots(ctx context.Context, o outputFlags, all bool) error {
	if err := a.enter(); err != nil {
		return err
	}
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	var rows []snapshotRow
	err = s.Walk(ctx, func(r *snapshot.Record) error {
		if r.Kind == snapshot.Sealed && !all {
			return nil
		}
		row := snapshotRow{Name: string(r.Key), Kind: string(r.Kind), Image: r.Ref, Digest: r.Image, Layers: len(r.Layers),
			Below: r.Below, Labels: r.Labels, Created: r.Created, Mounts: []string{}}
		at, err := s.MountPoints(r.Key)
		if err != nil {
			return err
		}
		row.Mounts = append(row.Mounts, at...)
		if !o.quiet && r.Kind != snapshot.View {
			u, err := s.Usage(ctx, r.Key)
			if err != nil {
				return err
			}
			row.Size = u.Bytes
		}
		rows = append(rows, row)
		return nil
	})
	if err != nil {
		return err
	}
	now := time.Now()
	return printRows(a.stdout, o, rows, func(r snapshotRow) string { return r.Name }, []column[snapshotRow]{
		{"NAME", func(r snapshotRow) string { return r.Name }},
		{"IMAGE", func(r snapshotRow) string { return r.Image }},
		{"KIND", func(r snapshotRow) string { return r.Kind }},
		{"CREATED", func(r snapshotRow) string { return ago(r.Created, now) }},
		{"SIZE", func(r snapshotRow) string { return size(r.Size) }},
		{"MOUNTED ON", func(r snapshotRow) string { return strings.Join(r.Mounts, ", ") }},
	})
}

func (a *app) runSnapshotRm(ctx context.Context, name string, force bool) error {
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	rec, err := a.statSnapshot(ctx, name)
	if err != nil {
		return err
	}
	key := rec.Key
	if force {
		at, err := s.MountPoints(key)
		if err != nil {
			return err
		}
		for _, t := range at {
			if err := a.unmount(ctx, t, true); err != nil {
				return err
			}
		}
	}
	err = s.Remove(ctx, key)
	if errors.Is(err, snapshot.ErrInUse) {
		return fmt.Errorf("%w; unmount it first, or use --force", err)
	}
	return err
}

func newForkCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "fork SNAPSHOT NEW",
		Short: "Make a second writable snapshot with the state that one has now, copying nothing",
		Long: `Fork seals what was written to SNAPSHOT and lets both go on from there. SNAPSHOT must
not be mounted.`,
		Example:           `  layerfs fork work experiment`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.enter(); err != nil {
				return err
			}
			s, err := a.store(cmd.Context())
			if err != nil {
				return err
			}
			from, err := a.statSnapshot(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			rec, err := s.Fork(cmd.Context(), from.Key, snapshot.Key(args[1]))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, rec.Key)
			return err
		},
	}
}

func newResetCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "reset SNAPSHOT",
		Short:             "Drop what was written to a snapshot since it was made or last forked",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.enter(); err != nil {
				return err
			}
			s, err := a.store(cmd.Context())
			if err != nil {
				return err
			}
			rec, err := a.statSnapshot(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return s.Reset(cmd.Context(), rec.Key)
		},
	}
}

// parseLabels reads KEY=VALUE arguments.
func parseLabels(args []string) (map[string]string, error) {
	if len(args) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(args))
	for _, l := range args {
		k, v, _ := strings.Cut(l, "=")
		if k == "" {
			return nil, usageError{fmt.Errorf("label %q: want KEY=VALUE", l)}
		}
		out[k] = v
	}
	return out, nil
}
