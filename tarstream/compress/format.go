package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
)

// Format is a form of compression, a closed set.
type Format uint8

// The formats. None is a stream that is not compressed, or not in a format known here.
const (
	None Format = iota
	Gzip
	Zstd
	Bzip2
	Xz
)

// String returns the name by which people and media types call the format.
func (f Format) String() string {
	switch f {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	case Bzip2:
		return "bzip2"
	case Xz:
		return "xz"
	default:
		return fmt.Sprintf("Format(%d)", uint8(f))
	}
}

// ParseFormat is the inverse of [Format.String]; "" is None. Any other name is an
// error that wraps fs.ErrInvalid.
func ParseFormat(name string) (Format, error) {
	if name == "" {
		return None, nil
	}
	for f := None; f <= Xz; f++ {
		if f.String() == name {
			return f, nil
		}
	}
	return None, fmt.Errorf("compression %q is not one of none, gzip, zstd, bzip2, xz: %w", name, fs.ErrInvalid)
}

// DetectSize is how many bytes [Detect] needs to see at most.
const DetectSize = 6

// Detect tells the format of a stream from its first bytes, at least [DetectSize] of
// them or the whole stream. What is not recognised is None. The magic numbers are those
// of RFC 1952 section 2.3.1 (with the only method defined, 8), RFC 8878 sections 3.1.1
// and 3.1.2 (a skippable frame counts as zstd), of the bzip2 program ("BZh" and a block
// size digit) and of the .xz file format 1.2.1 section 2.1.1.1.
func Detect(prefix []byte) Format {
	switch {
	case bytes.HasPrefix(prefix, []byte{0x1f, 0x8b, 0x08}):
		return Gzip
	case bytes.HasPrefix(prefix, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(prefix) >= 4 && prefix[0]&0xf0 == 0x50 && bytes.Equal(prefix[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd
	case len(prefix) >= 4 && bytes.HasPrefix(prefix, []byte("BZh")) && prefix[3] >= '1' && prefix[3] <= '9':
		return Bzip2
	case bytes.HasPrefix(prefix, []byte{0xfd, '7', 'z', 'X', 'Z', 0x00}):
		return Xz
	default:
		return None
	}
}

func unsupported(f Format) error {
	return fmt.Errorf("no codec for compression %v: %w", f, errors.ErrUnsupported)
}
