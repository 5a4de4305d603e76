package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

type pruneOptions struct {
	out       outputFlags
	all       bool
	snapshots bool
	dryRun    bool
}

// pruneReport is what prune removed, or would remove.
type pruneReport struct {
	Images    []string                `json:"images"`
	Snapshots []string                `json:"snapshots"`
	Garbage   *snapshot.CollectReport `json:"garbage"` // what nothing needs any more
	Reclaimed int64                   `json:"reclaimed"`
}

func newPruneCmd(a *app) *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove images that are not used, and collect garbage",
		Long: `Prune removes images without a name, with --all every image that no snapshot stands on,
with --snapshots every snapshot that is not in use, with what was written to it, and
then what nothing needs any more, as gc does. With --dry-run it says which images and
snapshots it would remove, and what is garbage already.`,
		Example: `  layerfs prune
  layerfs prune --all --snapshots --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runPrune(cmd.Context(), o) },
	}
	o.out.add(cmd, "the report", "print the number of bytes reclaimed only")
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "every image that no snapshot stands on, not just those without a name")
	f.BoolVar(&o.snapshots, "snapshots", false, "snapshots that are not in use, too")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "say what would be removed, remove nothing")
	return cmd
}

func (a *app) runPrune(ctx context.Context, o pruneOptions) error {
	store, err := a.imageStore(ctx)
	if err != nil {
		return err
	}
	r := pruneReport{Images: []string{}, Snapshots: []string{}}
	if o.snapshots {
		if r.Snapshots, err = a.pruneSnapshots(ctx, o.dryRun); err != nil {
			return err
		}
	}
	if err := a.pruneImages(ctx, store, o, &r); err != nil {
		return err
	}
	p := a.newProgress("collecting", o.out.quiet)
	r.Garbage, err = a.snaps.Collect(ctx, a.roots, snapshot.CollectOptions{DryRun: o.dryRun, Progress: p.stage})
	p.end()
	if err != nil {
		return err
	}
	g := r.Garbage
	r.Reclaimed = g.Deleted.Bytes
	if o.dryRun {
		r.Reclaimed = g.Blobs.Bytes + g.Objects.Bytes + g.Layers.Bytes + g.Trees.Bytes
	}
	if o.out.quiet {
		_, err := fmt.Fprintln(a.stdout, r.Reclaimed)
		return err
	}
	return printOne(a.stdout, o.out, r, func(w io.Writer) error { return printPrune(w, &r, o.dryRun) })
}

func printPrune(w io.Writer, r *pruneReport, dryRun bool) error {
	verb, space := "Removed", "Reclaimed"
	if dryRun {
		verb, space = "Would remove", "Garbage already"
	}
	for _, what := range []struct {
		word  string
		names []string
	}{{"snapshot", r.Snapshots}, {"image", r.Images}} {
		for _, name := range what.names {
			if _, err := fmt.Fprintf(w, "%s %s %s\n", verb, what.word, name); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", space, size(r.Reclaimed))
	return err
}

// pruneSnapshots removes the snapshots that are not in use and returns their names.
func (a *app) pruneSnapshots(ctx context.Context, dryRun bool) ([]string, error) {
	names := []string{}
	err := a.snaps.Walk(ctx, func(rec *snapshot.Record) error {
		if rec.Kind == snapshot.Sealed {
			return nil // goes with those that stand on it
		}
		err := a.snaps.Idle(rec.Key)
		if err == nil && !dryRun {
			err = a.snaps.Remove(ctx, rec.Key)
		}
		if errors.Is(err, snapshot.ErrInUse) {
			return nil
		}
		if err == nil {
			names = append(names, string(rec.Key))
		}
		return err
	})
	return names, err
}

// pruneImages removes the names of images, and unnamed images, that nothing uses.
func (a *app) pruneImages(ctx context.Context, store *image.Store, o pruneOptions, r *pruneReport) error {
	refs, err := store.Refs(ctx)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	err = a.snaps.Walk(ctx, func(rec *snapshot.Record) error {
		used[rec.Image] = true
		return nil
	})
	if err != nil {
		return err
	}
	var drop []image.Ref
	for _, ref := range refs {
		if ref.Shared || !ref.Name.IsZero() && !o.all || used[ref.Target.Digest.String()] {
			continue
		}
		if im, err := store.Open(ctx, ref.Target, nil); err == nil && used[im.Manifest.Digest.String()] {
			continue
		}
		drop = append(drop, ref)
		r.Images = append(r.Images, ref.String())
	}
	if o.dryRun || len(drop) == 0 {
		return nil
	}
	return store.RemoveRefs(ctx, drop...)
}
