package compress

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// sample returns a tar of about size bytes whose files are like those of layers: text,
// machine code of sorts, zeros, data that does not compress, and many small ones. The
// same size gives the same bytes.
func sample(tb testing.TB, size int) []byte {
	tb.Helper()
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	words := make([]string, 3000)
	for i := range words {
		b := make([]byte, 2+rng.IntN(9))
		for j := range b {
			b[j] = "etaoinshrdlucmfwypvbgkqjxz"[min(rng.IntN(26), rng.IntN(26))]
		}
		words[i] = string(b)
	}
	content := func(kind, n int) []byte {
		b := make([]byte, 0, n+16)
		for len(b) < n {
			switch kind {
			case 0:
				b = append(append(b, words[min(rng.IntN(len(words)), rng.IntN(len(words)))]...), " \n,;"[rng.IntN(4)])
			case 1: // opcodes with small immediates
				b = append(b, 0x48, 0x8b, byte(rng.IntN(8)<<3|rng.IntN(8)), byte(rng.IntN(40)), 0xe8, byte(rng.Uint32()), byte(rng.IntN(20)), 0, 0)
			case 2:
				b = append(b, byte(rng.Uint32()))
			default:
				b = append(b, 0)
			}
		}
		return b[:n]
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := 0; out.Len() < size; i++ {
		n := 1 << rng.IntN(18)
		body := content([]int{0, 0, 0, 1, 1, 1, 1, 2, 3}[rng.IntN(9)], n+rng.IntN(n))
		h := &tar.Header{Name: fmt.Sprintf("usr/share/%s/%s%d", words[i%50], words[i%len(words)], i), Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(1700000000+int64(i), 0)}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}
