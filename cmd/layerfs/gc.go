package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

func newGcCmd(a *app) *cobra.Command {
	var o outputFlags
	var opts snapshot.CollectOptions
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what no image and no snapshot needs",
		Long: `Gc removes layers, file contents and trees that nothing reaches any more, and what
killed commands left behind. It can run beside anything else and needs no free space.

It relies on what the last gc noted, and so takes a time that grows with what is garbage.
With --full, and on its own account where there is no note that holds or a command was
cut off since, it looks at every file of the store.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runGc(cmd.Context(), o, opts) },
	}
	o.add(cmd, "the report", "")
	cmd.Flags().BoolVarP(&opts.DryRun, "dry-run", "n", false, "say what would be removed, remove nothing")
	cmd.Flags().BoolVar(&opts.Full, "full", false, "look at every file instead of relying on what the last gc noted")
	cmd.Flags().DurationVar(&opts.Grace, "grace", snapshot.DefaultGrace, "keep what was taken out in quarantine for this long")
	return cmd
}

// gcReport is what gc prints.
type gcReport struct {
	*snapshot.CollectReport
	Containers int `json:"containers"` // left-over ones that were removed
}

func (a *app) runGc(ctx context.Context, o outputFlags, opts snapshot.CollectOptions) error {
	if err := a.enter(); err != nil {
		return err
	}
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	// Their snapshots go first: what these stood on is then needed no more.
	containers, err := a.sweepContainers(ctx, opts.DryRun)
	if err != nil {
		return err
	}
	p := a.newProgress("collecting", o.format != formatTable)
	opts.Progress = p.stage
	collected, err := s.Collect(ctx, a.roots, opts)
	p.end()
	if err != nil {
		return err
	}
	r := gcReport{CollectReport: collected, Containers: containers}
	if !opts.DryRun {
		if err := errors.Join(a.imgs.RefreshLayout(ctx), a.sweepCheckouts(ctx)); err != nil {
			return err
		}
	}
	return printOne(a.stdout, o, r, func(w io.Writer) error {
		verb := "Removed"
		if opts.DryRun {
			verb = "Would remove"
		}
		total := r.Blobs.Bytes + r.Objects.Bytes + r.Layers.Bytes + r.Trees.Bytes
		_, err := fmt.Fprintf(w, "%s %s, %s, %s, %s, %s and %s: %s\n", verb, count(r.Objects.Count, "object"), count(r.Blobs.Count, "blob"),
			count(r.Layers.Count, "layer record"), count(r.Trees.Count, "tree"), count(r.Snapshots, "left-over snapshot"),
			count(r.Ingests, "left-over ingest"), size(total))
		if err == nil && r.Containers > 0 {
			_, err = fmt.Fprintf(w, "%s %s\n", verb, count(r.Containers, "left-over container"))
		}
		return err
	})
}

// roots marks what images keep, and what the images of snapshots need whose names are
// gone.
func (a *app) roots(ctx context.Context, m *snapshot.Mark) error {
	store, err := a.imageStore(ctx)
	if err != nil {
		return err
	}
	var stack []snapshot.DiffID
	flush := func() {
		m.Stack(stack)
		stack = nil
	}
	// The layers of one image follow each other, bottom first.
	err = store.Roots(ctx, func(r image.Root) error {
		if r.Kind == image.RootLayer {
			stack = append(stack, snapshot.DiffID(r.Digest))
			return nil
		}
		flush()
		m.Blob(r.Digest)
		return nil
	})
	if err != nil {
		return err
	}
	flush()
	return a.snaps.Walk(ctx, func(rec *snapshot.Record) error {
		if rec.Image == "" {
			return nil
		}
		im, err := a.openManifest(ctx, store, digest.Digest(rec.Image))
		if err != nil {
			// The snapshot still has its layers; what its image was is lost already.
			a.logger().Warn("image of snapshot", "key", rec.Key, "error", err)
			return nil
		}
		m.Blob(im.Manifest.Digest)
		m.Blob(im.ConfigBlob.Digest)
		for _, l := range im.Layers {
			m.Blob(l.Digest)
		}
		return nil
	})
}
