package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/archive"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

type fsckOptions struct {
	out    outputFlags
	repair bool
	from   []string
}

func newFsckCmd(a *app) *cobra.Command {
	var o fsckOptions
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Verify everything in the store, and repair it",
		Long: `Fsck hashes every object and blob, reads every recipe and record, compares every tree
with its layers, and says which images and files a fault touches. Additional stores are
not verified; check each of them as a store of its own, with --root. It ends with code 0
when everything is sound and with 5 when something is not.

With --repair, damaged contents are taken out of reach and fetched again from the stores,
archives and layout directories given with --from, and from additional stores. Trees are
made anew from the layers, and names are restored from index.json. What is sound is not
touched. The code is 0 when all faults were mended.`,
		Example: `  layerfs fsck
  layerfs fsck --repair --from backup.tar --from /mnt/other/layerfs`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runFsck(cmd.Context(), o) },
	}
	o.out.add(cmd, "the report", "")
	f := cmd.Flags()
	f.BoolVarP(&o.out.quiet, "quiet", "q", false, "print faults only")
	f.BoolVar(&o.repair, "repair", false, "mend what can be mended")
	f.StringArrayVar(&o.from, "from", nil, "store, archive or OCI layout to fetch damaged content from (repeatable)")
	return cmd
}

func (a *app) runFsck(ctx context.Context, o fsckOptions) (err error) {
	if len(o.from) > 0 && !o.repair {
		return usageError{errors.New("--from is for --repair")}
	}
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	p := a.newProgress("checking", o.out.quiet)
	defer p.end()
	check := snapshot.CheckOptions{Progress: p.add, Images: a.imageNeeds}
	var r *snapshot.CheckReport
	if o.repair {
		r, err = a.repair(ctx, s, check, o.from)
	} else {
		r, err = s.Check(ctx, check)
	}
	if err != nil {
		return err
	}
	p.end()
	if err := printOne(a.stdout, o.out, r, func(w io.Writer) error { return printFsck(w, r, o.out.quiet) }); err != nil {
		return err
	}
	left := 0
	for _, f := range r.Faults {
		if f.Mended == "" {
			left++
		}
	}
	switch {
	case left == 0:
		return nil
	case o.repair:
		err = fmt.Errorf("%s of %d could not be mended", count(left, "fault"), len(r.Faults))
	default:
		err = fmt.Errorf("%s found in the store", count(left, "fault"))
	}
	return &exitError{code: codeDamaged, err: err}
}

func printFsck(w io.Writer, r *snapshot.CheckReport, quiet bool) error {
	for _, f := range r.Faults {
		if _, err := fmt.Fprintf(w, "%s %s: %s\n", f.Kind, printable(f.Name), printable(f.Err)); err != nil {
			return err
		}
		if f.Mended != "" {
			if _, err := fmt.Fprintf(w, "    mended: %s\n", printable(f.Mended)); err != nil {
				return err
			}
		}
		for _, u := range f.Uses {
			if _, err := fmt.Fprintf(w, "    %s\n", printable(u)); err != nil {
				return err
			}
		}
	}
	if quiet {
		return nil
	}
	_, err := fmt.Fprintf(w, "Checked %s, %s, %s, %s and %s, %s in %s: %s\n", count(r.Objects, "object"), count(r.Blobs, "blob"), count(r.Layers, "layer"),
		count(r.Trees, "tree"), count(r.Snapshots, "snapshot"), size(r.Bytes), r.Took.Round(time.Millisecond), count(len(r.Faults), "fault"))
	return err
}

// imageNeeds tells a check what each image needs.
func (a *app) imageNeeds(ctx context.Context, need func(snapshot.Need)) error {
	store, err := a.imageStore(ctx)
	if err != nil {
		return err
	}
	damaged, err := store.CheckLayout(ctx)
	if err != nil {
		return err
	}
	for file, err := range damaged {
		need(snapshot.Need{Image: file, Record: file, Err: err})
	}
	return store.Inspect(ctx, func(r image.Root) error {
		n := snapshot.Need{Image: r.Ref.String()}
		if r.Kind == image.RootLayer {
			n.Layer = snapshot.DiffID(r.Digest)
		} else {
			n.Blob, n.MayLack = r.Digest, r.Kind == image.RootBlob
		}
		need(n)
		return nil
	}, func(d image.Damage) {
		n := snapshot.Need{Image: d.Ref.String(), Err: d.Err}
		if d.Ref.Target.Digest == "" {
			n.Image, n.Record = d.Record, d.Record
		}
		need(n)
	})
}

