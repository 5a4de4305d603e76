package castest

import (
	"context"
	"errors"
	"io/fs"
	"sync"

	"github.com/layerfs/layerfs/cas"
	"github.com/opencontainers/go-digest"
)

// writer: Commit checks size and digest.
func (s *suite) writer() {
	b := s.begin()
	for _, alg := range s.algs {
		for i, size := range sizes {
			data := content(uint64(i)+100, size)
			d := alg.FromBytes(data)
			s.put(b, cas.Expect{Digest: d, Size: int64(size), Limit: int64(size)}, data)
			if size == 0 {
				continue
			}
			w := s.create(b, cas.Expect{Digest: alg.FromString("other"), Size: -1})
			s.write(w, data)
			_, err := w.Commit(s.Context())
			s.wantError("commit of another digest", err, cas.ErrCorrupt)
			_, err = w.Commit(s.Context())
			s.wantError("second commit after a mismatch", err, cas.ErrCorrupt)

			for _, e := range []cas.Expect{{Digest: d, Size: int64(size)}, {Algorithm: alg, Size: int64(size)}} {
				w = s.create(b, e)
				s.write(w, data[:size-1])
				_, err = w.Commit(s.Context())
				s.wantError("commit of too few bytes", err, cas.ErrCorrupt)
				s.wantError("commit of too few bytes", err, fs.ErrInvalid)
			}
		}
	}
	s.must(b.Publish(s.Context()))
	if n := len(s.walk()); n != len(s.algs)*len(sizes) {
		s.Errorf("after failed commits the store has %d contents, want %d", n, len(s.algs)*len(sizes))
	}
}

// overrun: a Write beyond size or limit fails at once.
func (s *suite) overrun() {
	data := content(7, 1000)
	b := s.begin()
	known := digest.FromBytes(data)
	for _, test := range []struct {
		what  string
		e     cas.Expect
		class error
	}{
		{"size", cas.Expect{Size: 999}, cas.ErrCorrupt},
		{"size of a known digest", cas.Expect{Digest: known, Size: 999}, cas.ErrCorrupt},
		{"empty", cas.Expect{Size: 0}, cas.ErrCorrupt},
		{"limit", cas.Expect{Size: -1, Limit: 999}, fs.ErrInvalid},
		{"limit with a known digest", cas.Expect{Digest: known, Size: -1, Limit: 999}, fs.ErrInvalid},
	} {
		w := s.create(b, test.e)
		fit := min(len(data)-1, max(int(test.e.Size), int(test.e.Limit)))
		s.write(w, data[:fit])
		_, err := w.Write(data[fit : fit+1])
		s.wantError("write beyond the "+test.what, err, test.class)
		_, err = w.Commit(s.Context())
		s.wantError("commit after a write beyond the "+test.what, err, test.class)
	}
	s.must(b.Publish(s.Context()))
	if all := s.walk(); len(all) != 0 {
		s.Errorf("the store has %v", all)
	}
	s.put(b, cas.Expect{Size: 1000, Limit: 1000}, data) // exactly at both
}

// discard: Close without Commit leaves nothing, Close after Commit does nothing.
func (s *suite) discard() {
	data := content(3, 5000)
	d := digest.FromBytes(data)
	b := s.begin()
	w := s.create(b, cas.Expect{Digest: d, Size: 5000})
	s.write(w, data)
	s.must(w.Close())
	s.must(w.Close())
	if _, err := w.Write(data[:1]); err == nil {
		s.Error("write to a closed writer succeeds")
	}
	if _, err := w.Commit(s.Context()); err == nil {
		s.Error("commit of a closed writer succeeds")
	}
	s.must(b.Publish(s.Context()))
	s.wantAbsent(d)

	w = s.create(b, cas.Expect{Digest: d, Size: 5000})
	s.write(w, data)
	_, err := w.Commit(s.Context())
	s.must(err)
	s.must(w.Close())
	s.must(b.Publish(s.Context()))
	s.wantContent(d, data)
	s.must(w.Close())
	s.wantContent(d, data)
}

// expect: Create refuses what can never be.
func (s *suite) expect() {
	b := s.begin()
	for _, d := range malformed[1:] { // the first is an unknown digest
		_, err := b.Create(s.Context(), cas.Expect{Digest: d, Size: -1})
		s.wantError("create of malformed digest "+d.String(), err, fs.ErrInvalid)
	}
	for _, e := range []cas.Expect{
		{Size: -2},
		{Size: 10, Limit: 9},
		{Size: 10, Limit: -1},
		{Size: -1, Algorithm: "md5"},
		{Size: -1, Algorithm: "../sha256"},
	} {
		_, err := b.Create(s.Context(), e)
		s.wantError("create", err, fs.ErrInvalid)
	}
	// What is computed without saying otherwise is the canonical digest.
	if info := s.put(b, cas.Expect{Size: -1}, nil); info.Digest != digest.FromString("") {
		s.Errorf("digest of nothing is %s", info.Digest)
	}
	// An algorithm does not matter beside a digest.
	s.put(b, cas.Expect{Size: 3, Digest: digest.FromString("abc"), Algorithm: digest.SHA512}, []byte("abc"))
}

