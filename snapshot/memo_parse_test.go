package snapshot

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"strings"
	"testing"
)

func someMemo() memo {
	return memo{
		DiffID("sha256:" + strings.Repeat("0a", 32)): {stamp: stamp{1, -5}, objects: bytes.Repeat([]byte{7}, 2*idSize)},
		DiffID("sha256:" + strings.Repeat("ff", 32)): {stamp: stamp{1 << 40, 1 << 60}, objects: []byte{}},
	}
}

func TestMemo(t *testing.T) {
	want := someMemo()
	b := want.encode()
	got, err := parseMemo(b)
	same := func(a, b memoLayer) bool { return a.stamp == b.stamp && bytes.Equal(a.objects, b.objects) }
	if err != nil || !maps.EqualFunc(got, want, same) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	for n := range b {
		// A cut between two layers gives fewer of them.
		if m, err := parseMemo(b[:n]); !errors.Is(err, fs.ErrInvalid) && len(m) >= len(want) {
			t.Errorf("the first %d bytes: %v, %v", n, m, err)
		}
	}
	if _, err := parseMemo(append(b, b...)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("layers twice: %v, want ErrInvalid", err)
	}
	weird := memo{"sha256:strange": {}}
	if b := weird.encode(); len(b) != 0 {
		t.Errorf("a file that is no recipe: %x, want nothing", b)
	}
}

func FuzzParseMemo(f *testing.F) {
	f.Add(someMemo().encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMemo(data)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%v, want ErrInvalid", err)
			}
			return
		}
		if got := len(m.encode()); got != len(data) {
			t.Errorf("%d bytes became %d", len(data), got)
		}
	})
}
