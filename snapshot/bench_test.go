package snapshot_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/snapshot"
)

// benchStore is a store with one layer of so many files, half of which are objects, always
// with the same contents.
func benchStore(b *testing.B, files int) (*snapshot.Store, *snapshot.Session, []snapshot.DiffID) {
	b.Helper()
	d, err := disk.Open(b.Context(), filepath.Join(b.TempDir(), "store"), disk.Options{NoSync: true})
	must(b, err)
	b.Cleanup(func() { must(b, d.Close()) })
	s, err := snapshot.New(d, snapshot.Options{})
	must(b, err)
	sess, err := s.Begin(b.Context())
	must(b, err)
	b.Cleanup(func() { must(b, sess.Close()) })
	random := rand.NewChaCha8([32]byte{2})
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	data := make([]byte, 4<<10)
	for n := range files {
		size := 100 + n%2*3900
		_, err := random.Read(data[:size])
		must(b, err)
		must(b, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: benchFile(n), Mode: 0o644, Size: int64(size)}))
		_, err = w.Write(data[:size])
		must(b, err)
	}
	must(b, w.Close())
	l, _, err := s.ImportLayer(b.Context(), sess, &layer, snapshot.LayerExpect{BlobSize: -1})
	must(b, err)
	stack := []snapshot.DiffID{l.DiffID}
	_, err = s.Stack(b.Context(), stack, snapshot.StackOptions{})
	must(b, err)
	return s, sess, stack
}

func benchFile(n int) string { return fmt.Sprintf("dir%02d/%02d", n/100, n%100) }

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// changed makes a snapshot in whose upper directory k files were written, as overlayfs
// leaves them.
func changed(b *testing.B, s *snapshot.Store, key snapshot.Key, stack []snapshot.DiffID, k int) {
	b.Helper()
	_, err := s.Prepare(b.Context(), key, snapshot.PrepareOptions{Layers: stack})
	must(b, err)
	layers, err := s.Mounts(b.Context(), key, snapshot.MountOptions{})
	must(b, err)
	for n := range k {
		name := filepath.Join(layers.Upper, benchFile(n))
		must(b, os.MkdirAll(filepath.Dir(name), 0o755))
		must(b, os.WriteFile(name, fmt.Appendf(nil, "%4000d of %s", n, key), 0o644))
	}
}

// BenchmarkPrepare makes a writable snapshot and says how to mount it.
func BenchmarkPrepare(b *testing.B) {
	s, _, stack := benchStore(b, 1000)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		key := snapshot.Key(fmt.Sprintf("work-%d", n))
		_, err := s.Prepare(b.Context(), key, snapshot.PrepareOptions{Layers: stack})
		must(b, err)
		_, err = s.Mounts(b.Context(), key, snapshot.MountOptions{})
		must(b, err)
		b.StopTimer()
		must(b, s.Remove(b.Context(), key))
		b.StartTimer()
	}
}

// BenchmarkChanges lists what was changed in a snapshot.
func BenchmarkChanges(b *testing.B) {
	for _, k := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(k), func(b *testing.B) {
			s, _, stack := benchStore(b, 1000)
			changed(b, s, "work", stack, k)
			b.ReportAllocs()
			for b.Loop() {
				_, err := s.Changes(b.Context(), "work")
				must(b, err)
			}
		})
	}
}

// BenchmarkCommit makes a layer of what was changed in a snapshot.
func BenchmarkCommit(b *testing.B) {
	for _, k := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(k), func(b *testing.B) {
			s, sess, stack := benchStore(b, 1000)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				b.StopTimer()
				key := snapshot.Key(fmt.Sprintf("work-%d", n))
				changed(b, s, key, stack, k)
				b.StartTimer()
				_, _, err := s.Commit(b.Context(), sess, key)
				must(b, err)
				b.StopTimer()
				must(b, s.Remove(b.Context(), key))
				b.StartTimer()
			}
		})
	}
}

// BenchmarkWriteTar writes a layer as the tar that it came as.
func BenchmarkWriteTar(b *testing.B) {
	s, _, stack := benchStore(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		must(b, s.WriteTar(b.Context(), stack[0], io.Discard))
	}
}
