package disk_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/cas/disk"
)

// sweep quarantines paths that must all be there.
func sweep(t *testing.T, s *disk.Store, rels ...string) {
	t.Helper()
	sum, err := s.Quarantine(t.Context(), rels...)
	if err != nil || sum.Count != int64(len(rels)) {
		t.Fatalf("quarantine of %q: %+v, %v", rels, sum, err)
	}
}

func TestQuarantine(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	put(t, s, "garbage", "live")
	if err := s.WriteRecord(ctx, "layers/sha256/dead", []byte("recipe")); err != nil {
		t.Fatal(err)
	}
	sweep(t, s, objectPath("garbage"), "layers/sha256/dead")
	wantNoObject(t, s, "garbage")
	wantObject(t, s, "live")
	if _, err := s.ReadRecord("layers/sha256/dead"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("quarantined record: %v", err)
	}
	want := disk.Usage{Exact: true, Objects: disk.Sum{Count: 1, Bytes: 4}, Quarantine: disk.Sum{Count: 2, Bytes: 13}}
	if u, err := s.Usage(ctx); err != nil || u != want {
		t.Errorf("usage %+v, %v, want %+v", u, err, want)
	}
	// Nothing is old enough yet; then everything is.
	if gone, err := s.Expire(ctx, time.Now().Add(-time.Hour)); err != nil || gone.Count != 0 {
		t.Errorf("early expiry: %+v, %v", gone, err)
	}
	if gone, err := s.Expire(ctx, farFuture); err != nil || gone != (disk.Sum{Count: 2, Bytes: 13}) {
		t.Errorf("expiry: %+v, %v", gone, err)
	}
	if sum, err := s.Quarantine(ctx, objectPath("garbage")); err != nil || sum.Count != 0 {
		t.Errorf("quarantine of what is gone: %+v, %v", sum, err)
	}
	// Stored again and quarantined twice, of which one remains.
	for range 2 {
		put(t, s, "garbage")
		wantObject(t, s, "garbage")
		sweep(t, s, objectPath("garbage"))
	}
	if u, err := s.Usage(ctx); err != nil || u.Quarantine != (disk.Sum{Count: 1, Bytes: 7}) {
		t.Errorf("usage %+v, %v, want one in quarantine", u, err)
	}
	for _, rel := range []string{"format.json", "../x", "ingest/x", "objects", "objects/../lock", "blobs"} {
		if _, err := s.Quarantine(ctx, rel); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("quarantine of %q: %v, want fs.ErrInvalid", rel, err)
		}
	}
}

func TestSweepPassesErrors(t *testing.T) {
	s := newStore(t)
	put(t, s, "one", "two")
	stop := errors.New("stop")
	err := s.Sweep(t.Context(), func(sw *disk.Sweep) error {
		if err := sw.Quarantine(objectPath("one")); err != nil {
			t.Error(err)
		}
		if err := sw.Quarantine(objectPath("none")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("quarantine of nothing: %v, want fs.ErrNotExist", err)
		}
		return stop
	})
	if !errors.Is(err, stop) {
		t.Errorf("error %v, want that of the function", err)
	}
	wantNoObject(t, s, "one")
	wantObject(t, s, "two")
	put(t, s, "three") // the store is not locked any more
}

