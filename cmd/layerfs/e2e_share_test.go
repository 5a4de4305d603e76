package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/testimage"
)

// uniqueBytes adds up the sizes of all different file contents in layers: what a store
// that keeps every file once cannot do without. Computed by Go's archive/tar alone.
type uniqueBytes struct {
	seen          map[[sha256.Size]byte]bool
	bytes, blocks int64 // as they are, and rounded up to blocks of 4 KiB
	files         int64
	all           int64 // bytes before anything was found twice
}

func (u *uniqueBytes) add(t testing.TB, layers []string) {
	t.Helper()
	for _, layer := range layers {
		f, err := os.Open(layer)
		if err != nil {
			t.Fatal(err)
		}
		err = u.addLayer(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatalf("read %s: %v", layer, err)
		}
	}
}

func (u *uniqueBytes) addLayer(r io.Reader) error {
	if u.seen == nil {
		u.seen = map[[sha256.Size]byte]bool{}
	}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || h.Size == 0 {
			continue
		}
		sum := sha256.New()
		n, err := io.Copy(sum, tr)
		if err != nil {
			return err
		}
		u.all += n
		if id := [sha256.Size]byte(sum.Sum(nil)); !u.seen[id] {
			u.seen[id] = true
			u.bytes += n
			u.blocks += (n + 4095) &^ 4095
			u.files++
		}
	}
}

// TestImagesShareFiles loads two images of which one is a later state of the other. The
// store holds each content once and little else, loading an image again stores
// nothing, and what one mount has read, the other finds in the page cache.
func TestImagesShareFiles(t *testing.T) {
	testenv.Root(t)
	old, upgraded := testimage.Layered(t), testimage.Upgraded(t)
	s := newStore(t)
	s.load(old.DockerArchive(t))
	first := s.df()
	s.load(upgraded.DockerArchive(t))
	second := s.df()
	wantEqual(t, "sums counted anew", s.df("--recount"), second)

	var unique uniqueBytes
	unique.add(t, old.Layers(t))
	one := unique.bytes
	unique.add(t, upgraded.Layers(t))
	onDisk := diskUse(t, s.root)
	t.Logf("contents of both images: %d bytes; different ones: %d bytes in %d files, %d in blocks; of the first image: %d",
		unique.all, unique.bytes, unique.files, unique.blocks, one)
	t.Logf("the store holds %d bytes (%.3f of the different ones) in %d objects, after the first image %d; %d on disk (%.3f of the blocks)",
		second["total"].Bytes, float64(second["total"].Bytes)/float64(unique.bytes), second["objects"].Count, first["total"].Bytes,
		onDisk, float64(onDisk)/float64(unique.blocks))
	if limit := unique.bytes + unique.bytes/20; second["total"].Bytes > limit {
		t.Errorf("the store holds %d bytes, limit %d: the different contents and 5 %%", second["total"].Bytes, limit)
	}
	if limit := unique.blocks + unique.blocks/20; onDisk > limit {
		t.Errorf("the store uses %d bytes on disk, limit %d: the blocks of different contents and 5 %%", onDisk, limit)
	}

	s.keeps(func() {
		s.load(upgraded.DockerArchive(t))
		s.load(old.DockerArchive(t))
	})

	_, a := s.mount(old.Ref, "--read-only")
	_, b := s.mount(upgraded.Ref, "--read-only")
	shared := largestShared(t, a, b)
	inA, inB := filepath.Join(a, shared), filepath.Join(b, shared)
	dropCached(t, inB)
	if n := cached(t, inB); n != 0 {
		t.Errorf("%d bytes of %s are cached that were dropped", n, shared)
	}
	data, err := os.ReadFile(inA)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("of %s, %d bytes read through one mount, %d are cached in the other", shared, len(data), cached(t, inB))
	if n := cached(t, inB); n != int64(len(data)) {
		t.Errorf("%s was read through one mount, and %d of %d bytes are cached in the other", shared, n, len(data))
	}

	// Sharing has mixed nothing up.
	testimage.CompareTrees(t, b, upgraded.Extracted(t), testimage.CompareOptions{})
}

// largestShared finds the largest file that two trees have in common: same name, size,
// and content.
func largestShared(t testing.TB, a, b string) (name string) {
	t.Helper()
	var largest int64
	err := filepath.WalkDir(filepath.Join(a, "usr", "lib"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err != nil || st.Size() <= largest {
			return err
		}
		rel, err := filepath.Rel(a, path)
		if err != nil {
			return err
		}
		other, err := os.Lstat(filepath.Join(b, rel))
		if err != nil || other.Size() != st.Size() {
			return nil //nolint:nilerr // not in the other image
		}
		if contentOf(t, path) == contentOf(t, filepath.Join(b, rel)) {
			name, largest = rel, st.Size()
		}
		return nil
	})
	if err != nil || name == "" {
		t.Fatalf("find a file that both images have: %v", err)
	}
	return name
}

func contentOf(t testing.TB, name string) [sha256.Size]byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(data)
}
