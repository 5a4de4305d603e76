// Package castest is the conformance suite of the contract in package cas: it asserts
// every sentence of it, and is run by every implementation.
package castest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/opencontainers/go-digest"
)

// Run runs the suite with the algorithms sha256, sha384 and sha512. open returns a
// new, empty store for each call, and cleans up after the test.
func Run(t *testing.T, open func(t *testing.T) cas.Store) {
	RunAlgorithms(t, open, digest.SHA256, digest.SHA384, digest.SHA512)
}

// RunAlgorithms runs the suite for a store that serves these algorithms only, of which
// the canonical one must be one.
func RunAlgorithms(t *testing.T, open func(t *testing.T) cas.Store, algs ...digest.Algorithm) {
	for name, test := range map[string]func(*suite){
		"Reader":     (*suite).reader,
		"Provider":   (*suite).provider,
		"Walker":     (*suite).walker,
		"Remover":    (*suite).remover,
		"Writer":     (*suite).writer,
		"Overrun":    (*suite).overrun,
		"Discard":    (*suite).discard,
		"Expect":     (*suite).expect,
		"Visibility": (*suite).visibility,
		"Republish":  (*suite).republish,
		"Close":      (*suite).close,
		"Twice":      (*suite).twice,
		"Concurrent": (*suite).concurrent,
		"Race":       (*suite).race,
		"Crossed":    (*suite).crossed,
		"Vanished":   (*suite).vanished,
		"Waiting":    (*suite).waiting,
	} {
		t.Run(name, func(t *testing.T) {
			test(&suite{T: t, store: open(t), algs: algs})
		})
	}
}

// suite is one test with its store.
type suite struct {
	*testing.T
	store cas.Store
	algs  []digest.Algorithm
}

// sizes of contents that have been known to make a difference.
var sizes = [...]int{0, 1, 511, 4095, 4096, 4097, 1<<20 + 3}

// content returns size bytes that are the same for the same seed.
func content(seed uint64, size int) []byte {
	b := make([]byte, size)
	chacha := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = chacha.Read(b) // never fails
	return b
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) wantError(what string, err, class error) {
	s.Helper()
	if !errors.Is(err, class) {
		s.Errorf("%s: error %v, want one that wraps %v", what, err, class)
	}
}

func (s *suite) begin() cas.Batch {
	s.Helper()
	b, err := s.store.Begin(s.Context())
	s.must(err)
	s.Cleanup(func() {
		if err := b.Close(); err != nil {
			s.Errorf("close batch: %v", err)
		}
	})
	return b
}

func (s *suite) create(b cas.Batch, e cas.Expect) cas.Writer {
	s.Helper()
	w, err := b.Create(s.Context(), e)
	s.must(err)
	s.Cleanup(func() {
		if err := w.Close(); err != nil {
			s.Errorf("close writer: %v", err)
		}
	})
	return w
}

// write writes data in pieces of odd sizes.
func (s *suite) write(w io.Writer, data []byte) {
	s.Helper()
	for len(data) > 0 {
		n := min(len(data), 40001)
		m, err := w.Write(data[:n])
		s.must(err)
		if m != n {
			s.Fatalf("wrote %d of %d bytes without an error", m, n)
		}
		data = data[n:]
	}
}

// put commits data to the batch.
func (s *suite) put(b cas.Batch, e cas.Expect, data []byte) cas.Info {
	s.Helper()
	w := s.create(b, e)
	s.write(w, data)
	info, err := w.Commit(s.Context())
	s.must(err)
	return info
}

// publish stores contents under their canonical digests, in a batch of their own.
func (s *suite) publish(contents ...[]byte) {
	s.Helper()
	b := s.begin()
	for _, data := range contents {
		s.put(b, cas.Expect{Size: -1}, data)
	}
	s.must(b.Publish(s.Context()))
	s.must(b.Close())
}

// wantContent asserts that the store holds data under d.
func (s *suite) wantContent(d digest.Digest, data []byte) {
	s.Helper()
	info, err := s.store.Stat(s.Context(), d)
	s.must(err)
	if info.Digest != d || info.Size != int64(len(data)) || info.ModTime.IsZero() {
		s.Errorf("stat of %s with %d bytes: %+v", d, len(data), info)
	}
	r, err := s.store.Open(s.Context(), d)
	s.must(err)
	if r.Size() != int64(len(data)) {
		s.Errorf("%s has %d bytes, want %d", d, r.Size(), len(data))
	}
	e := cas.Expect{Digest: d, Size: r.Size()}
	got, err := io.ReadAll(cas.NewVerifiedReader(io.NewSectionReader(r, 0, r.Size()), e))
	s.must(err)
	if !bytes.Equal(got, data) {
		s.Errorf("%s has other content", d)
	}
	s.must(r.Close())
}

// wantAbsent asserts that the store does not hold d.
func (s *suite) wantAbsent(d digest.Digest) {
	s.Helper()
	_, err := s.store.Stat(s.Context(), d)
	s.wantError("stat of absent content", err, fs.ErrNotExist)
	_, err = s.store.Open(s.Context(), d)
	s.wantError("open of absent content", err, fs.ErrNotExist)
	for _, info := range s.walk() {
		if info.Digest == d {
			s.Errorf("walk visits %s, which cannot be opened", d)
		}
	}
}

// walk returns everything that a walk visits.
func (s *suite) walk() map[digest.Digest]cas.Info {
	s.Helper()
	all := map[digest.Digest]cas.Info{}
	s.must(s.store.Walk(s.Context(), func(info cas.Info) error {
		if _, ok := all[info.Digest]; ok {
			s.Errorf("walk visits %s twice", info.Digest)
		}
		all[info.Digest] = info
		return nil
	}))
	return all
}

// canceled returns a context that has ended.
func canceled(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}
