package compress

import (
	"fmt"
	"io/fs"
)

// Default limits on what a compressed stream may ask for.
const (
	// DefaultFloor is the output in bytes up to which any ratio passes. A tar that
	// holds a sparse file as zeros compresses a thousandfold in gzip and far more in
	// zstd; real ones (a lastlog of a large user id, a disk image) stay below this or
	// have other contents that keep the ratio down.
	DefaultFloor = 1 << 30
	// DefaultRatio is the output per byte of input allowed beyond the floor. DEFLATE
	// itself cannot exceed 1032.
	DefaultRatio = 1000
	// DefaultOutput is the output in bytes at which any stream is refused.
	DefaultOutput = 1 << 40
	// DefaultWindow is the history in bytes that a stream may make the decoder keep:
	// what the zstd program accepts without being told to, and twice what xz -9 makes.
	DefaultWindow = 128 << 20
)

// ErrLimit is the error, wrapped, when a stream asks for more than its [Limits].
var ErrLimit = fmt.Errorf("limit of decompression exceeded: %w", fs.ErrInvalid)

// Limits bounds what a compressed stream may cost. The zero value of a field stands
// for its default; a stream that is not compressed has only Output.
type Limits struct {
	// Ratio is the number of bytes of output allowed per byte of input once the output
	// exceeds Floor bytes; DefaultRatio and DefaultFloor when 0.
	Ratio int64
	Floor int64
	// Output is the number of bytes of output allowed in all; DefaultOutput when 0.
	Output int64
	// Window is the number of bytes of history that the decoder of zstd and xz may
	// have to keep; DefaultWindow when 0. Gzip needs 32 KiB and bzip2 4 MB, always.
	Window int64
}

func (l Limits) withDefaults() (Limits, error) {
	if l.Ratio < 0 || l.Floor < 0 || l.Output < 0 || l.Window < 0 {
		return l, fmt.Errorf("limits of decompression %+v: negative: %w", l, fs.ErrInvalid)
	}
	set := func(v *int64, otherwise int64) {
		if *v == 0 {
			*v = otherwise
		}
	}
	set(&l.Ratio, DefaultRatio)
	set(&l.Floor, DefaultFloor)
	set(&l.Output, DefaultOutput)
	set(&l.Window, DefaultWindow)
	return l, nil
}

// check tells whether out bytes of output from in bytes of input are within l.
func (l Limits) check(in, out int64) error {
	if out > l.Output {
		return fmt.Errorf("more than %d bytes of output: %w", l.Output, ErrLimit)
	}
	if out > l.Floor && out/l.Ratio > in {
		return fmt.Errorf("%d bytes of output from %d of input, more than %d to one: %w", out, in, l.Ratio, ErrLimit)
	}
	return nil
}

// Error is what is wrong with a compressed stream. It is never an error of the reader
// that the stream came from. errors.Is finds fs.ErrInvalid in it, and
// io.ErrUnexpectedEOF where the stream ends too early.
type Error struct {
	Format Format
	In     int64 // bytes of the stream read so far; the decoder may have read ahead
	Out    int64 // bytes of output before the fault
	Err    error
}

// Error names the format, the place and the fault.
func (e *Error) Error() string {
	return fmt.Sprintf("decompress %s stream (after %d bytes in, %d out): %v", e.Format, e.In, e.Out, e.Err)
}

// Unwrap returns the fault itself.
func (e *Error) Unwrap() error { return e.Err }

// Is makes every fault of a stream one of class fs.ErrInvalid.
func (e *Error) Is(target error) bool { return target == fs.ErrInvalid }
