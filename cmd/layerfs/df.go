package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/volume"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

// dfRow is what df prints of one kind of content. Active and Reclaimable are told of
// containers and volumes.
type dfRow struct {
	Kind        string `json:"kind"`
	Count       int64  `json:"count"`
	Bytes       int64  `json:"bytes"`
	Exact       bool   `json:"exact"`
	Active      *int64 `json:"active,omitempty"`      // how many are in use
	Reclaimable *int64 `json:"reclaimable,omitempty"` // bytes of those that are not
}

func newDfCmd(a *app) *cobra.Command {
	var o outputFlags
	var recount bool
	cmd := &cobra.Command{
		Use:   "df",
		Short: "Show what the store holds",
		Long: `Df shows how much there is of each kind of content: of what images are made of, from
kept sums; of what was written to containers, other snapshots and volumes, by walking
them. A container is active when it runs, a volume when a container needs it;
"layerfs container prune" and "layerfs volume prune -a" reclaim the others.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runDf(cmd.Context(), o, recount) },
	}
	o.add(cmd, "each kind", "")
	cmd.Flags().BoolVar(&recount, "recount", false, "count anew instead of reading the kept sums")
	return cmd
}

func (a *app) runDf(ctx context.Context, o outputFlags, recount bool) error {
	written, err := a.written(ctx)
	if err != nil {
		return err
	}
	read := a.disk.Usage
	if recount {
		read = a.disk.Recount
	}
	u, err := read(ctx)
	if err != nil {
		return err
	}
	var rows []dfRow
	for _, k := range []struct {
		name string
		sum  disk.Sum
	}{{"objects", u.Objects}, {"blobs", u.Blobs}, {"layers", u.Layers}, {"trees", u.Stacks}, {"quarantine", u.Quarantine}} {
		rows = append(rows, dfRow{Kind: k.name, Count: k.sum.Count, Bytes: k.sum.Bytes, Exact: u.Exact})
	}
	rows = append(rows, written...)
	total := dfRow{Kind: "total", Exact: u.Exact}
	for _, r := range rows {
		total.Count += r.Count
		total.Bytes += r.Bytes
	}
	rows = append(rows, total)
	known := func(n *int64, text func(int64) string) string {
		if n == nil {
			return ""
		}
		return text(*n)
	}
	err = printRows(a.stdout, o, rows, func(r dfRow) string { return r.Kind }, []column[dfRow]{
		{"KIND", func(r dfRow) string { return r.Kind }},
		{"COUNT", func(r dfRow) string { return fmt.Sprint(r.Count) }},
		{"SIZE", func(r dfRow) string { return size(r.Bytes) }},
		{"ACTIVE", func(r dfRow) string { return known(r.Active, func(n int64) string { return fmt.Sprint(n) }) }},
		{"RECLAIMABLE", func(r dfRow) string { return known(r.Reclaimable, size) }},
	})
	if err == nil && !u.Exact && o.format == formatTable {
		_, err = fmt.Fprintln(a.stderr, "A command was cut off in the middle of a change; count anew with --recount.")
	}
	return err
}

// add counts one, of which some part may be in use by somebody.
func (r *dfRow) add(bytes int64, active bool) {
	r.Count++
	r.Bytes += bytes
	if active {
		*r.Active++
	} else {
		*r.Reclaimable += bytes
	}
}

// written counts what containers, other snapshots and volumes hold. Where there are any,
// it enters the namespace: much of that is not the user's own outside.
func (a *app) written(ctx context.Context) ([]dfRow, error) {
	s, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	ctrs, err := a.containers(ctx)
	if err != nil {
		return nil, err
	}
	vs, err := a.volumes(ctx)
	if err != nil {
		return nil, err
	}
	var keys []snapshot.Key
	if err := s.Walk(ctx, func(r *snapshot.Record) error { keys = append(keys, r.Key); return nil }); err != nil {
		return nil, err
	}
	var names []string
	err = vs.Walk(ctx, func(name string, err error) {
		fmt.Fprintf(a.stderr, "layerfs: volume %s is passed over: %v\n", name, err)
	}, func(v *volume.Volume) error { names = append(names, v.Name); return nil })
	if err != nil {
		return nil, err
	}
	if len(keys)+len(names) > 0 {
		if err := a.enter(); err != nil {
			return nil, err
		}
	}
	owners := map[string]bool{} // whether the container of a snapshot is active
	cs := dfRow{Kind: "containers", Exact: true, Active: new(int64), Reclaimable: new(int64)}
	err = ctrs.Walk(ctx, func(c *container.Container) error {
		if c.Owned {
			owners[c.Snapshot] = c.State.Active()
		} else {
			cs.add(0, c.State.Active()) // what it wrote is its snapshot's
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	snaps := dfRow{Kind: "snapshots", Exact: true}
	for _, key := range keys {
		u, err := s.Usage(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		if active, owned := owners[string(key)]; owned {
			cs.add(u.Bytes, active)
		} else {
			snaps.Count++
			snaps.Bytes += u.Bytes
		}
	}
	users, err := a.volumeUsers(ctx)
	if err != nil {
		return nil, err
	}
	vols := dfRow{Kind: "volumes", Exact: true, Active: new(int64), Reclaimable: new(int64)}
	for _, name := range names {
		u, err := snapshot.UsageOf(ctx, vs.Dir(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("usage of volume %s: %w", name, err)
		}
		vols.add(u.Bytes, len(users[name]) > 0)
	}
	return []dfRow{cs, snaps, vols}, nil
}
