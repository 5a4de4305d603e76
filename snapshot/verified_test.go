package snapshot

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
)

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

func TestVerifiedObject(t *testing.T) {
	data := bytes.Repeat([]byte("content "), 1000)
	good := tree.ObjectID(sha256.Sum256(data))
	bad := good
	bad[3] ^= 1
	for name, read := range map[string]func(r io.ReaderAt) error{
		"in order": func(r io.ReaderAt) error {
			_, err := io.Copy(io.Discard, io.NewSectionReader(r, 0, int64(len(data))))
			return err
		},
		"again from the start": func(r io.ReaderAt) error {
			p := make([]byte, 100)
			_, err := r.ReadAt(p, 0)
			_, err2 := io.Copy(io.Discard, io.NewSectionReader(r, 0, int64(len(data))))
			return errors.Join(err, err2)
		},
		"the end only": func(r io.ReaderAt) error {
			_, err := r.ReadAt(make([]byte, 10), int64(len(data))-10)
			return err
		},
	} {
		if err := read(newVerifiedObject(memory{bytes.NewReader(data)}, good)); err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if err := read(newVerifiedObject(memory{bytes.NewReader(data)}, bad)); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s, damaged: %v, want ErrCorrupt", name, err)
		}
	}
}
