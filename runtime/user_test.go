package runtime

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func handle(t *testing.T, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	})
	return fd
}

func TestAccountFileLimit(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	const line = "alice:x:1000:1000::/:/bin/sh\n"
	for _, size := range []int{maxAccountFile, maxAccountFile + 1} {
		content := line + strings.Repeat("#", size-len(line))
		if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		u, _, err := resolveUser(handle(t, dir), "alice")
		if size <= maxAccountFile && (err != nil || u.UID != 1000) {
			t.Errorf("%d bytes: %+v, %v", size, u, err)
		}
		if size > maxAccountFile && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%d bytes: error %v", size, err)
		}
	}
}

func TestMakeInLimits(t *testing.T) {
	dir := t.TempDir()
	root := handle(t, dir)
	// A chain of links that ends in nothing, as long as is allowed and one longer.
	for _, hops := range []int{maxHops, maxHops + 1} {
		chain := filepath.Join(dir, strings.Repeat("c", hops))
		if err := os.Mkdir(chain, 0o755); err != nil {
			t.Fatal(err)
		}
		name := func(i int) string { return strings.Repeat("l", i+1) }
		for i := range hops {
			if err := os.Symlink(name(i+1), filepath.Join(chain, name(i))); err != nil {
				t.Fatal(err)
			}
		}
		err := makeIn(root, filepath.Base(chain)+"/"+name(0), true, nil)
		if hops <= maxHops && err != nil {
			t.Errorf("%d links: %v", hops, err)
		}
		if hops > maxHops && !errors.Is(err, unix.ELOOP) {
			t.Errorf("%d links: error %v", hops, err)
		}
	}
	for _, depth := range []int{maxDepth, maxDepth + 1} {
		path := strings.Repeat("d/", depth-1) + "end"
		err := makeIn(root, path, true, nil)
		if depth <= maxDepth && err != nil || depth > maxDepth && !errors.Is(err, unix.ENAMETOOLONG) {
			t.Errorf("%d directories: error %v", depth, err)
		}
	}
}

func TestMakeInIgnoresUmask(t *testing.T) {
	dir := t.TempDir()
	old := unix.Umask(0o077)
	err := errors.Join(makeIn(handle(t, dir), "a/b", true, nil), makeIn(handle(t, dir), "a/c", false, nil))
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"a": 0o755, "a/b": 0o755, "a/c": 0o644} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", name, st.Mode(), err, want)
		}
	}
}

func FuzzResolveUser(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n", "root:x:0:\n", "root")
	f.Add("a:x:1:1::/:\nb:x:-1:1::/:\nc:x:99999999999:1::/:\n", "g:x:5:a,b,,a\n", "a:g")
	f.Add(":::::::\n\n#x\n7:x:0:0::/:\n", "::::\n", "7")
	f.Add("", "", ":")
	f.Add("x:x:1:1:::", "x:x:1:x", "4294967296:1")
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, passwd, group, user string) {
		for name, content := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		u, home, err := resolveUser(handle(t, dir), user)
		if err != nil {
			return
		}
		if u.UID > maxID || u.GID > maxID || len(u.AdditionalGids) == 0 || u.AdditionalGids[0] != u.GID || home == "" {
			t.Fatalf("user %q is %+v at %q", user, u, home)
		}
		name, _, _ := strings.Cut(user, ":")
		if id, numeric, err := parseID(name); name != "" && numeric && (err != nil || u.UID != id) {
			t.Fatalf("user %q has id %d", user, u.UID)
		}
	})
}
