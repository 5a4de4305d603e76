package compress

import (
	"bytes"
	stdbzip2 "compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/layerfs/layerfs/internal/testenv"
)

// program runs a compressor as a filter, or skips the test where it is not installed.
func program(tb testing.TB, in []byte, name string, args ...string) []byte {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Skipf("the program %s is not installed", name)
	}
	cmd := exec.CommandContext(tb.Context(), path, args...)
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%v: %v: %s", cmd.Args, err, stderr.Bytes())
	}
	return out
}

func TestProgramsRead(t *testing.T) {
	data := sample(t, 9<<20)
	for _, c := range []struct {
		format Format
		tests  [][]string
	}{
		{Gzip, [][]string{{"gzip", "-dc"}, {"pigz", "-dc"}, {"igzip", "-dc"}}},
		{Zstd, [][]string{{"zstd", "-dc"}, {"zstd", "-dc", "--single-thread", "-M8MB"}}},
	} {
		for _, in := range [][]byte{data, nil, data[:gzipBlock]} {
			for _, args := range c.tests {
				t.Run(fmt.Sprint(args, len(in)), func(t *testing.T) {
					if got := program(t, pack(t, c.format, DefaultLevel, in), args[0], args[1:]...); !bytes.Equal(got, in) {
						t.Errorf("%v gives %d other bytes for %d", args, len(got), len(in))
					}
				})
			}
		}
	}
}

func TestProgramsWrite(t *testing.T) {
	testenv.Long(t)
	data := sample(t, 3<<19)
	for _, args := range [][]string{
		{"gzip", "-1"}, {"gzip", "-6"}, {"gzip", "-9"}, {"pigz", "-9"}, {"pigz", "-1"},
		{"zstd", "-1"}, {"zstd", "-3", "--check"}, {"zstd", "-19"}, {"zstd", "--ultra", "-22"}, {"zstd", "--long=27"}, {"zstd", "-T2", "-B1MB"},
		{"bzip2", "-1"}, {"bzip2", "-9"},
		{"xz", "-0"}, {"xz", "-6"}, {"xz", "-9e"}, {"xz", "--check=crc32"}, {"xz", "--check=sha256"}, {"xz", "--x86", "--lzma2"}, {"xz", "-T2", "--block-size=1MiB"},
	} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			blob := program(t, data, args[0], append(args[1:], "-c")...)
			// Concatenated, since all four formats are lists of streams.
			for _, n := range []int{1, 2} {
				got, f, err := unpack(bytes.NewReader(bytes.Repeat(blob, n)), Limits{})
				if err != nil || !bytes.Equal(got, bytes.Repeat(data, n)) {
					t.Errorf("%d times: %d bytes of %d, error %v", n, len(got), n*len(data), err)
				}
				if name := map[string]string{"pigz": "gzip"}[args[0]]; f.String() != args[0] && f.String() != name {
					t.Errorf("detected %v", f)
				}
			}
		})
	}
}

// blobs returns data compressed in each format with check values, by programs for those
// formats that have no encoder here.
func blobs(tb testing.TB, data []byte) map[Format][]byte {
	tb.Helper()
	m := map[Format][]byte{
		Gzip: pack(tb, Gzip, DefaultLevel, data),
		Zstd: pack(tb, Zstd, DefaultLevel, data),
	}
	for f, args := range map[Format][]string{Bzip2: {"bzip2", "-c"}, Xz: {"xz", "-c"}} {
		if _, err := exec.LookPath(args[0]); err != nil {
			tb.Logf("%v left out: no program that writes it", f)
			continue
		}
		m[f] = program(tb, data, args[0], args[1:]...)
	}
	return m
}

