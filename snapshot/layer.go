package snapshot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/tarstream"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/opencontainers/go-digest"
)

// Layer describes an imported layer.
type Layer struct {
	DiffID  DiffID
	TarSize int64 // bytes of the uncompressed tar
	Entries int   // of the tar
	Objects int   // contents that are objects
	Bytes   int64 // of those objects
}

// LayerExpect says what is known of a layer before it is read.
type LayerExpect struct {
	DiffID    DiffID        // "" when unknown
	Blob      digest.Digest // of the bytes as they come; "" when unknown
	BlobSize  int64         // bytes; -1 when unknown
	MediaType string
	Progress  func(bytes int64) // called with the number of further bytes read; may be nil
}

// layersDir holds the recipes.
const layersDir = "layers/sha256"

func layerName(d DiffID) string { return layersDir + "/" + d.hex() }

// ImportLayer reads one layer, compressed or not, and keeps it: new file contents as
// objects, everything else as a recipe. Size, blob digest and DiffID are verified where
// they are known, and nothing of a layer that does not match remains. A layer that is
// there already is not read again. When several processes import one layer, one does
// the work and the others wait for it.
//
// The layer is safe from a collector as long as the session is open.
func (s *Store) ImportLayer(ctx context.Context, sess *Session, r io.Reader, e LayerExpect) (Layer, Blob, error) {
	var l Layer
	var b Blob
	have := func() (ok bool, err error) {
		l, b, ok, err = s.known(ctx, sess, e)
		if errors.Is(err, fs.ErrInvalid) {
			// Damaged, or not what was expected: reading it anew repairs or refuses.
			return false, nil
		}
		return ok, err
	}
	name := "layer-" + e.DiffID.hex()
	switch {
	case e.DiffID != "":
	case e.Blob != "":
		name = "layer-blob-" + e.Blob.Encoded()
	default:
		// Nothing is known by which two imports could be told to be the same.
		var err error
		l, b, err = s.importLayer(ctx, sess, r, e)
		return l, b, err
	}
	err := s.once(ctx, name, have, func() (err error) {
		l, b, err = s.importLayer(ctx, sess, r, e)
		return err
	})
	return l, b, err
}

// known tells whether an expected layer is there, and keeps it.
func (s *Store) known(ctx context.Context, sess *Session, e LayerExpect) (l Layer, b Blob, ok bool, err error) {
	if e.Blob != "" && e.Blob != digest.Digest(e.DiffID) {
		if err = sess.keep(ctx, blobName(e.Blob)); err != nil {
			return l, b, false, ignoreMissing(err)
		}
		b, err = s.BlobOf(ctx, e.Blob)
		if errors.Is(err, fs.ErrNotExist) {
			return l, b, false, nil
		}
		if err != nil {
			return l, b, false, err
		}
		if e.DiffID != "" && b.DiffID != e.DiffID {
			return l, b, false, fmt.Errorf("blob %s is layer %s, not %s: %w", e.Blob, b.DiffID, e.DiffID, cas.ErrCorrupt)
		}
		e.DiffID = b.DiffID
	}
	if e.DiffID == "" {
		return l, b, false, nil
	}
	// Kept first and looked at then: a collector either sees the keep or has already
	// taken the layer away.
	if err = sess.keep(ctx, layerName(e.DiffID)); err != nil {
		return l, b, false, ignoreMissing(err)
	}
	if l, err = s.StatLayer(ctx, e.DiffID); err == nil {
		err = s.wholeLayer(ctx, e.DiffID)
	}
	return l, b, err == nil, ignoreMissing(err)
}