// repair checks the store and mends it from the given stores and archives.
func (a *app) repair(ctx context.Context, s *snapshot.Store, check snapshot.CheckOptions, from []string) (_ *snapshot.CheckReport, err error) {
	o := snapshot.RepairOptions{CheckOptions: check, Names: a.restoreNames}
	for _, below := range a.disk.Additional() {
		src, serr := snapshot.New(below, snapshot.Options{Logger: a.logger()})
		if serr != nil {
			return nil, serr
		}
		o.Sources = append(o.Sources, snapshot.NewStoreSource(src))
	}
	for _, place := range from {
		src, closeSource, serr := a.openSource(ctx, place)
		if serr != nil {
			return nil, fmt.Errorf("open %s: %w", place, serr)
		}
		defer join(&err, closeSource)
		o.Sources = append(o.Sources, src)
	}
	r, err := s.Repair(ctx, o)
	if err != nil {
		return nil, err
	}
	return r, a.imgs.RefreshLayout(ctx)
}

// restoreNames writes damaged names anew from index.json, and takes the others away: a
// name that nobody can read keeps gc from working.
func (a *app) restoreNames(ctx context.Context) (map[string]string, error) {
	done := map[string]string{}
	damaged, err := a.imgs.CheckLayout(ctx)
	if err != nil {
		return nil, err
	}
	for file := range damaged {
		done[file] = "written anew"
	}
	restored, err := a.imgs.RestoreNames(ctx)
	if err != nil {
		return nil, err
	}
	for rel, r := range restored {
		done[rel] = fmt.Sprintf("the name %s is restored from index.json", r)
	}
	var lost []string
	err = a.imgs.Inspect(ctx, func(image.Root) error { return nil }, func(d image.Damage) {
		if d.Ref.Target.Digest == "" {
			lost = append(lost, d.Record)
		}
	})
	if err != nil || len(lost) == 0 {
		return done, err
	}
	_, err = a.disk.Quarantine(ctx, lost...)
	return done, err
}

// openSource opens a store, or an archive or layout directory, to fetch content from.
func (a *app) openSource(ctx context.Context, place string) (_ snapshot.Source, closeSource func() error, err error) {
	if _, err := os.Stat(filepath.Join(place, "format.json")); err == nil {
		d, err := disk.Open(ctx, place, disk.Options{ReadOnly: true, Logger: a.logger()})
		if err != nil {
			return nil, nil, err
		}
		s, err := snapshot.New(d, snapshot.Options{Logger: a.logger()})
		return snapshot.NewStoreSource(s), d.Close, err
	}
	src := &archiveSource{app: a, place: place}
	_, err = os.Stat(place)
	return src, src.close, err
}

// archiveSource fetches from an archive by loading it, when something is lacking, into a
// store of its own that is thrown away.
type archiveSource struct {
	app   *app
	place string
	dir   string // of the store
	disk  *disk.Store
	store snapshot.Source
}

func (s *archiveSource) String() string { return s.place }

func (s *archiveSource) Fetch(ctx context.Context, into *snapshot.Store, lack *snapshot.Lack) error {
	if s.store == nil {
		if err := s.load(ctx); err != nil {
			return err
		}
	}
	return s.store.Fetch(ctx, into, lack)
}

func (s *archiveSource) load(ctx context.Context) (err error) {
	if s.dir, err = os.MkdirTemp("", "layerfs-repair"); err != nil {
		return err
	}
	if s.disk, err = disk.Open(ctx, filepath.Join(s.dir, "store"), disk.Options{NoSync: true, Logger: s.app.logger()}); err != nil {
		return err
	}
	snaps, err := snapshot.New(s.disk, snapshot.Options{Logger: s.app.logger()})
	if err != nil {
		return err
	}
	sess, err := snaps.Begin(ctx)
	if err != nil {
		return err
	}
	defer join(&err, sess.Close)
	images := image.NewStore(s.disk, s.disk.Blobs(), image.Options{Logger: s.app.logger()})
	_, err = archive.Load(ctx, images, &imageLayers{store: snaps, session: sess}, s.place, archive.LoadOptions{AllPlatforms: true, Logger: s.app.logger()})
	s.store = snapshot.NewStoreSource(snaps)
	return err
}

func (s *archiveSource) close() error {
	var errs []error
	if s.disk != nil {
		errs = append(errs, s.disk.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}