func TestDetect(t *testing.T) {
	for f, blob := range blobs(t, []byte("contents")) {
		if got := Detect(blob[:DetectSize]); got != f {
			t.Errorf("%v detected as %v", f, got)
		}
		for n := range 3 {
			if got := Detect(blob[:n]); got != None {
				t.Errorf("%d bytes of %v detected as %v", n, f, got)
			}
		}
	}
	for _, b := range [][]byte{nil, []byte("BZh0"), []byte("BZip"), {0x1f, 0x8b, 7}, []byte("usr/bin/sh"), {0x60, 0x2a, 0x4d, 0x18}, {0xfd, '7', 'z', 'X', 'Z', 1}} {
		if got := Detect(b); got != None {
			t.Errorf("%q detected as %v", b, got)
		}
	}
	if got := Detect([]byte{0x5e, 0x2a, 0x4d, 0x18}); got != Zstd {
		t.Errorf("skippable frame detected as %v", got)
	}
	for f := None; f <= Xz; f++ {
		if got, err := ParseFormat(f.String()); err != nil || got != f {
			t.Errorf("ParseFormat(%q) = %v, %v", f, got, err)
		}
	}
	if _, err := ParseFormat("lz4"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("lz4: %v", err)
	}
}

func TestSkippableFrameFirst(t *testing.T) {
	data := sample(t, 1<<16)
	blob := append([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}, pack(t, Zstd, DefaultLevel, data)...)
	if got, _, err := unpack(bytes.NewReader(blob), Limits{}); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestTruncation(t *testing.T) {
	data := sample(t, 60<<10)
	for f, blob := range blobs(t, data) {
		step := max(1, len(blob)/500)
		for n := DetectSize; n < len(blob); n += step {
			if n+step >= len(blob) {
				n = len(blob) - 1
			}
			for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.DataErrReader} {
				got, _, err := unpack(wrap(bytes.NewReader(blob[:n])), Limits{})
				var fault *Error
				if !errors.As(err, &fault) || fault.Format != f {
					t.Fatalf("%v cut to %d of %d bytes: %v", f, n, len(blob), err)
				}
				if !errors.Is(err, fs.ErrInvalid) || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%v cut to %d of %d bytes: %v has not the classes of a short stream", f, n, len(blob), err)
				}
				if !bytes.HasPrefix(data, got) {
					t.Fatalf("%v cut to %d bytes: output is not a prefix", f, n)
				}
			}
		}
	}
}

func TestFlippedBits(t *testing.T) {
	data := sample(t, 60<<10)
	for f, blob := range blobs(t, data) {
		step := max(1, len(blob)*8/800)
		for bit := 0; bit < len(blob)*8; bit += step {
			bad := slices.Clone(blob)
			bad[bit/8] ^= 1 << (bit % 8)
			got, found, err := unpack(bytes.NewReader(bad), Limits{})
			if found != f {
				continue // the magic number is hit, and the stream taken for plain bytes
			}
			if err == nil && !bytes.Equal(got, data) {
				t.Errorf("%v: bit %d of byte %d of %d flipped: other contents and no error", f, bit%8, bit/8, len(blob))
			}
			var fault *Error
			if err != nil && !errors.As(err, &fault) {
				t.Errorf("%v: bit %d of byte %d flipped: %v is not an Error", f, bit%8, bit/8, err)
			}
		}
	}
}

func TestGarbageBehind(t *testing.T) {
	for f, blob := range blobs(t, sample(t, 20<<10)) {
		for _, garbage := range []string{"x", "some garbage", "\x00", "\x00\x00\x00\x00\x00\x00\x00\x01"} {
			_, _, err := unpack(bytes.NewReader(append(slices.Clone(blob), garbage...)), Limits{})
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%v with %q behind: %v", f, garbage, err)
			}
		}
	}
}