// wholeLayer looks whether all objects of a layer are there with their sizes; else the
// error wraps cas.ErrCorrupt. A layer that was damaged is so mended by importing it again.
func (s *Store) wholeLayer(ctx context.Context, d DiffID) (err error) {
	rec, closer, err := s.OpenLayer(ctx, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	objects, err := rec.Objects()
	if err != nil {
		return err
	}
	for _, o := range objects {
		if !s.disk.HoldsObject(o.ID, o.Size) {
			return fmt.Errorf("object %s of layer %s is missing or damaged: %w", o.ID.Digest(), d, cas.ErrCorrupt)
		}
	}
	return ctx.Err()
}

func (s *Store) importLayer(ctx context.Context, sess *Session, r io.Reader, e LayerExpect) (l Layer, b Blob, err error) {
	ing, err := s.disk.Begin(ctx)
	if err != nil {
		return l, b, err
	}
	defer func() { err = errors.Join(err, ing.Close()) }()
	if e.Progress != nil {
		r = &countingReader{r: r, add: e.Progress}
	}
	built, blob, err := s.readLayer(ctx, ing, r, e)
	if err != nil {
		return l, b, err
	}
	diffID := DiffID(built.DiffID)
	if e.DiffID != "" && e.DiffID != diffID {
		return l, b, fmt.Errorf("layer is %s, expected %s: %w", diffID, e.DiffID, cas.ErrCorrupt)
	}
	if blob != nil {
		blob.DiffID = diffID
		b = *blob
		if err := s.putBlobRecord(ctx, ing, b); err != nil {
			return l, b, err
		}
	}
	l, err = s.publishLayer(ctx, sess, ing, built)
	if err == nil && blob != nil {
		err = sess.keep(ctx, blobName(b.Digest))
	}
	return l, b, err
}

// readLayer runs the import pipeline: bytes as they come → blob (kept when compressed)
// → decompression → recipe and objects. The blob is nil for a plain tar.
func (s *Store) readLayer(ctx context.Context, ing *disk.Ingest, r io.Reader, e LayerExpect) (*recipe.Built, *Blob, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	peeked := bufio.NewReaderSize(r, 64<<10)
	head, err := peeked.Peek(compress.DetectSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read layer: %w", err)
	}
	format := compress.Detect(head)
	expect := cas.Expect{Digest: e.Blob, Size: sizeOrUnknown(e)}
	var keep cas.Writer
	var src io.Reader
	// The digest of a plain tar is its DiffID, which is computed anyway.
	plainTar := format == compress.None && (e.Blob == "" || strings.HasPrefix(string(e.Blob), "sha256:"))
	switch {
	case format == compress.Gzip || format == compress.Zstd:
		// The forms that manifests know; another is worth nothing once it is read. What is
		// kept is verified by its writer.
		if keep, err = ing.Blobs().Create(ctx, expect); err != nil {
			return nil, nil, err
		}
		defer func() { _ = keep.Close() }() // after Commit this does nothing
		src = io.TeeReader(peeked, keep)
	case plainTar && expect.Size >= 0:
		src = io.LimitReader(peeked, expect.Size+1) // one more than expected tells as much as all
	case plainTar:
		src = peeked
	default:
		src = cas.NewVerifiedReader(peeked, expect)
	}
	plain, _, err := compress.NewReader(src, compress.Limits{})
	if err != nil {
		return nil, nil, fmt.Errorf("decompress layer: %w", err)
	}
	built, err := tarstream.Import(ctx, plain, ing, tarstream.ImportOptions{InlineMax: s.opts.InlineMax, Workers: s.opts.Workers})
	if err != nil {
		return nil, nil, errors.Join(err, plain.Abort())
	}
	// Closing drains: a checksum or digest that is wrong at the very end counts.
	if err := plain.Close(); err != nil {
		return nil, nil, fmt.Errorf("decompress layer: %w", err)
	}
	if _, err := io.Copy(io.Discard, src); err != nil {
		return nil, nil, fmt.Errorf("read layer: %w", err)
	}
	if keep == nil {
		if plainTar {
			err = plainAs(built, expect)
		}
		return built, nil, err
	}
	info, err := keep.Commit(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("keep compressed layer: %w", err)
	}
	return built, &Blob{Digest: info.Digest, Size: info.Size, MediaType: e.MediaType, Format: format.String()}, nil
}

// plainAs returns an error unless the tar has the digest and size, as far as they are
// known.
func plainAs(built *recipe.Built, e cas.Expect) error {
	if e.Size >= 0 && built.TarSize != e.Size {
		return fmt.Errorf("read layer: it does not have the expected %d bytes: %w", e.Size, cas.ErrCorrupt)
	}
	if e.Digest != "" && built.DiffID != e.Digest {
		return fmt.Errorf("read layer: its digest is %s, expected %s: %w", built.DiffID, e.Digest, cas.ErrCorrupt)
	}
	return nil
}

func sizeOrUnknown(e LayerExpect) int64 {
	if e.BlobSize <= 0 {
		return -1
	}
	return e.BlobSize
}

// publishLayer puts the recipe into the ingest and makes all of it visible and durable.
func (s *Store) publishLayer(ctx context.Context, sess *Session, ing *disk.Ingest, built *recipe.Built) (Layer, error) {
	d := DiffID(built.DiffID)
	l := Layer{DiffID: d, TarSize: built.TarSize, Entries: built.Entries, Objects: len(built.Objects)}
	for _, o := range built.Objects {
		l.Bytes += o.Size
	}
	err := ing.PutRecord(ctx, layerName(d), func(w io.Writer) error {
		_, err := built.WriteTo(w)
		return err
	})
	if err != nil {
		return l, fmt.Errorf("write recipe of layer %s: %w", d, err)
	}
	if err := ing.Publish(ctx); err != nil {
		return l, fmt.Errorf("publish layer %s: %w", d, err)
	}
	return l, sess.keep(ctx, layerName(d))
}

// StatLayer describes a layer; an unknown one wraps fs.ErrNotExist.
func (s *Store) StatLayer(ctx context.Context, d DiffID) (Layer, error) {
	rec, closer, err := s.OpenLayer(ctx, d)
	if err != nil {
		return Layer{}, err
	}
	l := Layer{DiffID: d, TarSize: rec.TarSize(), Entries: rec.Entries()}
	objects, err := rec.Objects()
	if err != nil {
		return l, errors.Join(fmt.Errorf("read layer %s: %w", d, err), closer.Close())
	}
	l.Objects = len(objects)
	for _, o := range objects {
		l.Bytes += o.Size
	}
	return l, closer.Close()
}

// OpenLayer opens the recipe of a layer; the caller closes the closer when done.
func (s *Store) OpenLayer(_ context.Context, d DiffID) (*recipe.Recipe, io.Closer, error) {
	if _, err := ParseDiffID(string(d)); err != nil {
		return nil, nil, err
	}
	f, err := os.Open(s.disk.RecordPath(layerName(d)))
	if err != nil {
		return nil, nil, fmt.Errorf("open layer %s: %w", d, err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	rec, err := recipe.Open(f, st.Size())
	if err == nil && DiffID(rec.DiffID()) != d {
		err = fmt.Errorf("recipe is of layer %s: %w", rec.DiffID(), cas.ErrCorrupt)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open layer %s: %w", d, err), f.Close())
	}
	return rec, f, nil
}

// WriteTar writes the tar of a layer, byte for byte as it was imported. A store that no
// longer has the bytes gives an error that wraps cas.ErrCorrupt or fs.ErrNotExist.
func (s *Store) WriteTar(ctx context.Context, d DiffID, w io.Writer) error {
	rec, closer, err := s.OpenLayer(ctx, d)
	if err != nil {
		return err
	}
	if err = rec.WriteTar(ctx, w, s.disk); err != nil {
		err = fmt.Errorf("write tar of layer %s: %w", d, err)
	}
	return errors.Join(err, closer.Close())
}

// Session keeps layers that were imported or committed from being collected until a name
// makes them reachable: begin it before the work, close it after the name is written. A
// process that dies closes its sessions.
type Session struct {
	disk *disk.Store
	ing  *disk.Ingest // nil where nothing can be written
}

// Begin opens a session. One of a store that can only be read keeps nothing: it finds what
// is there, and whoever can collect that store may take it away meanwhile.
func (s *Store) Begin(ctx context.Context) (*Session, error) {
	if s.disk.ReadOnly() != "" {
		return &Session{disk: s.disk}, nil
	}
	ing, err := s.disk.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	return &Session{disk: s.disk, ing: ing}, nil
}

// keep wraps fs.ErrNotExist when there is no such record.
func (s *Session) keep(ctx context.Context, record string) error {
	if s.ing == nil {
		_, _, err := s.disk.StatRecord(record)
		return err
	}
	err := s.ing.Keep(ctx, record)
	if errors.Is(err, fs.ErrNotExist) && s.disk.Elsewhere(record) != nil {
		return nil // no collection here takes it away
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Close ends the session.
func (s *Session) Close() error {
	if s.ing == nil {
		return nil
	}
	return s.ing.Close()
}

type countingReader struct {
	r   io.Reader
	add func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.add(int64(n))
	return n, err
}

// FindLayer describes a layer as StatLayer does and keeps it while the session is open.
func (s *Store) FindLayer(ctx context.Context, sess *Session, d DiffID) (Layer, error) {
	l, _, err := s.find(ctx, sess, LayerExpect{DiffID: d})
	return l, err
}

// FindBlob finds the layer that came as the blob d, whether or not its bytes were kept,
// and keeps it while the session is open. An unknown one wraps fs.ErrNotExist.
func (s *Store) FindBlob(ctx context.Context, sess *Session, d digest.Digest) (Layer, Blob, error) {
	return s.find(ctx, sess, LayerExpect{Blob: d})
}

func (s *Store) find(ctx context.Context, sess *Session, e LayerExpect) (Layer, Blob, error) {
	l, b, ok, err := s.known(ctx, sess, e)
	if errors.Is(err, fs.ErrInvalid) {
		// Damaged: whoever has the layer may import it again.
		s.log.Warn("layer is damaged", "diff_id", e.DiffID, "error", err)
		ok, err = false, nil
	}
	if err == nil && !ok {
		err = fmt.Errorf("layer %s%s: %w", e.DiffID, e.Blob, fs.ErrNotExist)
	}
	return l, b, err
}
