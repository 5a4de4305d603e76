package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/layerfs/layerfs/image"
)

// ImportOptions of Import: those of the image that is made. Parent and Layer are set
// by Import.
type ImportOptions struct {
	image.CommitOptions
	Progress func(Progress) // may be nil; the total is -1 where it is unknown
	Size     int64          // of the file in bytes, 0 when unknown
}

// Import makes an image of one layer from the tar of a root file system, compressed or
// not. The history says where it came from unless a comment is given, as Docker's does.
func Import(ctx context.Context, store *image.Store, layers image.Layers, r io.Reader, o ImportOptions) (*image.Image, error) {
	im, err := importRoot(ctx, store, layers, r, o)
	if err != nil {
		return nil, fmt.Errorf("import root file system: %w", err)
	}
	return im, nil
}

func importRoot(ctx context.Context, store *image.Store, layers image.Layers, r io.Reader, o ImportOptions) (*image.Image, error) {
	// Mistakes in the instructions are found before the work is done.
	if _, err := image.ApplyChanges(image.ProcessConfig{}, o.Changes); err != nil {
		return nil, err
	}
	total := o.Size
	if total <= 0 {
		total = -1
	}
	b := bufio.NewReaderSize((&meter{report: o.Progress}).reader(ctx, "layer", total, r), 1<<16)
	head, err := b.Peek(magicSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(head) == 0 {
		return nil, invalid("the tar is empty")
	}
	mediaType := image.LayerMediaType(head)
	layer, err := layers.Import(ctx, b, image.LayerExpect{BlobSize: -1, MediaType: mediaType})
	if err != nil {
		return nil, err
	}
	if layer.MediaType == "" {
		layer.MediaType = mediaType
	}
	o.Parent, o.Layer = nil, &layer
	if o.Comment == "" {
		o.Comment = "Imported from -"
		if o.Source != "" {
			o.Comment = "Imported from " + o.Source
		}
	}
	return store.Commit(ctx, o.CommitOptions)
}

// magicSize is enough to tell compressed from plain tars.
const magicSize = 6
