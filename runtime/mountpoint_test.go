package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What is made to mount on is told, with its real path and its time, and the directory
// that it was put in keeps its own.
func TestMountPointsAreTold(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "etc"), 0o755), os.Symlink("/run/deep/hosts", filepath.Join(dir, "etc/hosts")),
		os.WriteFile(filepath.Join(dir, "etc/there"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	was := time.Unix(1e9, 5)
	for _, name := range []string{"etc", "."} {
		if err := os.Chtimes(filepath.Join(dir, name), was, was); err != nil {
			t.Fatal(err)
		}
	}
	var made []MountPoint
	mounts := []specs.Mount{
		{Destination: "/etc/there", Type: "bind", Source: "/dev/null"},
		{Destination: "/etc/hosts", Type: "none", Source: "/dev/null", Options: []string{"rbind"}},
		{Destination: "/etc/new", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/etc/new/below", Type: "tmpfs", Source: "tmpfs"},
	}
	for range 2 { // the second time all is there
		if err := MakeMountPoints(RootPath(dir), mounts, func(m MountPoint) { made = append(made, m) }); err != nil {
			t.Fatal(err)
		}
	}
	var paths []string
	for _, m := range made {
		st, err := os.Lstat(filepath.Join(dir, m.Path))
		if err != nil || st.IsDir() != m.Dir || !m.Dir && !st.ModTime().Equal(m.Made) {
			t.Errorf("%+v is told, %v is there: %v", m, st, err)
		}
		paths = append(paths, m.Path)
	}
	if want := []string{"/run", "/run/deep", "/run/deep/hosts", "/etc/new"}; !slices.Equal(paths, want) {
		t.Errorf("%q are told, want %q", paths, want)
	}
	for _, name := range []string{"etc", "."} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || !st.ModTime().Equal(was) {
			t.Errorf("%s is of %v now: %v", name, st.ModTime(), err)
		}
	}
}
