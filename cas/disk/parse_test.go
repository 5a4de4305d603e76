package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"testing"
)

func TestParseFormat(t *testing.T) {
	flags := func(n int) string {
		out := make([]string, n)
		for i := range out {
			out[i] = fmt.Sprint("flag", i)
		}
		b, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, test := range []struct {
		name, in string
		parse    error // of parseFormat
		check    error // of check
		readOnly bool
	}{
		{name: "new", in: `{"version":1,"compatible":[],"readonly":[],"incompatible":[]}`},
		{name: "least", in: `{"version":1}`},
		{name: "unknown fields", in: `{"version":1,"made":"yesterday"}`},
		{name: "compatible flag", in: `{"version":1,"compatible":["x"]}`},
		{name: "read-only flag", in: `{"version":1,"readonly":["x"]}`, readOnly: true},
		{name: "incompatible flag", in: `{"version":1,"incompatible":["x"]}`, check: errors.ErrUnsupported},
		{name: "next version", in: `{"version":2}`, check: errors.ErrUnsupported},
		{name: "most flags", in: `{"version":1,"compatible":` + flags(maxFeatures) + `}`},
		{name: "too many flags", in: `{"version":1,"compatible":` + flags(maxFeatures+1) + `}`, parse: fs.ErrInvalid},
		{name: "longest flag", in: `{"version":1,"compatible":["` + strings.Repeat("x", maxFeature) + `"]}`},
		{name: "too long a flag", in: `{"version":1,"compatible":["` + strings.Repeat("x", maxFeature+1) + `"]}`, parse: fs.ErrInvalid},
		{name: "empty flag", in: `{"version":1,"compatible":[""]}`, parse: fs.ErrInvalid},
		{name: "largest", in: `{"version":1}` + strings.Repeat(" ", maxFormatSize-13)},
		{name: "too large", in: `{"version":1}` + strings.Repeat(" ", maxFormatSize-12), parse: fs.ErrInvalid},
		{name: "empty", in: ``, parse: fs.ErrInvalid},
		{name: "no version", in: `{}`, parse: fs.ErrInvalid},
		{name: "version 0", in: `{"version":0}`, parse: fs.ErrInvalid},
		{name: "trailing data", in: `{"version":1}{}`, parse: fs.ErrInvalid},
		{name: "wrong type", in: `{"version":"1"}`, parse: fs.ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := parseFormat([]byte(test.in))
			if !errors.Is(err, test.parse) {
				t.Fatalf("parse: error %v, want %v", err, test.parse)
			}
			if err != nil {
				return
			}
			readOnly, err := f.check()
			if !errors.Is(err, test.check) || (readOnly != "") != test.readOnly {
				t.Errorf("check: %q, %v, want read-only %t, error %v", readOnly, err, test.readOnly, test.check)
			}
		})
	}
}

func FuzzParseFormat(f *testing.F) {
	b, err := newFormat().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"readonly":["x"],"incompatible":["y"]}`))
	f.Add([]byte(`{"version":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseFormat(b)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("error %v does not wrap fs.ErrInvalid", err)
			}
			return
		}
		// What a program accepts it may write, and must then read.
		if _, err := got.check(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("check: %v", err)
		}
		b, err = got.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseFormat(b); err != nil && len(b) <= maxFormatSize {
			t.Errorf("what was encoded again cannot be parsed: %v", err)
		}
	})
}

func TestUsageRecord(t *testing.T) {
	largest := Sum{math.MaxInt64, math.MaxInt64}
	for _, r := range []usageRecord{
		{Version: usageFormat},
		{Version: usageFormat, Unsure: 1, Epoch: 2, Sweeps: 3, Objects: Sum{4, 5}, Quarantine: Sum{6, 7}},
		{usageFormat, math.MaxUint64, math.MaxUint64, math.MaxUint64, largest, largest, largest, largest, largest},
	} {
		b := r.encode()
		if len(b) != usageSize {
			t.Errorf("%+v encodes to %d bytes, want %d", r, len(b), usageSize)
		}
		got, err := parseUsage(b)
		if err != nil || got != r {
			t.Errorf("%+v comes back as %+v, %v", r, got, err)
		}
		for i := range b {
			torn := append([]byte(nil), b...)
			torn[i] ^= 1
			if _, err := parseUsage(torn); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("a flipped bit in byte %d is not noticed: %v", i, err)
			}
		}
		for _, b := range [][]byte{nil, b[:usageSize-1], append(b, '\n')} {
			if _, err := parseUsage(b); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%d bytes: error %v, want fs.ErrInvalid", len(b), err)
			}
		}
	}
}

