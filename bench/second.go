package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/layerfs/layerfs/bench/report"
)

// secondLine loads an image and then a newer build of it, a few per cent of whose
// packages changed, and compares what each adds to the disk with the bytes of the
// contents that were not there before, counted from the tars without layerfs.
func secondLine(ctx context.Context, b *bench) error {
	first, err := forms(ctx, "layered")
	if err != nil {
		return err
	}
	second, err := forms(ctx, "upgraded")
	if err != nil {
		return err
	}
	seen := map[[sha256.Size]byte]bool{}
	uniqueFirst, blocksFirst, err := unique(seen, first[0].layers)
	if err != nil {
		return err
	}
	uniqueSecond, blocksSecond, err := unique(seen, second[0].layers)
	if err != nil {
		return err
	}
	clear(seen)
	b.report.bytes("unique bytes of the first image", float64(uniqueFirst))
	b.report.bytes("the same as one file each, in blocks of 4 KiB", float64(blocksFirst))
	b.report.bytes("further unique bytes of the second", float64(uniqueSecond))
	b.report.bytes("the same as one file each, in blocks of 4 KiB", float64(blocksSecond))
	for i, f := range first {
		if err := b.fresh(ctx); err != nil {
			return err
		}
		before, err := b.disk.used()
		if err != nil {
			return err
		}
		var used [2]int64
		for n, input := range []string{f.input, second[i].input} {
			if _, err := run(ctx, b.lfs("load", "-q", "-i", input)); err != nil {
				return err
			}
			now, err := b.disk.used()
			if err != nil {
				return err
			}
			used[n], before = now-before, now
		}
		b.report.bytes(f.name+": disk for the first image", float64(used[0]))
		b.report.bytes(f.name+": disk for the second", float64(used[1]))
		target := 1.05
		if f.name != "docker-archive" {
			target = 0 // the blobs as they came are kept too
		}
		one := func(name string, v, target float64) {
			b.report.ratio(report.Ratio{Name: name, Value: v, Low: v, High: v, Target: target})
		}
		one(f.name+": disk for the first / unique bytes", float64(used[0])/float64(uniqueFirst), target)
		one(f.name+": disk for the second / further unique bytes", float64(used[1])/float64(uniqueSecond), target)
		one(f.name+": disk for both / unique bytes of both", float64(used[0]+used[1])/float64(uniqueFirst+uniqueSecond), target)
		one(f.name+": disk for both / their files in blocks", float64(used[0]+used[1])/float64(blocksFirst+blocksSecond), target)
	}
	return nil
}

// unique adds the contents of tars to those seen and returns the bytes of new ones, and
// the bytes in the blocks of a file system with a file for each.
func unique(seen map[[sha256.Size]byte]bool, tars []string) (bytes, blocks int64, err error) {
	for _, name := range tars {
		err := eachFile(name, func(sum [sha256.Size]byte, size int64) {
			if !seen[sum] {
				seen[sum] = true
				bytes += size
				blocks += (size + 4095) / 4096 * 4096
			}
		})
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", name, err)
		}
	}
	return bytes, blocks, nil
}

func eachFile(name string, fn func(sum [sha256.Size]byte, size int64)) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	t := tar.NewReader(f)
	for {
		hdr, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		h := sha256.New()
		if _, err := io.Copy(h, t); err != nil {
			return err
		}
		fn([sha256.Size]byte(h.Sum(nil)), hdr.Size)
	}
}
