package tarstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"testing"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// TestOnDisk imports into a store on disk, publishes, and gets the tar back from
// there; then packs the same layer from what the store has.
func TestOnDisk(t *testing.T) {
	ctx := context.Background()
	store, err := disk.Open(ctx, t.TempDir(), disk.Options{NoSync: true})
	must(t, err)
	defer func() { must(t, store.Close()) }()
	data := typicalTar(t, 500)
	ing, err := store.Begin(ctx)
	must(t, err)
	built, err := Import(ctx, bytes.NewReader(data), ing, ImportOptions{})
	must(t, err)
	must(t, ing.PutRecord(ctx, "layers/sha256/"+built.DiffID.Encoded(), func(w io.Writer) error {
		_, err := built.WriteTo(w)
		return err
	}))
	must(t, ing.Publish(ctx))
	must(t, ing.Close())

	raw, err := store.ReadRecord("layers/sha256/" + built.DiffID.Encoded())
	must(t, err)
	rec, err := recipe.Open(bytes.NewReader(raw), int64(len(raw)))
	must(t, err)
	h := sha256.New()
	must(t, rec.WriteTar(ctx, h, store))
	if got := tree.ObjectID(h.Sum(nil)).Digest(); got != built.DiffID {
		t.Errorf("the tar that comes back has digest %s", got)
	}
	layer, err := rec.Layer()
	must(t, err)
	packed, err := Pack(ctx, layer, nil, discard{}, PackOptions{Source: store})
	must(t, err)
	h.Reset()
	must(t, WriteTree(ctx, h, layer, store, WriteOptions{}))
	// The layer does not describe its root, so the export has one member more.
	if packed.TarSize == 0 || tree.ObjectID(h.Sum(nil)).Digest() == packed.DiffID {
		t.Errorf("packed %d bytes with digest %s", packed.TarSize, packed.DiffID)
	}
}
