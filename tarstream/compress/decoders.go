package compress

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"

	"github.com/layerfs/layerfs/internal/inflate"
)

// sourceBuffer is how many bytes are read at a time for decoders that ask for single
// bytes or small pieces.
const sourceBuffer = 128 << 10

// newDecoder returns the decoder of format f reading from src, and the function that
// releases it.
func newDecoder(f Format, src io.Reader, limits Limits) (io.Reader, func(), error) {
	nothing := func() {}
	switch f {
	case None:
		return src, nothing, nil
	case Gzip:
		return inflate.NewReader(src), nothing, nil
	case Zstd:
		// Concurrency 0 uses up to four goroutines for one stream, with a bounded
		// number of blocks of at most 128 KiB between them. Lowmem keeps a window
		// of 8 MiB from allocating twice that.
		d, err := zstd.NewReader(src,
			zstd.WithDecoderMaxWindow(uint64(limits.Window)),
			zstd.WithDecoderMaxMemory(math.MaxInt64), // the output of a stream is limited by the meter
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderConcurrency(0))
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	case Bzip2:
		return bzip2.NewReader(bufio.NewReaderSize(src, sourceBuffer)), nothing, nil
	case Xz:
		r, err := xz.NewReader(bufio.NewReaderSize(src, sourceBuffer), uint32(min(limits.Window, math.MaxUint32)))
		return r, nothing, err
	default:
		return nil, nil, unsupported(f)
	}
}

// classify gives the errors of the libraries the classes that callers know. atEnd says
// that the input has been read to its end.
func classify(f Format, err error, atEnd bool) error {
	switch f {
	case Zstd:
		if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
			return fmt.Errorf("%w: %w", err, ErrLimit)
		}
	case Xz:
		if errors.Is(err, xz.ErrMemlimit) {
			return fmt.Errorf("%w: %w", err, ErrLimit)
		}
		if atEnd && errors.Is(err, xz.ErrBuf) {
			return fmt.Errorf("%w: %w", err, io.ErrUnexpectedEOF)
		}
	default: // the others have no limits of their own and name truncation as io does
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
