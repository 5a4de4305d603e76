package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/archive"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/spf13/cobra"
)

type saveOptions struct {
	output   string
	format   string
	compress string
	platform string
	quiet    bool
}

func newSaveCmd(a *app) *cobra.Command {
	var o saveOptions
	cmd := &cobra.Command{
		Use:   "save [-o FILE|DIR] [--format oci|docker] IMAGE...",
		Short: "Write images as an OCI layout or a docker archive",
		Long: `Save writes images so that docker, podman, skopeo and umoci read them, to standard
output, a file, or with --format oci to a directory when FILE ends with a slash or is
one. Layers that came compressed are written as they came, so that digests stay; others
are written as plain tars unless --compress asks for more, which gives the image a new
manifest digest. The same image gives the same bytes.`,
		Example: `  layerfs save --format docker debian:mine | docker load
  layerfs save -o layout/ debian:12 debian:mine`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(-1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runSave(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "file or directory to write (default standard output)")
	f.StringVar(&o.format, "format", "oci", "oci or docker")
	f.StringVar(&o.compress, "compress", "", "compress layers that are not: gzip or zstd (oci only)")
	f.StringVar(&o.platform, "platform", "", "platform to write of an image for several, OS/ARCH[/VARIANT]")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"oci", "docker"}, cobra.ShellCompDirectiveNoFileComp)))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("compress", cobra.FixedCompletions([]string{"gzip", "zstd"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (a *app) runSave(ctx context.Context, o saveOptions, words []string) (err error) {
	opts := archive.SaveOptions{}
	if opts.Format, err = archive.ParseFormat(o.format); err != nil {
		return usageError{err}
	}
	if opts.Compress, err = compress.ParseFormat(o.compress); err != nil {
		return usageError{err}
	}
	if o.platform != "" {
		pl, err := image.ParsePlatform(o.platform)
		if err != nil {
			return usageError{err}
		}
		opts.Platform = &pl
	}
	store, err := a.imageStore(ctx)
	if err != nil {
		return err
	}
	sess, err := a.snaps.Begin(ctx)
	if err != nil {
		return err
	}
	defer join(&err, sess.Close)
	items, err := archive.Select(ctx, store, words)
	if err != nil {
		return err
	}
	if opts.Compress != compress.None {
		if opts.TempDir, err = os.MkdirTemp("", "layerfs-save-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(opts.TempDir)) }()
	}
	p := a.newProgress("saving", o.quiet)
	defer p.end()
	opts.Progress = func(pr archive.Progress) { p.part(pr.Name, pr.Done, pr.Total) }
	layers := &imageLayers{store: a.snaps, session: sess}
	var saved []archive.Saved
	if strings.HasSuffix(o.output, "/") || isDirectory(o.output) {
		saved, err = archive.SaveDir(ctx, store, layers, o.output, items, opts)
	} else {
		out, oerr := a.outputFile(o.output)
		if oerr != nil {
			return oerr
		}
		saved, err = archive.Save(ctx, store, layers, out, items, opts)
		err = out.finish(err)
	}
	if err != nil {
		return err
	}
	p.end()
	for i, s := range saved {
		if s.Changed {
			fmt.Fprintf(a.stderr, "layerfs: %s is written with the manifest %s instead of %s, because its layers are written in another form\n",
				words[min(i, len(words)-1)], s.Target.Digest, items[i].Target.Digest)
		}
	}
	return nil
}

func isDirectory(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.IsDir()
}
