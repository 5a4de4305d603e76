package inflate

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	klauspost "github.com/klauspost/compress/gzip"
)

// BenchmarkGunzip compares decoders on the same streams; MB/s are of output.
func BenchmarkGunzip(b *testing.B) {
	all := contents()
	for _, name := range []string{"text", "mixed", "noise"} {
		data := bytes.Repeat(all[name], 8<<20/len(all[name]))
		blob := gzipped(b, data, nil)
		run := func(decoder string, reset func(io.Reader) io.Reader) {
			b.Run(name+"/"+decoder, func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				var r bytes.Reader
				for b.Loop() {
					r.Reset(blob)
					if n, err := io.Copy(io.Discard, reset(&r)); err != nil || n != int64(len(data)) {
						b.Fatal(n, err)
					}
				}
			})
		}
		ours := NewReader(nil)
		run("inflate", func(r io.Reader) io.Reader { ours.Reset(r); return ours })
		std := new(gzip.Reader)
		run("compress-gzip", func(r io.Reader) io.Reader {
			if err := std.Reset(r); err != nil {
				b.Fatal(err)
			}
			return std
		})
		other := new(klauspost.Reader)
		run("klauspost", func(r io.Reader) io.Reader {
			if err := other.Reset(r); err != nil {
				b.Fatal(err)
			}
			return other
		})
	}
}
