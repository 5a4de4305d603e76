package inflate

import "math/bits"

const (
	maxLits   = 286 // literals, end of block and lengths that a dynamic block may code
	maxDists  = 30  // distances likewise
	fixedLits = 288 // the fixed codes have two more of each, never valid
	metaCodes = 19
	maxCode   = 15 // bits of a code

	litBits  = 12 // index of the first-level tables; longer codes go on in a second level
	distBits = 9
	metaBits = 7

	// A second-level table of 2^k entries belongs to at least k+1 codes, so a code of
	// n symbols needs at most n/(k+1)*2^k entries there, k at most maxCode less the bits
	// of the first level.
	litSubs  = fixedLits / (maxCode - litBits + 1) << (maxCode - litBits)
	distSubs = 32 / (maxCode - distBits + 1) << (maxCode - distBits)
)

// An entry of the table of literals and lengths:
//
//	bits 0-5    bits of input that it uses up
//	bit  6      literal: bits 8-9 number of literals, 16-23 the first, 24-31 the second;
//	            bits 10-13 bits of the first one's code when there are two
//	bit  7      special: bits 12-14 kind of special, see below
//	neither     length: bits 16-24 the length, extra bits included
const (
	litLiteral = 1 << 6
	litSpecial = 1 << 7

	litKind   = 7 << 12
	litSub    = 0 << 12 // bits 16-31 start of the second level, bits 8-11 bits of its index
	litExtra  = 1 << 12 // length with extra bits behind it: bits 16-24 base, bits 8-11 their number
	litEnd    = 2 << 12 // end of block
	litUnused = 3 << 12 // no code, or one that must not occur
)

// An entry of the table of distances:
//
//	bits 0-5    bits of input that it uses up, extra bits included
//	bits 8-11   those of them before the extra bits
//	bits 16-31  mask for the extra bits
//	bits 32-46  base
//	bit  63     special: bits 32-47 start of the second level, bits 16-19 bits of its
//	            index; or, when these are 0, no code
const distSpecial = 1 << 63

type tables struct {
	lit  [1<<litBits + litSubs]uint32
	dist [1<<distBits + distSubs]uint64
	meta [1 << metaBits]uint16 // bits 0-3 length of the code, 0 for none; bits 8-12 symbol

	b builder
}

// builder sorts the symbols of a code.
type builder struct {
	count  [maxCode + 1]uint16
	first  [maxCode + 2]uint16 // index in sorted of the first symbol of a length
	sorted [fixedLits]uint16   // symbols by length of code, then by value
	lits   [maxCode + 1]uint16 // how many of the symbols of a length are literals; they come first
	codes  [fixedLits]uint16   // the code of sorted[i], first bit lowest
	max    int                 // length of the longest code
	single bool                // the code has one symbol, of one bit
}

// sort takes in the lengths of a code's symbols. It reports whether they make a complete
// prefix code, a code of one symbol with one bit, or no code at all.
func (b *builder) sort(lengths []uint8) bool {
	clear(b.count[:])
	for _, n := range lengths {
		b.count[n&maxCode]++
	}
	b.count[0] = 0
	b.max = 0
	left := 1 // codes of the current length not given out
	var at uint16
	for n := 1; n <= maxCode; n++ {
		b.first[n] = at
		at += b.count[n]
		left = left<<1 - int(b.count[n])
		if left < 0 {
			return false
		}
		if b.count[n] != 0 {
			b.max = n
		}
	}
	b.first[maxCode+1] = at
	b.single = at == 1 && b.max == 1
	if left > 0 && at != 0 && !b.single {
		return false
	}
	next := b.first
	for sym, n := range lengths {
		if n &= maxCode; n != 0 {
			b.sorted[next[n]] = uint16(sym)
			next[n]++
		}
		if sym == 255 {
			for i := range b.lits {
				b.lits[i] = next[i] - b.first[i]
			}
		}
	}
	code := uint16(0)
	for n := 1; n <= b.max; n++ {
		for i := b.first[n]; i < b.first[n+1]; i++ {
			b.codes[i] = bits.Reverse16(code) >> (16 - n)
			code++
		}
		code <<= 1
	}
	return true
}

// setMeta makes the table of the code in which the lengths of the other two are written.
// That one cannot be empty: there is always something to write.
func (t *tables) setMeta(lengths []uint8) bool {
	if !t.b.sort(lengths) || t.b.max == 0 {
		return false
	}
	clear(t.meta[:])
	for n := 1; n <= t.b.max; n++ {
		for i := t.b.first[n]; i < t.b.first[n+1]; i++ {
			for j := int(t.b.codes[i]); j < len(t.meta); j += 1 << n {
				t.meta[j] = t.b.sorted[i]<<8 | uint16(n)
			}
		}
	}
	return true
}

// lengthBase and lengthExtra are those of length symbols 257 to 285, RFC 1951 section
// 3.2.5; distance symbols follow a rule.
var (
	lengthBase = [maxLits - 257]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31,
		35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [maxLits - 257]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2,
		3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
)

// litEntry returns the entry of a symbol that uses up n bits.
func litEntry(sym uint16, n uint32) uint32 {
	switch {
	case sym < 256:
		return uint32(sym)<<16 | 1<<8 | litLiteral | n
	case sym == 256:
		return litSpecial | litEnd | n
	case sym < maxLits:
		base, extra := uint32(lengthBase[sym-257]), uint32(lengthExtra[sym-257])
		if extra == 0 {
			return base<<16 | n
		}
		return base<<16 | extra<<8 | litSpecial | litExtra | n
	default:
		return litSpecial | litUnused | n
	}
}

