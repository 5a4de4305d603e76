package compress

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// pack compresses data in one go.
func pack(tb testing.TB, f Format, level Level, data []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, f, level)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// unpack decompresses through NewReader, to the verdict of Close.
func unpack(r io.Reader, limits Limits) ([]byte, Format, error) {
	z, f, err := NewReader(r, limits)
	if err != nil {
		return nil, f, err
	}
	b, err := io.ReadAll(z)
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	return b, f, err
}

func TestRoundTrip(t *testing.T) {
	big := sample(t, 9<<20)
	for _, f := range []Format{None, Gzip, Zstd} {
		levels := append([]Level{DefaultLevel}, Levels(f)...)
		for _, size := range []int{0, 1, 5, 1000, gzipDict, gzipDict + 1, gzipBlock - 1, gzipBlock, gzipBlock + 1, 3 * gzipBlock, zstdBlock, zstdBlock + 1, len(big)} {
			for i, level := range levels {
				if i > 0 && size != 1000 && size != gzipBlock+1 {
					continue // the other levels differ in the encoder only
				}
				t.Run(fmt.Sprintf("%v/%v/%d", f, level, size), func(t *testing.T) {
					blob := pack(t, f, level, big[:size])
					got, found, err := unpack(bytes.NewReader(blob), Limits{})
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, big[:size]) {
						t.Fatalf("got %d other bytes than the %d that went in", len(got), size)
					}
					if found != f {
						t.Errorf("detected %v in a stream of %v", found, f)
					}
				})
			}
		}
	}
}
