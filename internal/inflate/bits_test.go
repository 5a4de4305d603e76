package inflate

import (
	"math/rand/v2"
	"slices"
)

// bitWriter builds DEFLATE streams by hand.
type bitWriter struct {
	b []byte
	n uint // bits used of the last byte, 0 when it is full
}

// bits appends the low n bits of v, lowest first.
func (w *bitWriter) bits(v uint64, n uint) *bitWriter {
	for ; n > 0; n-- {
		if w.n == 0 {
			w.b = append(w.b, 0)
		}
		w.b[len(w.b)-1] |= byte(v&1) << w.n
		w.n = (w.n + 1) & 7
		v >>= 1
	}
	return w
}

// code appends a Huffman code of n bits, highest first.
func (w *bitWriter) code(v, n uint) *bitWriter {
	for ; n > 0; n-- {
		w.bits(uint64(v>>(n-1)), 1)
	}
	return w
}

// fixedLit appends a literal or length symbol in the fixed code.
func (w *bitWriter) fixedLit(sym uint) *bitWriter {
	switch {
	case sym < 144:
		return w.code(0x30+sym, 8)
	case sym < 256:
		return w.code(0x190+sym-144, 9)
	case sym < 280:
		return w.code(sym-256, 7)
	default:
		return w.code(0xc0+sym-280, 8)
	}
}

// dynamic appends the header of a block with dynamic codes of these lengths, each
// written plainly in a code of 5 bits: 19 symbols, of which 13 have 4 and 6 have 5.
func (w *bitWriter) dynamic(final bool, lits, dists []uint8) *bitWriter {
	v := uint64(2 << 1)
	if final {
		v |= 1
	}
	w.bits(v, 3).bits(uint64(len(lits)-257), 5).bits(uint64(len(dists)-1), 5).bits(19-4, 4)
	metaLength := func(sym uint8) uint { // 13 of 4 bits and 6 of 5 fill the space
		if sym < 13 {
			return 4
		}
		return 5
	}
	for _, sym := range []uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15} {
		w.bits(uint64(metaLength(sym)), 3)
	}
	for _, n := range slices.Concat(lits, dists) {
		if n < 13 {
			w.code(uint(n), 4)
		} else {
			w.code(13*2+uint(n)-13, 5)
		}
	}
	return w
}

// randomLengths returns the lengths of a complete code for n symbols of some of total,
// none longer than 15 bits.
func randomLengths(rng *rand.Rand, n, total int) []uint8 {
	lengths := make([]uint8, total)
	if n < 2 {
		return lengths
	}
	leaves := []uint8{1, 1}
	for len(leaves) < n {
		// Split a leaf: at random, or the deepest for long codes.
		i := rng.IntN(len(leaves))
		if rng.IntN(3) == 0 {
			i = len(leaves) - 1
		}
		if leaves[i] == 15 {
			continue
		}
		leaves[i]++
		leaves = append(leaves, leaves[i])
	}
	for i, at := range rng.Perm(total)[:n] {
		lengths[at] = leaves[i]
	}
	return lengths
}
