package inflate

import "encoding/binary"

// block reads the header of a block, RFC 1951 section 3.2.3.
func (z *Reader) block() error {
	v, err := z.bits(3)
	if err != nil {
		return err
	}
	z.final = v&1 != 0
	switch v >> 1 {
	case 0:
		return z.storedHeader()
	case 1:
		if !z.fixed {
			z.t.setFixed()
			z.fixed = true
		}
		z.state = inHuffman
		return nil
	case 2:
		z.fixed = false
		if err := z.dynamicHeader(); err != nil {
			return err
		}
		z.state = inHuffman
		return nil
	default:
		return z.corrupt("unknown type of block")
	}
}

// endBlock moves on to the next block or past the last one.
func (z *Reader) endBlock() {
	switch {
	case !z.final:
		z.state = atBlock
	case z.raw:
		z.state = atRawEnd
	default:
		z.state = atTrailer
	}
}

func (z *Reader) storedHeader() error {
	z.align()
	for z.end-z.pos < 4 {
		if err := z.fill(); err != nil {
			return err
		}
	}
	size := binary.LittleEndian.Uint16(z.in[z.pos:])
	if size != ^binary.LittleEndian.Uint16(z.in[z.pos+2:]) {
		return z.corrupt("size of a stored block does not match its complement")
	}
	z.pos += 4
	z.stored = int(size)
	z.state = inStored
	return nil
}

// copyStored copies what there is room and input for of a stored block.
func (z *Reader) copyStored() error {
	if z.stored > 0 && z.pos == z.end {
		if err := z.more(); err != nil {
			return err
		}
	}
	n := min(z.stored, z.end-z.pos)
	n = copy(z.win[z.w:], z.in[z.pos:z.pos+n])
	z.pos += n
	z.w += n
	z.stored -= n
	if z.stored == 0 {
		z.endBlock()
	}
	return nil
}

// dynamicHeader reads the codes of a block and makes the tables, RFC 1951 section 3.2.7.
func (z *Reader) dynamicHeader() error {
	v, err := z.bits(14)
	if err != nil {
		return err
	}
	lits, dists, meta := int(v&31)+257, int(v>>5&31)+1, int(v>>10)+4
	if lits > maxLits {
		return z.corrupt("more than 286 literal and length codes")
	}
	if dists > maxDists {
		return z.corrupt("more than 30 distance codes")
	}
	var lengths [maxLits + maxDists]uint8
	// The order in which the lengths of the codes for lengths come.
	order := [metaCodes]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	for i := range meta {
		v, err := z.bits(3)
		if err != nil {
			return err
		}
		lengths[order[i]] = uint8(v)
	}
	if !z.t.setMeta(lengths[:metaCodes]) {
		return z.corrupt("code of code lengths is not a complete prefix code")
	}
	clear(lengths[:metaCodes])
	for i := 0; i < lits+dists; {
		// A code of at most 7 bits and 7 more.
		if z.n < 14 {
			if z.pos == z.end && z.n < 7 {
				if err := z.fill(); err != nil && z.n == 0 {
					return err
				}
			}
			z.take()
		}
		e := z.t.meta[z.acc&(1<<metaBits-1)]
		k := uint(e & 15)
		if k == 0 {
			return z.corrupt("unused code of code lengths")
		}
		if z.n < k {
			if err := z.need(k); err != nil {
				return err
			}
			continue
		}
		z.drop(k)
		sym := uint8(e >> 8)
		if sym < 16 {
			lengths[i] = sym
			i++
			continue
		}
		var value uint8
		var count, extra uint
		switch sym {
		case 16:
			if i == 0 {
				return z.corrupt("repeat of a code length before the first")
			}
			value, count, extra = lengths[i-1], 3, 2
		case 17:
			count, extra = 3, 3
		default:
			count, extra = 11, 7
		}
		v, err := z.bits(extra)
		if err != nil {
			return err
		}
		count += uint(v)
		if i+int(count) > lits+dists {
			return z.corrupt("more code lengths than codes")
		}
		for ; count > 0; count-- {
			lengths[i] = value
			i++
		}
	}
	if !z.t.setLits(lengths[:lits]) {
		return z.corrupt("code of literals and lengths is not a complete prefix code")
	}
	if !z.t.setDists(lengths[lits : lits+dists]) {
		return z.corrupt("code of distances is not a complete prefix code")
	}
	return nil
}
