// Package image knows what an image is: its documents (index, manifest, config) of
// the OCI and the Docker kind, their names, and how a new one follows from an old
// one. It keeps them on a content-addressed store and a few small records, and talks
// to layers through the [Layers] interface alone, so it knows nothing of how layers
// are stored or mounted.
//
// Reading order: limits.go, manifest.go and config.go for the documents; store.go,
// resolve.go and roots.go for names and what they keep alive; commit.go and change.go
// for new images. The archives that images travel in are in image/archive, names in
// image/reference.
//
// # Identity
//
// An image's id is the digest of its config, as in Docker. Manifests and configs are
// kept byte for byte as they came, so ids and manifest digests survive any number of
// loads and saves. A manifest that layerfs itself makes is an OCI manifest.
//
// # What the store root shows to other tools
//
// The store root is an OCI image layout: oci-layout, index.json (one entry for each
// name, kept true whenever a name changes) and blobs/. A layer that was received
// uncompressed, or made by layerfs, exists as a recipe only and has no blob there, and
// so does one whose blob was discarded: it can be read by saving the image, not by
// pointing another tool at the store.
package image

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
)

// Layer is one layer that is stored.
type Layer struct {
	DiffID digest.Digest // of the uncompressed tar
	Size   int64         // of the uncompressed tar, in bytes

	// The blob in which the layer came, or equal to DiffID and Size when it came
	// uncompressed. Zero values when it was not received as a blob.
	Blob      digest.Digest
	BlobSize  int64
	MediaType string // of the blob as received, may be ""
}

// LayerExpect says what is known of a layer before it is read.
type LayerExpect struct {
	DiffID    digest.Digest // "" when unknown
	Blob      digest.Digest // "" when unknown
	BlobSize  int64         // bytes, -1 when unknown
	MediaType string        // "" when unknown
}

// Layers is where the contents of layers are kept. All methods are safe for
// concurrent use.
type Layers interface {
	// Import reads one layer blob, compressed or not, to its end and keeps it. It
	// verifies the blob's digest and size and the DiffID where they are known; a
	// mismatch wraps fs.ErrInvalid. Importing what is there already is no error.
	Import(ctx context.Context, r io.Reader, e LayerExpect) (Layer, error)
	// Stat finds a layer by its DiffID; one that is not there wraps fs.ErrNotExist.
	Stat(ctx context.Context, diffID digest.Digest) (Layer, error)
	// ByBlob finds a layer by the digest of the blob it once came in, whether or not
	// the blob was kept; an unknown one wraps fs.ErrNotExist.
	ByBlob(ctx context.Context, blob digest.Digest) (Layer, error)
	// WriteTar writes the identical tar.
	WriteTar(ctx context.Context, diffID digest.Digest, w io.Writer) error
	// Remakes reports whether WriteBlob makes the blob in which a layer came byte for
	// byte out of the layer; false for an unknown one.
	Remakes(ctx context.Context, blob digest.Digest) (bool, error)
	// WriteBlob writes such a blob, and verifies it on the way.
	WriteBlob(ctx context.Context, blob digest.Digest, w io.Writer) error
}
