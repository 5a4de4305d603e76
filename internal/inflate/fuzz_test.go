package inflate

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func FuzzRaw(f *testing.F) {
	rng := rand.New(rand.NewPCG(11, 12))
	f.Add((&bitWriter{}).bits(3, 3).fixedLit('a').fixedLit(284).bits(31, 5).code(0, 5).fixedLit(256).b)
	f.Add((&bitWriter{}).bits(1, 8).bits(0xfffc0003, 32).bits('a', 24).b)
	for range 5 {
		w := (&bitWriter{}).dynamic(false, randomLengths(rng, 200, 286), randomLengths(rng, 20, 30))
		for range 50 {
			w.bits(rng.Uint64(), 64)
		}
		f.Add(w.b)
	}
	z := newRaw(nil)
	f.Fuzz(func(t *testing.T, stream []byte) {
		sameRaw(t, z, stream, plain)
		sameRaw(t, z, stream, iotest.HalfReader)
		// History for far distances and input to spare behind.
		long := append([]byte{0, 0, 0x80, 0xff, 0x7f}, bytes.Repeat([]byte("0123456"), 0x8000/7+1)[:0x8000]...)
		sameRaw(t, z, append(append(long, stream...), stream...), plain)
	})
}

func FuzzGzip(f *testing.F) {
	for _, data := range contents() {
		f.Add(gzipped(f, data[:min(len(data), 2000)], nil))
	}
	f.Add(gzipped(f, []byte("x"), func(w *gzip.Writer) { w.Name, w.Comment, w.Extra = "n", "c", []byte("e") }))
	z := NewReader(nil)
	f.Fuzz(func(t *testing.T, blob []byte) {
		const most = 4 << 20
		z.Reset(bytes.NewReader(blob))
		got, gotErr := io.ReadAll(io.LimitReader(z, most))
		r, err := gzip.NewReader(bytes.NewReader(blob))
		var want []byte
		if err == nil {
			want, err = io.ReadAll(io.LimitReader(r, most))
		}
		if gotErr == nil && err != nil {
			t.Fatalf("accepted, compress/gzip says %v", err)
		}
		if err == nil && gotErr != nil && !stricter(blob) {
			t.Fatalf("refused (%v), compress/gzip accepts", gotErr)
		}
		if gotErr == nil && !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, compress/gzip %d", len(got), len(want))
		}
	})
}

// stricter tells whether reserved flags may be the reason to refuse what compress/gzip
// accepts.
func stricter(blob []byte) bool {
	for rest := blob; ; rest = rest[1:] {
		i := bytes.Index(rest, []byte{0x1f, 0x8b, 8})
		if i < 0 || i+3 >= len(rest) {
			return false
		}
		if rest = rest[i:]; rest[3]&flagReserved != 0 {
			return true
		}
	}
}
