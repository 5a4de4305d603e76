// Package testenv tells tests what the machine offers and sets up what they need of it:
// it skips with a reason where something is missing, and takes down what it set up.
package testenv

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Root skips the test unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Rootless skips the test when it runs as root.
func Rootless(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("asserts what an unprivileged user may do; runs in make test-rootless")
	}
}

// Long skips the test in short mode, which the race detector's lane uses.
func Long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("long; skipped in short mode, runs in make test")
	}
}

// Tools skips the test unless all these programs are on the PATH.
func Tools(t testing.TB, names ...string) {
	t.Helper()
	var missing []string
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		t.Skipf("needs %s; make setup installs it", strings.Join(missing, ", "))
	}
}

// FuseDevice skips the test unless /dev/fuse can be opened for reading and writing.
func FuseDevice(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs /dev/fuse: %v; make setup prepares it", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// ShortDir returns a temporary directory with a short path, removed when the test ends:
// for programs that refuse long ones (podman's --runroot, paths of sockets), since
// t.TempDir holds the whole name of the test.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "t")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Output runs a program and returns its standard output; the test ends when it fails.
func Output(t testing.TB, name string, args ...string) string {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// Disk makes a file system of the given type ("ext4", "xfs") and size in bytes in a
// sparse file, mounts it through a loop device and returns the mount point. It is
// unmounted, and the loop device freed, when the test ends. Needs root. Compare times
// only on such a disk: what lies below a test's usual directory differs by machine.
func Disk(t testing.TB, fsType string, size int64) string {
	t.Helper()
	Root(t)
	mkfs := "mkfs." + fsType
	Tools(t, mkfs, "mount")
	dir := t.TempDir()
	image, target := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close(), os.Mkdir(target, 0o755)); err != nil {
		t.Fatal(err)
	}
	quiet := "-q"
	Output(t, mkfs, quiet, image)
	Output(t, "mount", "-o", "loop", image, target)
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmount %s: %v", target, err)
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
				t.Errorf("detach %s: %v", target, err)
			}
		}
	})
	return target
}

// Mounts returns the mount points below dir, as this process sees them. A test that
// mounts asserts with it that nothing is left.
func Mounts(t testing.TB, dir string) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line) // proc(5): the fifth field is the mount point
		if len(fields) > 4 {
			if p := unescape.Replace(fields[4]); p == dir || strings.HasPrefix(p, dir+"/") {
				found = append(found, p)
			}
		}
	}
	return found
}
