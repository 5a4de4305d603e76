package main

import (
	"context"
	"slices"
	"strings"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/tree"
)

// newMountPoints are those that a start of a container makes.
type newMountPoints []container.MountPoint

func (p *newMountPoints) add(m runtime.MountPoint) { *p = append(*p, container.MountPoint(m)) }

// noteMountPoints keeps what a start made. A container starts all the same when it
// cannot be kept: it has a few changes more then.
func (a *app) noteMountPoints(ctx context.Context, rec *container.Record, made newMountPoints) {
	if err := a.ctrs.AddMountPoints(context.WithoutCancel(ctx), rec.ID, made); err != nil {
		a.logger().Warn("mount points will count as changes of the container", "container", rec.Name, "error", err)
	}
}

// mountPoints are those that starts of containers made in a snapshot, or in one that it
// was forked from.
func (a *app) mountPoints(ctx context.Context, snap *snapshot.Record) ([]snapshot.MountPoint, error) {
	s, err := a.containers(ctx)
	if err != nil {
		return nil, err
	}
	var out []snapshot.MountPoint
	err = s.Walk(ctx, func(c *container.Container) error {
		points, err := s.MountPoints(c.ID)
		if err != nil || len(points) == 0 || !a.shares(ctx, snapshot.Key(c.Snapshot), snap) {
			return err
		}
		for _, p := range points {
			out = append(out, snapshot.MountPoint{Path: tree.Path(strings.TrimPrefix(p.Path, "/")), Dir: p.Dir,
				MTime: tree.Time{Sec: p.Made.Unix(), Nsec: uint32(p.Made.Nanosecond())}})
		}
		return nil
	})
	return out, err
}

// shares tells whether a snapshot is another one or has a sealed one in common with it.
func (a *app) shares(ctx context.Context, key snapshot.Key, with *snapshot.Record) bool {
	if key == with.Key {
		return true
	}
	if len(with.Below) == 0 {
		return false
	}
	rec, err := a.snaps.Stat(ctx, key)
	return err == nil && slices.ContainsFunc(rec.Below, func(k snapshot.Key) bool { return slices.Contains(with.Below, k) })
}
