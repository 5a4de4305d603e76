package twinhash

// block adds the whole blocks of 64 bytes in p to a state. The processor must be fast.
//
//go:noescape
func block(a *[8]uint32, p []byte)

// blocks adds the whole blocks of 64 bytes in p to two states at once, as block does.
//
//go:noescape
func blocks(a, b *[8]uint32, p []byte)

// cpuid asks the processor what it can do, in subleaf 0 of a leaf.
func cpuid(leaf uint32) (eax, ebx, ecx uint32)

// fast reports whether the processor has what blocks needs: the SHA extensions, SSSE3 and
// SSE4.1 (Intel's manual, volume 2, CPUID).
func fast() bool {
	const (
		sha   = 1 << 29 // leaf 7, EBX
		ssse3 = 1 << 9  // leaf 1, ECX
		sse41 = 1 << 19
	)
	if highest, _, _ := cpuid(0); highest < 7 {
		return false
	}
	_, _, simd := cpuid(1)
	_, more, _ := cpuid(7)
	return more&sha != 0 && simd&ssse3 != 0 && simd&sse41 != 0
}

// constants are those of the rounds (FIPS 180-4, 4.2.2): the first 32 bits of the
// fractional parts of the cube roots of the first 64 primes.
//
//nolint:unused // the assembly reads them
var constants = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}
