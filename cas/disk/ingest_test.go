package disk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

// More objects than fit in one directory of the ingest, and than are flushed one by one.
func TestPutObjects(t *testing.T) {
	s := newStore(t)
	in := begin(t, s)
	const n = 2500
	var bytes int64
	for i := range n {
		content := strings.Repeat(fmt.Sprint(i, " "), i%50)
		putAll(t, in, content+"!")
		bytes += int64(len(content)) + 1
	}
	putAll(t, in, "!", "!") // known, both
	st := in.Stats()
	if st.Objects.Count+st.Known.Count != n+2 || st.Objects.Bytes+st.Known.Bytes != bytes+2 {
		t.Errorf("stats %+v, want %d objects of %d bytes together", st, n+2, bytes+2)
	}
	wantNoObject(t, s, "!")
	if !in.Has(idOf("!")) || in.Has(idOf("?")) {
		t.Error("Has is wrong before publishing")
	}
	publish(t, in)
	wantObject(t, s, "!")
	if got := checkContents(t, s); int64(got) != st.Objects.Count {
		t.Errorf("the store holds %d objects, want %d", got, st.Objects.Count)
	}
	// All of it again is known, in a batch that comes to list directories.
	again := begin(t, s)
	for i := range n {
		putAll(t, again, strings.Repeat(fmt.Sprint(i, " "), i%50)+"!", fmt.Sprint("new", i))
	}
	if st2 := again.Stats(); st2.Objects.Count != n || st2.Known.Count != n {
		t.Errorf("stats of the second batch: %+v, want %d known and %d new", st2, n, n)
	}
	publish(t, again)
}