// setLits makes the table of literals and lengths.
//
// The table is made for codes of one bit and doubled for each further bit, by copying,
// so that each entry is computed once.
func (t *tables) setLits(lengths []uint8) bool {
	b := &t.b
	if !b.sort(lengths) {
		return false
	}
	if b.max == 0 || b.single {
		for i := range 1 << litBits {
			t.lit[i] = litSpecial | litUnused
		}
		if b.single {
			e := litEntry(b.sorted[0], 1)
			for i := 0; i < 1<<litBits; i += 2 {
				t.lit[i] = e
			}
		}
		return true
	}
	// Length symbols whose extra bits fit the index get an entry for each value of
	// these, when the table has as many bits. pending[k] lists those that need k bits.
	var pending [litBits + 1][maxLits - 257]uint16
	var npending [litBits + 1]uint8
	for n := 1; n <= litBits; n++ {
		size := 1 << n
		copy(t.lit[size/2:size], t.lit[:size/2])
		for i := b.first[n]; i < b.first[n+1]; i++ {
			sym := b.sorted[i]
			t.lit[b.codes[i]] = litEntry(sym, uint32(n))
			if sym > 264 && sym < 285 {
				if k := n + int(lengthExtra[sym-257]); k <= litBits {
					pending[k][npending[k]] = i
					npending[k]++
				}
			}
		}
		// Two literals whose codes have n bits together share the entries that the first
		// alone would have.
		for n1 := 1; n1 < n; n1++ {
			lit1, lit2 := b.first[n1]+b.lits[n1], b.first[n-n1]+b.lits[n-n1]
			for i := b.first[n1]; i < lit1; i++ {
				e := uint32(b.sorted[i])<<16 | 2<<8 | uint32(n1)<<10 | litLiteral | uint32(n)
				for j := b.first[n-n1]; j < lit2; j++ {
					t.lit[b.codes[i]|b.codes[j]<<n1] = e | uint32(b.sorted[j])<<24
				}
			}
		}
		for _, i := range pending[n][:npending[n]] {
			sym := b.sorted[i] - 257
			extra := int(lengthExtra[sym])
			for x := range 1 << extra {
				t.lit[int(b.codes[i])|x<<(n-extra)] = (uint32(lengthBase[sym])+uint32(x))<<16 | uint32(n)
			}
		}
	}
	at := 1 << litBits
	for i := int(b.first[litBits+1]); i < int(b.first[maxCode+1]); {
		end, k := b.group(i, litBits)
		t.lit[b.codes[i]&(1<<litBits-1)] = uint32(at)<<16 | uint32(k)<<8 | litSpecial | litSub | litBits
		for ; i < end; i++ {
			n := b.length(i) - litBits
			e := litEntry(b.sorted[i], uint32(n))
			for j := int(b.codes[i] >> litBits); j < 1<<k; j += 1 << n {
				t.lit[at+j] = e
			}
		}
		at += 1 << k
	}
	return true
}

// length returns the length of the code of sorted[i].
func (b *builder) length(i int) int {
	n := 1
	for int(b.first[n+1]) <= i {
		n++
	}
	return n
}

// group returns the end of the run of symbols from i on whose codes have the same first
// n bits, and how many bits the longest of them has more. Codes in order of length are
// in order of value too, so all of one prefix lie together.
func (b *builder) group(i, n int) (end, k int) {
	prefix := b.codes[i] & (1<<n - 1)
	for end = i + 1; end < int(b.first[maxCode+1]) && b.codes[end]&(1<<n-1) == prefix; {
		end++
	}
	return end, b.length(end-1) - n
}

// distEntry returns the entry of a symbol whose code uses up n bits at its level.
func distEntry(sym uint16, n uint64) uint64 {
	switch {
	case sym >= maxDists:
		return distSpecial | n
	case sym < 4:
		return uint64(sym+1)<<32 | n<<8 | n
	default:
		extra := uint64(sym>>1 - 1)
		base := uint64(2|sym&1)<<extra + 1
		return base<<32 | (1<<extra-1)<<16 | n<<8 | (n + extra)
	}
}

// setDists makes the table of distances, in the way of setLits.
func (t *tables) setDists(lengths []uint8) bool {
	b := &t.b
	if !b.sort(lengths) {
		return false
	}
	if b.max == 0 || b.single {
		for i := range 1 << distBits {
			t.dist[i] = distSpecial
		}
		if b.single {
			e := distEntry(b.sorted[0], 1)
			for i := 0; i < 1<<distBits; i += 2 {
				t.dist[i] = e
			}
		}
		return true
	}
	for n := 1; n <= distBits; n++ {
		size := 1 << n
		copy(t.dist[size/2:size], t.dist[:size/2])
		for i := b.first[n]; i < b.first[n+1]; i++ {
			t.dist[b.codes[i]] = distEntry(b.sorted[i], uint64(n))
		}
	}
	at := 1 << distBits
	for i := int(b.first[distBits+1]); i < int(b.first[maxCode+1]); {
		end, k := b.group(i, distBits)
		t.dist[b.codes[i]&(1<<distBits-1)] = distSpecial | uint64(at)<<32 | uint64(k)<<16 | distBits
		for ; i < end; i++ {
			n := b.length(i) - distBits
			e := distEntry(b.sorted[i], uint64(n))
			for j := int(b.codes[i] >> distBits); j < 1<<k; j += 1 << n {
				t.dist[at+j] = e
			}
		}
		at += 1 << k
	}
	return true
}

// setFixed makes the tables of the codes that RFC 1951 section 3.2.6 fixes.
func (t *tables) setFixed() {
	var lengths [fixedLits]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	t.setLits(lengths[:])
	for i := range 32 {
		lengths[i] = 5
	}
	t.setDists(lengths[:32])
}
