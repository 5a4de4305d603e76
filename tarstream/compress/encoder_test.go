package compress

import (
	"errors"
	"io/fs"
	"runtime"
	"testing"
)

func TestParseLevel(t *testing.T) {
	for _, f := range []Format{Gzip, Zstd} {
		for _, l := range append(Levels(f), 1, maxLevel(f)) {
			if got, err := ParseLevel(l.String()); err != nil || got != l {
				t.Errorf("%v: %v, %v", l, got, err)
			}
		}
	}
	for _, s := range []string{"", "0", "-1", "01", "+1", "100", "256", "Level(300)", "serial", "serial-", "serial-0", "serial-pgzip-1", "pgzip-100", "default-1", "1 "} {
		if l, err := ParseLevel(s); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v, %v", s, l, err)
		}
	}
}

func TestEncoderVersion(t *testing.T) {
	if v := EncoderVersion(Gzip, Serial); v != runtime.Version() {
		t.Error("standard library:", v)
	}
	// A test program knows no modules; a built one does.
	for _, v := range []string{EncoderVersion(Gzip, Pgzip), EncoderVersion(Gzip, 9), EncoderVersion(Zstd, Serial)} {
		if v != EncoderVersion(Zstd, DefaultLevel) || v == runtime.Version() {
			t.Error("klauspost/compress:", v)
		}
	}
}
