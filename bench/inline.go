package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/layerfs/layerfs/bench/report"
	"golang.org/x/sys/unix"
)

// inlineLine imports the layered image with several inline thresholds and reads all of
// it on a mount, cold and warm; a directory that tar extracted stands beside. Cold means
// that the file system was mounted anew: its data and inodes are in no cache.
func inlineLine(ctx context.Context, b *bench) error {
	all, err := forms(ctx, "layered")
	if err != nil {
		return err
	}
	layers := all[0].layers
	thresholds := []int{1, 1 << 10, 2 << 10, 4 << 10, 8 << 10}
	ways := make([]*way, 0, len(thresholds)+1)
	for _, n := range thresholds {
		w := &way{b: b, name: fmt.Sprintf("inline up to %d bytes", n), inline: n, layers: layers}
		if n == 1 {
			w.name = "nothing inline"
		}
		ways = append(ways, w)
	}
	ways = append(ways, &way{b: b, name: "extracted directory", layers: layers})
	for _, w := range ways {
		kind := report.Layerfs
		if w.inline == 0 {
			kind = report.Limit
		}
		for range inlineWorks {
			w.results = append(w.results, &report.Entry{Name: w.name, Kind: kind})
		}
	}
	for round := range b.most(3) {
		for i := range ways {
			if round%2 == 1 {
				i = len(ways) - 1 - i
			}
			if err := ways[i].turn(ctx); err != nil {
				return fmt.Errorf("%s: %w", ways[i].name, err)
			}
		}
	}
	for i, what := range inlineWorks {
		done := &report.Work{Name: what, Judge: report.CPU}
		for _, w := range ways {
			done.Entries = append(done.Entries, w.results[i])
		}
		b.report.add(done)
	}
	for _, w := range ways {
		b.report.bytes(w.name+": disk", float64(w.used))
	}
	return nil
}

// inlineWorks are what each way does.
var inlineWorks = []string{"import", "cold read", "warm read"}

// way is one way to keep and read the image: by an inline threshold, or extracted when
// that is 0.
type way struct {
	b       *bench
	name    string
	inline  int
	layers  []string
	results []*report.Entry // import, cold, warm
	used    int64
}

func (w *way) turn(ctx context.Context) (err error) {
	b := w.b
	if err := b.fresh(ctx); err != nil {
		return err
	}
	before, err := b.disk.used()
	if err != nil {
		return err
	}
	dir := b.disk.path("root")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	args := extract(w.layers, dir, "sync -f "+b.disk.dir)
	store := []string{"-inline", strconv.Itoa(w.inline), b.disk.path("store")}
	if w.inline > 0 {
		args = b.tool("bench/ingest", append(store, w.layers...)...)
	}
	if err := w.measure(ctx, 0, args); err != nil {
		return err
	}
	if w.used, err = b.disk.used(); err != nil {
		return err
	}
	w.used -= before
	if err := b.disk.cold(); err != nil {
		return err
	}
	if w.inline > 0 {
		if _, err := run(ctx, b.tool("bench/ingest", "-mount", dir, b.disk.path("store"))); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Unmount(dir, 0)) }()
	}
	read := b.tool("bench/exercise", "read", dir)
	for what := 1; what <= 2; what++ {
		if err := w.measure(ctx, what, read); err != nil {
			return err
		}
	}
	return nil
}

func (w *way) measure(ctx context.Context, what int, args []string) error {
	s, err := run(ctx, args)
	w.results[what].Samples = append(w.results[what].Samples, s)
	return err
}
