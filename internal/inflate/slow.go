package inflate

// huffman decodes symbols of a block until it ends, the window is full or the input
// runs short.
func (z *Reader) huffman() error {
	for {
		ended, err := z.fast()
		if err != nil {
			return err
		}
		if !ended && len(z.win)-z.w >= outMargin {
			ended, err = z.one()
			if err != nil {
				return err
			}
		}
		if ended {
			z.endBlock()
			return nil
		}
		if len(z.win)-z.w < outMargin {
			return nil
		}
	}
}

// one decodes one symbol or run of literals, reading input if there is not enough of it.
// The caller has made sure of outMargin bytes of window. Nothing changes when it returns
// errWait.
func (z *Reader) one() (ended bool, err error) {
	for {
		z.take()
		done, ended, err := z.try()
		if done || err != nil {
			return ended, err
		}
		if err := z.more(); err != nil {
			return false, err
		}
	}
}

// try decodes one symbol from the bits at hand. It returns false and changes nothing
// when they are too few. Bits that are not there are zero in acc: what they lead to is
// believed only if it uses none of them.
func (z *Reader) try() (done, ended bool, err error) {
	t := &z.t
	acc, used := z.acc, uint(0)
	e := t.lit[acc&(1<<litBits-1)]
	if e&(litSpecial|litKind) == litSpecial|litSub {
		acc >>= litBits
		used = litBits
		e = t.lit[e>>16+uint32(acc)&(1<<(e>>8&15)-1)]
	}
	k := uint(e & 63)
	used += k
	acc >>= k
	if e&litLiteral != 0 {
		z.win[z.w] = byte(e >> 16)
		count := int(e >> 8 & 3)
		if count == 2 {
			z.win[z.w+1] = byte(e >> 24)
			if used > z.n {
				used, count = uint(e>>10&15), 1
			}
		}
		if used > z.n {
			return false, false, nil
		}
		z.w += count
		z.drop(used)
		return true, false, nil
	}
	length := int(e >> 16)
	if e&litSpecial != 0 {
		switch e & litKind {
		case litExtra:
			x := uint(e >> 8 & 15)
			length += int(acc & (1<<x - 1))
			acc >>= x
			used += x
		case litEnd:
			if used > z.n {
				return false, false, nil
			}
			z.drop(used)
			return true, true, nil
		default:
			if used > z.n {
				return false, false, nil
			}
			return false, false, z.corrupt("unused code of literals and lengths")
		}
	}
	if used > z.n {
		return false, false, nil
	}

	d := t.dist[acc&(1<<distBits-1)]
	if k := d >> 16 & 15; d&distSpecial != 0 && k != 0 {
		acc >>= distBits
		used += distBits
		d = t.dist[d>>32&0xffff+acc&(1<<k-1)]
	}
	if d&distSpecial != 0 {
		if used+uint(d&63) > z.n {
			return false, false, nil
		}
		return false, false, z.corrupt("unused code of distances")
	}
	src := z.w - int(d>>32) - int(acc>>(d>>8&15)&(d>>16&0xffff))
	used += uint(d & 63)
	if used > z.n {
		return false, false, nil
	}
	if src < z.base {
		return false, false, z.corrupt("distance reaches back beyond the start")
	}
	z.drop(used)
	for range length {
		z.win[z.w] = z.win[src]
		z.w++
		src++
	}
	return true, false, nil
}
