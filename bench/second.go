package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
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
	uniqueFirst, err := unique(seen, first[0].layers)
	if err != nil {
		return err
	}
	uniqueSecond, err := unique(seen, second[0].layers)
	if err != nil {
		return err
	}
	b.report.figure(b.line, "unique bytes of the first image", float64(uniqueFirst), "bytes")
	b.report.figure(b.line, "further unique bytes of the second", float64(uniqueSecond), "bytes")
	for i, f := range first {
		if err := b.disk.fresh(ctx); err != nil {
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
		b.report.figure(b.line, f.name+": disk for the first image", float64(used[0]), "bytes")
		b.report.figure(b.line, f.name+": disk for the second", float64(used[1]), "bytes")
		target := 1.05
		if f.name != "docker-archive" {
			target = 0 // the blobs as they came are kept too
		}
		one := func(name string, v, target float64) {
			b.report.ratio(ratio{Line: b.line, Name: name, Value: v, Low: v, High: v, Target: target})
		}
		one(f.name+": disk for the first / unique bytes", float64(used[0])/float64(uniqueFirst), target)
		one(f.name+": disk for the second / further unique bytes", float64(used[1])/float64(uniqueSecond), target)
		one(f.name+": disk for both / unique bytes of both", float64(used[0]+used[1])/float64(uniqueFirst+uniqueSecond), target)
	}
	return nil
}

// unique adds the contents of tars to those seen and returns the bytes of new ones.
func unique(seen map[[sha256.Size]byte]bool, tars []string) (bytes int64, err error) {
	for _, name := range tars {
		n, err := uniqueIn(seen, name)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		bytes += n
	}
	return bytes, nil
}

func uniqueIn(seen map[[sha256.Size]byte]bool, name string) (bytes int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	t := tar.NewReader(f)
	for {
		hdr, err := t.Next()
		if errors.Is(err, io.EOF) {
			return bytes, nil
		}
		if err != nil {
			return 0, err
		}
		h := sha256.New()
		if _, err := io.Copy(h, t); err != nil {
			return 0, err
		}
		if sum := [sha256.Size]byte(h.Sum(nil)); !seen[sum] {
			seen[sum] = true
			bytes += hdr.Size
		}
	}
}