func TestPutObjectConcurrently(t *testing.T) {
	s := newStore(t)
	var wg sync.WaitGroup
	for range 3 { // batches
		in := begin(t, s)
		for range 3 { // putters in each
			wg.Go(func() {
				data := make([]byte, 0, 100)
				for i := range 700 {
					data = fmt.Appendf(data[:0], "content %d", i) // reused after each put
					if err := in.PutObject(t.Context(), sha256.Sum256(data), data); err != nil {
						t.Error(err)
					}
					if i%300 == 299 {
						if err := in.Publish(t.Context()); err != nil {
							t.Error(err)
						}
					}
				}
				if err := in.Publish(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if n := checkContents(t, s); n != 700 {
		t.Errorf("the store holds %d objects, want 700", n)
	}
}

func TestPutObjectRefuses(t *testing.T) {
	s := newStore(t)
	in := begin(t, s)
	if err := in.PutObject(t.Context(), tree.ObjectID{}, []byte("x")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("put without an id: %v, want fs.ErrInvalid", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.PutObject(ended, idOf("x"), []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("put with an ended context: %v", err)
	}
	publish(t, in)
	wantNoObject(t, s, "x")
	done(t, in)
	if err := in.PutObject(t.Context(), idOf("x"), []byte("x")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("put into a closed ingest: %v, want fs.ErrClosed", err)
	}
	if _, err := in.CreateObject(t.Context(), 1); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("create in a closed ingest: %v, want fs.ErrClosed", err)
	}
}

func TestCreateObject(t *testing.T) {
	s := newStore(t)
	in := begin(t, s)
	// Data, a hole of 4 MiB, data, and a hole at the end.
	want := make([]byte, 10<<20)
	copy(want, bytes.Repeat([]byte("a"), 1<<20))
	copy(want[5<<20:], bytes.Repeat([]byte("b"), 1<<20))
	w := createObject(t, in, int64(len(want)))
	for _, step := range []func() error{
		func() error { _, err := w.Write(want[:1<<20]); return err },
		func() error { return w.Skip(4 << 20) },
		func() error { return w.Skip(0) },
		func() error { _, err := w.Write(want[5<<20 : 6<<20]); return err },
		func() error { return w.Skip(4 << 20) },
		func() error { return w.Commit(sha256.Sum256(want)) },
		w.Close,
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, in)
	wantObject(t, s, string(want))
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(s.Root(), objectPath(string(want))), &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 >= 5<<20 {
		t.Errorf("%d bytes are allocated for 2 MiB of data: the holes are filled", st.Blocks*512)
	}
	// The same again is known.
	again := createObject(t, in, int64(len(want)))
	if _, err := again.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := again.Commit(sha256.Sum256(want)); err != nil {
		t.Fatal(err)
	}
	if st := in.Stats(); st.Objects.Count != 1 || st.Known.Count != 1 {
		t.Errorf("stats %+v, want one new and one known", st)
	}
	publish(t, in)
}

func createObject(t *testing.T, in *disk.Ingest, size int64) cas.ObjectWriter {
	t.Helper()
	w, err := in.CreateObject(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestCreateObjectRefuses(t *testing.T) {
	s := newStore(t)
	in := begin(t, s)
	if _, err := in.CreateObject(t.Context(), -1); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("negative size: %v, want fs.ErrInvalid", err)
	}
	w := createObject(t, in, 10)
	if err := w.Skip(9); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(idOf("x")); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("commit of too few bytes: %v, want ErrCorrupt", err)
	}
	if _, err := w.Write([]byte("ab")); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("write of too many bytes: %v, want ErrCorrupt", err)
	}
	if err := w.Commit(idOf("x")); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("commit after that: %v, want ErrCorrupt", err)
	}
	for _, n := range []int64{-1, 11, 1<<63 - 1} {
		if err := createObject(t, in, 10).Skip(n); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("skip of %d: %v, want ErrCorrupt", n, err)
		}
	}
	// Discarded, and open while the ingest is closed.
	if err := createObject(t, in, 10).Close(); err != nil {
		t.Error(err)
	}
	open := createObject(t, in, 1)
	publish(t, in)
	done(t, in)
	if _, err := open.Write([]byte("x")); err == nil {
		t.Error("write after the ingest was closed succeeds")
	}
	if err := open.Commit(idOf("x")); err == nil {
		t.Error("commit after the ingest was closed succeeds")
	}
}

// An object of the wrong size, which some accident has left, is replaced.
func TestPutObjectRepairs(t *testing.T) {
	s := newStore(t)
	put(t, s, "content")
	path := filepath.Join(s.Root(), objectPath("content"))
	// An ordinary user must be let write first: objects are read-only.
	if err := errors.Join(os.Chmod(path, 0o644), os.Truncate(path, 3)); err != nil {
		t.Fatal(err)
	}
	put(t, s, "content")
	wantObject(t, s, "content")
	if _, err := s.Recount(t.Context()); err != nil { // the sums do not know of accidents
		t.Error(err)
	}
}

// A batch so large that it is flushed before it is published.
func TestPutMuch(t *testing.T) {
	s := newStore(t)
	in := begin(t, s)
	data := make([]byte, 16<<20)
	var ids []tree.ObjectID
	for i := range 18 {
		data[0] = byte(i)
		id := tree.ObjectID(sha256.Sum256(data))
		ids = append(ids, id)
		if i%2 == 0 {
			if err := in.PutObject(t.Context(), id, data); err != nil {
				t.Fatal(err)
			}
			continue
		}
		w := createObject(t, in, int64(len(data)))
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(id); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, in)
	for _, id := range ids {
		if _, err := s.Objects().Stat(t.Context(), id.Digest()); err != nil {
			t.Error(err)
		}
	}
}

// One batch across objects, blobs and records.
func TestIngestAcross(t *testing.T) {
	s := newStore(t)
	in := begin(t, s)
	putAll(t, in, "object")
	if err := writeBlob(t, in, "blob"); err != nil {
		t.Fatal(err)
	}
	for _, rel := range []string{"layers/sha256/recipe", "stacks/sha512/tree", "refs/docker.io/a"} {
		err := in.PutRecord(t.Context(), rel, func(w io.Writer) error {
			_, err := io.WriteString(w, rel)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadRecord(rel); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is visible before it is published: %v", rel, err)
		}
	}
	publish(t, in)
	if b, err := s.ReadRecord("stacks/sha512/tree"); err != nil || string(b) != "stacks/sha512/tree" {
		t.Errorf("record %q, %v", b, err)
	}
	u, err := s.Usage(t.Context())
	want := disk.Usage{
		Exact: true, Blobs: disk.Sum{Count: 1, Bytes: 4}, Objects: disk.Sum{Count: 1, Bytes: 6},
		Layers: disk.Sum{Count: 1, Bytes: 20}, Stacks: disk.Sum{Count: 1, Bytes: 18},
	}
	if err != nil || u != want {
		t.Errorf("usage %+v, %v, want %+v", u, err, want)
	}
	// A record that fails to be written, or is none, changes nothing.
	broken := errors.New("broken")
	if err := in.PutRecord(t.Context(), "layers/sha256/recipe", func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v, want the writer's", err)
	}
	if err := in.PutRecord(t.Context(), "objects/ab/cd", func(io.Writer) error { return nil }); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("record among objects: %v, want fs.ErrInvalid", err)
	}
	publish(t, in)
	if b, err := s.ReadRecord("layers/sha256/recipe"); err != nil || string(b) != "layers/sha256/recipe" {
		t.Errorf("record %q, %v", b, err)
	}
}

func writeBlob(t *testing.T, in *disk.Ingest, content string) error {
	t.Helper()
	w, err := in.Blobs().Create(t.Context(), cas.Expect{Size: int64(len(content))})
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, content); err != nil {
		return errors.Join(err, w.Close())
	}
	_, err = w.Commit(t.Context())
	return errors.Join(err, w.Close())
}