// visibility: nothing is visible before Publish, everything after, also much of it.
func (s *suite) visibility() {
	b := s.begin()
	var contents [][]byte
	for i := range 200 {
		data := content(uint64(i), 100+i)
		contents = append(contents, data)
		s.put(b, cas.Expect{Size: -1}, data)
	}
	for _, data := range contents[:5] {
		s.wantAbsent(digest.FromBytes(data))
	}
	if all := s.walk(); len(all) != 0 {
		s.Errorf("walk visits %d contents before they are published", len(all))
	}
	s.wantError("publish with an ended context", b.Publish(canceled(s.Context())), context.Canceled)
	if all := s.walk(); len(all) != 0 {
		s.Errorf("walk visits %d contents after publishing was canceled", len(all))
	}
	s.must(b.Publish(s.Context()))
	for _, data := range contents {
		s.wantContent(digest.FromBytes(data), data)
	}
}

// republish: a batch can be published again, and takes in committed writers only.
func (s *suite) republish() {
	one, two := content(1, 1000), content(2, 1000)
	b := s.begin()
	s.must(b.Publish(s.Context())) // nothing
	s.put(b, cas.Expect{Size: -1}, one)
	w := s.create(b, cas.Expect{Size: 1000})
	s.write(w, two)
	s.must(b.Publish(s.Context()))
	s.wantContent(digest.FromBytes(one), one)
	s.wantAbsent(digest.FromBytes(two))
	_, err := w.Commit(s.Context())
	s.must(err)
	s.wantAbsent(digest.FromBytes(two))
	s.must(b.Publish(s.Context()))
	s.wantContent(digest.FromBytes(two), two)
	s.must(b.Publish(s.Context()))
	s.must(b.Close())
	s.wantContent(digest.FromBytes(one), one)
	s.wantContent(digest.FromBytes(two), two)
}

// close: what was not published is gone, and open writers fail.
func (s *suite) close() {
	one, two, three := content(1, 1000), content(2, 1000), content(3, 1000)
	b := s.begin()
	s.put(b, cas.Expect{Size: -1}, one)
	s.must(b.Publish(s.Context()))
	s.put(b, cas.Expect{Size: -1}, two)
	w := s.create(b, cas.Expect{Size: -1})
	s.write(w, three[:500])
	s.must(b.Close())
	if _, err := w.Write(three[500:]); err == nil {
		s.Error("write after the batch was closed succeeds")
	}
	if _, err := w.Commit(s.Context()); err == nil {
		s.Error("commit after the batch was closed succeeds")
	}
	s.must(w.Close())
	s.must(b.Close())
	if err := b.Publish(s.Context()); err == nil {
		s.Error("publish after close succeeds")
	}
	if _, err := b.Create(s.Context(), cas.Expect{Size: -1}); err == nil {
		s.Error("create after close succeeds")
	}
	s.wantContent(digest.FromBytes(one), one)
	s.wantAbsent(digest.FromBytes(two))
	s.wantAbsent(digest.FromBytes(three))
}

// twice: putting what is there stores nothing, but is still verified.
func (s *suite) twice() {
	data := content(1, 10_000)
	d := digest.FromBytes(data)
	b := s.begin()
	s.put(b, cas.Expect{Size: -1}, data)
	s.put(b, cas.Expect{Size: -1}, data)
	s.put(b, cas.Expect{Digest: d, Size: 10_000}, data)
	s.must(b.Publish(s.Context()))
	before, err := s.store.Stat(s.Context(), d)
	s.must(err)
	for _, e := range []cas.Expect{{Size: -1}, {Digest: d, Size: -1}, {Digest: d, Size: 10_000}} {
		b := s.begin()
		info := s.put(b, e, data)
		if info.Digest != d || info.Size != 10_000 {
			s.Errorf("commit of known content returned %+v", info)
		}
		s.must(b.Publish(s.Context()))
		s.must(b.Close())
	}
	after, err := s.store.Stat(s.Context(), d)
	s.must(err)
	if after != before {
		s.Errorf("putting known content changed it from %+v to %+v", before, after)
	}
	if n := len(s.walk()); n != 1 {
		s.Errorf("the store has %d contents, want 1", n)
	}
	b = s.begin()
	w := s.create(b, cas.Expect{Digest: d, Size: -1})
	s.write(w, data[1:])
	_, err = w.Commit(s.Context())
	s.wantError("commit of something else under a known digest", err, cas.ErrCorrupt)
	s.must(b.Publish(s.Context()))
	s.wantContent(d, data)
}

