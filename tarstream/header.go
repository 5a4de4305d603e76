package tarstream

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"
)

// blockSize is the unit of a tar (POSIX.1-2017, pax, "ustar Interchange Format").
const blockSize = 512

// Member types: POSIX, and those of GNU tar and Solaris that have to be known.
const (
	typeOldFile   = 0
	typeFile      = '0'
	typeLink      = '1'
	typeSymlink   = '2'
	typeChar      = '3'
	typeBlock     = '4'
	typeDir       = '5'
	typeFifo      = '6'
	typeContig    = '7'
	typePAX       = 'x'
	typePAXGlobal = 'g'
	typeSolaris   = 'X' // PAX before it was POSIX
	typeLongName  = 'L'
	typeLongLink  = 'K'
	typeSparse    = 'S'
	typeDump      = 'D' // a directory, with the names in it as data
	typeVolume    = 'V' // the label of a volume
)

// format is the dialect of a header, as far as it decides where fields lie.
type format uint8

const (
	formatV7 format = iota
	formatUSTAR
	formatSTAR
	formatGNU
)

// block is one header block.
type block []byte

func (b block) name() []byte     { return b[0:100] }
func (b block) mode() []byte     { return b[100:108] }
func (b block) uid() []byte      { return b[108:116] }
func (b block) gid() []byte      { return b[116:124] }
func (b block) size() []byte     { return b[124:136] }
func (b block) mtime() []byte    { return b[136:148] }
func (b block) chksum() []byte   { return b[148:156] }
func (b block) typ() byte        { return b[156] }
func (b block) link() []byte     { return b[157:257] }
func (b block) devMajor() []byte { return b[329:337] }
func (b block) devMinor() []byte { return b[337:345] }

func (b block) format() format {
	switch {
	case string(b[257:263]) == "ustar\x00":
		if string(b[508:512]) == "tar\x00" {
			return formatSTAR
		}
		return formatUSTAR
	case string(b[257:265]) == "ustar  \x00":
		return formatGNU
	default:
		return formatV7
	}
}

// fullName joins prefix and name where the dialect has a prefix.
func (b block) fullName(f format) string {
	name := cstring(b.name())
	var prefix []byte
	switch f {
	case formatUSTAR:
		prefix = cstring(b[345:500])
	case formatSTAR:
		prefix = cstring(b[345:476])
	case formatV7, formatGNU:
	}
	if len(prefix) == 0 {
		return string(name)
	}
	full := make([]byte, 0, len(prefix)+1+len(name))
	full = append(full, prefix...)
	full = append(full, '/')
	return string(append(full, name...))
}

// isZero reports whether all of p, at most a block, is zero.
func isZero(p []byte) bool { return bytes.Equal(p, zeroBlock[:len(p)]) }

// zeroBlock is only read.
var zeroBlock [blockSize]byte //nolint:gochecknoglobals // an array cannot be a constant

// verify checks the header's checksum, which some old archivers computed with signed
// bytes.
func (b block) verify() error {
	want, err := number(b.chksum())
	if err != nil {
		return invalid("header checksum is not a number")
	}
	unsigned, high := sums(b)
	for _, c := range b.chksum() {
		unsigned += ' ' - int64(c)
		high -= int64(c >> 7)
	}
	if want != unsigned && want != unsigned-256*high {
		return invalid("header checksum is %d, its field says %d", unsigned, want)
	}
	return nil
}

// sums returns the sum of all bytes and how many of them have the high bit.
func sums(b []byte) (sum, high int64) {
	const even = 0x00ff00ff00ff00ff
	const ones = 0x0101010101010101
	var lanes uint64
	for i := 0; i < blockSize; i += 8 {
		v := binary.LittleEndian.Uint64(b[i:])
		// At most 64 times 2 times 255 add up in each lane of 16 bits.
		lanes += v&even + v>>8&even
		high += int64((v >> 7 & ones) * ones >> 56)
	}
	for ; lanes != 0; lanes >>= 16 {
		sum += int64(lanes & 0xffff)
	}
	return sum, high
}

// cstring cuts a field at its first zero byte.
func cstring(p []byte) []byte {
	if i := bytes.IndexByte(p, 0); i >= 0 {
		return p[:i]
	}
	return p
}

// number reads a numeric field: octal digits with spaces or zero bytes before them and
// spaces or a zero byte after them, nothing being 0, or GNU's base-256.
func number(p []byte) (int64, error) {
	if p[0]&0x80 != 0 {
		return base256(p)
	}
	i, end := 0, len(p)
	for i < end && (p[i] == ' ' || p[i] == 0) {
		i++
	}
	var v int64
	for ; i < end && p[i] >= '0' && p[i] <= '7'; i++ {
		v = v<<3 | int64(p[i]-'0') // 12 digits at most
	}
	for ; i < end && p[i] != 0; i++ {
		if p[i] != ' ' {
			return 0, invalid("field %q is not a number", p)
		}
	}
	return v, nil
}

// base256 reads a two's complement big-endian number whose topmost bit only marks the
// coding.
func base256(p []byte) (int64, error) {
	var invert byte
	if p[0]&0x40 != 0 {
		invert = 0xff
	}
	var v uint64
	for i, c := range p {
		c ^= invert
		if i == 0 {
			c &= 0x7f
		}
		if v>>56 != 0 {
			return 0, invalid("field % x is too large a number", p)
		}
		v = v<<8 | uint64(c)
	}
	if v > math.MaxInt64 {
		return 0, invalid("field % x is too large a number", p)
	}
	if invert != 0 {
		return ^int64(v), nil
	}
	return int64(v), nil
}

// decimal reads a decimal number as PAX records have it.
func decimal(s string) (int64, error) {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, invalid("%.32q is not a number", s)
	}
	return v, nil
}