// A batch that relies on an object which a sweep took away meanwhile brings it back.
func TestPublishBringsBack(t *testing.T) {
	s := newStore(t)
	put(t, s, "known", "large")
	in := begin(t, s)
	putAll(t, in, "known", "new")
	w := createObject(t, in, 5)
	if _, err := w.Write([]byte("large")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(idOf("large")); err != nil {
		t.Fatal(err)
	}
	sweep(t, s, objectPath("known"), objectPath("large"))
	wantNoObject(t, s, "known")
	publish(t, in)
	for _, content := range []string{"known", "large", "new"} {
		wantObject(t, s, content)
	}
	// Also what it has published itself before, when it is published again.
	sweep(t, s, objectPath("new"))
	putAll(t, in, "new", "newer")
	publish(t, in)
	wantObject(t, s, "new")
}

func TestPublishBringsBlobsBack(t *testing.T) {
	s := newStore(t)
	in := begin(t, s)
	if err := writeBlob(t, in, "blob"); err != nil {
		t.Fatal(err)
	}
	publish(t, in)
	again := begin(t, s)
	if err := writeBlob(t, again, "blob"); err != nil {
		t.Fatal(err)
	}
	rel := "blobs/sha256/" + idOf("blob").Digest().Encoded()
	sweep(t, s, rel)
	publish(t, again)
	if _, err := s.Blobs().Stat(t.Context(), idOf("blob").Digest()); err != nil {
		t.Error(err)
	}
}

// What is deleted for good makes Publish fail, and nothing becomes visible.
func TestPublishMissesDeleted(t *testing.T) {
	s := newStore(t)
	put(t, s, "known")
	in := begin(t, s)
	putAll(t, in, "known", "new")
	err := in.PutRecord(t.Context(), "layers/sha256/l", func(w io.Writer) error {
		_, err := io.WriteString(w, "recipe")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sweep(t, s, objectPath("known"))
	if _, err := s.Expire(t.Context(), farFuture); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := in.Publish(t.Context())
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), idOf("known").Path()) {
			t.Errorf("publish: %v, want fs.ErrNotExist and the name of the object", err)
		}
	}
	wantNoObject(t, s, "new")
	if _, err := s.ReadRecord("layers/sha256/l"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record is visible: %v", err)
	}
	done(t, in)
	put(t, s, "known", "new") // the repetition succeeds
}

