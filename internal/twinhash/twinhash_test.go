package twinhash

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
)

// standard makes a Hash that leaves all to the standard library.
func standard() *Hash { return &Hash{std: sha256.New()} }

func each(t *testing.T, f func(t *testing.T, make func() *Hash)) {
	t.Run("fast", func(t *testing.T) {
		if !fast() {
			t.Skip("the processor has no SHA extensions")
		}
		f(t, New)
	})
	t.Run("standard", func(t *testing.T) { f(t, standard) })
}

func sample(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{})
	for i := range data {
		data[i] = byte(r.Uint64())
	}
	return data
}

// TestSizes has every size up to some blocks, at once, byte by byte, and as a part of a
// stream at every place in a block.
func TestSizes(t *testing.T) {
	data := sample(300)
	each(t, func(t *testing.T, make func() *Hash) {
		for n := range len(data) {
			want := sha256.Sum256(data[:n])
			h, bytewise := make(), make()
			h.Add(data[:n])
			for i := range n {
				bytewise.Add(data[i : i+1])
			}
			if h.Sum() != want || bytewise.Sum() != want || h.Sum() != want {
				t.Fatalf("%d bytes: %x, %x, want %x", n, h.Sum(), bytewise.Sum(), want)
			}
			for before := range 130 {
				h := make()
				h.Add(data[:before])
				if before > n {
					break
				}
				part := h.AddSum(data[before:n])
				if part != sha256.Sum256(data[before:n]) || h.Sum() != want {
					t.Fatalf("part from %d to %d", before, n)
				}
			}
		}
	})
}

// TestAddBoth adds pieces to two hashes, to one of them or to both.
func TestAddBoth(t *testing.T) {
	data := sample(5000)
	each(t, func(t *testing.T, make func() *Hash) {
		r := rand.New(rand.NewPCG(1, 2))
		for range 5000 {
			a, b := make(), make()
			var inA, inB []byte
			for range r.IntN(10) {
				p := data[r.IntN(1000):][:r.IntN(400)]
				if r.IntN(2) == 0 {
					p = p[:len(p)&^(blockSize-1)]
				}
				which := r.IntN(4)
				if which != 0 {
					inA = append(inA, p...)
				}
				if which != 1 {
					inB = append(inB, p...)
				}
				switch which {
				case 0:
					b.Add(p)
				case 1:
					a.Add(p)
				default:
					a.AddBoth(b, p)
				}
			}
			if a.Sum() != sha256.Sum256(inA) || b.Sum() != sha256.Sum256(inB) {
				t.Fatalf("wrong sums of %d and %d bytes", len(inA), len(inB))
			}
		}
	})
}

// FuzzHash cuts a stream in three, the middle being a part to be summed by itself.
func FuzzHash(f *testing.F) {
	f.Add([]byte("some bytes"), 3, 7)
	f.Add(sample(1000), 512, 600)
	f.Fuzz(func(t *testing.T, data []byte, from, to int) {
		if from < 0 || to < from || to > len(data) {
			return
		}
		h := New()
		h.Add(data[:from])
		part := h.AddSum(data[from:to])
		h.Add(data[to:])
		if part != sha256.Sum256(data[from:to]) || h.Sum() != sha256.Sum256(data) {
			t.Fatalf("%d bytes, part from %d to %d", len(data), from, to)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20} {
		data := sample(n)
		b.Run(fmt.Sprintf("standard twice/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			h := sha256.New()
			for b.Loop() {
				h.Write(data)
				_ = sha256.Sum256(data)
			}
		})
		b.Run(fmt.Sprintf("both/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			h := New()
			for b.Loop() {
				_ = h.AddSum(data)
			}
		})
		b.Run(fmt.Sprintf("one/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			h := New()
			for b.Loop() {
				h.Add(data)
			}
		})
	}
}
