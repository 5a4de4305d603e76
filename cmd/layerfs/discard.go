package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/layerfs/layerfs/image"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
)

// discard says which compressed layers are dropped once they are stored, a closed set.
type discard string

const (
	discardNone   discard = "none"
	discardProven discard = "proven" // those that are made again byte for byte
	discardAlways discard = "always" // all: images that cannot be made again get new digests
)

var _ pflag.Value = (*discard)(nil)

func (d *discard) String() string { return string(*d) }

// Set implements pflag.Value.
func (d *discard) Set(s string) error {
	switch v := discard(s); v {
	case discardNone, discardProven, discardAlways:
		*d = v
		return nil
	}
	return fmt.Errorf("neither %s, %s nor %s", discardNone, discardProven, discardAlways)
}

// Type implements pflag.Value.
func (d *discard) Type() string { return "which" }

func addDiscardFlag(cmd *cobra.Command, d *discard) {
	*d = discardNone
	f := cmd.Flags().VarPF(d, "discard-blobs", "", "do not keep compressed layers: those that can be made again byte for byte (proven), or all (always), whose images are saved with new digests")
	f.NoOptDefVal = string(discardProven)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("discard-blobs",
		cobra.FixedCompletions([]string{string(discardNone), string(discardProven), string(discardAlways)}, cobra.ShellCompDirectiveNoFileComp)))
}

// discarded adds up what was done with compressed layers.
type discarded struct {
	blobs, proven int
	bytes         int64 // freed
	kept          int   // blobs that nothing makes again
	keptBytes     int64
}

// discardBlobs drops the compressed layers of images. Looking for the compressor of one
// takes a processor or more for as long as compressing it does.
func (a *app) discardBlobs(ctx context.Context, images []*image.Image, which discard, p *progress) (discarded, error) {
	var sum discarded
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	seen := map[digest.Digest]bool{}
	for _, im := range images {
		for i, l := range im.Layers {
			if seen[l.Digest] || l.Digest == im.DiffIDs()[i] {
				continue
			}
			seen[l.Digest] = true
			kept, err := a.snaps.HasBlob(gctx, l.Digest)
			if err != nil {
				return sum, err
			}
			if !kept {
				continue
			}
			name := "compressor of " + short(l.Digest.String())
			p.part(name, 0, l.Size)
			g.Go(func() error {
				proven, err := a.snaps.ProveBlob(gctx, l.Digest)
				if err != nil {
					return err
				}
				var freed int64
				if proven || which == discardAlways {
					if freed, err = a.snaps.DiscardBlob(gctx, l.Digest); err != nil {
						return err
					}
				}
				p.part(name, l.Size, l.Size)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case !proven && which != discardAlways:
					sum.kept++
					sum.keptBytes += l.Size
				case freed > 0:
					sum.blobs++
					sum.bytes += freed
				}
				if proven {
					sum.proven++
				}
				return nil
			})
		}
	}
	err := g.Wait()
	return sum, err
}

// String is what people are told of it.
func (d discarded) String() string {
	text := fmt.Sprintf("discarded %d compressed layers of %s", d.blobs, size(d.bytes))
	if lost := d.blobs - d.proven; lost > 0 {
		text += fmt.Sprintf(", %d of which cannot be made again byte for byte", lost)
	}
	if d.kept > 0 {
		text += fmt.Sprintf("; kept %d of %s, which no known compressor makes", d.kept, size(d.keptBytes))
	}
	return text
}
