package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mountLine mounts and unmounts images of 1 to 400 layers of ten files. Each turn makes
// a writable snapshot, mounts it, unmounts it and removes it.
func mountLine(ctx context.Context, b *bench) error {
	if err := b.disk.fresh(ctx); err != nil {
		return err
	}
	target := filepath.Join(b.work, "mnt")
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	mount := func(n int) []string {
		return b.lfs("mount", fmt.Sprintf("example.org/layers:%d", n), target)
	}
	umount := b.lfs("umount", "--rm", target)
	var mounts, unmounts []contender
	depths := []int{1, 10, 100, 400}
	for _, n := range depths {
		layout := filepath.Join(b.work, fmt.Sprintf("layers-%d", n))
		if err := madeUp(layout, fmt.Sprintf("example.org/layers:%d", n), n, 10); err != nil {
			return err
		}
		if _, err := run(ctx, b.lfs("load", "-q", "-i", layout)); err != nil {
			return err
		}
		if err := os.RemoveAll(layout); err != nil {
			return err
		}
		mounts = append(mounts, contender{name: fmt.Sprintf("mount %d layers", n), args: func() []string { return mount(n) },
			check: func(ctx context.Context) error {
				if _, err := os.Stat(filepath.Join(target, madeUpName(n-1, 9))); err != nil {
					return err
				}
				_, err := run(ctx, umount)
				return err
			}})
		unmounts = append(unmounts, contender{name: fmt.Sprintf("umount %d layers", n), args: func() []string { return umount },
			prepare: func(ctx context.Context) error {
				_, err := run(ctx, mount(n))
				return err
			}})
	}
	rounds := max(20, b.rounds)
	for _, cs := range [][]contender{mounts, unmounts} {
		r, err := b.inTurns(ctx, rounds, cs...)
		if err != nil {
			return err
		}
		for i := 1; i < len(r); i++ {
			word, _, _ := strings.Cut(cs[i].name, " ")
			v := median(values(r[i], wall)) / median(values(r[0], wall))
			b.report.ratio(ratio{Line: b.line, Name: fmt.Sprintf("median wall of %s, %d layers / 1 layer", word, depths[i]),
				Value: v, Low: v, High: v, Target: 2})
		}
	}
	return nil
}
