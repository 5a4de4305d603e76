package compress

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// Reader decompresses one stream. It is not safe for concurrent use.
type Reader struct {
	format Format
	src    *source
	pump   *pump     // runs the decoder ahead, nil where that does not pay
	dec    io.Reader // the decoder under its limits, when there is no pump
	stop   func()    // releases the decoder
	buf    []byte    // for WriteTo, when there is no pump
	chunk  []byte    // of the pump or buf, not yet consumed
	err    error     // what Read returns from now on
	closed bool
}

// NewReader returns a reader of what r holds, decompressed, and the format that it
// found. The whole of r belongs to the stream: several members or frames that follow
// each other are one stream, as the formats define, and anything else after the end is
// an error. Every check value in the stream is verified before io.EOF is returned.
//
// An error of r comes back wrapped; a fault of the stream is an [*Error], with
// [ErrLimit] inside when it exceeds a limit. The reader reads ahead of its consumer, in
// its own goroutine; r is not used after Close or Abort have returned, and never closed.
func NewReader(r io.Reader, limits Limits) (*Reader, Format, error) {
	limits, err := limits.withDefaults()
	if err != nil {
		return nil, None, err
	}
	head := make([]byte, DetectSize)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, None, fmt.Errorf("read compressed stream: %w", err)
	}
	head = head[:n]
	z := &Reader{format: Detect(head), src: &source{r: r, head: head}}
	dec, stop, err := newDecoder(z.format, z.src, limits)
	if err != nil {
		return nil, z.format, (&meter{format: z.format, src: z.src}).explain(err)
	}
	z.stop = stop
	m := &meter{format: z.format, src: z.src, dec: dec, limits: limits}
	switch z.format {
	case Gzip, Bzip2, Xz:
		z.pump = startPump(m)
	default:
		// Nothing to gain for plain bytes, and the zstd decoder runs ahead by itself.
		z.dec = m
	}
	return z, z.format, nil
}

// Format returns the format that was found.
func (z *Reader) Format() Format { return z.format }

// Consumed returns how many bytes have been read from the compressed stream. It is
// safe for concurrent use.
func (z *Reader) Consumed() int64 { return z.src.n.Load() }

// Read reads decompressed bytes.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(z.chunk) == 0 && z.err != nil {
		return 0, z.err
	}
	if z.pump == nil && len(z.chunk) == 0 {
		n, err := z.dec.Read(p)
		z.err = err
		return n, err
	}
	if !z.next() {
		return 0, z.err
	}
	n := copy(p, z.chunk)
	z.chunk = z.chunk[n:]
	return n, nil
}

// WriteTo writes the rest of the decompressed stream to w, without copying it where
// the decoder runs ahead. It verifies all that Read does.
func (z *Reader) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for z.next() {
		n, err := w.Write(z.chunk)
		written += int64(n)
		if err == nil && n < len(z.chunk) {
			err = io.ErrShortWrite
		}
		z.chunk = z.chunk[n:]
		if err != nil {
			return written, err
		}
	}
	return written, ignoreEOF(z.err)
}

// next makes z.chunk non-empty, or sets z.err and returns false.
func (z *Reader) next() bool {
	for len(z.chunk) == 0 {
		if z.err != nil {
			return false
		}
		if z.pump != nil {
			z.chunk, z.err = z.pump.next()
			continue
		}
		if z.buf == nil {
			z.buf = make([]byte, pumpBuffer)
		}
		var n int
		n, z.err = z.dec.Read(z.buf)
		z.chunk = z.buf[:n]
	}
	return true
}

// Close reads the stream to its end, so that damage behind what the consumer needed is
// found, and releases the decoder. It returns the first fault that Read has not
// returned. Only the first call does anything. To give up without reading on, call
// [Reader.Abort] instead.
func (z *Reader) Close() error {
	if z.closed {
		return nil
	}
	var err error
	if z.err == nil || len(z.chunk) > 0 {
		_, err = z.WriteTo(io.Discard)
	}
	return errors.Join(err, z.Abort())
}

// Abort releases the decoder without reading on: damage that was not met yet stays
// unseen. A read of the compressed stream that is in progress is waited for. It is for
// a consumer that has failed, its error is always nil, and Close after it does nothing.
func (z *Reader) Abort() error {
	if z.closed {
		return nil
	}
	z.closed = true
	if z.pump != nil {
		z.pump.abort()
	}
	z.chunk, z.buf = nil, nil
	z.stop()
	if z.err == nil {
		z.err = fmt.Errorf("read %s stream: %w", z.format, io.ErrClosedPipe)
	}
	return nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// source is the compressed stream as the decoders see it. It gives back the bytes that
// were read to detect the format, counts, and remembers the error that is not the
// stream's own fault. Decoders may read in goroutines of their own.
type source struct {
	r    io.Reader
	head []byte
	n    atomic.Int64
	err  atomic.Pointer[error]
	eof  atomic.Bool
}

func (s *source) Read(p []byte) (int, error) {
	if len(s.head) > 0 {
		n := copy(p, s.head)
		s.head = s.head[n:]
		s.n.Add(int64(n))
		return n, nil
	}
	n, err := s.r.Read(p)
	s.n.Add(int64(n))
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		s.eof.Store(true)
		err = io.EOF
	default:
		s.err.Store(&err)
	}
	return n, err
}

// meter puts a decoder under its limits and explains its errors.
type meter struct {
	format Format
	src    *source
	dec    io.Reader
	limits Limits
	out    int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.dec.Read(p)
	m.out += int64(n)
	var over error
	if m.format == None {
		over = Limits{Ratio: 1, Floor: m.limits.Output, Output: m.limits.Output}.check(m.out, m.out)
	} else {
		over = m.limits.check(m.src.n.Load(), m.out)
	}
	if over != nil {
		return 0, m.explain(over)
	}
	if err != nil && err != io.EOF { //nolint:errorlint // decoders return io.EOF itself at the end
		err = m.explain(err)
	}
	return n, err
}

// explain turns an error of a decoder into one of the two kinds that NewReader names.
func (m *meter) explain(err error) error {
	if cause := m.src.err.Load(); cause != nil {
		return fmt.Errorf("read %s stream after %d bytes: %w", m.format, m.src.n.Load(), *cause)
	}
	return &Error{Format: m.format, In: m.src.n.Load(), Out: m.out, Err: classify(m.format, err, m.src.eof.Load())}
}
