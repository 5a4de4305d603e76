package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/opencontainers/go-digest"
)

// Blob records that a compressed layer, as it came, is the layer of a DiffID. It is
// kept as layers/blobs/<algorithm>/<hex>.
type Blob struct {
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"` // bytes
	MediaType string        `json:"mediaType,omitempty"`
	DiffID    DiffID        `json:"diffID"`
	Format    string        `json:"format"` // of the compression: gzip, zstd

	// Encoder is the level of [compress.NewWriter] that makes the blob out of the tar
	// byte for byte, proven by EncoderVersion of the encoder; "" when none is known.
	Encoder        string `json:"encoder,omitempty"`
	EncoderVersion string `json:"encoderVersion,omitempty"`
}

// blobPath is where the bytes of a kept blob lie.
func blobPath(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

func blobName(d digest.Digest) string {
	return "layers/blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

func (s *Store) putBlobRecord(ctx context.Context, ing *disk.Ingest, b Blob) error {
	data, err := encodeBlob(b)
	if err != nil {
		return err
	}
	return ing.PutRecord(ctx, blobName(b.Digest), func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

func encodeBlob(b Blob) ([]byte, error) {
	data, err := json.Marshal(b)
	return append(data, '\n'), err
}

// BlobOf returns what is known of a compressed layer; an unknown one wraps
// fs.ErrNotExist.
func (s *Store) BlobOf(_ context.Context, d digest.Digest) (Blob, error) {
	if err := d.Validate(); err != nil {
		return Blob{}, fmt.Errorf("blob digest %q: %w: %w", d, err, fs.ErrInvalid)
	}
	data, err := s.disk.ReadRecord(blobName(d))
	if err != nil {
		return Blob{}, fmt.Errorf("blob %s: %w", d, err)
	}
	return parseBlob(d, data)
}

func parseBlob(d digest.Digest, data []byte) (Blob, error) {
	var b Blob
	if err := json.Unmarshal(data, &b); err != nil {
		return b, fmt.Errorf("parse record of blob %s: %w: %w", d, err, fs.ErrInvalid)
	}
	if _, err := ParseDiffID(string(b.DiffID)); err != nil || b.Digest != d || b.Size < 0 {
		return b, fmt.Errorf("record of blob %s is damaged: %w", d, cas.ErrCorrupt)
	}
	return b, nil
}

// HasBlob tells whether the bytes of a blob are kept.
func (s *Store) HasBlob(ctx context.Context, d digest.Digest) (bool, error) {
	_, err := s.disk.Blobs().Stat(ctx, d)
	return err == nil, ignoreMissing(err)
}

// prefixSize is how many bytes of a blob are compared to rule out compressors: as many as
// come of about 1 MiB of tar, in which any two of them differ.
const prefixSize = 256 << 10

// ProveBlob looks for the compressor that makes a kept blob out of its layer byte for
// byte, and records it; false when it is none of those known. It compresses the whole
// layer, unless that is known already. An unknown blob wraps fs.ErrNotExist.
func (s *Store) ProveBlob(ctx context.Context, d digest.Digest) (bool, error) {
	if ok, err := s.RemakesBlob(ctx, d); err != nil || ok {
		return ok, err
	}
	b, err := s.BlobOf(ctx, d)
	if err != nil {
		return false, err
	}
	format, err := compress.ParseFormat(b.Format)
	if err != nil {
		return false, fmt.Errorf("blob %s: %w", d, err)
	}
	prefix, err := s.blobPrefix(ctx, d)
	if err != nil {
		return false, err
	}
	open := func() (io.ReadCloser, error) { return s.openTar(ctx, b.DiffID), nil }
	left, err := compress.Narrow(ctx, open, prefix, format, compress.Levels(format))
	if err != nil {
		return false, fmt.Errorf("blob %s: %w", d, err)
	}
	level, found, err := compress.Identify(ctx, open, d, format, left)
	if err != nil || !found {
		return false, err
	}
	b.Encoder, b.EncoderVersion = level.String(), compress.EncoderVersion(format, level)
	return true, s.rewriteBlob(ctx, b)
}

func (s *Store) blobPrefix(ctx context.Context, d digest.Digest) (_ []byte, err error) {
	r, err := s.disk.Blobs().Open(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	prefix := make([]byte, min(prefixSize, r.Size()))
	if n, err := r.ReadAt(prefix, 0); n < len(prefix) {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	return prefix, nil
}

// openTar returns the tar of a layer as a stream. Close ends what writes it and waits for
// that.
func (s *Store) openTar(ctx context.Context, d DiffID) io.ReadCloser {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(s.WriteTar(ctx, d, w))
	}()
	return tarStream{r, done}
}

type tarStream struct {
	*io.PipeReader
	done <-chan struct{}
}

func (t tarStream) Close() error {
	err := t.PipeReader.Close()
	<-t.done
	return err
}

func (s *Store) rewriteBlob(ctx context.Context, b Blob) error {
	data, err := encodeBlob(b)
	if err != nil {
		return err
	}
	return s.disk.WriteRecord(ctx, blobName(b.Digest), data)
}

// DiscardBlob removes the bytes of a blob and returns how many there were; 0 when there
// were none. What [Store.ProveBlob] has proven can be had again from [Store.WriteBlob];
// the bytes of any other are gone for good, and only its tar stays.
func (s *Store) DiscardBlob(ctx context.Context, d digest.Digest) (int64, error) {
	info, err := s.disk.Blobs().Stat(ctx, d)
	if err == nil {
		err = s.disk.Blobs().Remove(ctx, d)
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		return 0, fmt.Errorf("discard blob %s: %w", d, err)
	}
	return info.Size, nil
}

// RemakesBlob tells whether [Store.WriteBlob] makes the blob d byte for byte, whether or
// not it is kept. Where another version of the encoder gave the proof, it is given anew,
// which compresses the whole layer, once.
func (s *Store) RemakesBlob(ctx context.Context, d digest.Digest) (bool, error) {
	b, err := s.BlobOf(ctx, d)
	if err != nil {
		return false, ignoreMissing(err)
	}
	format, level, ok := b.encoder()
	if !ok {
		return false, nil
	}
	version := compress.EncoderVersion(format, level)
	if b.EncoderVersion == version && version != "" {
		return true, nil
	}
	err = s.remake(ctx, b, io.Discard)
	if errors.Is(err, cas.ErrCorrupt) {
		s.log.Warn("blob can no longer be made again", "digest", d, "proven", b.EncoderVersion, "now", version, "error", err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if s.disk.ReadOnly() != "" || version == "" {
		return true, nil
	}
	b.EncoderVersion = version
	return true, s.rewriteBlob(ctx, b)
}

// encoder returns how the blob is made again, if that is known.
func (b Blob) encoder() (compress.Format, compress.Level, bool) {
	if b.Encoder == "" {
		return 0, 0, false
	}
	format, err := compress.ParseFormat(b.Format)
	if err != nil {
		return 0, 0, false
	}
	level, err := compress.ParseLevel(b.Encoder)
	return format, level, err == nil
}

// WriteBlob writes a blob that [Store.RemakesBlob] makes. Size and digest are verified:
// when it fails with cas.ErrCorrupt, what was written is something else.
func (s *Store) WriteBlob(ctx context.Context, d digest.Digest, w io.Writer) error {
	b, err := s.BlobOf(ctx, d)
	if err != nil {
		return err
	}
	return s.remake(ctx, b, w)
}

func (s *Store) remake(ctx context.Context, b Blob, w io.Writer) error {
	format, level, ok := b.encoder()
	if !ok {
		return fmt.Errorf("blob %s is not kept, and no compressor is known to make it: %w", b.Digest, fs.ErrNotExist)
	}
	v, err := cas.NewVerifier(cas.Expect{Digest: b.Digest, Size: b.Size})
	if err != nil {
		return err
	}
	z, err := compress.NewWriter(io.MultiWriter(v, w), format, level)
	if err != nil {
		return err
	}
	err = s.WriteTar(ctx, b.DiffID, z)
	if err = errors.Join(err, z.Close()); err == nil {
		_, _, err = v.Sum()
	}
	if err != nil {
		return fmt.Errorf("make blob %s again as %s: %w", b.Digest, level, err)
	}
	return nil
}
