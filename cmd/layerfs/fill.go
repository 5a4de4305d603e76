package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/rootfs"
	"github.com/layerfs/layerfs/runtime/volume"
)

// fillVolumes copies into each empty volume of a container what its image has in that
// place, as Docker does: so a volume begins with what the program needs to find there.
func (a *app) fillVolumes(ctx context.Context, rec *container.Record, root int) (err error) {
	var vs *volume.Store
	for _, m := range rec.Mounts {
		if m.Kind != container.MountVolume || m.NoCopy {
			continue
		}
		if vs == nil {
			if vs, err = a.volumes(ctx); err != nil {
				return err
			}
		}
		if err := a.fillVolume(ctx, vs, m, root); err != nil {
			return fmt.Errorf("fill volume %s: %w", m.Source, err)
		}
	}
	return nil
}

func (a *app) fillVolume(ctx context.Context, vs *volume.Store, m container.Mount, root int) (err error) {
	// Two containers may begin with it at once.
	unlock, err := a.disk.Lock(ctx, "volume-"+m.Source)
	if err != nil {
		return err
	}
	defer join(&err, unlock)
	empty, err := vs.Empty(m.Source)
	if err != nil || !empty {
		return err
	}
	from, err := rootfs.FromFD(root)
	if err != nil {
		return err
	}
	defer join(&err, from.Close)
	dir, err := from.IsDir(m.Target)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !dir {
		return nil
	}
	if err != nil {
		return err
	}
	to, err := rootfs.Open(vs.Dir(m.Source))
	if err != nil {
		return err
	}
	defer join(&err, to.Close)
	return pipeTar(
		func(tw *tar.Writer) error { return from.Pack(ctx, tw, m.Target, ".", true) },
		func(tr *tar.Reader) error {
			return to.Unpack(ctx, tr, "/", rootfs.UnpackOptions{Self: true})
		})
}
