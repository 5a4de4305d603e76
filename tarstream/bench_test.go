package tarstream

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// typicalTar is a tar with sizes as in a distribution's image: half of the files below
// 2 KiB, most bytes in a few large ones.
func typicalTar(tb testing.TB, files int) []byte {
	tb.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 8<<20)
	for i := range noise {
		noise[i] = byte('a' + rnd.IntN(26))
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range files {
		if i%20 == 0 {
			must(tb, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("usr/share/d%04d/", i/20), Mode: 0o755, ModTime: time.Unix(1700000000, 0), Format: tar.FormatGNU}))
		}
		size := int64(rnd.ExpFloat64() * 1000)
		switch rnd.IntN(40) {
		case 0:
			size = 1<<16 + rnd.Int64N(1<<20)
		case 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15:
			size = 2048 + int64(rnd.ExpFloat64()*20000)
		}
		name := fmt.Sprintf("usr/share/d%04d/file-%d.txt", i/20, i)
		must(tb, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(1700000000+int64(i/100), 0), Uname: "root", Gname: "root", Format: tar.FormatGNU}))
		at := rnd.Int64N(int64(len(noise)) - size)
		_, err := w.Write(noise[at : at+size])
		must(tb, err)
	}
	must(tb, w.Close())
	return buf.Bytes()
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// discard is a sink that keeps nothing.
type discard struct{}

func (discard) PutObject(context.Context, tree.ObjectID, []byte) error { return nil }
func (discard) CreateObject(context.Context, int64) (cas.ObjectWriter, error) {
	return discardWriter{}, nil
}

type discardWriter struct{}

func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (discardWriter) Skip(int64) error            { return nil }
func (discardWriter) Commit(tree.ObjectID) error  { return nil }
func (discardWriter) Close() error                { return nil }

// cpuTime is what the process has used in user and system mode.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs fn b.N times over a tar and reports the processor time beside the wall
// time.
func measure(b *testing.B, data []byte, fn func()) {
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	runtime.GC()
	start := cpuTime()
	for b.Loop() {
		fn()
	}
	b.ReportMetric(float64(cpuTime()-start)/1e6/float64(b.N), "cpu-ms/op")
}

func BenchmarkParse(b *testing.B) {
	data := typicalTar(b, 4000)
	measure(b, data, func() {
		_, err := parseAll(bytes.NewReader(data), func(*entry) {}, func([]byte) {})
		must(b, err)
	})
}

// BenchmarkFloor is what an import cannot do without: parsing, and hashing every byte
// as part of the tar and those of large files once more. One goroutine, nothing else.
func BenchmarkFloor(b *testing.B) {
	data := typicalTar(b, 4000)
	measure(b, data, func() {
		all := sha256.New()
		one := sha256.New()
		large := false
		_, err := parseAll(io.TeeReader(bytes.NewReader(data), all), func(e *entry) {
			one.Reset()
			large = e.size > DefaultInlineMax
		}, func(p []byte) {
			if large {
				one.Write(p)
			}
		})
		must(b, err)
	})
}

func BenchmarkImport(b *testing.B) {
	data := typicalTar(b, 4000)
	measure(b, data, func() {
		_, err := Import(context.Background(), bytes.NewReader(data), discard{}, ImportOptions{})
		must(b, err)
	})
}

func BenchmarkWriteTar(b *testing.B) {
	data := typicalTar(b, 4000)
	store := newMemory()
	rec := reopen(b, importTar(b, data, store))
	measure(b, data, func() {
		must(b, rec.WriteTar(context.Background(), io.Discard, store))
	})
}

func BenchmarkPack(b *testing.B) {
	data := typicalTar(b, 4000)
	store := newMemory()
	built := importTar(b, data, store)
	measure(b, data, func() {
		_, err := Pack(context.Background(), built.Layer, nil, discard{}, PackOptions{Source: store})
		must(b, err)
	})
}

func BenchmarkWriteTree(b *testing.B) {
	data := typicalTar(b, 4000)
	store := newMemory()
	built := importTar(b, data, store)
	measure(b, data, func() {
		must(b, WriteTree(context.Background(), io.Discard, built.Layer, store, WriteOptions{}))
	})
}

// BenchmarkLayer decodes the index of a layer with 80,000 files, small contents
// included.
func BenchmarkLayer(b *testing.B) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range 80000 {
		name := fmt.Sprintf("usr/lib/dir%03d/sub%02d/module-%d.js", i/800, i/40%20, i)
		body := []byte(fmt.Sprintf("module.exports = require('./module-%d')\n", i*7919%80000))
		if i%2 == 0 {
			body = bytes.Repeat(body, 60)
		} else {
			body = bytes.Repeat(body, 1+i%30)
		}
		must(b, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(1700000000+int64(i%5000), 0), Format: tar.FormatGNU}))
		_, err := w.Write(body)
		must(b, err)
	}
	must(b, w.Close())
	built, err := Import(context.Background(), &buf, discard{}, ImportOptions{})
	must(b, err)
	rec := reopen(b, built)
	buf = bytes.Buffer{}
	b.ReportAllocs()
	for b.Loop() {
		_, err := rec.Layer()
		must(b, err)
	}
	b.ReportMetric(float64(built.Size()), "recipe-bytes")
}

// parseAll parses a tar with no pipeline behind it; data gets the contents of files.
func parseAll(r io.Reader, each func(*entry), data func([]byte)) (int, error) {
	pool := newSlabPool(2)
	in := &input{r: r, pool: pool, done: func(s *slab, _ []byte) { s.release() }}
	p := &parser{in: in, raw: func([]byte) {}, lim: Limits{}.withDefaults()}
	defer in.hand()
	for {
		e, err := p.next()
		if errors.Is(err, io.EOF) {
			return p.entries, nil
		}
		if err != nil {
			return p.entries, err
		}
		each(e)
		for n := e.stored; n > 0; {
			d, err := in.some(n)
			if err != nil {
				return p.entries, p.fail(err)
			}
			data(d)
			n -= int64(len(d))
		}
	}
}

func importTar(tb testing.TB, data []byte, sink cas.ObjectSink) *recipe.Built {
	tb.Helper()
	built, err := Import(context.Background(), bytes.NewReader(data), sink, ImportOptions{})
	must(tb, err)
	return built
}

// reopen writes a recipe and opens what was written.
func reopen(tb testing.TB, built *recipe.Built) *recipe.Recipe {
	tb.Helper()
	var buf bytes.Buffer
	_, err := built.WriteTo(&buf)
	must(tb, err)
	rec, err := recipe.Open(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	must(tb, err)
	return rec
}
