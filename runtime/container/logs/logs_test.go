package logs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/runtime/container/logs"
)

func newRoot(t testing.TB) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	return root
}

func write(t testing.TB, w *logs.Writer, s logs.Stream, text string) {
	t.Helper()
	if err := w.Write(s, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, root *os.Root, o logs.ReadOptions) []logs.Record {
	t.Helper()
	var out []logs.Record
	if err := logs.Read(t.Context(), root, o, func(r logs.Record) error { out = append(out, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func text(recs []logs.Record) string {
	var b strings.Builder
	for _, r := range recs {
		b.WriteString(r.Text)
	}
	return b.String()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	root := newRoot(t)
	w, err := logs.NewWriter(root, logs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	write(t, w, logs.Stdout, "one\ntw")
	write(t, w, logs.Stderr, "error \"\\\t\x01\x7f\xff é\r\n")
	write(t, w, logs.Stdout, "o\nrest")
	long := strings.Repeat("x", logs.MaxLine+1)
	write(t, w, logs.Stderr, long+"\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := read(t, root, logs.ReadOptions{Tail: -1})
	want := []logs.Record{
		{Text: "one\n", Stream: logs.Stdout}, {Text: "error \"\\\t\x01\x7f\ufffd é\r\n", Stream: logs.Stderr},
		{Text: "two\n", Stream: logs.Stdout}, {Text: long[1:], Stream: logs.Stderr}, {Text: "x\n", Stream: logs.Stderr},
		{Text: "rest", Stream: logs.Stdout},
	}
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i].Text != want[i].Text || got[i].Stream != want[i].Stream || time.Since(got[i].Time) > time.Hour {
			t.Errorf("record %d is %.60q of %s at %s, want %.60q of %s", i, got[i].Text, got[i].Stream, got[i].Time, want[i].Text, want[i].Stream)
		}
	}
}

// A file holds whole records and stays within its size; as many files are kept as were
// asked for, and their names are Docker's.
func TestRotation(t *testing.T) {
	for _, files := range []int{1, 3} {
		root := newRoot(t)
		const most = 400
		w, err := logs.NewWriter(root, logs.Options{MaxSize: most, MaxFiles: files})
		if err != nil {
			t.Fatal(err)
		}
		const lines = 50
		for i := range lines {
			write(t, w, logs.Stdout, fmt.Sprintf("line %d\n", i))
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Join(root.Name(), "*"))
		if err != nil || len(names) != files {
			t.Fatalf("files %v, want %d (%v)", names, files, err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil || len(data) > most {
				t.Errorf("%s has %d bytes, limit %d (%v)", name, len(data), most, err)
			}
			for line := range strings.Lines(string(data)) {
				if !json.Valid([]byte(line)) {
					t.Errorf("%s holds %q", name, line)
				}
			}
		}
		got := read(t, root, logs.ReadOptions{Tail: -1})
		for i, r := range got {
			if want := fmt.Sprintf("line %d\n", lines-len(got)+i); r.Text != want {
				t.Fatalf("record %d is %q, want %q", i, r.Text, want)
			}
		}
		for _, n := range []int{0, 1, 4, len(got), 1000} {
			want := text(got[max(0, len(got)-n):])
			if tail := text(read(t, root, logs.ReadOptions{Tail: n})); tail != want {
				t.Errorf("with %d files the last %d are %q, want %q", files, n, tail, want)
			}
		}
	}
}

func TestTimes(t *testing.T) {
	root := newRoot(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w, err := logs.NewWriter(root, logs.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		write(t, w, logs.Stdout, fmt.Sprintf("%d\n", i))
		now = now.Add(time.Minute)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC)
	if got := text(read(t, root, logs.ReadOptions{Tail: -1, Since: from, Until: from.Add(2 * time.Minute)})); got != "1\n2\n3\n" {
		t.Errorf("got %q", got)
	}
}

// A follower sees each record once, through rotations, and what was written last.
func TestFollow(t *testing.T) {
	root := newRoot(t)
	w, err := logs.NewWriter(root, logs.Options{MaxSize: 300, MaxFiles: 4})
	if err != nil {
		t.Fatal(err)
	}
	const lines = 100
	written := 0
	follow := func(context.Context) (bool, error) {
		for range 3 { // less than a file: what is put aside twice between two looks is lost
			if written < lines {
				write(t, w, logs.Stdout, fmt.Sprintf("%d\n", written))
				written++
			}
		}
		return written < lines, nil
	}
	got := read(t, root, logs.ReadOptions{Tail: -1, Follow: follow})
	if len(got) != lines {
		t.Fatalf("%d records, want %d", len(got), lines)
	}
	for i, r := range got {
		if r.Text != fmt.Sprintf("%d\n", i) {
			t.Errorf("record %d is %q", i, r.Text)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedLinesArePassedOver(t *testing.T) {
	root := newRoot(t)
	good := `{"log":"good\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}` + "\n"
	bad := "{\"log\":\"half\n" + "null\n[]\n" + `{"log":"x","stream":"elsewhere","time":"2026-01-01T00:00:00Z"}` + "\n" +
		strings.Repeat("y", 1<<20) + "\n"
	if err := root.WriteFile(logs.FileName, []byte(bad+good+"{\"log\":"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := text(read(t, root, logs.ReadOptions{Tail: -1})); got != "good\n" {
		t.Errorf("got %q", got)
	}
}

func TestRingLosesTheOldest(t *testing.T) {
	root := newRoot(t)
	block, entered := make(chan struct{}), make(chan struct{}, 100)
	w, err := logs.NewWriter(root, logs.Options{Now: func() time.Time { entered <- struct{}{}; <-block; return time.Now() }})
	if err != nil {
		t.Fatal(err)
	}
	r := logs.NewRing(w, 10)
	for i := range 10 {
		if err := r.Write(logs.Stdout, []byte(fmt.Sprintf("%04d\n", i))); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			<-entered // the first one is being written, by a disk that does not answer
		}
	}
	if got := r.Lost(); got != 35 {
		t.Errorf("%d bytes lost, want 35", got)
	}
	close(block)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got := text(read(t, root, logs.ReadOptions{Tail: -1})); got != "0000\n0008\n0009\n" {
		t.Errorf("got %q", got)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"log":"a\n","stream":"stderr","time":"2026-01-01T00:00:00Z"}`+"\n"), 3)
	f.Add([]byte("\n\n{}\n"), 1)
	f.Fuzz(func(t *testing.T, data []byte, tail int) {
		root := newRoot(t)
		if err := root.WriteFile(logs.FileName, data, 0o600); err != nil {
			t.Fatal(err)
		}
		n := len(read(t, root, logs.ReadOptions{Tail: tail}))
		if tail >= 0 && n > tail {
			t.Errorf("%d records, want at most %d", n, tail)
		}
	})
}
