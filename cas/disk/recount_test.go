package disk

import (
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// A recount that has walked quarantine while somebody deleted from it must not make what
// it saw the kept sums, even if it ends after that.
func TestRecountDuringExpiry(t *testing.T) {
	ctx := t.Context()
	s, err := Open(ctx, filepath.Join(t.TempDir(), "store"), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	const record = "layers/sha256/dead"
	if err := s.WriteRecord(ctx, record, []byte("recipe")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Quarantine(ctx, record); err != nil {
		t.Fatal(err)
	}
	var before, counted usageRecord
	gone, err := s.expire(ctx, time.Now().Add(time.Hour), func(visit func(string, fileStat) error) (err error) {
		before, err = s.readUsage(ctx)
		if err == nil {
			counted, err = s.count(ctx)
		}
		return errors.Join(err, s.walk(ctx, quarantineDir, 1, visit))
	})
	if err != nil || gone.Count != 1 || counted.Quarantine.Count != 1 {
		t.Fatalf("expiry of %+v: %v, while %+v was counted", gone, err, counted.Quarantine)
	}
	if _, ok, err := s.adopt(ctx, counted, before.Epoch, before.Sweeps); ok || err != nil {
		t.Errorf("sums from before the deletion were taken: %t, %v", ok, err)
	}
	if u, err := s.Usage(ctx); err != nil || u != (Usage{Exact: true}) {
		t.Errorf("usage %+v, %v, want an empty store", u, err)
	}
}
