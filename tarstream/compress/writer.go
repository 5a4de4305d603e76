package compress

import (
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strconv"
)

// Level says how a stream is compressed: how hard, and by which of the encoders. The
// zero value is a good default for the format.
//
// Plain levels are those of the gzip and zstd programs, 1 to 9 and 1 to 22, and run on
// all processors. [Serial] or [Pgzip] added to one, or to 0 for the encoder's default,
// stands for the encoders with which most layers have been made, so that such blobs can
// be recognised by [Identify] and made again.
type Level int

// DefaultLevel is the level whose cost and result suit layers.
const DefaultLevel Level = 0

const (
	// Serial added to a level names the encoder of the Go standard library for gzip
	// (Docker, BuildKit, containerd and others make layers with it) and the stream
	// encoder of klauspost/compress for zstd, both in one thread.
	Serial Level = 100
	// Pgzip added to a level of gzip names klauspost/pgzip, with which podman, buildah
	// and skopeo make layers. The contents are those of the plain level; the header
	// holds the zero time of Go.
	Pgzip Level = 200
)

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

// split returns the plain level and the encoder: 0, Serial or Pgzip.
func (l Level) split() (plain, encoder Level) {
	if l < 0 {
		return l, 0
	}
	return l % Serial, l - l%Serial
}

// String returns the level as people write it: "default", "6", "serial-6", "pgzip-1".
func (l Level) String() string {
	plain, encoder := l.split()
	name := "default"
	if plain != DefaultLevel {
		name = strconv.Itoa(int(plain))
	}
	switch encoder {
	case 0:
		return name
	case Serial:
		return "serial-" + name
	case Pgzip:
		return "pgzip-" + name
	default:
		return fmt.Sprintf("Level(%d)", int(l))
	}
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
	workers := min(Workers, runtime.GOMAXPROCS(0))
	plain, encoder := level.split()
	switch {
	case f != None && f != Gzip && f != Zstd:
		return nil, unsupported(f)
	case plain < 0 || plain > maxLevel(f), encoder > Pgzip,
		f == None && encoder != 0, f == Zstd && encoder == Pgzip:
		return nil, fmt.Errorf("compression %v has no level %v: %w", f, level, fs.ErrInvalid)
	case f == None:
		return nopCloser{w}, nil
	case f == Gzip && encoder == Serial:
		return newSerialGzip(w, plain)
	case f == Gzip:
		return newParallelGzip(w, plain, encoder == Pgzip, workers), nil
	case encoder == Serial:
		return newSerialZstd(w, plain)
	default:
		return newParallelZstd(w, plain, workers), nil
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
