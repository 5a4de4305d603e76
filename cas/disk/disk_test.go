package disk_test

import (
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/cas/castest"
	"github.com/layerfs/layerfs/cas/disk"
	"github.com/opencontainers/go-digest"
)

func TestBlobsConform(t *testing.T) {
	castest.Run(t, func(t *testing.T) cas.Store { return newStore(t).Blobs() })
}

func TestObjectsConform(t *testing.T) {
	open := func(t *testing.T) cas.Store { return newStore(t).Objects() }
	castest.RunAlgorithms(t, open, digest.SHA256)
}

// newStore makes a store that is checked and closed after the test.
func newStore(t *testing.T) *disk.Store {
	t.Helper()
	s := openStore(t, t.TempDir(), disk.Options{})
	t.Cleanup(func() { check(t, s) })
	return s
}

func openStore(t *testing.T, dir string, opts disk.Options) *disk.Store {
	t.Helper()
	s, err := disk.Open(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
