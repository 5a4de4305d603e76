// Package inflate decompresses gzip streams (RFC 1952 around RFC 1951) as fast as Go
// allows. Decompression is more than half of the work of importing a gzip layer, and
// the general-purpose decoders read their input byte by byte.
//
// What makes it fast: the bit buffer is refilled eight bytes at a time; one lookup
// decodes up to two literals, or a length with its extra bits; matches are copied
// sixteen bytes at a time with room to overshoot; and the limits of the input and of
// the window are checked once for each symbol, in a loop that runs only while both have
// room for the longest symbol. Near either end a careful loop, one symbol at a time,
// takes over. The two loops use the same tables.
//
// # Unsafe
//
// The fast loop reads and writes through unsafe pointers, in file fast.go only, because
// bounds checks there cost a fifth of the speed. Each access is covered by the
// conditions of the loop, see the comment there.
package inflate

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
)

const (
	history    = 32 << 10  // bytes that a match may reach back, RFC 1951 section 3.2.5
	windowSize = 256 << 10 // history and output: fits a processor's second-level cache
	inputSize  = 128 << 10 // bytes read from the source at a time
	maxMatch   = 258

	// outMargin is the room in the window with which decoding goes on. One iteration of
	// the fast loop writes at most six literals, or four, the longest match, and 32
	// bytes beyond it by copying too much.
	outMargin = maxMatch + 4 + 32 + 8

	// maxHeaderString bounds the name and the comment in a member's header, in bytes.
	maxHeaderString = 64 << 10
	// maxEmptyReads is how often the source may return neither bytes nor an error.
	maxEmptyReads = 100
	// headerRoom is more than the longest header of a block: 14 bits, 19 lengths of 3
	// bits and 320 lengths of at most 14 bits. With so much input at hand a header is
	// parsed without reading.
	headerRoom = 1 << 10
)

// CorruptError tells what is wrong with a stream. errors.Is finds fs.ErrInvalid in it.
type CorruptError struct {
	Offset int64 // bytes of input before the fault, to within the bytes of one symbol
	Reason string
}

// Error names the fault and the place.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt gzip stream at byte %d: %s", e.Offset, e.Reason)
}

// Is makes every CorruptError one of class fs.ErrInvalid.
func (e *CorruptError) Is(target error) bool { return target == fs.ErrInvalid }

// state is what comes next in the stream.
type state uint8

const (
	atHeader  state = iota // of the first member
	atNext                 // header of another member, or the end
	atBlock                // header of a block
	inStored               // contents of a stored block
	inHuffman              // symbols of a block
	atTrailer              // check value and size of the member
	atRawEnd               // end of a stream without header and trailer
)

// errWait interrupts decoding for lack of input while there is output to hand over.
var errWait = errors.New("inflate: more input needed")

// Reader decompresses a gzip stream of one or more members. It reads ahead in its
// source. It is not safe for concurrent use.
type Reader struct {
	src    io.Reader
	srcErr error // of src, io.EOF at its end; reported when the input is used up
	err    error // what Read returns when the window is empty

	in       []byte // in[pos:end] is input not yet in acc
	pos, end int
	off      int64  // place of in[0] in the stream
	acc      uint64 // the next bits of the stream, lowest first; bits above n are zero
	n        uint   // number of bits in acc

	win   []byte
	w     int // end of output in win
	r     int // win[r:w] has not been handed over
	sumAt int // win[sumAt:w] is not in sum yet
	base  int // start of the current member's output in win, as far as it is there

	state  state
	raw    bool // no headers and trailers around the blocks
	final  bool // the block is the member's last
	stored int  // bytes left of a stored block
	sum    uint32
	size   uint32 // output of the member, modulo 2^32, up to sumAt

	fixed bool // the tables are those of fixed codes
	t     tables
}

// NewReader returns a reader of the decompressed contents of r, which is a gzip stream
// to its end: after a member comes another or the end of r. The reader returns io.EOF
// after the check values of all members have been verified, a [*CorruptError] for a
// stream that is not gzip or damaged, and an error that is io.ErrUnexpectedEOF for one
// that ends too early, also for an empty one. All output before the fault is returned
// before the error. Errors of r are returned as they are.
//
// It accepts and refuses what compress/gzip does, except that names and comments in
// headers may have 64 KiB instead of 512 bytes, and that the reserved flags of RFC 1952
// are refused.
func NewReader(r io.Reader) *Reader {
	z := &Reader{in: make([]byte, inputSize), win: make([]byte, windowSize)}
	z.Reset(r)
	return z
}

// Reset makes z read from r as if it were new.
func (z *Reader) Reset(r io.Reader) {
	z.src, z.srcErr, z.err = r, nil, nil
	z.pos, z.end, z.off, z.acc, z.n = 0, 0, 0, 0, 0
	z.w, z.r, z.sumAt, z.base = 0, 0, 0, 0
	z.state, z.final, z.stored, z.sum, z.size = atHeader, false, 0, 0, 0
	if z.raw {
		z.state = atBlock
	}
}

