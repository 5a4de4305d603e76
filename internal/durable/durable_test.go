package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func testRoot(t *testing.T) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	return root, dir
}

// names returns what a directory holds.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteFile(t *testing.T) {
	root, dir := testRoot(t)
	for _, content := range []string{"old", "new, and longer", ""} {
		if err := WriteFile(root, "temp", "name", 0o640, []byte(content)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "name"))
		if err != nil || string(got) != content {
			t.Errorf("content is %q, %v, want %q", got, err, content)
		}
		if fi, err := os.Stat(filepath.Join(dir, "name")); err != nil || fi.Mode() != 0o640 {
			t.Errorf("mode is %v, %v, want 0640", fi.Mode(), err)
		}
		if n := names(t, dir); len(n) != 1 {
			t.Errorf("the directory holds %q", n)
		}
	}
}

func TestWriteFileFails(t *testing.T) {
	root, dir := testRoot(t)
	if err := os.MkdirAll(filepath.Join(dir, "name", "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	// A directory that is not empty cannot be replaced, and the temporary file goes.
	if err := WriteFile(root, "temp", "name", 0o600, []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	if err := WriteFile(root, "temp", "missing/name", 0o600, []byte("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
	if n := names(t, dir); len(n) != 1 {
		t.Errorf("the directory holds %q", n)
	}
	// A temporary name in use is somebody else's.
	if err := os.WriteFile(filepath.Join(dir, "temp"), []byte("his"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(root, "temp", "other", 0o600, []byte("x")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want fs.ErrExist", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "temp")); err != nil || string(got) != "his" {
		t.Errorf("the other file holds %q, %v", got, err)
	}
	for _, name := range []string{"../escape", "/escape"} {
		if err := WriteFile(root, "temp2", name, 0o600, []byte("x")); err == nil {
			t.Errorf("%s was written outside the root", name)
		}
	}
}

// A full disk leaves the old content.
func TestWriteFileFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := WriteFile(root, "temp", "name", 0o600, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(root, "temp", "name", 0o600, make([]byte, 1<<20)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v, want ENOSPC", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "name")); err != nil || string(got) != "old" {
		t.Errorf("content is %q, %v, want the old one", got, err)
	}
	if n := names(t, dir); len(n) != 1 {
		t.Errorf("the directory holds %q", n)
	}
}

func TestRemove(t *testing.T) {
	root, dir := testRoot(t)
	if err := WriteFile(root, "temp", "name", 0o600, nil); err != nil {
		t.Fatal(err)
	}
	if err := Remove(root, "name"); err != nil {
		t.Error(err)
	}
	if err := Remove(root, "name"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
	if n := names(t, dir); len(n) != 0 {
		t.Errorf("the directory holds %q", n)
	}
}

func TestMkdirAll(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	root, dir := testRoot(t)
	for range 2 {
		if err := MkdirAll(root, "a/b/c", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "a/b", "a/b/c"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode() != fs.ModeDir|0o755 {
			t.Errorf("%s: %v, %v, want a directory of mode 0755", name, fi, err)
		}
	}
	if err := MkdirAll(root, ".", 0o755); err != nil {
		t.Error(err)
	}
	if err := MkdirAll(root, "../outside", 0o755); err == nil {
		t.Error("a directory was made outside the root")
	}
}

func TestFlush(t *testing.T) {
	root, _ := testRoot(t)
	f, err := NewFlusher(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, n := range []int{0, 1, 2, FewFiles, FewFiles + 1} {
		files := []string{}
		for i := range n {
			name := fmt.Sprintf("%d-%d", n, i)
			if err := Create(root, name, 0o600, []byte("x"), false); err != nil {
				t.Fatal(err)
			}
			files = append(files, name)
		}
		if err := f.Flush(t.Context(), files); err != nil {
			t.Errorf("flush of %d files: %v", n, err)
		}
	}
	if err := f.Flush(t.Context(), []string{".", "missing"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("flush of a missing file: %v, want fs.ErrNotExist", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Flush(ended, []string{".", "."}); !errors.Is(err, context.Canceled) {
		t.Errorf("flush with an ended context: %v", err)
	}
}
