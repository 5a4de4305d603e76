package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/cas/disk"
	"golang.org/x/sys/unix"
)

func TestOpenMakesStore(t *testing.T) {
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	dir := filepath.Join(t.TempDir(), "var", "lib", "layerfs")
	s := openStore(t, dir, disk.Options{})
	if s.Root() != dir || s.ObjectsDir() != dir+"/objects" || s.ReadOnly() != "" {
		t.Errorf("root %s, objects %s, read-only %q", s.Root(), s.ObjectsDir(), s.ReadOnly())
	}
	for name, want := range map[string]fs.FileMode{
		".": fs.ModeDir | 0o700, "objects": fs.ModeDir | 0o755, "objects/ff": fs.ModeDir | 0o755,
		"blobs/sha512": fs.ModeDir | 0o700, "ingest": fs.ModeDir | 0o700, "format.json": 0o600, "lock": 0o600,
	} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode() != want {
			t.Errorf("mode of %s is %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
	layout, err := os.ReadFile(filepath.Join(dir, "oci-layout"))
	if err != nil || strings.TrimSpace(string(layout)) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout holds %q, %v", layout, err)
	}
	put(t, s, "content")
	// Another program opens the same store, and sees what is there.
	again := openStore(t, dir, disk.Options{})
	wantObject(t, again, "content")
	check(t, again)
}

// Contents have mode 0444 whatever the umask is.
func TestUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	s := newStore(t) // its check looks at the modes
	put(t, s, "some", "objects", strings.Repeat("large", 10000))
}

func TestOpenConcurrently(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := disk.Open(t.Context(), dir, disk.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	check(t, openStore(t, dir, disk.Options{}))
}

func TestOpenRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(dir string) error
		opts    disk.Options
		want    error
	}{
		"something else": {
			prepare: func(dir string) error { return os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600) },
			want:    fs.ErrInvalid,
		},
		"nothing to read": {
			prepare: func(string) error { return nil },
			opts:    disk.Options{ReadOnly: true},
			want:    fs.ErrNotExist,
		},
		"a newer version": {
			prepare: func(dir string) error {
				return os.WriteFile(filepath.Join(dir, "format.json"), []byte(`{"version":2}`), 0o600)
			},
			want: errors.ErrUnsupported,
		},
		"an unknown feature": {
			prepare: func(dir string) error {
				return os.WriteFile(filepath.Join(dir, "format.json"), []byte(`{"version":1,"incompatible":["sealed"]}`), 0o600)
			},
			opts: disk.Options{ReadOnly: true},
			want: errors.ErrUnsupported,
		},
		"a damaged format": {
			prepare: func(dir string) error { return os.WriteFile(filepath.Join(dir, "format.json"), nil, 0o600) },
			want:    fs.ErrInvalid,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := test.prepare(dir); err != nil {
				t.Fatal(err)
			}
			before := list(t, dir)
			s, err := disk.Open(t.Context(), dir, test.opts)
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if err == nil {
				t.Error(s.Close())
			} else if !strings.Contains(err.Error(), dir) {
				t.Errorf("error %q does not name the directory", err)
			}
			if after := list(t, dir); strings.Join(before, " ") != strings.Join(after, " ") {
				t.Errorf("the directory held %q, and holds %q", before, after)
			}
		})
	}
}