// TestCloseVerifies checks that a consumer that stops early learns of damage behind.
func TestCloseVerifies(t *testing.T) {
	data := sample(t, 3<<20)
	for f, blob := range blobs(t, data) {
		for _, damage := range []bool{false, true} {
			b := slices.Clone(blob)
			if damage {
				b = b[:len(b)-3]
			}
			before := runtime.NumGoroutine()
			z, _, err := NewReader(bytes.NewReader(b), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(z, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			err = z.Close()
			if damage != errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%v, damaged %v: Close returns %v", f, damage, err)
			}
			if err := z.Close(); err != nil {
				t.Errorf("%v: second Close returns %v", f, err)
			}
			if _, err := z.Read(make([]byte, 1)); err == nil {
				t.Errorf("%v: Read after Close has no error", f)
			}
			settle(t, before)
		}
	}
}

func TestAbort(t *testing.T) {
	data := sample(t, 3<<20)
	for f, blob := range blobs(t, data) {
		before := runtime.NumGoroutine()
		src := &countReader{r: iotest.HalfReader(bytes.NewReader(blob[:len(blob)-3]))}
		z, _, err := NewReader(src, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(z, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(z.Abort(), z.Close()); err != nil {
			t.Errorf("%v: %v", f, err)
		}
		settle(t, before)
		if n := src.n; n != z.Consumed() {
			t.Errorf("%v: %d bytes read from the source, Consumed says %d", f, n, z.Consumed())
		}
		if _, err := z.Read(make([]byte, 1)); err == nil {
			t.Errorf("%v: Read after Abort has no error", f)
		}
	}
}

type countReader struct {
	r io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// settle waits until no more goroutines run than before.
func settle(t *testing.T, before int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}

func TestSourceErrors(t *testing.T) {
	data := sample(t, 2<<20)
	boom := errors.New("boom")
	for f, blob := range blobs(t, data) {
		for _, n := range []int{0, 3, 10, len(blob) / 2, len(blob)} {
			_, _, err := unpack(io.MultiReader(bytes.NewReader(blob[:n]), iotest.ErrReader(boom)), Limits{})
			var fault *Error
			if !errors.Is(err, boom) || errors.As(err, &fault) || errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%v, source fails after %d bytes: %v", f, n, err)
			}
		}
	}
}

func TestWaysToRead(t *testing.T) {
	data := sample(t, 1<<20)
	all := blobs(t, data)
	all[None] = data
	for f, blob := range all {
		for name, read := range map[string]func(z *Reader) ([]byte, error){
			"bytes":   func(z *Reader) ([]byte, error) { return io.ReadAll(iotest.OneByteReader(z)) },
			"WriteTo": func(z *Reader) ([]byte, error) { var b bytes.Buffer; _, err := z.WriteTo(&b); return b.Bytes(), err },
			"both": func(z *Reader) ([]byte, error) {
				var b bytes.Buffer
				_, err := io.CopyN(&b, struct{ io.Reader }{z}, 1000)
				_, err2 := z.WriteTo(&b)
				_, err3 := z.WriteTo(&b)
				return b.Bytes(), errors.Join(err, err2, err3)
			},
		} {
			z, _, err := NewReader(iotest.HalfReader(bytes.NewReader(blob)), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := read(z)
			if err := errors.Join(err, z.Close()); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%v by %s: %d bytes of %d, %v", f, name, len(got), len(data), err)
			}
			if n := z.Consumed(); n != int64(len(blob)) {
				t.Errorf("%v by %s: consumed %d of %d", f, name, n, len(blob))
			}
		}
	}
}

func TestLimitOfOutput(t *testing.T) {
	data := sample(t, 1<<20)
	all := blobs(t, data)
	all[None] = data
	for f, blob := range all {
		if _, _, err := unpack(bytes.NewReader(blob), Limits{Output: int64(len(data))}); err != nil {
			t.Errorf("%v at the limit: %v", f, err)
		}
		_, _, err := unpack(bytes.NewReader(blob), Limits{Output: int64(len(data)) - 1})
		if !errors.Is(err, ErrLimit) || !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%v one past the limit: %v", f, err)
		}
	}
	if _, _, err := NewReader(bytes.NewReader(nil), Limits{Ratio: -1}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("negative limit: %v", err)
	}
}

func TestLimitOfRatio(t *testing.T) {
	const size = 32 << 20
	zeros := make([]byte, size)
	for f, blob := range blobs(t, zeros) {
		if _, _, err := unpack(bytes.NewReader(blob), Limits{}); err != nil {
			t.Errorf("%v: zeros below the default floor: %v", f, err)
		}
		if _, _, err := unpack(bytes.NewReader(blob), Limits{Floor: size, Ratio: 1}); err != nil {
			t.Errorf("%v at the floor: %v", f, err)
		}
		_, _, err := unpack(bytes.NewReader(blob), Limits{Floor: 1 << 20, Ratio: 500})
		if !errors.Is(err, ErrLimit) {
			t.Errorf("%v: zeros past floor and ratio: %v", f, err)
		}
	}
	// The rule itself, at its edge.
	l := Limits{Ratio: 10, Floor: 1000, Output: 1 << 40}
	for _, c := range []struct {
		in, out int64
		ok      bool
	}{{0, 1000, true}, {100, 1001, true}, {99, 1001, false}, {100, 1009, true}, {100, 1010, false}, {101, 1010, true}} {
		if err := l.check(c.in, c.out); (err == nil) != c.ok {
			t.Errorf("%d from %d: %v", c.out, c.in, err)
		}
	}
}

func TestLimitOfWindow(t *testing.T) {
	// A frame whose header asks for a window of exactly 2^27 bytes, the default limit,
	// and one whose header asks for an eighth more.
	frame := func(descriptor byte) []byte {
		return []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, descriptor, 0x09, 0x00, 0x00, 'x'}
	}
	if got, _, err := unpack(bytes.NewReader(frame(17<<3)), Limits{}); err != nil || string(got) != "x" {
		t.Errorf("zstd window of 128 MiB: %q, %v", got, err)
	}
	if _, _, err := unpack(bytes.NewReader(frame(17<<3|1)), Limits{}); !errors.Is(err, ErrLimit) {
		t.Errorf("zstd window of 144 MiB: %v", err)
	}
	data := sample(t, 1<<16)
	blob := program(t, data, "xz", "-c", "--lzma2=dict=32MiB")
	if _, _, err := unpack(bytes.NewReader(blob), Limits{Window: 32 << 20}); err != nil {
		t.Errorf("xz dictionary at the limit: %v", err)
	}
	if _, _, err := unpack(bytes.NewReader(blob), Limits{Window: 32<<20 - 1}); !errors.Is(err, ErrLimit) {
		t.Errorf("xz dictionary past the limit: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	data := sample(f, 4<<10)[:6000]
	for _, blob := range blobs(f, data) {
		f.Add(blob)
	}
	f.Add(data[:600])
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'})
	f.Fuzz(func(t *testing.T, blob []byte) {
		const most = 1 << 20
		limits := Limits{Output: most, Window: 1 << 20}
		got, format, err := unpack(bytes.NewReader(blob), limits)
		if len(got) > most {
			t.Fatalf("%d bytes of output, limit %d", len(got), most)
		}
		if format == None && len(blob) <= most && (err != nil || !bytes.Equal(got, blob)) {
			t.Fatalf("plain bytes changed: %v", err)
		}
		if err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("%v is not fs.ErrInvalid", err)
		}
		again, _, err2 := unpack(iotest.OneByteReader(bytes.NewReader(blob)), limits)
		if (err == nil) != (err2 == nil) || err == nil && !bytes.Equal(got, again) {
			t.Fatalf("read by bytes: %d bytes and %v, before %d and %v", len(again), err2, len(got), err)
		}
	})
}

// BenchmarkDecompress reads the same data in all formats; MB/s are of output.
func BenchmarkDecompress(b *testing.B) {
	data := sample(b, 32<<20)
	for f, blob := range blobs(b, data) {
		run := func(name string, open func(io.Reader) io.Reader) {
			b.Run(fmt.Sprint(f, "/", name), func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					r := open(bytes.NewReader(blob))
					if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(data)) {
						b.Fatal(n, err)
					}
					if c, ok := r.(io.Closer); ok {
						if err := c.Close(); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
		run("NewReader", func(r io.Reader) io.Reader {
			z, _, err := NewReader(r, Limits{})
			if err != nil {
				b.Fatal(err)
			}
			return z
		})
		switch f {
		case Gzip:
			run("compress-gzip", func(r io.Reader) io.Reader { return stdGunzip(b, r) })
			run("klauspost", func(r io.Reader) io.Reader { return klauspostGunzip(b, r) })
		case Bzip2:
			run("compress-bzip2", stdbzip2.NewReader)
		case Zstd:
			run("klauspost", func(r io.Reader) io.Reader {
				z, err := zstd.NewReader(r)
				if err != nil {
					b.Fatal(err)
				}
				return z.IOReadCloser()
			})
		default: // nothing to compare with
		}
	}
}
