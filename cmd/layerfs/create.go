package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/volume"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

func newCreateCmd(a *app) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:   "create [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Make a container without starting it",
		Long: `Create makes a container as "layerfs run" would and prints its id; "layerfs start"
starts it.`,
		Example:           `  layerfs create --name web -v data:/srv web:1 && layerfs start web`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.detached = true
			rec, err := a.create(cmd.Context(), &o, args[0], args[1:])
			if err != nil {
				return err
			}
			if _, err := a.ctrs.Change(cmd.Context(), rec.ID, func(st *container.State) error {
				st.Monitor = container.Proc{} // it is made, and nobody's
				return nil
			}); err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, rec.ID)
			return err
		},
	}
	o.add(a, cmd)
	return cmd
}

// create makes a container of an image, or on a snapshot that is there. Until it is
// started, or handed over, it is this process's: when that is killed, gc removes it.
func (a *app) create(ctx context.Context, o *createOptions, word string, command []string) (_ *container.Record, err error) {
	if err := a.enter(); err != nil {
		return nil, err
	}
	s, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := a.candidates(o.driver); err != nil {
		return nil, err
	}
	rec, opts, err := a.recordFor(ctx, o, word, command)
	if err != nil {
		return nil, err
	}
	if o.cidfile != "" {
		if err := writeNewFile(o.cidfile, string(rec.ID)); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil { // there is no container of that id
				err = errors.Join(err, os.Remove(o.cidfile))
			}
		}()
	}
	ctrs, err := a.containers(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.createWith(ctx, ctrs, rec); err != nil {
		return nil, err
	}
	ctrs.Emit("create", rec, nil)
	if !rec.Owned {
		return rec, nil
	}
	opts.Ephemeral = rec.Remove && !o.detached
	if _, err := s.Prepare(ctx, snapshot.Key(rec.Snapshot), opts); err != nil {
		c := &container.Container{Record: *rec}
		return nil, errors.Join(err, a.removeContainer(context.WithoutCancel(ctx), ctrs, c, true))
	}
	return rec, nil
}

// writeNewFile writes a file that must not exist.
func writeNewFile(name, text string) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer join(&err, f.Close)
	_, err = f.WriteString(text)
	return err
}

// recordFor finds what a container is to stand on and makes its record.
func (a *app) recordFor(ctx context.Context, o *createOptions, word string, command []string) (*container.Record, snapshot.PrepareOptions, error) {
	var opts snapshot.PrepareOptions
	snap, err := a.snapshotNamed(ctx, word)
	if err != nil {
		return nil, opts, err
	}
	if snap != nil {
		cfg := &image.Config{}
		if snap.Image != "" {
			parent, err := a.parentOf(ctx, snap)
			if err != nil {
				return nil, opts, err
			}
			cfg = parent.Config
		}
		rec, err := o.record(cfg, command)
		if err != nil {
			return nil, opts, err
		}
		rec.Image, rec.Snapshot = word, string(snap.Key)
		rec.ReadOnly = rec.ReadOnly || snap.Kind == snapshot.View
		return rec, opts, nil
	}
	img, err := a.imageIfNoSnapshot(ctx, word)
	if err != nil {
		return nil, opts, err
	}
	rec, err := o.record(img.Config, command)
	if err != nil {
		return nil, opts, err
	}
	rec.Image, rec.ImageID = img.ref, img.ID().String()
	rec.Snapshot, rec.Owned = string(rec.ID), true
	opts = snapshot.PrepareOptions{Layers: img.layers, Image: img.digest.String(), Ref: img.ref}
	return rec, opts, nil
}

// createWith writes the record of a container, with the volumes that it names: they are
// held from when they are made until the record keeps them.
func (a *app) createWith(ctx context.Context, ctrs *container.Store, rec *container.Record) (err error) {
	var named []container.Mount
	for i, m := range rec.Mounts {
		switch m.Kind {
		case container.MountVolume:
			named = append(named, m)
		case container.MountBind:
			if _, err := os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("mount %s on %s: %w; make it first", m.Source, m.Target, fs.ErrNotExist)
			}
		case container.MountTmpfs:
			rec.Mounts[i].Source = ""
		}
	}
	if len(named) == 0 {
		return ctrs.Create(ctx, rec)
	}
	vs, err := a.volumes(ctx)
	if err != nil {
		return err
	}
	release, err := vs.Hold(ctx)
	if err != nil {
		return err
	}
	defer join(&err, release)
	var made []string
	for _, m := range named {
		v := volume.Volume{Name: m.Source, Anonymous: m.Anonymous}
		if m.Anonymous {
			v.Container = string(rec.ID)
		}
		isNew, err := vs.Ensure(v)
		if err != nil {
			return err
		}
		if isNew && m.Anonymous {
			made = append(made, m.Source)
		}
	}
	err = ctrs.Create(ctx, rec)
	for _, name := range made {
		if err != nil {
			err = errors.Join(err, vs.Remove(name, nil))
		}
	}
	return err
}
