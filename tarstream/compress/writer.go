package compress

import (
	"fmt"
	"io"
	"io/fs"
	"runtime"
)

// Level says how a stream is compressed: how hard, and by which of the encoders. The
// zero value is a good default for the format.
//
// Plain levels are those of the gzip and zstd programs, 1 to 9 and 1 to 22, and run on
// all processors. [Serial] added to one, or to 0 for the encoder's default, stands for
// the one-thread encoders that most builders of images use.
type Level int

// DefaultLevel is the level whose cost and result suit layers.
const DefaultLevel Level = 0

// Serial, added to a level, names the encoder of the Go standard library for gzip
// (Docker, BuildKit, containerd and others make layers with it) and the stream encoder
// of klauspost/compress for zstd, in one thread, so that blobs which they made can be
// recognised by [Identify] and made again.
const Serial Level = 100

// maxLevel is the highest plain level of a format.
func maxLevel(f Format) Level {
	switch f {
	case Gzip:
		return 9
	case Zstd:
		return 22
	default:
		return 0
	}
}

// split returns the plain level and whether the serial encoder is meant.
func (l Level) split() (plain Level, serial bool) {
	if l >= Serial {
		return l - Serial, true
	}
	return l, false
}

// String returns the level as people write it: "default", "6", "serial-6".
func (l Level) String() string {
	plain, serial := l.split()
	name := "default"
	if plain != DefaultLevel {
		name = fmt.Sprint(int(plain))
	}
	if serial {
		return "serial-" + name
	}
	return name
}

// NewWriter returns a writer that compresses to w in format f, which is None, Gzip or
// Zstd; there is no encoder for the others (errors.ErrUnsupported). A level that the
// format does not have is an error that wraps fs.ErrInvalid.
//
// The bytes written to w depend on the input, the format, the level and the version of
// the encoder only. Close must be called, also after an error, and finishes the stream
// without closing w. At most [Workers] processors are used, each with a few times
// 1 MiB (gzip) or 8 MiB (zstd) of memory.
func NewWriter(w io.Writer, f Format, level Level) (io.WriteCloser, error) {
	return newWriter(w, f, level, min(Workers, runtime.GOMAXPROCS(0)))
}

func newWriter(w io.Writer, f Format, level Level, workers int) (io.WriteCloser, error) {
	plain, serial := level.split()
	if plain < 0 || plain > maxLevel(f) {
		return nil, fmt.Errorf("level %v of %v: not between 1 and %d: %w", level, f, int(maxLevel(f)), fs.ErrInvalid)
	}
	switch {
	case f == None:
		return nopCloser{w}, nil
	case f == Gzip && serial:
		return newSerialGzip(w, plain)
	case f == Gzip:
		return newParallelGzip(w, plain, workers)
	case f == Zstd && serial:
		return newSerialZstd(w, plain)
	case f == Zstd:
		return newParallelZstd(w, plain, workers)
	default:
		return nil, unsupported(f)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
