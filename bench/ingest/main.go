// Command ingest imports layers into a store with settings that layerfs itself does not
// offer, for measuring what they cost, and profiles the import:
//
//	ingest [-inline N] [-nosync] [-parallel N] [-cpuprofile FILE] STORE LAYER…
//	ingest -mount DIR STORE
//
// The second form mounts the stack of the layers that the first imported.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/overlay"
	"golang.org/x/sync/errgroup"
)

type options struct {
	inline     int
	noSync     bool
	parallel   int
	cpuProfile string
	mount      string
}

func main() {
	var o options
	flag.IntVar(&o.inline, "inline", snapshot.DefaultInlineMax, "keep contents up to so many bytes inline; 1 for none")
	flag.BoolVar(&o.noSync, "nosync", false, "flush nothing")
	flag.IntVar(&o.parallel, "parallel", 2, "layers imported side by side")
	flag.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile to this file")
	flag.StringVar(&o.mount, "mount", "", "mount the result on this directory")
	flag.Parse()
	if err := profiled(o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "ingest:", err)
		os.Exit(1)
	}
}

func profiled(o options, args []string) (err error) {
	if len(args) == 0 {
		return errors.New("no store named")
	}
	if o.cpuProfile == "" {
		return ingest(context.Background(), o, args[0], args[1:])
	}
	f, err := os.Create(o.cpuProfile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return ingest(context.Background(), o, args[0], args[1:])
}

func ingest(ctx context.Context, o options, store string, layers []string) (err error) {
	d, err := disk.Open(ctx, store, disk.Options{NoSync: o.noSync})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	s, err := snapshot.New(d, snapshot.Options{InlineMax: o.inline})
	if err != nil {
		return err
	}
	if o.mount != "" {
		return mount(ctx, s, o.mount)
	}
	sess, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sess.Close()) }()
	stack := make([]snapshot.DiffID, len(layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(o.parallel)
	for i, name := range layers {
		g.Go(func() (err error) {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			l, _, err := s.ImportLayer(gctx, sess, f, snapshot.LayerExpect{BlobSize: -1})
			stack[i] = l.DiffID
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if _, err := s.Stack(ctx, stack, snapshot.StackOptions{}); err != nil {
		return err
	}
	_, err = s.Prepare(ctx, imported, snapshot.PrepareOptions{Layers: stack})
	return err
}

// imported is the snapshot of what was imported.
const imported snapshot.Key = "imported"

func mount(ctx context.Context, s *snapshot.Store, dir string) (err error) {
	layers, err := s.Mounts(ctx, imported, snapshot.MountOptions{})
	if err != nil {
		return err
	}
	m, err := overlay.New(overlay.Options{}).Open(ctx, layers, unionfs.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return m.Attach(ctx, dir)
}
