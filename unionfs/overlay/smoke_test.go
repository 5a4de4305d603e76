package overlay_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/overlay"
)

func TestDirectoryLower(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting with overlayfs needs root")
	}
	tmp := t.TempDir()
	at := func(name string) string { return filepath.Join(tmp, name) }
	for _, dir := range []string{"lower", "upper", "work", "target"} {
		if err := os.Mkdir(at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("lower/file"), []byte("below"), 0o644); err != nil {
		t.Fatal(err)
	}
	driver := overlay.New(overlay.Options{})
	m, err := driver.Open(t.Context(), unionfs.Layers{
		Lower: []unionfs.Lower{{Dir: at("lower")}}, Upper: at("upper"), Work: at("work"),
	}, unionfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Attach(t.Context(), at("target")); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(at("target/file"))
	if err != nil || string(got) != "below" {
		t.Errorf("read lower file: %q, %v", got, err)
	}
	if err := driver.Unmount(t.Context(), at("target"), false); err != nil {
		t.Fatal(err)
	}
}
