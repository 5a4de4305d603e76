package main

import (
	"context"
	"fmt"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/archive"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

type loadOptions struct {
	input        string
	name         string
	platform     string
	allPlatforms bool
	quiet        bool
	discard      discard
}

func newLoadCmd(a *app) *cobra.Command {
	var o loadOptions
	cmd := &cobra.Command{
		Use:   "load [-i FILE|DIR]",
		Short: "Load images from a docker archive or an OCI layout",
		Long: `Load reads what docker save, podman save, skopeo, umoci and layerfs itself write: a
docker archive, an OCI layout as a tar or a directory, or a skopeo directory, compressed
or not, from a file, a directory or standard input. It prints the name and the digest of
each image. Either all of an archive is loaded or nothing.

Layers that come compressed are kept as they came besides their files, so that the image
is saved with the digests it has. With --discard-blobs those for which a compressor is
found that makes the same bytes are dropped after the load, and are made again when the
image is saved: a store of a third less, for the time of compressing.`,
		Example: `  docker save debian:12 | layerfs load
  layerfs load -i oci-layout-directory`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runLoad(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.input, "input", "i", "-", "file or directory to read, - for standard input")
	f.StringVarP(&o.name, "name", "t", "", "name for an image that has none in the archive")
	f.StringVar(&o.platform, "platform", "", "platform to take of an image for several, OS/ARCH[/VARIANT] (default this machine's)")
	f.BoolVar(&o.allPlatforms, "all-platforms", false, "take all platforms")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	addDiscardFlag(cmd, &o.discard)
	return cmd
}

func (a *app) runLoad(ctx context.Context, o loadOptions) (err error) {
	store, err := a.imageStore(ctx)
	if err != nil {
		return err
	}
	sess, end, err := a.beginSession(ctx)
	if err != nil {
		return err
	}
	defer end(&err)
	p := a.newProgress("loading", o.quiet)
	defer p.end()
	opts := archive.LoadOptions{AllPlatforms: o.allPlatforms, Source: "load of " + o.input, Logger: a.logger(),
		Progress: func(pr archive.Progress) { p.part(pr.Name, pr.Done, pr.Total) },
		// An image whose layers do not add up is refused before it has a name.
		Verify: func(ctx context.Context, im *image.Image) error { return a.buildTree(ctx, im) },
	}
	if o.name != "" {
		if opts.Name, err = reference.Parse(o.name); err != nil {
			return err
		}
	}
	if o.platform != "" {
		pl, err := image.ParsePlatform(o.platform)
		if err != nil {
			return usageError{err}
		}
		opts.Platform = &pl
	}
	layers := &imageLayers{store: a.snaps, session: sess}
	var loaded []archive.Loaded
	if o.input == "-" || isPipe(o.input) {
		in, _, ierr := a.inputFile(ctx, o.input)
		if ierr != nil {
			return ierr
		}
		defer join(&err, in.Close)
		loaded, err = archive.LoadReader(ctx, store, layers, in, opts)
	} else {
		loaded, err = archive.Load(ctx, store, layers, o.input, opts)
	}
	if err != nil {
		return err
	}
	p.end()
	for _, l := range loaded {
		if err := a.printLoaded(l); err != nil {
			return err
		}
	}
	if o.discard == discardNone {
		return nil
	}
	var images []*image.Image
	for _, l := range loaded {
		images = append(images, l.Images...)
	}
	p = a.newProgress("discarding blobs", o.quiet)
	defer p.end()
	sum, err := a.discardBlobs(ctx, images, o.discard, p)
	p.end()
	if err == nil && !o.quiet {
		fmt.Fprintln(a.stderr, "layerfs:", sum)
	}
	return err
}

// printLoaded prints a line for each name, with the digest of what it names.
func (a *app) printLoaded(l archive.Loaded) error {
	names := []string{l.Target.Digest.String()}
	if len(l.Names) > 0 {
		names = names[:0]
		for _, n := range l.Names {
			names = append(names, n.Familiar())
		}
	}
	for _, n := range names {
		if _, err := fmt.Fprintf(a.stdout, "%s %s\n", n, l.Target.Digest); err != nil {
			return err
		}
	}
	return nil
}

// buildTree makes the tree of an image, which proves that its layers add up and makes
// the first mount quick.
func (a *app) buildTree(ctx context.Context, im *image.Image) error {
	var layers []snapshot.DiffID
	for _, d := range im.DiffIDs() {
		id, err := snapshot.ParseDiffID(d.String())
		if err != nil {
			return err
		}
		layers = append(layers, id)
	}
	_, err := a.snaps.Stack(ctx, layers, snapshot.StackOptions{})
	return err
}

func newImportCmd(a *app) *cobra.Command {
	var o commitOptions
	var platform string
	cmd := &cobra.Command{
		Use:   "import [flags] FILE|- NAME",
		Short: "Make an image of the tar of a root file system",
		Long: `Import reads a tar, compressed or not, from FILE or standard input, makes an image of
one layer of it and prints its name and digest.`,
		Example: `  layerfs import rootfs.tar.gz base:1
  mmdebstrap stable - | layerfs import -c 'CMD ["bash"]' - debian:mine`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runImport(cmd.Context(), o, platform, args[0], args[1])
		},
	}
	addChangeFlags(cmd, &o)
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	cmd.Flags().StringVar(&platform, "platform", "", "platform of the image, OS/ARCH[/VARIANT] (default this machine's)")
	return cmd
}

func (a *app) runImport(ctx context.Context, o commitOptions, platform, file, word string) (err error) {
	name, err := reference.ParseTagged(word)
	if err != nil {
		return err
	}
	if err := checkChanges(o.changes); err != nil {
		return err
	}
	opts := archive.ImportOptions{CommitOptions: image.CommitOptions{Changes: o.changes, Author: o.author, Comment: o.message,
		CreatedBy: "layerfs import " + file, Names: []reference.Reference{name}, Source: file}}
	if platform != "" {
		if opts.Platform, err = image.ParsePlatform(platform); err != nil {
			return usageError{err}
		}
	}
	store, err := a.imageStore(ctx)
	if err != nil {
		return err
	}
	if a.now != nil {
		opts.Created = a.now()
	}
	in, bytes, err := a.inputFile(ctx, file)
	if err != nil {
		return err
	}
	defer join(&err, in.Close)
	sess, end, err := a.beginSession(ctx)
	if err != nil {
		return err
	}
	defer end(&err)
	p := a.newProgress("importing", o.quiet)
	defer p.end()
	opts.Size = bytes
	opts.Progress = func(pr archive.Progress) { p.part(pr.Name, pr.Done, pr.Total) }
	layers := &imageLayers{store: a.snaps, session: sess, mountable: true}
	im, err := archive.Import(ctx, store, layers, in, opts)
	if err != nil {
		return fmt.Errorf("import %s: %w", file, err)
	}
	p.end()
	_, err = fmt.Fprintf(a.stdout, "%s %s\n", name.Familiar(), im.Manifest.Digest)
	return err
}

// checkChanges finds what is wrong with --change before any work is done.
func checkChanges(changes []string) error {
	if _, err := image.ApplyChanges(image.ProcessConfig{}, changes); err != nil {
		return usageError{err}
	}
	return nil
}