// Read reads decompressed bytes.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for z.r == z.w {
		if z.err != nil {
			return 0, z.err
		}
		z.decode()
	}
	n := copy(p, z.win[z.r:z.w])
	z.r += n
	return n, nil
}

// WriteTo writes the rest of the contents to w, in pieces of up to 224 KiB.
func (z *Reader) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for {
		for z.r == z.w {
			if z.err == io.EOF { //nolint:errorlint // set by this package
				return written, nil
			}
			if z.err != nil {
				return written, z.err
			}
			z.decode()
		}
		n, err := w.Write(z.win[z.r:z.w])
		if err == nil && n < z.w-z.r {
			err = io.ErrShortWrite
		}
		z.r += n
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
}

// decode adds output to the window, whose earlier output has all been handed over,
// until it is full, the input runs short or z.err is set.
func (z *Reader) decode() {
	if len(z.win)-z.w < outMargin {
		z.slide()
	}
	for z.err == nil && len(z.win)-z.w >= outMargin {
		if err := z.step(); err != nil {
			if err == errWait { //nolint:errorlint // set by this package
				break
			}
			z.err = err
		}
	}
	z.checksum()
}

// slide moves the history to the start of the window.
func (z *Reader) slide() {
	z.checksum()
	move := z.w - history
	copy(z.win, z.win[move:z.w])
	z.w, z.r, z.sumAt = history, history, history
	z.base = max(0, z.base-move)
}

// checksum takes the output since the last call into account.
func (z *Reader) checksum() {
	if !z.raw {
		z.sum = crc32.Update(z.sum, crc32.IEEETable, z.win[z.sumAt:z.w])
		z.size += uint32(z.w - z.sumAt)
	}
	z.sumAt = z.w
}

// step does the next piece of work. It returns errWait when the input runs short and
// there is output to hand over first.
func (z *Reader) step() error {
	switch z.state {
	case atHeader, atNext:
		if z.scarce(headerRoom) {
			return errWait
		}
		return z.header()
	case atBlock:
		if z.scarce(headerRoom) {
			return errWait
		}
		return z.block()
	case inStored:
		return z.copyStored()
	case inHuffman:
		return z.huffman()
	case atTrailer:
		if z.scarce(8) {
			return errWait
		}
		return z.trailer()
	default: // atRawEnd
		return io.EOF
	}
}

// scarce tells whether to hand over output before reading, since the source may block.
func (z *Reader) scarce(n int) bool {
	return z.r < z.w && z.end-z.pos < n && z.srcErr == nil
}

// fill reads more input behind what is left of it, which is less than a few bytes.
func (z *Reader) fill() error {
	// Whole bytes that are in acc stay in front of pos, for align to give back.
	if start := z.pos - int(z.n/8); start > 0 {
		z.off += int64(start)
		z.end = copy(z.in, z.in[start:z.end])
		z.pos -= start
	}
	for range maxEmptyReads {
		if z.srcErr != nil {
			if z.srcErr == io.EOF { //nolint:errorlint // normalised below
				return io.ErrUnexpectedEOF
			}
			return z.srcErr
		}
		n, err := z.src.Read(z.in[z.end:])
		z.end += n
		if errors.Is(err, io.EOF) {
			err = io.EOF
		}
		z.srcErr = err
		if n > 0 {
			return nil
		}
	}
	z.srcErr = io.ErrNoProgress
	return z.srcErr
}

// more is fill for the middle of a block: output is handed over before the source may
// block.
func (z *Reader) more() error {
	if z.r < z.w && z.srcErr == nil {
		return errWait
	}
	return z.fill()
}

func (z *Reader) corrupt(reason string) error {
	return &CorruptError{Offset: z.off + int64(z.pos) - int64(z.n/8), Reason: reason}
}

// need makes at least k bits available in acc, k at most 56.
func (z *Reader) need(k uint) error {
	for z.n < k {
		if z.pos == z.end {
			if err := z.fill(); err != nil {
				return err
			}
		}
		z.take()
	}
	return nil
}

// take moves as many whole bytes from the input into acc as there are and fit.
func (z *Reader) take() {
	for z.n <= 56 && z.pos < z.end {
		z.acc |= uint64(z.in[z.pos]) << z.n
		z.pos++
		z.n += 8
	}
}

// drop removes k bits, which are there.
func (z *Reader) drop(k uint) {
	z.acc >>= k
	z.n -= k
}

// bits returns the next k bits, k at most 32.
func (z *Reader) bits(k uint) (uint32, error) {
	if err := z.need(k); err != nil {
		return 0, err
	}
	v := uint32(z.acc & (1<<k - 1))
	z.drop(k)
	return v, nil
}

// align drops what is left of the current byte and gives whole bytes back to the input.
func (z *Reader) align() {
	z.pos -= int(z.n / 8)
	z.acc, z.n = 0, 0
}
