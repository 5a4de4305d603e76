package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/layerfs/layerfs/image"
)

// source is an archive opened for reading. Names are cleaned member names; a member
// that is not there wraps fs.ErrNotExist.
type source interface {
	// size returns the size of a member in bytes.
	size(name string) (int64, error)
	// read returns a member of at most limit bytes.
	read(ctx context.Context, name string, limit int64) ([]byte, error)
	// layer imports a member as a layer, or says what became of it when it came by.
	layer(ctx context.Context, name string, e image.LayerExpect) (image.Layer, error)
	// copy writes a member to w.
	copy(ctx context.Context, name string, w io.Writer) error
	// parallel reports whether layers may be imported side by side.
	parallel() bool
	close() error
}

// opener opens members of an archive that can be read at any place.
type opener interface {
	open(name string) (io.ReadCloser, int64, error)
	close() error
}

// randomSource is a source made of an opener.
type randomSource struct {
	opener
	layers image.Layers
	meter  *meter
}

func (s *randomSource) parallel() bool { return true }

func (s *randomSource) size(name string) (int64, error) {
	r, n, err := s.open(name)
	if err != nil {
		return 0, err
	}
	return n, r.Close()
}

func (s *randomSource) read(_ context.Context, name string, limit int64) (data []byte, err error) {
	r, n, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if n > limit {
		return nil, invalid("%s has %d bytes, limit %d", name, n, limit)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

func (s *randomSource) layer(ctx context.Context, name string, e image.LayerExpect) (l image.Layer, err error) {
	r, n, err := s.open(name)
	if err != nil {
		return image.Layer{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if e.BlobSize >= 0 && e.BlobSize != n {
		return image.Layer{}, invalid("%d bytes, its descriptor says %d", n, e.BlobSize)
	}
	e.BlobSize = n
	return s.layers.Import(ctx, s.meter.reader(ctx, name, n, r), e)
}

func (s *randomSource) copy(ctx context.Context, name string, w io.Writer) (err error) {
	r, n, err := s.open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	_, err = io.Copy(w, s.meter.reader(ctx, name, n, r))
	return err
}

// dirOpener opens the members of a directory. os.Root keeps links that somebody put
// there from leading out of it.
type dirOpener struct{ root *os.Root }

func (d dirOpener) close() error { return d.root.Close() }

func (d dirOpener) open(name string) (io.ReadCloser, int64, error) {
	// Opening must not wait for the other end of a fifo.
	f, err := d.root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, 0, linkError(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: %w", name, fs.ErrInvalid)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	// A file that grows while it is read stays what it was.
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, 0, info.Size()), f}, info.Size(), nil
}

// linkError adds the class fs.ErrInvalid to the error of opening a link that leads out
// of the directory, nowhere or in a circle. Errors of the system stay as they are.
func linkError(err error) error {
	var errno syscall.Errno
	if isMissing(err) || errors.As(err, &errno) && errno != syscall.ELOOP && errno != syscall.ENOTDIR {
		return err
	}
	return fmt.Errorf("%w: %w", err, fs.ErrInvalid)
}
