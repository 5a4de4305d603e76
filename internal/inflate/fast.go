package inflate

import "unsafe"

// Room that the fast loop needs at the ends of input and window.
const (
	// inMargin is what it reads ahead at most: an iteration refills twice, each time
	// moving on by at most 8 bytes and reading 8.
	inMargin = 24
	// outMargin is what it writes at most: two lookups of two literals, the longest
	// match, and 32 bytes beyond by copying too much.
	outMargin = maxMatch + 4 + 32 + 8
)

func load64(p unsafe.Pointer, i int) uint64 { return *(*uint64)(unsafe.Add(p, i)) }

func store16(p unsafe.Pointer, i int, v uint16) { *(*uint16)(unsafe.Add(p, i)) = v }

func store64(p unsafe.Pointer, i int, v uint64) { *(*uint64)(unsafe.Add(p, i)) = v }

// copy16 copies 16 bytes from src to dst; they are read before any is written.
func copy16(p unsafe.Pointer, dst, src int) {
	*(*[16]byte)(unsafe.Add(p, dst)) = *(*[16]byte)(unsafe.Add(p, src))
}

// fast decodes symbols while there are inMargin bytes of input and outMargin bytes of
// window left, or to the end of the block, which it reports.
func (z *Reader) fast() (ended bool, err error) {
	if z.end-z.pos < inMargin || len(z.win)-z.w < outMargin {
		return false, nil
	}
	in, out := unsafe.Pointer(unsafe.SliceData(z.in)), unsafe.Pointer(unsafe.SliceData(z.win))
	t := &z.t
	pos, w, base := z.pos, z.w, z.base
	lastPos, lastW := z.end-inMargin, len(z.win)-outMargin
	acc, n := z.acc, z.n
	reason := ""

loop:
	for pos <= lastPos && w <= lastW {
		// At least 56 bits. Those of acc above n are the right ones already.
		acc |= load64(in, pos) << (n & 63)
		pos += int((63 - n) >> 3)
		n |= 56

		e := t.lit[acc&(1<<litBits-1)]
		if e&litLiteral != 0 {
			acc >>= e & 63
			n -= uint(e & 63)
			store16(out, w, uint16(e>>16))
			w += int(e >> 8 & 3)
			e = t.lit[acc&(1<<litBits-1)]
			if e&litLiteral != 0 {
				acc >>= e & 63
				n -= uint(e & 63)
				store16(out, w, uint16(e>>16))
				w += int(e >> 8 & 3)
				e = t.lit[acc&(1<<litBits-1)]
				if e&litLiteral != 0 {
					acc >>= e & 63
					n -= uint(e & 63)
					store16(out, w, uint16(e>>16))
					w += int(e >> 8 & 3)
					continue
				}
			}
		}
		// At least 56-22 bits.
		length := int(e >> 16)
		if e&litSpecial != 0 {
			if e&litKind == litSub {
				acc >>= litBits
				n -= litBits
				e = t.lit[e>>16+uint32(acc)&(1<<(e>>8&15)-1)]
				if e&litLiteral != 0 {
					acc >>= e & 63
					n -= uint(e & 63)
					store16(out, w, uint16(e>>16))
					w++
					continue
				}
				length = int(e >> 16)
			}
			if e&litSpecial != 0 {
				switch e & litKind {
				case litExtra:
					acc >>= e & 63
					n -= uint(e & 63)
					x := e >> 8 & 15
					length += int(acc & (1<<x - 1))
					acc >>= x
					n -= uint(x)
					e = 0
				case litEnd:
					acc >>= e & 63
					n -= uint(e & 63)
					ended = true
					break loop
				default:
					reason = "unused code of literals and lengths"
					break loop
				}
			}
		}
		acc >>= e & 63
		n -= uint(e & 63)

		acc |= load64(in, pos) << (n & 63)
		pos += int((63 - n) >> 3)
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
		src := w - int(d>>32) - int(acc>>(d>>8&15)&(d>>16&0xffff))
		acc >>= d & 63
		n -= uint(d & 63)
		if src < base {
			reason = "distance reaches back beyond the start"
			break
		}
		dst := w
		w += length
		switch dist := dst - src; {
		case dist >= 16:
			copy16(out, dst, src)
			for dst += 16; dst < w; dst += 16 {
				src += 16
				copy16(out, dst, src)
			}
		case dist >= 8:
			for ; dst < w; dst += 8 {
				store64(out, dst, load64(out, src))
				src += 8
			}
		case dist == 1:
			v := uint64(*(*byte)(unsafe.Add(out, src))) * 0x0101010101010101
			for ; dst < w; dst += 8 {
				store64(out, dst, v)
			}
		default:
			// Each store of 8 bytes makes dist more bytes right.
			for ; dst < w; dst += dist {
				store64(out, dst, load64(out, src))
				src += dist
			}
		}
	}
	// The unused high bits of acc are made zero again.
	z.acc, z.n = acc&(1<<(n&63)-1), n
	z.pos, z.w = pos, w
	if reason != "" {
		return false, z.corrupt(reason)
	}
	return ended, nil
}
