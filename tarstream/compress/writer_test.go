package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/iotest"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
)

// TestSameBytes checks that neither the number of processors nor the sizes of the
// writes show in the result.
func TestSameBytes(t *testing.T) {
	procs := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(procs)
	for _, c := range []struct {
		format Format
		level  Level
	}{{Gzip, DefaultLevel}, {Gzip, 1}, {Gzip, 9}, {Zstd, DefaultLevel}, {Zstd, 1}, {Gzip, Serial + 1}, {Zstd, Serial}} {
		t.Run(fmt.Sprint(c.format, c.level), func(t *testing.T) {
			if c.level == 9 && testing.Short() {
				t.Skip("slow level")
			}
			data := sample(t, 5<<20)
			if c.format == Zstd {
				data = sample(t, 2*zstdBlock+1000)
			}
			want := pack(t, c.format, c.level, data)
			rng := rand.New(rand.NewPCG(1, uint64(c.level)))
			for _, n := range []int{1, 2, 3, 8} {
				runtime.GOMAXPROCS(n)
				most := []int{70000, 1 << 20, 3 << 20, len(data)}[rng.IntN(4)]
				var out bytes.Buffer
				w, err := NewWriter(&out, c.format, c.level)
				if err != nil {
					t.Fatal(err)
				}
				for rest := data; len(rest) > 0; {
					k := min(len(rest), 1+rng.IntN(most))
					if _, err := w.Write(rest[:k]); err != nil {
						t.Fatal(err)
					}
					rest = rest[k:]
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(out.Bytes(), want) {
					t.Errorf("GOMAXPROCS=%d, writes of up to %d bytes: other bytes than in one write", n, most)
				}
			}
		})
	}
}

// TestByteWrites has the smallest writes there are.
func TestByteWrites(t *testing.T) {
	data := sample(t, 100<<10)
	for _, f := range []Format{Gzip, Zstd} {
		var out bytes.Buffer
		w, err := NewWriter(&out, f, DefaultLevel)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(struct{ io.Writer }{w}, iotest.OneByteReader(bytes.NewReader(data))); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), pack(t, f, DefaultLevel, data)) {
			t.Errorf("%v: other bytes than in one write", f)
		}
	}
}

// TestEncodersKeepNothing checks that a worker's encoder gives the same for a block
// whatever it has compressed before, which is what makes parallel output deterministic.
func TestEncodersKeepNothing(t *testing.T) {
	testenv.Long(t)
	data := sample(t, 3<<20)
	encoders := map[string]func() (blockEncoder, error){}
	for level := 1; level <= 9; level++ {
		encoders[fmt.Sprint("gzip", level)] = func() (blockEncoder, error) { return newGzipEncoder(level) }
	}
	for _, level := range []Level{1, 3, 7, 11} {
		encoders[fmt.Sprint("zstd", level)] = func() (blockEncoder, error) { return newZstdEncoder(level) }
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for name, newEncoder := range encoders {
		used, err := newEncoder()
		if err != nil {
			t.Fatal(err)
		}
		for range 12 {
			from := gzipDict + rng.IntN(len(data)-gzipDict-1)
			b := block{in: data[from:min(len(data), from+rng.IntN(gzipBlock))], dict: data[from-gzipDict : from], last: rng.IntN(2) == 0}
			fresh, err := newEncoder()
			if err != nil {
				t.Fatal(err)
			}
			b2 := b
			if err := errors.Join(used.encode(&b), fresh.encode(&b2)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.out, b2.out) {
				t.Fatalf("%s: a used encoder gives other bytes than a new one", name)
			}
		}
	}
}

// failAfter fails after n bytes.
type failAfter struct{ n int }

var errFull = errors.New("no space")

func (f *failAfter) Write(p []byte) (int, error) {
	if len(p) > f.n {
		n := f.n
		f.n = 0
		return n, errFull
	}
	f.n -= len(p)
	return len(p), nil
}

func TestWriteErrorsAreReported(t *testing.T) {
	data := sample(t, 12<<20)
	for _, f := range []Format{Gzip, Zstd} {
		whole := len(pack(t, f, 1, data))
		for _, n := range []int{0, 5, 11, 100000, whole / 2, whole - 1} {
			before := runtime.NumGoroutine()
			w, err := NewWriter(&failAfter{n}, f, 1)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(struct{ io.Writer }{w}, bytes.NewReader(data))
			err = errors.Join(err, w.Close())
			if !errors.Is(err, errFull) {
				t.Errorf("%v, full after %d bytes: %v", f, n, err)
			}
			if _, err := w.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("%v: write after Close: %v", f, err)
			}
			// A goroutine that has said its last word needs a moment to be gone.
			after := runtime.NumGoroutine()
			for i := 0; i < 500 && after > before; i++ {
				time.Sleep(10 * time.Millisecond)
				after = runtime.NumGoroutine()
			}
			if after > before {
				t.Errorf("%v: %d goroutines before, %d after Close", f, before, after)
			}
		}
	}
}

func TestLevels(t *testing.T) {
	for _, c := range []struct {
		format Format
		level  Level
		want   error
	}{
		{Gzip, 9, nil},
		{Gzip, 10, fs.ErrInvalid},
		{Gzip, -1, fs.ErrInvalid},
		{Gzip, Serial + 9, nil},
		{Gzip, Serial + 10, fs.ErrInvalid},
		{Gzip, Pgzip + 9, nil},
		{Gzip, Pgzip + 10, fs.ErrInvalid},
		{Gzip, Pgzip + 100, fs.ErrInvalid},
		{Zstd, 22, nil},
		{Zstd, 23, fs.ErrInvalid},
		{Zstd, Serial + 22, nil},
		{Zstd, Serial + 23, fs.ErrInvalid},
		{Zstd, Pgzip, fs.ErrInvalid},
		{None, Serial, fs.ErrInvalid},
		{None, 0, nil},
		{None, 1, fs.ErrInvalid},
		{Bzip2, 0, errors.ErrUnsupported},
		{Xz, 0, errors.ErrUnsupported},
	} {
		w, err := NewWriter(io.Discard, c.format, c.level)
		if !errors.Is(err, c.want) {
			t.Errorf("%v at %v: %v, want %v", c.format, c.level, err, c.want)
		}
		if err == nil {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if s := fmt.Sprint(DefaultLevel, Level(6), Serial, Serial+6, Pgzip, Pgzip+1); s != "default 6 serial-default serial-6 pgzip-default pgzip-1" {
		t.Error(s)
	}
}

// TestPgzipHeader checks the one place where Pgzip differs: seconds of year 1 to 1970,
// negative, cut to 32 bits.
func TestPgzipHeader(t *testing.T) {
	data := sample(t, 1<<18)
	want := pack(t, Gzip, 1, data)
	copy(want[4:], []byte{0x00, 0x09, 0x6e, 0x88})
	if !bytes.Equal(pack(t, Gzip, Pgzip+1, data), want) {
		t.Error("other bytes than those of the plain level with the zero time")
	}
}

// BenchmarkCompress writes the same data with the parallel and the serial encoders.
func BenchmarkCompress(b *testing.B) {
	data := sample(b, 32<<20)
	for _, f := range []Format{Gzip, Zstd} {
		for _, level := range []Level{1, DefaultLevel, Serial} {
			b.Run(fmt.Sprint(f, "/", level), func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				size := 0
				for b.Loop() {
					size = len(pack(b, f, level, data))
				}
				b.ReportMetric(float64(len(data))/float64(size), "ratio")
			})
		}
	}
}
