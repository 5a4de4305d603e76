package castest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/layerfs/layerfs/cas"
	"github.com/opencontainers/go-digest"
)

// reader: random access, concurrently, and beyond removal.
func (s *suite) reader() {
	data := content(1, 300_000)
	d := digest.FromBytes(data)
	s.publish(data)
	r, err := s.store.Open(s.Context(), d)
	s.must(err)
	check := func() {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for off := i; off < len(data); off += 37_777 {
					p := make([]byte, min(10_000, len(data)-off))
					if n, err := r.ReadAt(p, int64(off)); n != len(p) || err != nil && !errors.Is(err, io.EOF) {
						s.Errorf("read of %d bytes at %d: %d, %v", len(p), off, n, err)
					} else if !bytes.Equal(p, data[off:off+n]) {
						s.Errorf("other bytes at %d", off)
					}
				}
			})
		}
		wg.Wait()
	}
	check()
	if n, err := r.ReadAt(make([]byte, 10), r.Size()-4); n != 4 || !errors.Is(err, io.EOF) {
		s.Errorf("read across the end: %d, %v, want 4 and io.EOF", n, err)
	}
	s.must(s.store.Remove(s.Context(), d))
	check()
	s.must(r.Close())
}

// malformed are strings that are no digests, or none that a store could serve.
var malformed = [...]digest.Digest{
	"", "sha256", "sha256:", ":abc", "sha256:abc", "sha256:../../../../etc/passwd",
	digest.Digest("sha256:" + strings.Repeat("A", 64)),
	digest.Digest("sha256:" + strings.Repeat("a", 63)),
	digest.Digest("sha256:" + strings.Repeat("a", 65)),
	digest.Digest("sha256:" + strings.Repeat("a", 63) + "/"),
	digest.Digest("sha256:" + strings.Repeat("a", 63) + "\n"),
	digest.Digest("sha512:" + strings.Repeat("a", 64)),
	digest.Digest("md5:" + strings.Repeat("a", 32)),
	digest.Digest("../sha256:" + strings.Repeat("a", 64)),
}

// provider: content is found under its digest, and nothing else is.
func (s *suite) provider() {
	for _, alg := range s.algs {
		for i, size := range sizes {
			data := content(uint64(i), size)
			b := s.begin()
			info := s.put(b, cas.Expect{Algorithm: alg, Size: -1}, data)
			s.must(b.Publish(s.Context()))
			if d := alg.FromBytes(data); info.Digest != d || info.Size != int64(size) {
				s.Errorf("commit returned %+v, want %s with %d bytes", info, d, size)
			}
			s.wantContent(info.Digest, data)
		}
		s.wantAbsent(alg.FromString("something else"))
	}
	for _, d := range malformed {
		_, err := s.store.Open(s.Context(), d)
		s.wantError("open of malformed digest "+d.String(), err, fs.ErrInvalid)
		_, err = s.store.Stat(s.Context(), d)
		s.wantError("stat of malformed digest "+d.String(), err, fs.ErrInvalid)
	}
}

// walker: all content is visited, once, until fn fails.
func (s *suite) walker() {
	if all := s.walk(); len(all) != 0 {
		s.Errorf("walk of an empty store visits %v", all)
	}
	want := map[digest.Digest]int64{}
	b := s.begin()
	for _, alg := range s.algs {
		for i := range 300 {
			data := content(uint64(i), i)
			info := s.put(b, cas.Expect{Algorithm: alg, Size: int64(i)}, data)
			want[info.Digest] = int64(i)
		}
	}
	s.must(b.Publish(s.Context()))
	all := s.walk()
	for d, size := range want {
		if info, ok := all[d]; !ok || info.Size != size || info.ModTime.IsZero() {
			s.Errorf("walk: %s is %+v, want %d bytes", d, info, size)
		}
	}
	if len(all) != len(want) {
		s.Errorf("walk visits %d contents, want %d", len(all), len(want))
	}
	stop := errors.New("stop")
	visits := 0
	err := s.store.Walk(s.Context(), func(cas.Info) error {
		if visits++; visits == 5 {
			return stop
		}
		return nil
	})
	if err != stop || visits != 5 { //nolint:errorlint // the contract promises the error as it is
		s.Errorf("walk that is stopped at the fifth visit: %d visits, error %v", visits, err)
	}
	// Content that goes meanwhile may or may not be visited.
	visited := map[digest.Digest]bool{}
	removed := false
	s.must(s.store.Walk(s.Context(), func(info cas.Info) error {
		visited[info.Digest] = true
		if removed {
			return nil
		}
		removed = true
		for d := range want {
			if d != info.Digest {
				delete(want, d)
				return s.store.Remove(s.Context(), d)
			}
		}
		return nil
	}))
	for d := range want {
		if !visited[d] {
			s.Errorf("walk beside a removal does not visit %s", d)
		}
	}
}

// remover: content is gone at once, and can come back.
func (s *suite) remover() {
	one, two := content(1, 5000), content(2, 5000)
	s.publish(one, two)
	d := digest.FromBytes(one)
	s.must(s.store.Remove(s.Context(), d))
	s.wantAbsent(d)
	s.wantContent(digest.FromBytes(two), two)
	s.wantError("second removal", s.store.Remove(s.Context(), d), fs.ErrNotExist)
	for _, d := range malformed {
		s.wantError("removal of malformed digest "+d.String(), s.store.Remove(s.Context(), d), fs.ErrInvalid)
	}
	s.publish(one)
	s.wantContent(d, one)
}
