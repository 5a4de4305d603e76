package unionfstest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/unionfs"
	"golang.org/x/sys/unix"
)

// The tree that benchmarks work on. Half of the files are small enough to be inline in a
// tree, as in real images.
const (
	benchDirs  = 20
	benchFiles = 100 // in each directory
)

// Bench measures what programs do with files on a union: each operation of "walk" and
// "read" is one of the whole tree of 2,000 files, each of "create" and "copy up" is one
// of a file; the bytes of "copy up" are those of the file that is changed. The control does
// the same in a plain directory.
func Bench(b *testing.B, h Harness) {
	b.Run("control", func(b *testing.B) {
		dir := b.TempDir()
		benchTree(b, dir)
		exercises(b, func(b *testing.B) string {
			// Changes need no copy of the tree where nothing is copied up.
			return dir
		})
	})
	b.Run("union", func(b *testing.B) {
		lower := b.TempDir()
		benchTree(b, lower)
		layers := unionfs.Layers{Lower: []unionfs.Lower{{Dir: lower}}}
		if h.Layer != nil {
			layers.Lower[0], layers.Data = h.Layer(b, lower)
		}
		exercises(b, func(b *testing.B) string { return mountBench(b, h.Driver, layers) })
	})
}

func mountBench(b *testing.B, d unionfs.Driver, layers unionfs.Layers) string {
	b.Helper()
	dir := b.TempDir()
	target := filepath.Join(dir, "merged")
	layers.Upper, layers.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{target, layers.Upper, layers.Work} {
		orFail(b, os.Mkdir(d, 0o755))
	}
	m, err := d.Open(b.Context(), layers, unionfs.Options{})
	if errors.Is(err, errors.ErrUnsupported) {
		b.Skip(err)
	}
	orFail(b, err)
	orFail(b, m.Attach(b.Context(), target))
	orFail(b, m.Close())
	b.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			b.Error(err)
		}
	})
	return target
}

// exercises runs all benchmarks, each on a mount of its own.
func exercises(b *testing.B, mount func(b *testing.B) string) {
	b.Run("walk", func(b *testing.B) {
		dir := mount(b)
		b.ReportAllocs()
		for b.Loop() {
			orFail(b, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				var st unix.Stat_t
				return unix.Lstat(path, &st)
			}))
		}
	})
	b.Run("read", func(b *testing.B) {
		dir := mount(b)
		buf := make([]byte, 64<<10)
		b.ReportAllocs()
		var bytes int64
		for b.Loop() {
			bytes = 0
			orFail(b, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				n, err := readFile(path, buf)
				bytes += n
				return err
			}))
		}
		b.SetBytes(bytes)
	})
	b.Run("create", func(b *testing.B) {
		path := filepath.Join(mount(b), "created")
		data := make([]byte, 2<<10)
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			orFail(b, os.WriteFile(path, data, 0o644))
			orFail(b, os.Remove(path))
		}
	})
	b.Run("copy up", func(b *testing.B) {
		dir := mount(b)
		b.ReportAllocs()
		var copied, files int64
		for n := 0; b.Loop(); n++ {
			if n == benchDirs*benchFiles {
				b.StopTimer()
				dir, n = mount(b), 0
				b.StartTimer()
			}
			f, err := os.OpenFile(filepath.Join(dir, benchName(n)), os.O_WRONLY|os.O_APPEND, 0)
			orFail(b, err)
			_, err = f.Write([]byte{'x'})
			orFail(b, err)
			end, err := f.Seek(0, io.SeekEnd)
			orFail(b, errors.Join(err, f.Close()))
			copied, files = copied+end-1, files+1
		}
		b.SetBytes(copied / files)
	})
}

func readFile(path string, buf []byte) (bytes int64, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	for {
		n, err := unix.Read(fd, buf)
		if n <= 0 || err != nil {
			return bytes, errors.Join(err, unix.Close(fd))
		}
		bytes += int64(n)
	}
}

func benchName(n int) string { return fmt.Sprintf("dir%02d/file%02d", n/benchFiles, n%benchFiles) }

// benchTree fills a directory, always with the same.
func benchTree(b *testing.B, dir string) {
	b.Helper()
	random := rand.NewChaCha8([32]byte{1})
	sizes := rand.New(random)
	data := make([]byte, 32<<10)
	for n := range benchDirs * benchFiles {
		size := 64 + sizes.IntN(1<<10)
		if n%2 == 0 {
			size = 4<<10 + sizes.IntN(28<<10)
		}
		_, err := random.Read(data[:size])
		orFail(b, err)
		name := filepath.Join(dir, benchName(n))
		orFail(b, os.MkdirAll(filepath.Dir(name), 0o755))
		orFail(b, os.WriteFile(name, data[:size], 0o644))
	}
}

func orFail(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