// concurrent: one batch serves many putters, who may put the same.
func (s *suite) concurrent() {
	b := s.begin()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 50 {
				data := content(uint64(i), 2000)
				e := cas.Expect{Size: -1}
				if i%2 == 0 {
					e.Digest = digest.FromBytes(data)
				}
				if err := putOne(s.Context(), b, e, data); err != nil {
					s.Error(err)
				}
				if i%10 == 9 {
					if err := b.Publish(s.Context()); err != nil {
						s.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	s.must(b.Publish(s.Context()))
	if n := len(s.walk()); n != 50 {
		s.Errorf("the store has %d contents, want 50", n)
	}
	for i := range 50 {
		data := content(uint64(i), 2000)
		s.wantContent(digest.FromBytes(data), data)
	}
}

// putOne is put for use in goroutines.
func putOne(ctx context.Context, b cas.Batch, e cas.Expect, data []byte) error {
	w, err := b.Create(ctx, e)
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return errors.Join(err, w.Close())
	}
	_, err = w.Commit(ctx)
	return errors.Join(err, w.Close())
}

// race: batches that publish the same content at the same time all succeed.
func (s *suite) race() {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 10 {
				data := content(uint64(i), 3000)
				e := cas.Expect{Size: -1}
				if i%2 == 0 {
					e.Digest = digest.FromBytes(data)
				}
				if err := s.store1(e, data); err != nil {
					s.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(s.walk()); n != 10 {
		s.Errorf("the store has %d contents, want 10", n)
	}
	for i := range 10 {
		data := content(uint64(i), 3000)
		s.wantContent(digest.FromBytes(data), data)
	}
}

// store1 stores one content in a batch of its own, for use in goroutines.
func (s *suite) store1(e cas.Expect, data []byte) error {
	b, err := s.store.Begin(s.Context())
	if err != nil {
		return err
	}
	if err := putOne(s.Context(), b, e, data); err != nil {
		return errors.Join(err, b.Close())
	}
	return errors.Join(b.Publish(s.Context()), b.Close())
}

// crossed: batches that write the same digests in opposite orders do not wait for each
// other for ever.
func (s *suite) crossed() {
	var wg sync.WaitGroup
	for order := range 2 {
		wg.Go(func() {
			for round := range uint64(10) {
				b, err := s.store.Begin(s.Context())
				if err != nil {
					s.Error(err)
					return
				}
				for i := range 2 {
					data := content(2*round+uint64(i^order), 3000)
					e := cas.Expect{Digest: digest.FromBytes(data), Size: 3000}
					if err := putOne(s.Context(), b, e, data); err != nil {
						s.Error(err)
					}
				}
				if err := errors.Join(b.Publish(s.Context()), b.Close()); err != nil {
					s.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(s.walk()); n != 20 {
		s.Errorf("the store has %d contents, want 20", n)
	}
}

// vanished: a batch does not promise what was removed since it found it.
func (s *suite) vanished() {
	data := content(1, 3000)
	d := digest.FromBytes(data)
	s.publish(data)
	for _, e := range []cas.Expect{{Size: -1}, {Digest: d, Size: 3000}} {
		b := s.begin()
		s.put(b, e, data)
		s.must(s.store.Remove(s.Context(), d))
		s.wantError("publish of what was found and removed", b.Publish(s.Context()), fs.ErrNotExist)
		s.must(b.Close())
		s.publish(data)
		s.wantContent(d, data)
	}
}

// waiting: a Create that waits for another batch ends with its context, or when that
// batch is closed.
func (s *suite) waiting() {
	data := content(1, 3000)
	e := cas.Expect{Digest: digest.FromBytes(data), Size: 3000}
	first := s.begin()
	s.put(first, e, data)

	second := s.begin()
	w, err := second.Create(canceled(s.Context()), e)
	s.wantError("create with an ended context", err, context.Canceled)
	if err == nil {
		s.must(w.Close())
	}
	done := make(chan error)
	go func() {
		err := putOne(s.Context(), second, e, data)
		if err == nil {
			err = second.Publish(s.Context())
		}
		done <- err
	}()
	s.must(first.Close())
	s.must(<-done)
	s.wantContent(e.Digest, data)
}
