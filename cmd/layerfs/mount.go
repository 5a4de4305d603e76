package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

type mountOptions struct {
	driver   string
	name     string
	readOnly bool
	labels   []string

	ephemeral bool // the snapshot goes with this process
}

func newMountCmd(a *app) *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount [flags] IMAGE|SNAPSHOT [DIR]",
		Short: "Mount an image with a writable layer of its own, or a snapshot again",
		Long: `Mount makes a writable snapshot of an image, mounts it on DIR and prints its name.
Without DIR the mount is on the snapshot's own directory in the store, which
"layerfs snapshots" shows. A snapshot that was unmounted is mounted again by its name.
Nothing is copied or extracted.`,
		Example: `  layerfs mount --name work debian:12 /mnt
  dir=$(layerfs snapshots --format '{{join .Mounts " "}}')
  layerfs umount work && layerfs mount work /srv`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeImagesAndSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runMount(cmd.Context(), o, args)
		},
	}
	addDriverFlag(cmd, &o.driver)
	cmd.Flags().StringVar(&o.name, "name", "", "name of the snapshot (default: made from the image's name)")
	cmd.Flags().BoolVar(&o.readOnly, "read-only", false, "mount without a writable layer")
	cmd.Flags().StringArrayVarP(&o.labels, "label", "l", nil, "label of the snapshot, KEY=VALUE (repeatable)")
	return cmd
}

func (a *app) runMount(ctx context.Context, o mountOptions, args []string) (err error) {
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	drivers, err := a.candidates(o.driver)
	if err != nil {
		return err
	}
	rec, created, err := a.snapshotFor(ctx, s, o, args[0])
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && created {
			err = errors.Join(err, s.Remove(context.WithoutCancel(ctx), rec.Key))
		}
	}()
	target := s.MountDir(rec.Key)
	if len(args) == 2 {
		if target, err = filepath.Abs(args[1]); err != nil {
			return err
		}
	} else if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	if err := a.mountAt(ctx, s, drivers, rec, target, o.readOnly); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, rec.Key)
	return err
}

func (a *app) mountAt(ctx context.Context, s *snapshot.Store, drivers []candidate, rec *snapshot.Record, target string, readOnly bool) (err error) {
	st, err := os.Stat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mount on %s: %w; make the directory first", target, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("mount on %s: it is not a directory: %w", target, fs.ErrInvalid)
	}
	unlock, err := s.Claim(ctx, rec.Key)
	if err != nil {
		return err
	}
	defer unlock()
	if os.Geteuid() != 0 {
		use, failed := s.Use(rec.Key)
		if failed != nil {
			return failed
		}
		defer join(&err, use.Close)
		if err := leaveOpen(use); err != nil {
			return err
		}
	}
	m, err := a.openMount(ctx, s, drivers, rec.Key, readOnly)
	if err != nil {
		return err
	}
	defer join(&err, m.Close)
	return m.Attach(ctx, target)
}

// snapshotFor finds the snapshot named, or makes one of the image named.
func (a *app) snapshotFor(ctx context.Context, s *snapshot.Store, o mountOptions, name string) (rec *snapshot.Record, created bool, err error) {
	if key, err := snapshot.ParseKey(name); err == nil && o.name == "" {
		rec, err := s.Stat(ctx, key)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return rec, false, err
		}
	}
	img, err := a.imageIfNoSnapshot(ctx, name)
	if err != nil {
		return nil, false, err
	}
	labels, err := parseLabels(o.labels)
	if err != nil {
		return nil, false, err
	}
	key := snapshot.Key(o.name)
	if key == "" {
		var random [4]byte
		if _, err := rand.Read(random[:]); err != nil {
			return nil, false, err
		}
		key = snapshot.NewKey(img.word, random)
	}
	opts := snapshot.PrepareOptions{Layers: img.layers, Image: img.digest.String(), Ref: img.ref, Labels: labels, Ephemeral: o.ephemeral}
	if o.readOnly {
		rec, err = s.View(ctx, key, opts)
	} else {
		rec, err = s.Prepare(ctx, key, opts)
	}
	return rec, err == nil, err
}

func newUmountCmd(a *app) *cobra.Command {
	var force, remove bool
	cmd := &cobra.Command{
		Use:     "umount [flags] SNAPSHOT|DIR...",
		Aliases: []string{"unmount"},
		Short:   "Unmount a snapshot, keeping what was written to it",
		Args:    cobra.MinimumNArgs(1),

		ValidArgsFunction: a.completeSnapshots(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			if err := a.enterToUnmount(cmd.Context(), args); err != nil {
				return err
			}
			for _, name := range args {
				errs = append(errs, a.runUmount(cmd.Context(), name, force, remove))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "take a busy mount out of the name space at once")
	cmd.Flags().BoolVar(&remove, "rm", false, "remove the snapshot too, with what was written to it")
	return cmd
}

// enterToUnmount enters the user's namespace unless all that is to be unmounted is mounted
// outside of it.
func (a *app) enterToUnmount(ctx context.Context, names []string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		_, targets, err := a.mountedAt(ctx, s, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(targets) == 0 {
			return a.enter()
		}
	}
	return nil
}

func (a *app) runUmount(ctx context.Context, name string, force, remove bool) error {
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	key, targets, err := a.mountedAt(ctx, s, name)
	if err != nil {
		return err
	}
	if len(targets) == 0 && !remove {
		return fmt.Errorf("snapshot %s is not mounted: %w", key, fs.ErrNotExist)
	}
	for _, t := range targets {
		if err := a.unmount(ctx, t, force); err != nil {
			return err
		}
	}
	if remove {
		return s.Remove(ctx, key)
	}
	return nil
}

// mountedAt finds a snapshot by its name or by the directory where it is mounted, with
// the mount points meant.
func (a *app) mountedAt(ctx context.Context, s *snapshot.Store, name string) (snapshot.Key, []string, error) {
	if key, err := snapshot.ParseKey(name); err == nil {
		if _, err := s.Stat(ctx, key); err == nil {
			at, err := s.MountPoints(key)
			return key, at, err
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
	}
	dir, err := filepath.Abs(name)
	if err != nil {
		return "", nil, err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	var found snapshot.Key
	err = s.Walk(ctx, func(r *snapshot.Record) error {
		at, err := s.MountPoints(r.Key)
		if err != nil {
			return err
		}
		for _, t := range at {
			if t == dir {
				found = r.Key
				return fs.SkipAll
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.SkipAll) {
		return "", nil, err
	}
	if found == "" {
		return "", nil, fmt.Errorf("%q is neither a snapshot nor a directory where one is mounted: %w", name, fs.ErrNotExist)
	}
	return found, []string{dir}, nil
}
