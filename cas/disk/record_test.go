package disk_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/layerfs/layerfs/cas/disk"
)

func TestRecords(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	const rel = "refs/docker.io/library/debian"
	if _, err := s.ReadRecord(rel); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read of no record: %v, want fs.ErrNotExist", err)
	}
	for _, content := range []string{"one", "another", ""} {
		if err := s.WriteRecord(ctx, rel, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if b, err := s.ReadRecord(rel); err != nil || string(b) != content {
			t.Errorf("record %q, %v, want %q", b, err, content)
		}
	}
	if err := s.WriteRecord(ctx, rel, []byte("final")); err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenRecord(rel)
	if err != nil {
		t.Fatal(err)
	}
	if r.Size() != 5 {
		t.Errorf("size %d, want 5", r.Size())
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if size, mod, err := s.StatRecord(rel); err != nil || size != 5 || time.Since(mod) > time.Hour {
		t.Errorf("stat: %d, %v, %v", size, mod, err)
	}
	if err := s.WriteRecord(ctx, "refs/local", nil); err != nil {
		t.Fatal(err)
	}
	var walked []string
	err = s.WalkRecords(ctx, "refs", func(rel string, size int64, _ time.Time) error {
		walked = append(walked, fmt.Sprint(rel, " ", size))
		return nil
	})
	slices.Sort(walked)
	if err != nil || strings.Join(walked, "|") != rel+" 5|refs/local 0" {
		t.Errorf("walk: %q, %v", walked, err)
	}
	stop := errors.New("stop")
	err = s.WalkRecords(ctx, "refs", func(string, int64, time.Time) error { return stop })
	if err != stop { //nolint:errorlint // as it is
		t.Errorf("walk that is stopped: %v", err)
	}
	if names, err := s.ListRecords("refs"); err != nil || strings.Join(names, "|") != "docker.io|local" {
		t.Errorf("list: %q, %v", names, err)
	}
	if names, err := s.ListRecords("refs/none"); err != nil || len(names) != 0 {
		t.Errorf("list of a missing directory: %q, %v", names, err)
	}
	if err := s.RemoveRecord(ctx, "refs/docker.io"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("removal of a directory: %v, want fs.ErrInvalid", err)
	}
	if err := s.RemoveRecord(ctx, rel); err != nil {
		t.Error(err)
	}
	if err := s.RemoveRecord(ctx, rel); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second removal: %v, want fs.ErrNotExist", err)
	}
	if names, err := s.ListRecords("refs"); err != nil || strings.Join(names, "|") != "local" {
		t.Errorf("empty directories are left: %q, %v", names, err)
	}
	// The directories of the layout stay.
	if err := s.RemoveRecord(ctx, "refs/local"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.Root(), "refs")); err != nil {
		t.Error(err)
	}
	if err := s.WriteRecord(ctx, "index.json", []byte("{}")); err != nil {
		t.Error(err)
	}
}

func TestMissingRecord(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"a", "b"} {
		if err := s.WriteRecord(t.Context(), "layers/sha256/"+name, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		dir, names, missing string
	}{
		{"layers/sha256", "", ""},
		{"layers/sha256", "a b a", ""},
		{"layers/sha256", "a c d", "c"},
		{"layers/none", "a", "a"},
		{"layers/none", "", ""},
	} {
		got, err := s.MissingRecord(c.dir, strings.Fields(c.names))
		if err != nil || got != c.missing {
			t.Errorf("%s of %q: %q, %v, want %q", c.dir, c.names, got, err, c.missing)
		}
	}
	for _, c := range [][2]string{{"layers", "sha256/a"}, {"layers", ".."}, {"objects", "a"}, {"layers/../refs", "a"}, {"layers", ""}} {
		if _, err := s.MissingRecord(c[0], []string{c[1]}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v, want fs.ErrInvalid", c, err)
		}
	}
}

func TestRecordRefuses(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	for what, err := range map[string]error{
		"write":  s.WriteRecord(ctx, "../x", nil),
		"remove": s.RemoveRecord(ctx, "format.json"),
		"read":   second(s.ReadRecord("lock")),
		"open":   second(s.OpenRecord("objects/ab/cd")),
		"list":   second(s.ListRecords("")),
		"walk":   s.WalkRecords(ctx, "..", nil),
	} {
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v, want fs.ErrInvalid", what, err)
		}
	}
	if err := s.WriteRecord(ctx, "refs/large", make([]byte, disk.MaxRecord)); err != nil {
		t.Errorf("record of %d bytes: %v", disk.MaxRecord, err)
	}
	if err := s.WriteRecord(ctx, "refs/large", make([]byte, disk.MaxRecord+1)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("record of %d bytes: %v, want fs.ErrInvalid", disk.MaxRecord+1, err)
	}
	if b, err := s.ReadRecord("refs/large"); err != nil || len(b) != disk.MaxRecord {
		t.Errorf("read: %d bytes, %v", len(b), err)
	}
	if err := os.Truncate(filepath.Join(s.Root(), "refs/large"), disk.MaxRecord+1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadRecord("refs/large"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("read of a record that is too large: %v, want fs.ErrInvalid", err)
	}
}

func second[T any](_ T, err error) error { return err }

// Writers and removers of records in the same directory do not break each other, though
// the directory comes and goes.
func TestRecordsConcurrently(t *testing.T) {
	s := newStore(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			rel := fmt.Sprintf("refs/a/b/c%d", i)
			for range 50 {
				if err := s.WriteRecord(t.Context(), rel, []byte("x")); err != nil {
					t.Error(err)
					return
				}
				if err := s.RemoveRecord(t.Context(), rel); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if names, err := s.ListRecords("refs"); err != nil || len(names) != 0 {
		t.Errorf("left over: %q, %v", names, err)
	}
}
