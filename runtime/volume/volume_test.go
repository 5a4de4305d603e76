package volume_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/runtime/volume"
)

func newStore(t testing.TB) (*volume.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "volumes")
	s, err := volume.New(volume.Options{Dir: dir, Lock: func(context.Context, string) (func() error, error) {
		return func() error { return nil }, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func TestVolume(t *testing.T) {
	s, dir := newStore(t)
	for i := range 2 {
		made, err := s.Ensure(volume.Volume{Name: "data", Labels: map[string]string{"a": "b"}})
		if err != nil || made != (i == 0) {
			t.Errorf("made %v (%v)", made, err)
		}
	}
	if v, err := s.Stat("data"); err != nil || v.Labels["a"] != "b" || v.Created.IsZero() {
		t.Errorf("%+v (%v)", v, err)
	}
	if empty, err := s.Empty("data"); err != nil || !empty {
		t.Errorf("empty %v (%v)", empty, err)
	}
	if err := os.WriteFile(s.Dir("data")+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if empty, err := s.Empty("data"); err != nil || empty {
		t.Errorf("empty %v (%v)", empty, err)
	}
	if err := s.Remove("data", []string{"web"}); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "web") {
		t.Errorf("remove one in use: %v", err)
	}
	// Two leftovers of killed commands, and a file that is none of ours.
	if err := errors.Join(os.MkdirAll(dir+"/half/_data", 0o700), os.MkdirAll(dir+"/half2", 0o700), os.WriteFile(dir+"/-x", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	none := func(*volume.Volume) bool { return false }
	if n, err := s.Sweep(true, none); err != nil || n != 2 {
		t.Errorf("would sweep %d (%v)", n, err)
	}
	if n, err := s.Sweep(false, none); err != nil || n != 2 {
		t.Errorf("swept %d (%v)", n, err)
	}
	var names []string
	if err := s.Walk(t.Context(), func(name string, err error) { t.Error(name, err) }, func(v *volume.Volume) error {
		names = append(names, v.Name)
		return nil
	}); err != nil || strings.Join(names, ",") != "data" {
		t.Errorf("volumes %v (%v)", names, err)
	}
	if err := s.Remove("data", nil); err != nil {
		t.Error(err)
	}
	if err := s.Remove("data", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove one that is not there: %v", err)
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"a": false, "ab": true, "": false, "../x": false, "a/b": false, ".ab": false,
		strings.Repeat("a", 128): true, strings.Repeat("a", 129): false} {
		if _, err := volume.ParseName(name); (err == nil) != ok {
			t.Errorf("%.20q: %v", name, err)
		}
	}
}

// A volume goes with its container until it is released, whoever was killed meanwhile.
func TestVolumeOfAContainer(t *testing.T) {
	s, _ := newStore(t)
	for _, name := range []string{"own", "used", "released"} {
		if _, err := s.Ensure(volume.Volume{Name: name, Anonymous: true, Container: "gone"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Release("released"); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Stat("released"); err != nil || v.Container != "" || !v.Anonymous || v.Created.IsZero() {
		t.Errorf("released: %+v (%v)", v, err)
	}
	if n, err := s.Sweep(false, func(v *volume.Volume) bool { return v.Name == "used" }); err != nil || n != 1 {
		t.Errorf("swept %d (%v)", n, err)
	}
	for name, want := range map[string]error{"own": fs.ErrNotExist, "used": nil, "released": nil} {
		if _, err := s.Stat(name); !errors.Is(err, want) {
			t.Errorf("volume %s: %v, want %v", name, err, want)
		}
	}
	if err := s.Release("own"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("release one that is not there: %v", err)
	}
}
