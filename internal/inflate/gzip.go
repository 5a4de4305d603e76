package inflate

import (
	"encoding/binary"
	"hash/crc32"
	"io"
)

// The flags of a member's header, RFC 1952 section 2.3.1.
const (
	flagHeaderSum = 1 << 1
	flagExtra     = 1 << 2
	flagName      = 1 << 3
	flagComment   = 1 << 4
	flagReserved  = 0xe0
)

// headerReader reads the bytes of a header and sums them.
type headerReader struct {
	z   *Reader
	sum uint32
	err error
}

func (h *headerReader) byte() byte {
	if h.err != nil {
		return 0
	}
	v, err := h.z.bits(8)
	h.err = err
	b := byte(v)
	h.sum = ^(crc32.IEEETable[byte(^h.sum)^b] ^ ^h.sum>>8)
	return b
}

func (h *headerReader) skip(n int) {
	for ; n > 0 && h.err == nil; n-- {
		h.byte()
	}
}

func (h *headerReader) skipString() {
	for range maxHeaderString {
		if h.byte() == 0 || h.err != nil {
			return
		}
	}
	h.err = h.z.corrupt("a name or comment in the header does not end")
}

// header reads the header of a member, or finds the end of the stream behind one. Its
// fields say nothing about the contents.
func (z *Reader) header() error {
	if z.state == atNext && z.n == 0 && z.pos == z.end {
		if err := z.fill(); err != nil {
			if err == io.ErrUnexpectedEOF { //nolint:errorlint // fill says it of io.EOF, which is right here
				return io.EOF
			}
			return err
		}
	}
	h := headerReader{z: z}
	if (h.byte() != 0x1f || h.byte() != 0x8b) && h.err == nil {
		if z.state == atNext {
			return z.corrupt("what follows the end is not another gzip member")
		}
		return z.corrupt("no gzip header")
	}
	if method := h.byte(); method != 8 && h.err == nil {
		return z.corrupt("unknown method of compression")
	}
	flags := h.byte()
	if flags&flagReserved != 0 {
		return z.corrupt("reserved flags in the header")
	}
	h.skip(6) // time, hint about the level, operating system
	if flags&flagExtra != 0 {
		n := int(h.byte())
		h.skip(n | int(h.byte())<<8)
	}
	if flags&flagName != 0 {
		h.skipString()
	}
	if flags&flagComment != 0 {
		h.skipString()
	}
	if flags&flagHeaderSum != 0 {
		want := uint16(h.sum)
		got := uint16(h.byte())
		got |= uint16(h.byte()) << 8
		if h.err == nil && got != want {
			return z.corrupt("checksum of the header does not match")
		}
	}
	if h.err != nil {
		return h.err
	}
	z.base = z.w
	z.sum, z.size = 0, 0
	z.state = atBlock
	return nil
}

// trailer reads and verifies the check values of a member.
func (z *Reader) trailer() error {
	z.align()
	for z.end-z.pos < 8 {
		if err := z.fill(); err != nil {
			return err
		}
	}
	z.checksum()
	sum := binary.LittleEndian.Uint32(z.in[z.pos:])
	size := binary.LittleEndian.Uint32(z.in[z.pos+4:])
	if sum != z.sum {
		return z.corrupt("checksum of the contents does not match")
	}
	if size != z.size {
		return z.corrupt("size of the contents does not match")
	}
	z.pos += 8
	z.state = atNext
	return nil
}
