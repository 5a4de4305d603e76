package snapshot_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/opencontainers/go-digest"
)

// blob imports a tar compressed at a level of [compress.NewWriter].
func (e *env) blob(f compress.Format, l compress.Level) (digest.Digest, []byte) {
	e.t.Helper()
	var b bytes.Buffer
	z, err := compress.NewWriter(&b, f, l)
	e.ok(err)
	text := strings.Repeat("some text that goes on ", 2000)
	e.n++
	_, err = z.Write(tarOf(e.t, []entry{{name: "f", data: text + strings.Repeat("x", e.n)}, {name: "small", data: "s"}}))
	e.ok(errors.Join(err, z.Close()))
	return e.importBlob(b.Bytes()), b.Bytes()
}

func (e *env) importBlob(data []byte) digest.Digest {
	e.t.Helper()
	_, b, err := e.snaps.ImportLayer(e.ctx, e.sess, bytes.NewReader(data), snapshot.LayerExpect{BlobSize: -1})
	e.ok(err)
	return b.Digest
}

// TestBlobsMadeAgain proves blobs of all encoders, drops them and has them made again.
func TestBlobsMadeAgain(t *testing.T) {
	e := newEnv(t)
	for _, c := range []struct {
		format compress.Format
		level  compress.Level
	}{
		{compress.Gzip, compress.DefaultLevel}, {compress.Gzip, compress.Serial}, {compress.Gzip, compress.Pgzip}, {compress.Gzip, 9},
		{compress.Zstd, compress.DefaultLevel}, {compress.Zstd, compress.Serial},
	} {
		d, want := e.blob(c.format, c.level)
		if ok, err := e.snaps.RemakesBlob(e.ctx, d); ok || err != nil {
			t.Errorf("%v %v: made again without a proof: %v", c.format, c.level, err)
		}
		ok, err := e.snaps.ProveBlob(e.ctx, d)
		if !ok || err != nil {
			t.Errorf("%v %v: not proven: %v", c.format, c.level, err)
			continue
		}
		before, err := e.disk.Usage(e.ctx)
		e.ok(err)
		n, err := e.snaps.DiscardBlob(e.ctx, d)
		if n != int64(len(want)) || err != nil {
			t.Errorf("freed %d bytes of %d: %v", n, len(want), err)
		}
		after, err := e.disk.Usage(e.ctx)
		e.ok(err)
		if before.Blobs.Bytes-after.Blobs.Bytes != n || before.Blobs.Count-after.Blobs.Count != 1 {
			t.Errorf("blobs: %+v before, %+v after", before.Blobs, after.Blobs)
		}
		if n, err := e.snaps.DiscardBlob(e.ctx, d); n != 0 || err != nil {
			t.Errorf("discarded again: %d, %v", n, err)
		}
		if ok, err := e.snaps.ProveBlob(e.ctx, d); !ok || err != nil {
			t.Errorf("proven already: %v, %v", ok, err)
		}
		var got bytes.Buffer
		if err := e.snaps.WriteBlob(e.ctx, d, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%v %v: other bytes: %v", c.format, c.level, err)
		}
		// What is known of the blob still saves reading it again.
		l, b, err := e.snaps.FindBlob(e.ctx, e.sess, d)
		if err != nil || b.Digest != d || l.DiffID != b.DiffID {
			t.Errorf("find: %+v, %+v, %v", l, b, err)
		}
	}
}

// TestBlobNobodyMakes keeps what no encoder makes.
func TestBlobNobodyMakes(t *testing.T) {
	e := newEnv(t)
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	e.ok(err)
	_, err = z.Write(tarOf(t, []entry{{name: "f", data: strings.Repeat("text", 3000)}}))
	e.ok(errors.Join(err, z.Close()))
	d := e.importBlob(b.Bytes())
	if ok, err := e.snaps.ProveBlob(e.ctx, d); ok || err != nil {
		t.Errorf("stored blocks: %v, %v", ok, err)
	}
	if ok, err := e.snaps.HasBlob(e.ctx, d); !ok || err != nil {
		t.Errorf("the blob is gone: %v", err)
	}
	if err := e.snaps.WriteBlob(e.ctx, d, io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("made again: %v", err)
	}
	unknown := digest.FromString("unknown")
	if ok, err := e.snaps.RemakesBlob(e.ctx, unknown); ok || err != nil {
		t.Errorf("unknown blob: %v, %v", ok, err)
	}
	if _, err := e.snaps.ProveBlob(e.ctx, unknown); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown blob: %v", err)
	}
	if n, err := e.snaps.DiscardBlob(e.ctx, unknown); n != 0 || err != nil {
		t.Errorf("unknown blob: %d, %v", n, err)
	}
}

// TestBlobOfAnotherEncoder has proofs of another version: they are given anew, and a
// wrong one is seen before anything is saved.
func TestBlobOfAnotherEncoder(t *testing.T) {
	e := newEnv(t)
	d, want := e.blob(compress.Gzip, compress.Pgzip)
	e.ok(second(e.snaps.ProveBlob(e.ctx, d)))
	name := filepath.Join(e.disk.Root(), "layers/blobs/sha256", d.Encoded())
	edit := func(encoder, version string) {
		var b snapshot.Blob
		data, err := os.ReadFile(name)
		e.ok(errors.Join(err, json.Unmarshal(data, &b)))
		b.Encoder, b.EncoderVersion = encoder, version
		data, err = json.Marshal(b)
		e.ok(errors.Join(err, e.disk.WriteRecord(e.ctx, "layers/blobs/sha256/"+d.Encoded(), data)))
	}
	edit("pgzip-default", "another")
	if ok, err := e.snaps.RemakesBlob(e.ctx, d); !ok || err != nil {
		t.Errorf("another version, the same bytes: %v, %v", ok, err)
	}
	if v := compress.EncoderVersion(compress.Gzip, compress.Pgzip); v != "" {
		if b, err := e.snaps.BlobOf(e.ctx, d); err != nil || b.EncoderVersion != v {
			t.Errorf("the new proof is not recorded: %+v, %v", b, err)
		}
	}
	edit("1", "another")
	if ok, err := e.snaps.RemakesBlob(e.ctx, d); ok || err != nil {
		t.Errorf("another version, other bytes: %v, %v", ok, err)
	}
	if err := e.snaps.WriteBlob(e.ctx, d, io.Discard); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("other bytes: %v, want cas.ErrCorrupt", err)
	}
	// As long as the blob is there, the right one can be found.
	if ok, err := e.snaps.ProveBlob(e.ctx, d); !ok || err != nil {
		t.Errorf("proof against the kept bytes: %v, %v", ok, err)
	}
	edit("a later one", "another")
	if ok, err := e.snaps.RemakesBlob(e.ctx, d); ok || err != nil {
		t.Errorf("unknown encoder: %v, %v", ok, err)
	}
	edit("pgzip-default", "another")
	var got bytes.Buffer
	if err := e.snaps.WriteBlob(e.ctx, d, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Error(err)
	}
}

func second(_ bool, err error) error { return err }
