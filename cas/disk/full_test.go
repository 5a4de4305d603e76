package disk_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/cas/disk"
	"golang.org/x/sys/unix"
)

// fill takes up all the space that there is.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; size /= 8 {
		data := make([]byte, size)
		for err = nil; err == nil; {
			_, err = f.Write(data)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// On a full disk, adding fails and leaves nothing; locks, and all that takes away, work.
func TestFullDisk(t *testing.T) {
	t.Run("tmpfs", func(t *testing.T) {
		needRoot(t)
		dir := t.TempDir()
		mount(t, "tmpfs", dir, "tmpfs", 0, "size=8m")
		testFullDisk(t, dir)
	})
	for _, jfs := range journaled {
		t.Run(jfs.name, func(t *testing.T) {
			dir := t.TempDir()
			mountImage(t, makeImage(t, jfs.size, jfs.mkfs...), dir)
			testFullDisk(t, dir)
		})
	}
}

func testFullDisk(t *testing.T, dir string) {
	s, err := disk.Open(t.Context(), filepath.Join(dir, "store"), disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx := t.Context()
	content := func(i int) string { return strings.Repeat(fmt.Sprint("garbage ", i, " "), 1000) }
	var garbage []string
	in := begin(t, s)
	for i := range 200 {
		putAll(t, in, content(i))
		garbage = append(garbage, objectPath(content(i)))
	}
	if err := writeBlob(t, in, "blob"); err != nil {
		t.Fatal(err)
	}
	publish(t, in)
	done(t, in)
	for i := range 20 {
		if err := s.WriteRecord(ctx, fmt.Sprintf("refs/a%d", i), []byte("old")); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, s.Root(), "die")
	if !p.out.Scan() {
		t.Fatal(p.out.Err())
	}
	p.kill(t)
	waiting := begin(t, s) // begun while there was room
	fill(t, dir)

	large := strings.Repeat("large ", 100_000)
	err = waiting.PutObject(ctx, idOf(large), []byte(large))
	if err == nil { // the kernel may notice only when it writes
		err = waiting.Publish(ctx)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("put on a full disk: %v, want ENOSPC", err)
	}
	if err := waiting.Publish(ctx); err == nil {
		t.Error("publishing succeeds after a put has failed")
	}
	if err := waiting.Close(); err != nil {
		t.Errorf("closing on a full disk: %v", err)
	}
	wantNoObject(t, s, large)
	fill(t, dir)
	if err := s.WriteRecord(ctx, "refs/a0", []byte(large)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("record on a full disk: %v, want ENOSPC", err)
	}
	if b, err := s.ReadRecord("refs/a0"); err != nil || string(b) != "old" {
		t.Errorf("record %.10q, %v, want the old one", b, err)
	}

	for what, lock := range map[string]func() (func() error, error){
		"Lock":      func() (func() error, error) { return s.Lock(ctx, "some work") },
		"Share":     func() (func() error, error) { return s.Share(ctx) },
		"Exclusive": func() (func() error, error) { return s.Exclusive(ctx) },
	} {
		unlock, err := lock()
		if err != nil {
			t.Errorf("%s on a full disk: %v", what, err)
			continue
		}
		if err := unlock(); err != nil {
			t.Errorf("%s on a full disk: %v", what, err)
		}
	}
	if sum, err := s.Quarantine(ctx, garbage[:150]...); err != nil || sum.Count != 150 {
		t.Errorf("quarantine on a full disk: %+v, %v", sum, err)
	}
	fill(t, dir)
	if err := s.Objects().Remove(ctx, idOf(content(199)).Digest()); err != nil {
		t.Errorf("removal on a full disk: %v", err)
	}
	if err := s.Blobs().Remove(ctx, idOf("blob").Digest()); err != nil {
		t.Errorf("removal on a full disk: %v", err)
	}
	fill(t, dir)
	if err := s.RemoveRecord(ctx, "refs/a1"); err != nil {
		t.Errorf("removal of a record on a full disk: %v", err)
	}
	if n, err := s.CleanIngests(ctx); err != nil || n != 1 {
		t.Errorf("cleaning on a full disk: %d, %v, want 1", n, err)
	}
	fill(t, dir)
	if _, err := s.Expire(ctx, farFuture); err != nil {
		t.Errorf("expiry on a full disk: %v", err)
	}
	// There is room again.
	put(t, s, strings.Repeat("small ", 1000))
	check(t, s)
}
