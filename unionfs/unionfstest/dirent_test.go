package unionfstest

import "testing"

func FuzzParseDirents(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 19))
	f.Fuzz(func(t *testing.T, buf []byte) {
		total := 0
		for _, e := range parseDirents(buf) {
			total += 19 + len(e.name)
		}
		if total > len(buf) {
			t.Errorf("%d bytes of entries from %d bytes", total, len(buf))
		}
	})
}
