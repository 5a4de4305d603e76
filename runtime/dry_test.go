package runtime_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/layerfs/layerfs/runtime"
)

func TestPlan(t *testing.T) {
	dir := newRoot(t)
	root := runtime.RootPath(dir)
	spec, err := runtime.SpecFor(root, script("echo >/done"))
	must(t, err)
	_, fds, _ := left(t)
	lines, err := runtime.Plan(t.Context(), runtime.Config{Spec: spec, Root: root})
	must(t, err)
	text := strings.Join(lines, "\n")
	if !strings.HasPrefix(text, "create the process in new namespaces: mnt pid net ipc uts cgroup\n") {
		t.Errorf("it begins with %q", lines[0])
	}
	at := 0
	for _, want := range []string{"attach proc on /proc", "make device /dev/null", "mask /proc/keys", "change root", "close descriptors", "set capabilities", "install system call filter", "execute /bin/sh"} {
		i := slices.IndexFunc(lines[at:], func(l string) bool { return strings.HasPrefix(l, want) })
		if i < 0 {
			t.Fatalf("no %q after line %d of\n%s", want, at, text)
		}
		at += i
	}
	for _, name := range []string{"done", "proc", "dev", "sys"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("/%s was made", name)
		}
	}
	if _, now, _ := left(t); now != fds {
		t.Errorf("open files %d, then %d", fds, now)
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/x", Type: "none"})
	if _, err := runtime.Plan(t.Context(), runtime.Config{Spec: spec, Root: root}); err == nil {
		t.Error("a specification that is refused has a plan")
	}
}
