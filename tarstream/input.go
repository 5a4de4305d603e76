package tarstream

import (
	"errors"
	"fmt"
	"io"
)

// input reads a stream into slabs and lets the parser look at it without copying.
// Bytes that the parser has passed go to done, slab by slab and in order, whatever
// else still refers to the slab.
type input struct {
	r    io.Reader
	pool *slabPool
	done func(s *slab, p []byte) // takes over one reference to s; p is a part of it

	cur   *slab
	start int   // first byte of cur not given to done yet
	pos   int   // next byte for the parser
	end   int   // end of what was read
	off   int64 // position of pos in the stream
	err   error // of the reader, once met
}

// need makes n contiguous bytes available, or as many as there are before the stream
// ends. It returns the reader's error only when there are none at all.
func (in *input) need(n int) error {
	if in.end-in.pos >= n {
		return nil
	}
	if in.cur == nil || len(in.cur.buf)-in.pos < n {
		in.roll(n)
	}
	for empty := 0; in.end-in.pos < n && in.err == nil; {
		// No further ahead than a slab, to stay within the cache.
		k, err := in.r.Read(in.cur.buf[in.end:min(len(in.cur.buf), max(in.pos+n, in.end+slabSize))])
		in.end += k
		if in.err = err; k == 0 && err == nil {
			if empty++; empty > 100 {
				in.err = io.ErrNoProgress
			}
		}
	}
	if in.end == in.pos && in.err != nil {
		return in.err
	}
	if in.err != nil && !errors.Is(in.err, io.EOF) && in.end-in.pos < n {
		return in.err
	}
	return nil
}

// roll goes on in a new slab with room for n bytes, taking along what the parser has
// not passed.
func (in *input) roll(n int) {
	s := in.pool.take(n, in.cur)
	rest := 0
	if in.cur != nil {
		rest = copy(s.buf, in.cur.buf[in.pos:in.end])
		in.hand()
	}
	in.cur, in.start, in.pos, in.end = s, 0, 0, rest
}

// hand gives what the parser has passed to done, with the reference to the slab.
func (in *input) hand() {
	if in.cur != nil {
		in.done(in.cur, in.cur.buf[in.start:in.pos])
		in.cur = nil
	}
}

// pass moves on by n bytes, which have been made available, and returns them.
func (in *input) pass(n int) []byte {
	p := in.cur.buf[in.pos : in.pos+n]
	in.pos += n
	in.off += int64(n)
	return p
}

// split gives what was passed before the last n bytes to done. Those n bytes, and what is
// to be done with them, are the caller's, who has no reference to cur of his own.
func (in *input) split(n int) {
	if at := in.pos - n; at > in.start {
		in.cur.retain()
		in.done(in.cur, in.cur.buf[in.start:at])
	}
	in.start = in.pos
}

// exactly passes n contiguous bytes; a stream that ends before is an error that wraps
// io.ErrUnexpectedEOF.
func (in *input) exactly(n int) ([]byte, error) {
	err := in.need(n)
	if in.cur != nil && in.end-in.pos >= n {
		return in.pass(n), nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("archive ends at byte %d: %w", in.off+int64(in.end-in.pos), io.ErrUnexpectedEOF)
	}
	return nil, err
}

// some passes at least one byte and at most limit, as much as is there.
func (in *input) some(limit int64) ([]byte, error) {
	if in.cur == nil || in.pos == in.end {
		if err := in.need(1); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("archive ends at byte %d: %w", in.off, io.ErrUnexpectedEOF)
			}
			return nil, err
		}
	}
	return in.pass(int(min(limit, int64(in.end-in.pos)))), nil
}
