package disk_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/tree"
)

// benchDir is where benchmarks make their stores: what they measure depends on the
// file system.
var benchDir = flag.String("bench-dir", "", "directory for the stores of benchmarks, by default a temporary one")

// benchStore opens a new store that is removed after the benchmark.
func benchStore(b *testing.B, opts disk.Options) *disk.Store {
	b.Helper()
	dir := b.TempDir()
	if *benchDir != "" {
		var err error
		if dir, err = os.MkdirTemp(*benchDir, "bench-"); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				b.Error(err)
			}
		})
	}
	s, err := disk.Open(b.Context(), dir, opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// serial returns distinct ids that spread over all directories, as digests do.
func serial(n uint64) (id tree.ObjectID) {
	binary.BigEndian.PutUint64(id[:], n*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], n+1)
	return id
}

// BenchmarkPutObject puts distinct objects into one batch, without publishing them.
func BenchmarkPutObject(b *testing.B) {
	for _, size := range []int{4 << 10, 32 << 10} {
		for _, putters := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("size=%d/putters=%d", size, putters), func(b *testing.B) {
				in := benchIngest(b, benchStore(b, disk.Options{}))
				data := make([]byte, size)
				const burst = 512
				b.SetBytes(int64(size) * burst)
				b.ReportAllocs()
				var next atomic.Uint64
				for b.Loop() {
					// One iteration is a burst, so that starting the putters does not count.
					var wg sync.WaitGroup
					for range putters {
						wg.Go(func() {
							for range burst / putters {
								if err := in.PutObject(b.Context(), serial(next.Add(1)), data); err != nil {
									b.Error(err)
								}
							}
						})
					}
					wg.Wait()
				}
				b.ReportMetric(float64(next.Load())/b.Elapsed().Seconds(), "objects/s")
			})
		}
	}
}

func benchIngest(b *testing.B, s *disk.Store) *disk.Ingest {
	b.Helper()
	in, err := s.Begin(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := in.Close(); err != nil {
			b.Error(err)
		}
	})
	return in
}

// BenchmarkPutKnown puts objects that the store has, as importing an image again does.
func BenchmarkPutKnown(b *testing.B) {
	s := benchStore(b, disk.Options{NoSync: true})
	const objects = 20000
	data := make([]byte, 4<<10)
	in := benchIngest(b, s)
	for i := range uint64(objects) {
		if err := in.PutObject(b.Context(), serial(i), data); err != nil {
			b.Fatal(err)
		}
	}
	if err := in.Publish(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		in := benchIngest(b, s)
		for i := range uint64(objects) {
			if err := in.PutObject(b.Context(), serial(i), data); err != nil {
				b.Fatal(err)
			}
		}
		if err := in.Publish(b.Context()); err != nil {
			b.Fatal(err)
		}
		n += objects
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "objects/s")
}

// BenchmarkPublish publishes batches of distinct objects.
func BenchmarkPublish(b *testing.B) {
	for _, nosync := range []bool{false, true} {
		for _, objects := range []int{1, 16, 1000, 20000} {
			b.Run(fmt.Sprintf("nosync=%t/objects=%d", nosync, objects), func(b *testing.B) {
				in := benchIngest(b, benchStore(b, disk.Options{NoSync: nosync}))
				data := make([]byte, 4<<10)
				var next uint64
				for b.Loop() {
					b.StopTimer()
					for range objects {
						next++
						if err := in.PutObject(b.Context(), serial(next), data); err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
					if err := in.Publish(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(next)/b.Elapsed().Seconds(), "objects/s")
			})
		}
	}
}
