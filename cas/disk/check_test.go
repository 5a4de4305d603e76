package disk_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/cas/disk"
)

// check asserts that a store is sound: every content fits its digest, has its mode, the
// kept sums are those of a walk, and nothing is left over.
func check(t *testing.T, s *disk.Store) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	checkContents(t, s)
	kept, err := s.Usage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	counted, err := s.Recount(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if kept != counted {
		t.Errorf("kept sums are %+v, a walk counts %+v", kept, counted)
	}
	entries, err := os.ReadDir(filepath.Join(s.Root(), "ingest"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left over: ingest/%s", e.Name())
	}
}

// checkContents reads and verifies all that the store holds.
func checkContents(t *testing.T, s *disk.Store) (n int) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	for _, space := range []*disk.Space{s.Blobs(), s.Objects()} {
		err := space.Walk(ctx, func(info cas.Info) error {
			n++
			r, err := space.Open(ctx, info.Digest)
			if err != nil {
				return err
			}
			e := cas.Expect{Digest: info.Digest, Size: info.Size}
			if _, err := io.Copy(io.Discard, cas.NewVerifiedReader(io.NewSectionReader(r, 0, r.Size()), e)); err != nil {
				t.Error(err)
			}
			return r.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(s.ObjectsDir(), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		want := os.FileMode(0o444)
		if d.IsDir() {
			want = 0o755
		}
		if fi.Mode().Perm() != want {
			t.Errorf("mode of %s is %v, want %v", path, fi.Mode(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