func TestEpoch(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	epoch := func() uint64 {
		t.Helper()
		e, err := s.Epoch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	last := epoch()
	in := begin(t, s)
	putAll(t, in, "x")
	if epoch() != last {
		t.Error("the epoch changes though nothing is published")
	}
	for what, change := range map[string]func() error{
		"Publish":      func() error { return in.Publish(ctx) },
		"WriteRecord":  func() error { return s.WriteRecord(ctx, "refs/a", nil) },
		"counted":      func() error { return s.WriteRecord(ctx, "layers/sha256/a", nil) },
		"Keep":         func() error { return in.Keep(ctx, "refs/kept") },
		"RemoveRecord": func() error { return s.RemoveRecord(ctx, "refs/b") },
	} {
		for _, rel := range []string{"refs/kept", "refs/b"} {
			if err := s.WriteRecord(ctx, rel, nil); err != nil {
				t.Fatal(err)
			}
		}
		last = epoch()
		if err := change(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if epoch() <= last {
			t.Errorf("%s does not advance the epoch", what)
		}
	}
	last = epoch()
	err := s.Sweep(ctx, func(sw *disk.Sweep) error {
		if sw.Epoch() != last {
			t.Errorf("the sweep sees epoch %d, want %d", sw.Epoch(), last)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A sweep waits for those who share the lock, and lets nobody share it.
func TestSweepExcludes(t *testing.T) {
	s := newStore(t)
	unlock, err := s.Share(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- s.Sweep(ctx, func(*disk.Sweep) error {
			t.Error("a sweep runs beside one who shares the lock")
			return nil
		})
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("sweep that was given up: %v", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
	err = s.Sweep(t.Context(), func(*disk.Sweep) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := s.Share(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("sharing the lock in a sweep: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestKeep(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	for _, rel := range []string{"layers/sha256/a", "layers/sha256/b"} {
		if err := s.WriteRecord(ctx, rel, []byte("recipe")); err != nil {
			t.Fatal(err)
		}
	}
	in := begin(t, s)
	if err := in.Keep(ctx, "layers/sha256/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("keep of no record: %v, want fs.ErrNotExist", err)
	}
	sweep(t, s, "layers/sha256/b")
	// What it names may be in quarantine too, or gone.
	if err := in.Keep(ctx, "layers/sha256/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("keep of a record in quarantine: %v, want fs.ErrNotExist", err)
	}
	if err := s.WriteRecord(ctx, "layers/sha256/b", []byte("recipe")); err != nil {
		t.Fatal(err)
	}
	for _, rel := range []string{"layers/sha256/a", "layers/sha256/b", "layers/sha256/a"} {
		if err := in.Keep(ctx, rel); err != nil {
			t.Error(err)
		}
	}
	// A sweep that ignores the roots is undone by Publish.
	sweep(t, s, "layers/sha256/a")
	publish(t, in)
	if _, err := s.ReadRecord("layers/sha256/a"); err != nil {
		t.Errorf("the record was not brought back: %v", err)
	}
	err := in.PutRecord(ctx, "layers/sha256/c", func(io.Writer) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	publish(t, in)
	infos, err := s.Ingests(ctx)
	if err != nil || len(infos) != 1 {
		t.Fatalf("ingests %+v, %v, want one", infos, err)
	}
	info := infos[0]
	slices.Sort(info.Kept)
	if !info.Live || info.ID != in.ID() || info.PID != os.Getpid() || time.Since(info.Started) > time.Hour ||
		strings.Join(info.Kept, " ") != "layers/sha256/a layers/sha256/b layers/sha256/c" {
		t.Errorf("ingest %+v", info)
	}
	if err := s.CleanIngest(ctx, in.ID()); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("cleaning a live ingest: %v, want fs.ErrPermission", err)
	}
	if n, err := s.CleanIngests(ctx); err != nil || n != 0 {
		t.Errorf("cleaning dead ingests: %d, %v, want none", n, err)
	}
	done(t, in)
	if infos, err := s.Ingests(ctx); err != nil || len(infos) != 0 {
		t.Errorf("ingests %+v, %v, want none", infos, err)
	}
}

func TestCleanIngestRefuses(t *testing.T) {
	s := newStore(t)
	if err := s.CleanIngest(t.Context(), "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no ingest: %v, want fs.ErrNotExist", err)
	}
	for _, id := range []string{"", ".", "..", "../refs", "a/b"} {
		if err := s.CleanIngest(t.Context(), id); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v, want fs.ErrInvalid", id, err)
		}
	}
}

// A record of the sums that is damaged or lost makes them inexact, until they are counted.
func TestUsageDamaged(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"torn":  func(path string) error { return os.Truncate(path, 100) },
		"empty": func(path string) error { return os.Truncate(path, 0) },
		"gone":  os.Remove,
		"other": func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("x", 512)), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			put(t, s, "one", "two")
			in := begin(t, s)
			putAll(t, in, "one")
			if err := damage(filepath.Join(s.Root(), "usage.json")); err != nil {
				t.Fatal(err)
			}
			if u, err := s.Usage(t.Context()); err != nil || u.Exact {
				t.Errorf("usage %+v, %v, want one that is not exact", u, err)
			}
			publish(t, in)
			done(t, in)
			put(t, s, "three")
			if u, err := s.Usage(t.Context()); err != nil || u.Exact {
				t.Errorf("usage %+v, %v, want one that is not exact", u, err)
			}
			u, err := s.Recount(t.Context())
			if err != nil || !u.Exact || u.Objects != (disk.Sum{Count: 3, Bytes: 11}) {
				t.Errorf("recounted %+v, %v", u, err)
			}
		})
	}
}

// TestExpireOnly deletes what it is told of and nothing else that is in quarantine.
func TestExpireOnly(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	put(t, s, "mine", "of another")
	sweep(t, s, objectPath("mine"), objectPath("of another"))
	if gone, err := s.ExpireOnly(ctx, time.Now().Add(-time.Hour), objectPath("mine")); err != nil || gone.Count != 0 {
		t.Errorf("early expiry: %+v, %v", gone, err)
	}
	if gone, err := s.ExpireOnly(ctx, farFuture, objectPath("mine"), objectPath("never was")); err != nil || gone != (disk.Sum{Count: 1, Bytes: 4}) {
		t.Errorf("expiry: %+v, %v", gone, err)
	}
	want := disk.Usage{Exact: true, Quarantine: disk.Sum{Count: 1, Bytes: 10}}
	if u, err := s.Usage(ctx); err != nil || u != want {
		t.Errorf("usage %+v, %v, want %+v", u, err, want)
	}
}

// TestPublishInterrupted interrupts a publication that waits for a sweep: nothing was
// moved, so the sums stay exact.
func TestPublishInterrupted(t *testing.T) {
	s := newStore(t)
	in := begin(t, s)
	putAll(t, in, "content")
	unlock, err := s.Exclusive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := in.Publish(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("interrupted publication: %v, want DeadlineExceeded", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	done(t, in)
	if u, err := s.Usage(t.Context()); err != nil || u != (disk.Usage{Exact: true}) {
		t.Errorf("usage %+v, %v, want nothing and that exactly", u, err)
	}
}
