package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/reference"
)

// streamSource is an archive that was read once, from front to back.
type streamSource struct {
	layers  image.Layers
	members members[*streamed]
	meter   *meter
}

// streamed is what became of one member.
type streamed struct {
	bytes []byte // of a small member
	held  bool   // bytes is valid
	size  int64
	layer image.Layer // of one that was imported
	done  bool        // layer is valid
	err   error       // why importing it failed
}

// readStream reads a whole tar. Members that begin like a layer are imported, small
// others are held, the rest is skipped.
func readStream(ctx context.Context, r io.Reader, layers image.Layers, force bool, m *meter) (*streamSource, error) {
	s := &streamSource{layers: layers, members: newMembers[*streamed](), meter: m}
	buffered := int64(0)
	t := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, tarError(s.members.count, err)
		}
		name, err := s.members.note(h)
		if err != nil {
			return nil, err
		}
		if name == "" {
			continue
		}
		f := &streamed{size: h.Size}
		s.members.files[name] = f
		body := bufio.NewReaderSize(t, tarBlock)
		head, err := body.Peek(tarBlock)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read member %s: %w", name, tarError(s.members.count, err))
		}
		switch {
		case looksLikeLayer(head) && mayBeLayer(name):
			if err := s.take(ctx, name, f, body, force); err != nil {
				return nil, fmt.Errorf("member %s: %w", name, err)
			}
		case h.Size <= image.MaxLayoutIndex:
			if buffered += h.Size; buffered > MaxBuffered {
				return nil, invalid("members that are no layers have more than %d bytes", MaxBuffered)
			}
			f.bytes = make([]byte, h.Size)
			f.held = true
			if _, err := io.ReadFull(body, f.bytes); err != nil {
				return nil, fmt.Errorf("read member %s: %w", name, tarError(s.members.count, err))
			}
		}
	}
	// What compressed the archive verifies it at its end, which lies behind the tar's.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, fmt.Errorf("read archive to its end: %w", err)
	}
	return s, nil
}

// mayBeLayer tells the places where archives keep layers from those deep in a root
// file system that somebody takes for an archive.
func mayBeLayer(name string) bool {
	return strings.HasPrefix(name, blobsDir+"/") || strings.Count(name, "/") <= 1
}

// take imports a member that came by before anything was known of it but its name. A
// blob with faulty contents is not an error yet, for it may belong to no image.
func (s *streamSource) take(ctx context.Context, name string, f *streamed, r io.Reader, force bool) error {
	e := image.LayerExpect{BlobSize: f.size}
	isBlob := false
	if alg, hex, ok := strings.Cut(strings.TrimPrefix(name, blobsDir+"/"), "/"); ok && strings.HasPrefix(name, blobsDir+"/") {
		if d, err := reference.ParseDigest(alg + ":" + hex); err == nil {
			e.Blob, isBlob = d, true
		}
	}
	if isBlob && !force {
		l, err := known(ctx, s.layers, e)
		if !isMissing(err) {
			return f.became(l, err, isBlob)
		}
	}
	l, err := s.layers.Import(ctx, s.meter.reader(ctx, name, f.size, r), e)
	return f.became(l, err, isBlob)
}

// became notes what importing gave.
func (f *streamed) became(l image.Layer, err error, isBlob bool) error {
	switch {
	case err == nil:
		f.layer, f.done = l, true
		return nil
	case isBlob && errors.Is(err, fs.ErrInvalid):
		// If it was the archive that broke off, its next header is not there either.
		f.err = err
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.Join(err, fs.ErrInvalid)
	}
	return err
}

func (s *streamSource) parallel() bool { return false }
func (s *streamSource) close() error   { return nil }

func (s *streamSource) size(name string) (int64, error) {
	f, err := s.members.find(name)
	if err != nil {
		return 0, err
	}
	return f.size, nil
}

func (s *streamSource) held(name string) (*streamed, error) {
	f, err := s.members.find(name)
	if err != nil {
		return nil, err
	}
	if !f.held {
		return nil, fmt.Errorf("member %s was not held while the archive streamed by; load it from a plain file: %w", name, errors.ErrUnsupported)
	}
	return f, nil
}

func (s *streamSource) read(_ context.Context, name string, limit int64) ([]byte, error) {
	f, err := s.held(name)
	if err != nil {
		return nil, err
	}
	if f.size > limit {
		return nil, invalid("%s has %d bytes, limit %d", name, f.size, limit)
	}
	return f.bytes, nil
}

func (s *streamSource) copy(_ context.Context, name string, w io.Writer) error {
	f, err := s.held(name)
	if err != nil {
		return err
	}
	_, err = w.Write(f.bytes)
	return err
}

func (s *streamSource) layer(ctx context.Context, name string, e image.LayerExpect) (image.Layer, error) {
	f, err := s.members.find(name)
	if err != nil {
		return image.Layer{}, err
	}
	if e.BlobSize >= 0 && e.BlobSize != f.size {
		return image.Layer{}, invalid("%d bytes, its descriptor says %d", f.size, e.BlobSize)
	}
	switch {
	case f.err != nil:
		return image.Layer{}, f.err
	case f.held:
		e.BlobSize = f.size
		return s.layers.Import(ctx, bytes.NewReader(f.bytes), e)
	case !f.done:
		return image.Layer{}, invalid("neither a tar nor a compressed one")
	}
	if e.Blob != "" && f.layer.Blob != e.Blob && f.layer.DiffID != e.Blob {
		return image.Layer{}, invalid("has the digest %s, not %s", f.layer.Blob, e.Blob)
	}
	return f.layer, nil
}

// known finds a layer that is stored already by what is known of it.
func known(ctx context.Context, layers image.Layers, e image.LayerExpect) (image.Layer, error) {
	if e.Blob == "" {
		if e.DiffID == "" {
			return image.Layer{}, fs.ErrNotExist
		}
		return layers.Stat(ctx, e.DiffID)
	}
	l, err := layers.ByBlob(ctx, e.Blob)
	size := l.BlobSize
	if isMissing(err) && (e.DiffID == "" || e.DiffID == e.Blob) {
		// The blob may be a plain tar, and its digest that of a layer.
		l, err = layers.Stat(ctx, e.Blob)
		size = l.Size
	}
	switch {
	case err != nil:
		return image.Layer{}, err
	case e.DiffID != "" && l.DiffID != e.DiffID:
		return image.Layer{}, fs.ErrNotExist // importing will tell
	case e.BlobSize >= 0 && size != e.BlobSize:
		return image.Layer{}, invalid("layer %s has %d bytes, its descriptor says %d", e.Blob, size, e.BlobSize)
	}
	return l, nil
}
