//go:build amd64 || arm64 || ppc64le

package inflate

import "unsafe"

// inMargin is the input that the fast loop needs: an iteration refills twice, each time
// moving on by at most 7 bytes and reading 8.
const inMargin = 24

// The loads and stores below are unaligned and little-endian, as the processors named
// above have them. The pointers that fast moves along stay inside z.in and z.win, which
// are allocated on the heap and so do not move:
//
//   - the input pointer is at most inMargin bytes before the end of the input when an
//     iteration begins, moves on by at most 14 and is read 8 bytes further at most;
//   - the output pointer is at most outMargin bytes before the end of the window when
//     an iteration begins; outMargin says what is written from there on;
//   - a match is read from behind the output pointer, at a distance that is checked
//     against the start of the member's output before the pointer is made, and never
//     further than 32 bytes beyond what is written of it.

func load64(p unsafe.Pointer) uint64 { return *(*uint64)(p) }

func store16(p unsafe.Pointer, v uint16) { *(*uint16)(p) = v }

func store64(p unsafe.Pointer, v uint64) { *(*uint64)(p) = v }

// copy16 copies 16 bytes from src to dst; they are read before any is written.
func copy16(dst, src unsafe.Pointer) { *(*[16]byte)(dst) = *(*[16]byte)(src) }

// fast decodes symbols while there are inMargin bytes of input and outMargin bytes of
// window left, or to the end of the block, which it reports.
func (z *Reader) fast() (ended bool, err error) {
	if z.end-z.pos < inMargin || len(z.win)-z.w < outMargin {
		return false, nil
	}
	ip, op := unsafe.Pointer(&z.in[z.pos]), unsafe.Pointer(&z.win[z.w])
	lastIn := uintptr(unsafe.Pointer(&z.in[z.end-inMargin]))
	lastOut := uintptr(unsafe.Pointer(&z.win[len(z.win)-outMargin]))
	base := uintptr(unsafe.Pointer(&z.win[z.base]))
	t := &z.t
	acc, n := z.acc, z.n // only the low 6 bits of n count
	reason := ""

loop:
	for uintptr(ip) <= lastIn && uintptr(op) <= lastOut {
		// At least 56 bits. Those of acc above n are the right ones already.
		acc |= load64(ip) << (n & 63)
		ip = unsafe.Add(ip, (63-n)>>3&7)
		n |= 56

		e := t.lit[acc&(1<<litBits-1)]
		if e&litLiteral != 0 {
			acc >>= e & 63
			n -= uint(e)
			store16(op, uint16(e>>16))
			op = unsafe.Add(op, e>>8&3)
			e = t.lit[acc&(1<<litBits-1)]
			if e&litLiteral != 0 {
				acc >>= e & 63
				n -= uint(e)
				store16(op, uint16(e>>16))
				op = unsafe.Add(op, e>>8&3)
				e = t.lit[acc&(1<<litBits-1)]
				if e&litLiteral != 0 {
					acc >>= e & 63
					n -= uint(e)
					store16(op, uint16(e>>16))
					op = unsafe.Add(op, e>>8&3)
					continue
				}
			}
		}
		// At least 56-22 bits.
		length := e >> 16
		if e&litSpecial != 0 {
			if e&litKind == litSub {
				acc >>= litBits
				n -= litBits
				e = t.lit[e>>16+uint32(acc)&(1<<(e>>8&15)-1)]
				if e&litLiteral != 0 {
					acc >>= e & 63
					n -= uint(e)
					store16(op, uint16(e>>16))
					op = unsafe.Add(op, 1)
					continue
				}
				length = e >> 16
			}
			if e&litSpecial != 0 {
				switch e & litKind {
				case litExtra:
					acc >>= e & 63
					n -= uint(e)
					e = e >> 8 & 15
					length += uint32(acc) & (1<<e - 1)
				case litEnd:
					acc >>= e & 63
					n -= uint(e)
					ended = true
					break loop
				default:
					reason = "unused code of literals and lengths"
					break loop
				}
			}
		}
		acc >>= e & 63
		n -= uint(e)

		acc |= load64(ip) << (n & 63)
		ip = unsafe.Add(ip, (63-n)>>3&7)
		n |= 56

		d := t.dist[acc&(1<<distBits-1)]
		if d&distSpecial != 0 {
			k := d >> 16 & 15
			if k == 0 {
				reason = "unused code of distances"
				break
			}
			acc >>= distBits
			n -= distBits
			d = t.dist[d>>32&0xffff+acc&(1<<k-1)]
			if d&distSpecial != 0 {
				reason = "unused code of distances"
				break
			}
		}
		dist := uintptr(d>>32 + acc>>(d>>8&63)&(d>>16&0xffff))
		acc >>= d & 63
		n -= uint(d)
		if dist > uintptr(op)-base {
			reason = "distance reaches back beyond the start"
			break
		}
		src := unsafe.Add(op, -int(dist))
		dst := op
		op = unsafe.Add(op, length)
		switch {
		case dist >= 16:
			copy16(dst, src)
			copy16(unsafe.Add(dst, 16), unsafe.Add(src, 16))
			for length > 32 {
				dst, src = unsafe.Add(dst, 32), unsafe.Add(src, 32)
				copy16(dst, src)
				copy16(unsafe.Add(dst, 16), unsafe.Add(src, 16))
				length -= 32
			}
		case dist >= 8:
			for uintptr(dst) < uintptr(op) {
				store64(dst, load64(src))
				dst, src = unsafe.Add(dst, 8), unsafe.Add(src, 8)
			}
		case dist == 1:
			v := uint64(*(*byte)(src)) * 0x0101010101010101
			for uintptr(dst) < uintptr(op) {
				store64(dst, v)
				dst = unsafe.Add(dst, 8)
			}
		default:
			// Each store of 8 bytes makes dist more bytes right.
			for uintptr(dst) < uintptr(op) {
				store64(dst, load64(src))
				dst, src = unsafe.Add(dst, dist), unsafe.Add(src, dist)
			}
		}
	}
	// The unused high bits of acc are made zero again.
	z.n = n & 63
	z.acc = acc & (1<<z.n - 1)
	z.pos = int(uintptr(ip) - uintptr(unsafe.Pointer(&z.in[0])))
	z.w = int(uintptr(op) - uintptr(unsafe.Pointer(&z.win[0])))
	if reason != "" {
		return false, z.corrupt(reason)
	}
	return ended, nil
}
