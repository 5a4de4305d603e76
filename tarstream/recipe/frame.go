package recipe

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io/fs"

	"github.com/klauspost/compress/zstd"
)

// The sections of a recipe. Numbers of optionalSection and above may be skipped by a
// reader that does not know them.
const (
	sectionObjects = iota + 1
	sectionStream
	sectionContents
	sectionInline
	sectionIndex
	knownSections   = sectionIndex
	optionalSection = 128
)

const (
	version     = 1
	magic       = "layerfsR"
	endMagic    = "lRfe"
	headerSize  = 80
	footerSize  = 32
	objectEntry = 40

	// frameFill is the raw size of the frames that are written. Larger ones compress
	// no better and cost more memory.
	frameFill = 256 << 10
)

// castagnoli is never written after its construction.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// corrupt makes the error for a recipe that is not as the format says.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("recipe: %s: %w", fmt.Sprintf(format, args...), fs.ErrInvalid)
}

// frame is one compressed (or stored) piece of a section.
type frame struct {
	stored []byte
	raw    int
	crc    uint32
}

// section collects the raw bytes of one section and cuts them into frames.
type section struct {
	enc    *zstd.Encoder // nil: frames are stored as they are
	buf    []byte
	out    []byte // scratch for the encoder
	frames []frame
	stored int64
	rawSum int64
}

// room makes sure that the next n bytes lie in one frame; n is at most frameFill.
func (s *section) room(n int) {
	if len(s.buf)+n > frameFill {
		s.flush()
	}
}

func (s *section) flush() {
	if len(s.buf) == 0 {
		return
	}
	f := frame{raw: len(s.buf)}
	if s.enc != nil {
		s.out = s.enc.EncodeAll(s.buf, s.out[:0])
	}
	if s.enc != nil && len(s.out) < len(s.buf) {
		f.stored = append([]byte(nil), s.out...)
	} else {
		f.stored = append([]byte(nil), s.buf...)
	}
	f.crc = checksum(f.stored)
	s.frames = append(s.frames, f)
	s.stored += int64(len(f.stored))
	s.rawSum += int64(f.raw)
	s.buf = s.buf[:0]
}

// write appends p without regard to frame bounds.
func (s *section) write(p []byte) {
	for len(p) > 0 {
		if len(s.buf) >= frameFill {
			s.flush()
		}
		n := min(len(p), frameFill-len(s.buf))
		s.buf = append(s.buf, p[:n]...)
		p = p[n:]
	}
}

func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(frameFill))
}

func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(0),
		zstd.WithDecoderMaxMemory(MaxFrame),
		zstd.WithDecodeAllCapLimit(true))
}

// place is where a stored frame lies.
type place struct {
	off    int64
	stored int
	raw    int
	crc    uint32
}

func appendDirectory(dst []byte, sections [][]frame) []byte {
	for i, frames := range sections {
		dst = append(dst, byte(i+1))
		dst = binary.AppendUvarint(dst, uint64(len(frames)))
		for _, f := range frames {
			dst = binary.AppendUvarint(dst, uint64(len(f.stored)))
			dst = binary.AppendUvarint(dst, uint64(f.raw))
			dst = binary.LittleEndian.AppendUint32(dst, f.crc)
		}
	}
	return dst
}

// parseDirectory returns where the frames of each known section lie, having checked
// that all frames together fill the recipe from the header to the directory at end.
func parseDirectory(dir []byte, end int64) ([knownSections + 1][]place, error) {
	var all [knownSections + 1][]place
	next := func() (uint64, bool) {
		v, n := binary.Uvarint(dir)
		if n <= 0 {
			return 0, false
		}
		dir = dir[n:]
		return v, true
	}
	off := int64(headerSize)
	last := 0
	for len(dir) > 0 {
		kind := int(dir[0])
		dir = dir[1:]
		inOrder := kind == last+1 && kind <= knownSections
		if last >= knownSections {
			inOrder = kind > last && kind >= optionalSection
		}
		if !inOrder {
			return all, corrupt("section %d after section %d", kind, last)
		}
		last = kind
		count, ok := next()
		// A frame takes at least six bytes of the directory.
		if !ok || count > uint64(len(dir)/6) {
			return all, corrupt("section %d: count of frames", kind)
		}
		var places []place
		if kind <= knownSections {
			places = make([]place, 0, count)
		}
		for range count {
			stored, ok1 := next()
			raw, ok2 := next()
			if !ok1 || !ok2 || len(dir) < 4 || raw == 0 || raw > MaxFrame || stored == 0 || stored > raw || int64(stored) > end-off {
				return all, corrupt("section %d: bad frame in the directory", kind)
			}
			if kind == sectionObjects && (stored != raw || raw%objectEntry != 0) {
				return all, corrupt("objects: bad frame in the directory")
			}
			if kind <= knownSections {
				places = append(places, place{off, int(stored), int(raw), binary.LittleEndian.Uint32(dir)})
			}
			dir = dir[4:]
			off += int64(stored)
		}
		if kind <= knownSections {
			all[kind] = places
		}
	}
	if last < knownSections {
		return all, corrupt("section %d is missing", last+1)
	}
	if off != end {
		return all, corrupt("frames end at %d, directory begins at %d", off, end)
	}
	return all, nil
}