// Sums never become negative: they are then known to be wrong.
func TestUsageUnderflow(t *testing.T) {
	r := usageRecord{Objects: Sum{1, 10}}
	r.add(&r.Objects, -2, -10)
	if r.Objects != (Sum{0, 0}) || r.Unsure != 1 {
		t.Errorf("taking two of one leaves %+v", r)
	}
}

func FuzzParseUsage(f *testing.F) {
	f.Add(usageRecord{}.encode())
	f.Add(usageRecord{Epoch: math.MaxUint64, Objects: Sum{1, 2}}.encode())
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseUsage(b)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("error %v does not wrap fs.ErrInvalid", err)
			}
		} else if again, err := parseUsage(r.encode()); err != nil || again != r {
			t.Errorf("%+v comes back as %+v, %v", r, again, err)
		}
		// The checksum keeps the fuzzer from the inside, so it is given it.
		if len(b) > usageText {
			return
		}
		if r, err := parseUsage(seal(b)); err == nil {
			for _, sum := range r.sums() {
				if sum.Count < 0 || sum.Bytes < 0 {
					t.Errorf("negative sum in %+v", r)
				}
			}
		}
	})
}

func TestParseOwner(t *testing.T) {
	info, err := parseOwner([]byte("pid 12\nstarted 34\nkeep \"layers/sha256/ab\"\nkeep \"refs/a b\"\nkeep \"ref"))
	if err != nil {
		t.Fatal(err)
	}
	if info.PID != 12 || info.Started.Unix() != 34 || strings.Join(info.Kept, "|") != "layers/sha256/ab|refs/a b" {
		t.Errorf("parsed as %+v", info)
	}
	for _, in := range []string{"pid x\n", "started\n", "keep layers/x\n", "keep \"../x\"\n", "keep \"blobs/x\"\n", "other 1\n", "\n"} {
		if _, err := parseOwner([]byte(in)); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: error %v, want fs.ErrInvalid", in, err)
		}
	}
	line := "keep \"layers/" + strings.Repeat("x", 1000) + "\"\n"
	most := strings.Repeat(line, maxOwner/len(line))
	most += strings.Repeat("x", maxOwner-len(most))
	if _, err := parseOwner([]byte(most)); err != nil {
		t.Errorf("a file of %d bytes: %v", len(most), err)
	}
	if _, err := parseOwner([]byte(most + "x")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a file of %d bytes: error %v, want fs.ErrInvalid", len(most)+1, err)
	}
}

func FuzzParseOwner(f *testing.F) {
	f.Add([]byte("pid 12\nstarted 34\nkeep \"layers/sha256/ab\"\n"))
	f.Add([]byte("keep \"refs/\\u00e4\"\nkeep"))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := parseOwner(b)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("error %v does not wrap fs.ErrInvalid", err)
			}
			return
		}
		for _, rel := range info.Kept {
			if err := checkRecord(rel); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestCheckRecord(t *testing.T) {
	for _, rel := range []string{
		"layers/sha256/ab", "stacks/x", "refs/docker.io/library/a:b@c", "snapshots/k/snapshot.json", "containers/1/state.json",
		"index.json", "refs/" + strings.Repeat("x", MaxRecordPath-5),
	} {
		if err := checkRecord(rel); err != nil {
			t.Errorf("%q: %v", rel, err)
		}
	}
	for _, rel := range []string{
		"", ".", "/", "refs", "refs/", "refs//x", "refs/../x", "refs/./x", "/refs/x", "refs/x/", "../refs/x", "blobs/sha256/x",
		"objects/ab/x", "format.json", "lock", "usage.json", "ingest/x", "quarantine/x", "locks/x", "refs/\x00", "refs/\xff",
		"refs/" + strings.Repeat("x", MaxRecordPath-4),
	} {
		if err := checkRecord(rel); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%.40q: error %v, want fs.ErrInvalid", rel, err)
		}
	}
}
