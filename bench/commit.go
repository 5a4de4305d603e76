package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// commitLine commits snapshots in which k files were written, on images of 1,000 and of
// 50,000 files. The first 1,000 of the k are files of the image, further ones are new.
// What is measured is `layerfs commit` of an unmounted snapshot that is made for it.
func commitLine(ctx context.Context, b *bench) error {
	if err := b.disk.fresh(ctx); err != nil {
		return err
	}
	target := filepath.Join(b.work, "mnt")
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	sizes := []int{1000, 50000}
	for _, n := range sizes {
		layout := filepath.Join(b.work, fmt.Sprintf("files-%d", n))
		if err := madeUp(layout, fmt.Sprintf("example.org/files:%d", n), 1, n); err != nil {
			return err
		}
		if _, err := run(ctx, b.lfs("load", "-q", "-i", layout)); err != nil {
			return err
		}
		if err := os.RemoveAll(layout); err != nil {
			return err
		}
	}
	serial := 0
	for _, k := range []int{1, 100, 10000} {
		var cs []contender
		for _, n := range sizes {
			var name string
			cs = append(cs, contender{
				name: fmt.Sprintf("commit %d of %d files", k, n),
				prepare: func(ctx context.Context) error {
					serial++
					name = fmt.Sprintf("work-%d", serial)
					return b.changed(ctx, name, n, k, target, serial)
				},
				args: func() []string { return b.lfs("commit", name) },
			})
		}
		r, err := b.inTurns(ctx, b.rounds, cs...)
		if err != nil {
			return err
		}
		for i, c := range cs {
			if err := c.prepare(ctx); err != nil {
				return err
			}
			calls, err := b.countCalls(ctx, c.args())
			if err != nil {
				return err
			}
			b.report.figure(b.line, c.name+": system calls", float64(calls), "")
			b.report.figure(b.line, c.name+": bytes read", median(values(r[i], func(s sample) float64 { return float64(s.RChar) })), "bytes")
		}
		b.report.compare(fmt.Sprintf("commit %d files: cpu on 50,000 / on 1,000", k), r[1], r[0], cpu, 0)
	}
	return nil
}

// changed makes a snapshot of the image of n files and writes k files in it.
func (b *bench) changed(ctx context.Context, name string, n, k int, target string, serial int) error {
	if _, err := run(ctx, b.lfs("mount", "--name", name, fmt.Sprintf("example.org/files:%d", n), target)); err != nil {
		return err
	}
	var err error
	for i := 0; i < k && err == nil; i++ {
		path := filepath.Join(target, madeUpName(0, i))
		if i >= 1000 {
			path = filepath.Join(target, fmt.Sprintf("new/%d", i/100), fmt.Sprint(i))
			err = os.MkdirAll(filepath.Dir(path), 0o755)
		}
		// Contents that no other snapshot has, too large for any inline threshold in half
		// of the cases.
		data := make([]byte, 200+(i%2)*8000)
		copy(data, fmt.Sprintf("%d of snapshot %d", i, serial))
		err = errors.Join(err, os.WriteFile(path, data, 0o644))
	}
	_, uerr := run(ctx, b.lfs("umount", name))
	return errors.Join(err, uerr)
}
