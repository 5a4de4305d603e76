package main

import (
	"context"
	"fmt"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

type commitOptions struct {
	changes []string
	author  string
	message string
	quiet   bool
}

func newCommitCmd(a *app) *cobra.Command {
	var o commitOptions
	cmd := &cobra.Command{
		Use:   "commit [flags] SNAPSHOT [NAME]",
		Short: "Make an image of a snapshot: its image with what was changed as a new layer",
		Long: `Commit records what was written to a snapshot as a new layer and prints the id of the
new image. It reads what was changed and nothing else; the snapshot stays as it is and
may be mounted. Empty files and directories that "layerfs run" made to mount on, such
as /etc/hosts, are left out. Without NAME the image is kept under its digest until it is removed.`,
		Example: `  layerfs commit work debian:mine
  layerfs commit -c 'CMD ["/bin/bash"]' -m "add tools" work debian:mine`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runCommit(cmd.Context(), o, args)
		},
	}
	addChangeFlags(cmd, &o)
	return cmd
}

func addChangeFlags(cmd *cobra.Command, o *commitOptions) {
	f := cmd.Flags()
	f.StringArrayVarP(&o.changes, "change", "c", nil, "Dockerfile instruction to apply to the image's config (repeatable)")
	f.StringVarP(&o.author, "author", "a", "", "author of the image")
	f.StringVarP(&o.message, "message", "m", "", "message for the history")
}

func (a *app) runCommit(ctx context.Context, o commitOptions, args []string) (err error) {
	if err := a.enter(); err != nil {
		return err
	}
	var names []reference.Reference
	if len(args) == 2 {
		name, err := reference.ParseTagged(args[1])
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	if err := checkChanges(o.changes); err != nil {
		return err
	}
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	store, err := a.imageStore(ctx)
	if err != nil {
		return err
	}
	rec, err := a.statSnapshot(ctx, args[0])
	if err != nil {
		return err
	}
	sess, end, err := a.beginSession(ctx)
	if err != nil {
		return err
	}
	defer end(&err)
	opts := image.CommitOptions{Changes: o.changes, Author: o.author, Comment: o.message, Names: names,
		CreatedBy: "layerfs commit " + args[0], Source: "commit of " + args[0]}
	if a.now != nil {
		opts.Created = a.now()
	}
	if rec.Image != "" {
		if opts.Parent, err = a.parentOf(ctx, rec); err != nil {
			return err
		}
	}
	made, err := a.mountPoints(ctx, rec)
	if err != nil {
		return err
	}
	layer, stack, err := s.Commit(ctx, sess, rec.Key, made...)
	if err != nil {
		return err
	}
	l := imageLayer(layer, snapshot.Blob{})
	opts.Layer = &l
	im, err := store.Commit(ctx, opts)
	if err != nil {
		return err
	}
	// The tree of the new stack is a cache; making it now makes the first mount quick.
	if _, err := s.Stack(ctx, stack, snapshot.StackOptions{AnyDepth: true}); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, im.ID())
	return err
}

// parentOf reads the image that a snapshot was made from, whose name may be gone: its
// documents are kept as long as the snapshot is.
func (a *app) parentOf(ctx context.Context, rec *snapshot.Record) (_ *image.Image, err error) {
	store, err := a.imageStore(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("the image that snapshot %s was made from: %w", rec.Key, err)
		}
	}()
	d, err := reference.ParseDigest(rec.Image)
	if err != nil {
		return nil, err
	}
	return a.openManifest(ctx, store, d)
}

func newExportCmd(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export [-o FILE] IMAGE|SNAPSHOT",
		Short: "Write the whole root file system of an image or a snapshot as a tar",
		Long: `Export writes one tar of all that a mount would show, to standard output or FILE. The
same tree gives the same bytes. With SOURCE_DATE_EPOCH set, no file is newer than that.`,
		Example: `  layerfs export debian:12 | tar -t
  layerfs export -o root.tar work`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImagesAndSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runExport(cmd.Context(), args[0], output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to FILE instead of standard output")
	return cmd
}

func (a *app) runExport(ctx context.Context, word, output string) (err error) {
	r, err := a.reader(ctx, word)
	if err != nil {
		return err
	}
	defer join(&err, r.Close)
	out, err := a.outputFile(output)
	if err != nil {
		return err
	}
	defer func() { err = out.finish(err) }()
	return r.WriteTar(ctx, out, a.exportOptions())
}
