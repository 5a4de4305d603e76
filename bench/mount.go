package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/layerfs/layerfs/bench/report"
)

// mountLine mounts and unmounts images of 1 to 400 layers of ten files. Each turn makes
// a writable snapshot, mounts it, unmounts it and removes it.
func mountLine(ctx context.Context, b *bench) error {
	if err := b.upAll(ctx); err != nil {
		return err
	}
	const rounds = 20
	depths := []int{1, 10, 100, 400}
	var mounted, unmounted []*report.Entry
	for _, n := range depths {
		a, err := b.madeUpArchive("layers", n, n, 10)
		if err != nil {
			return err
		}
		lacks := b.loadAll(ctx, a)
		mounts, unmounts := b.mountings(a, madeUpName(n-1, 9), lacks)
		limit, err := b.rawMounts(n)
		if err != nil {
			return err
		}
		r, err := b.compete(ctx, report.Work{Name: fmt.Sprintf("mount %d layers", n), Judge: report.Wall, About: mountAbout}, rounds, append(mounts, limit[0])...)
		if err != nil {
			return err
		}
		mounted = append(mounted, r[0])
		if r, err = b.compete(ctx, report.Work{Name: fmt.Sprintf("unmount %d layers", n), Judge: report.Wall, About: unmountAbout}, rounds, append(unmounts, limit[1])...); err != nil {
			return err
		}
		unmounted = append(unmounted, r[0])
	}
	for i, word := range []string{"mount", "unmount"} {
		r := [][]*report.Entry{mounted, unmounted}[i]
		for i := 1; i < len(r); i++ {
			v := r[i].Median(wall) / r[0].Median(wall)
			b.report.ratio(report.Ratio{Name: fmt.Sprintf("median wall of %s, %d layers / 1 layer", word, depths[i]), Value: v, Low: v, High: v, Target: 2})
		}
	}
	return nil
}

const (
	mountAbout = "Making a writable snapshot of a loaded image and mounting it. Docker only creates the container, it mounts when one starts. " +
		"The limit is a process that makes the directories and mounts one plain directory under them with overlayfs."
	unmountAbout = "Unmounting it and removing the snapshot. The limit unmounts and removes two directories."
)

// loadAll loads an archive into every engine that runs and returns why some have not.
func (b *bench) loadAll(ctx context.Context, a archive) map[string]string {
	return loadInto(ctx, b.engines, a)
}

func loadInto(ctx context.Context, engines []engine, a archive) map[string]string {
	lacks := map[string]string{}
	for _, e := range engines {
		name := e.about().name
		if lacks[name] = e.about().absent; lacks[name] != "" {
			continue
		}
		steps, no := e.load(a)
		if no == "" {
			if err := do(ctx, steps, no); err != nil {
				no = "loading fails: " + lastLine(err)
			}
		}
		lacks[name] = no
	}
	return lacks
}

// mountings are contenders that mount the image and that unmount it again. A file says
// that the image is there.
func (b *bench) mountings(a archive, file string, lacks map[string]string) (mounts, unmounts []contender) {
	const key = "turn"
	for _, e := range b.engines {
		name := e.about().name
		mount := b.contend(e, func() ([][]string, string) {
			if lacks[name] != "" {
				return nil, lacks[name]
			}
			return lacksMount(e, a.ref, key)
		})
		mount.check = func(ctx context.Context) error {
			if err := b.shows(ctx, e, key, file); err != nil {
				return err
			}
			return do(ctx, e.drop(key), "")
		}
		unmount := mount
		unmount.check = nil
		unmount.prepare = func(ctx context.Context) error { return do(ctx, mount.commands(), "") }
		unmount.steps = func() [][]string { return e.drop(key) }
		mounts, unmounts = append(mounts, mount), append(unmounts, unmount)
	}
	return mounts, unmounts
}

// shows looks for a file in what an engine has mounted. Docker's layers are put together
// here as one option, which is too long for many of them.
func (b *bench) shows(ctx context.Context, e engine, key, file string) error {
	if e.about().name == "docker" {
		return nil
	}
	dir, err := e.where(ctx, key)
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(dir, file))
	return errors.Join(err, e.leave(key))
}

// rawMounts are the limits of mounting and unmounting: overlayfs on plain directories.
func (b *bench) rawMounts(n int) ([2]contender, error) {
	dir, target := b.disk.path(fmt.Sprintf("raw-%d", n)), filepath.Join(b.work, "mnt", "raw")
	for _, d := range []string{filepath.Join(dir, "lower"), target} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return [2]contender{}, err
		}
	}
	mount, umount := b.tool("bench/rawmount", dir, target), b.tool("bench/rawmount", "-u", dir, target)
	undo := func(args []string) func(context.Context) error {
		return func(ctx context.Context) error { return do(ctx, [][]string{args}, "") }
	}
	limits := [2]contender{command("overlayfs mount of a plain directory", mount...), command("unmount of it", umount...)}
	limits[0].kind, limits[1].kind = report.Limit, report.Limit
	limits[0].check, limits[1].prepare = undo(umount), undo(mount)
	return limits, nil
}
