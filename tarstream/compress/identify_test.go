package compress

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"testing"

	klauspost "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/opencontainers/go-digest"
)

func stdGunzip(tb testing.TB, r io.Reader) io.Reader {
	tb.Helper()
	z, err := gzip.NewReader(r)
	if err != nil {
		tb.Fatal(err)
	}
	return z
}

func klauspostGunzip(tb testing.TB, r io.Reader) io.Reader {
	tb.Helper()
	z, err := klauspost.NewReader(r)
	if err != nil {
		tb.Fatal(err)
	}
	return z
}

func TestIdentify(t *testing.T) {
	testenv.Long(t)
	data := sample(t, 3<<19)
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	var docker bytes.Buffer
	w := gzip.NewWriter(&docker)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var buildkit bytes.Buffer
	e, err := zstd.NewWriter(&buildkit)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		format Format
		blob   []byte
		level  Level
		found  bool
	}{
		{"ours", Gzip, pack(t, Gzip, DefaultLevel, data), DefaultLevel, true},
		{"ours at 3", Gzip, pack(t, Gzip, 3, data), 3, true},
		{"pgzip", Gzip, pack(t, Gzip, Pgzip, data), Pgzip, true},
		{"standard library", Gzip, docker.Bytes(), Serial, true},
		{"stored", Gzip, gzipStored(t, data), 0, false},
		{"ours", Zstd, pack(t, Zstd, DefaultLevel, data), DefaultLevel, true},
		{"klauspost stream", Zstd, buildkit.Bytes(), Serial, true},
		{"not compressed", None, data, 0, false},
	} {
		t.Run(c.format.String()+"/"+c.name, func(t *testing.T) {
			left, err := Narrow(t.Context(), open, c.blob[:min(len(c.blob), 200<<10)], c.format, Levels(c.format))
			if err != nil {
				t.Fatal(err)
			}
			if c.found && len(left) == 0 || !c.found && len(left) > 0 {
				t.Errorf("narrowed to %v", left)
			}
			level, found, err := Identify(t.Context(), open, digest.FromBytes(c.blob), c.format, left)
			if err != nil || found != c.found || level != c.level {
				t.Fatalf("got %v, %v, %v; want %v, %v", level, found, err, c.level, c.found)
			}
			if found && !bytes.Equal(pack(t, c.format, level, data), c.blob) {
				t.Error("the level found does not give the blob again")
			}
		})
	}
}

func gzipStored(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

type closeErr struct {
	io.Reader
	err error
}

func (c closeErr) Close() error { return c.err }

func TestIdentifyErrors(t *testing.T) {
	data := sample(t, 1<<20)
	want := digest.FromBytes(data)
	boom := errors.New("boom")
	ok := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"open":  second(Identify(t.Context(), func() (io.ReadCloser, error) { return nil, boom }, want, Gzip, []Level{1})),
		"close": second(Identify(t.Context(), func() (io.ReadCloser, error) { return closeErr{bytes.NewReader(data), boom}, nil }, want, Gzip, []Level{1})),
	} {
		if !errors.Is(err, boom) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := second(Identify(cancelled, ok, want, Gzip, []Level{1})); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := second(Identify(t.Context(), ok, "nonsense", Gzip, []Level{1})); err == nil {
		t.Error("digest that is none: no error")
	}
	// A hash other than SHA-256.
	blob := pack(t, Gzip, 1, data)
	if level, found, err := Identify(t.Context(), ok, digest.SHA512.FromBytes(blob), Gzip, []Level{DefaultLevel, 1}); err != nil || !found || level != 1 {
		t.Errorf("sha512: %v %v %v", level, found, err)
	}
}

func second(_ Level, _ bool, err error) error { return err }