// An interrupted Open is finished by the next one, on a fresh file system too.
func TestOpenInterrupted(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"blobs", "objects", "objects/00", "lost+found"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "usage.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir, disk.Options{})
	put(t, s, "content")
	check(t, s)
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, disk.Options{})
	put(t, s, "content")
	if err := s.WriteRecord(t.Context(), "refs/name", []byte("x")); err != nil {
		t.Fatal(err)
	}
	wantReadOnly(t, openStore(t, dir, disk.Options{ReadOnly: true}))

	if err := os.WriteFile(filepath.Join(dir, "format.json"), []byte(`{"version":1,"readonly":["x"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	wantReadOnly(t, openStore(t, dir, disk.Options{}))
}

func TestReadOnlyMount(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	put(t, openStore(t, dir, disk.Options{}), "content")
	s := openStore(t, dir, disk.Options{})
	if err := s.WriteRecord(t.Context(), "refs/name", []byte("x")); err != nil {
		t.Fatal(err)
	}
	mnt := t.TempDir()
	mount(t, dir, mnt, "", unix.MS_BIND, "")
	if err := unix.Mount("", mnt, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	ro, err := disk.Open(t.Context(), mnt, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantReadOnly(t, ro)
	if err := ro.Close(); err != nil { // before it is unmounted
		t.Error(err)
	}
	if _, err := disk.Open(t.Context(), filepath.Join(mnt, "refs"), disk.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open where no store is and none can be made: %v, want fs.ErrNotExist", err)
	}
}

// wantReadOnly asserts that a store that holds the object "content" and the record
// refs/name can be read and not changed.
func wantReadOnly(t *testing.T, s *disk.Store) {
	t.Helper()
	ctx := t.Context()
	if s.ReadOnly() == "" {
		t.Error("the store does not say that it is read-only")
	}
	before := list(t, s.Root())
	wantObject(t, s, "content")
	if b, err := s.ReadRecord("refs/name"); err != nil || string(b) != "x" {
		t.Errorf("record %q, %v", b, err)
	}
	if u, err := s.Usage(ctx); err != nil || u.Objects.Count != 1 || !u.Exact {
		t.Errorf("usage %+v, %v", u, err)
	}
	if n := checkContents(t, s); n != 1 {
		t.Errorf("walks visit %d contents, want 1", n)
	}
	if _, err := s.Ingests(ctx); err != nil {
		t.Error(err)
	}
	unlock, err := s.Share(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func() error{
		"Begin":                func() error { _, err := s.Begin(ctx); return err },
		"Space.Begin":          func() error { _, err := s.Blobs().Begin(ctx); return err },
		"Remove":               func() error { return s.Objects().Remove(ctx, idOf("content").Digest()) },
		"WriteRecord":          func() error { return s.WriteRecord(ctx, "refs/name", nil) },
		"RemoveRecord":         func() error { return s.RemoveRecord(ctx, "refs/name") },
		"WriteFleetingRecord":  func() error { return s.WriteFleetingRecord(ctx, "refs/name", nil) },
		"RemoveFleetingRecord": func() error { return s.RemoveFleetingRecord(ctx, "refs/name") },
		"Lock":                 func() error { _, err := s.Lock(ctx, "x"); return err },
		"Exclusive":            func() error { _, err := s.Exclusive(ctx); return err },
		"Quarantine":           func() error { _, err := s.Quarantine(ctx, "refs/name"); return err },
		"Expire":               func() error { _, err := s.Expire(ctx, farFuture); return err },
		"Recount":              func() error { _, err := s.Recount(ctx); return err },
		"CleanIngest":          func() error { return s.CleanIngest(ctx, "x") },
		"CleanIngests":         func() error { _, err := s.CleanIngests(ctx); return err },
	} {
		if err := change(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: error %v, want fs.ErrPermission", what, err)
		}
	}
	if after := list(t, s.Root()); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("the store held %q, and holds %q", before, after)
	}
}

// What lies in the place of content and is not a regular file is never opened.
func TestIrregular(t *testing.T) {
	s := openStore(t, t.TempDir(), disk.Options{})
	id := idOf("victim")
	if err := os.Symlink("/etc/passwd", filepath.Join(s.ObjectsDir(), id.Path())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenObject(t.Context(), id); err == nil {
		t.Error("a symbolic link was opened as an object")
	}
	if _, err := s.Objects().Open(t.Context(), id.Digest()); err == nil {
		t.Error("a symbolic link was opened as an object")
	}
	if _, err := s.Objects().Stat(t.Context(), id.Digest()); err == nil {
		t.Error("a symbolic link has a size as an object")
	}
	other := idOf("other")
	if err := unix.Mkfifo(filepath.Join(s.ObjectsDir(), other.Path()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenObject(t.Context(), other); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("open of a fifo: error %v, want fs.ErrInvalid", err)
	}
	// A walk passes over it, and over strangers.
	if err := os.WriteFile(filepath.Join(s.ObjectsDir(), "00", "stranger"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := s.Objects().Walk(t.Context(), func(info cas.Info) error {
		t.Errorf("walk visits %+v", info)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
