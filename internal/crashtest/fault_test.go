package crashtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// fill takes up all the space of the file system of dir.
func fill(t testing.TB, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; size /= 16 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	unix.Sync() // delayed allocation has its say
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// On a full disk what adds fails and leaves nothing, and what takes away works.
func TestFaultFullDisk(t *testing.T) {
	testenv.Long(t)
	for fsType, size := range map[string]int64{"ext4": 48 << 20, "xfs": 300 << 20} {
		t.Run(fsType, func(t *testing.T) {
			dir := testenv.Disk(t, fsType, size)
			w := stocked(t, filepath.Join(dir, "w"))
			defer w.unmountAll()
			w.must("mount", "--name", "m", "base:1", w.path("mnt"))
			want := w.observe()
			free := fill(t, dir)
			for _, args := range [][]string{
				{"load", "-q", "-i", "three.tar"},
				{"import", "-q", "other.tar", "other:1"},
				{"commit", "w", "c:1"},
			} {
				if out, code := w.run(args...); code != 9 {
					t.Errorf("layerfs %s on a full disk: exit code %d, want 9\n%s", strings.Join(args, " "), code, out)
				}
			}
			if diff := different(w.observe(), want); len(diff) > 0 {
				t.Errorf("what failed for lack of space left %q", diff)
			}
			w.sound()
			w.must("umount", "m")
			w.must("snapshots", "rm", "m")
			w.must("rmi", "two:1")
			w.must("snapshots", "rm", "w")
			w.must("gc")
			w.sound()
			free()
			w.must("import", "-q", "other.tar", "other:1")
			w.must("gc")
			w.sound()
		})
	}
}

// With few handles a command works or fails as a whole.
func TestFaultFewHandles(t *testing.T) {
	testenv.Long(t)
	testenv.Tools(t, "prlimit")
	dir := tmpfs(t)
	stock := stocked(t, dir+"/stock")
	want := stock.observe()
	step := 3
	if *long {
		step = 1
	}
	// With less than twelve the runtime of Go does not begin.
	for handles := 12; handles <= 34; handles += step {
		w := stock.copyOf(t, fmt.Sprintf("%s/h%d", dir, handles))
		for _, args := range [][]string{{"load", "-q", "-i", "three.tar"}, {"commit", "w", "c:1"}, {"gc"}} {
			cmd := exec.Command("prlimit", append([]string{fmt.Sprintf("--nofile=%d:%d", handles, handles), w.bin}, args...)...)
			cmd.Env, cmd.Dir = w.env, w.dir
			out, err := cmd.CombinedOutput()
			if strings.Contains(string(out), "panic") || strings.Contains(string(out), "goroutine ") {
				t.Errorf("layerfs %s with %d handles: %v\n%s", strings.Join(args, " "), handles, err, out)
			}
			w.sound()
			for name, what := range want {
				if got := w.observe()[name]; got != what {
					t.Errorf("layerfs %s with %d handles: %s is %q, was %q", strings.Join(args, " "), handles, name, got, what)
				}
			}
		}
		w.discard()
	}
}

// A store that can only be read is read.
func TestFaultReadOnly(t *testing.T) {
	testenv.Long(t)
	w := stocked(t, tmpfs(t)+"/w")
	defer w.unmountAll()
	want := w.observe()
	w.ok(unix.Mount(w.root, w.root, "", unix.MS_BIND, ""))
	w.ok(unix.Mount("", w.root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	for _, args := range [][]string{
		{"images"}, {"inspect", "two:1"}, {"history", "two:1"}, {"ls", "two:1", "/etc"}, {"cat", "two:1", "/etc/one"}, {"snapshots"},
		{"diff", "w"}, {"df"}, {"fsck"}, {"info"}, {"save", "-q", "-o", "saved.tar", "two:1"}, {"export", "-o", "exported.tar", "two:1"},
		{"gc", "--dry-run"},
	} {
		if out, code := w.run(args...); code != 0 {
			t.Errorf("layerfs %s on a read-only store: exit code %d\n%s", strings.Join(args, " "), code, out)
		}
	}
	for _, args := range [][]string{{"import", "-q", "other.tar", "other:1"}, {"tag", "base:1", "t:1"}, {"gc"}, {"snapshots", "rm", "w"}} {
		if out, code := w.run(args...); code != 7 {
			t.Errorf("layerfs %s on a read-only store: exit code %d, want 7\n%s", strings.Join(args, " "), code, out)
		}
	}
	if diff := different(w.observe(), want); len(diff) > 0 {
		t.Errorf("a store that cannot be changed has changed: %q", diff)
	}
}

// A store that was copied, whatever that made of its times, is the same store.
func TestFaultCopied(t *testing.T) {
	testenv.Long(t)
	dir := tmpfs(t)
	stock := stocked(t, dir+"/stock")
	want := stock.observe()
	for name, command := range map[string]string{
		"cp -a":             `cp -a "$0" "$1"`,
		"times of the past": `cp -a "$0" "$1" && find "$1/store" -exec touch -h -d 1990-01-01 {} +`,
		"times to come":     `cp -a "$0" "$1" && find "$1/store" -exec touch -h -d 2040-01-01 {} +`,
	} {
		t.Run(name, func(t *testing.T) {
			to := dir + "/copy"
			testenv.Output(t, "sh", "-c", command, stock.dir, to)
			w := newWorld(t, to)
			defer w.discard()
			w.sound()
			if diff := different(w.observe(), want); len(diff) > 0 {
				t.Errorf("the copy differs: %q", diff)
			}
			w.must("mount", "w", w.path("mnt"))
			w.must("umount", "w")
			w.must("import", "-q", "other.tar", "other:1")
			w.must("rmi", "other:1")
			w.must("gc")
			if out := w.must("gc", "--format", "{{.Objects.Count}} {{.Deleted.Count}}"); out != "0 0\n" {
				t.Errorf("a second gc removes %s", out)
			}
			w.sound()
		})
	}
}

// A store of a version to come is refused, or only read, as it says itself.
func TestFaultNewerFormat(t *testing.T) {
	w := newWorld(t, tmpfs(t)+"/w")
	w.must("import", "-q", w.tar("a.tar", files{"a": content("a", 5000)}), "a:1")
	format := filepath.Join(w.root, "format.json")
	for name, c := range map[string]struct {
		text        string
		read, write int // exit codes
	}{
		"compatible":   {`{"version":1,"compatible":["new"]}`, 0, 0},
		"read-only":    {`{"version":1,"readonly":["new"]}`, 0, 7},
		"incompatible": {`{"version":1,"incompatible":["new"]}`, 8, 8},
		"version":      {`{"version":2}`, 8, 8},
		"damaged":      {`{"version":`, 10, 10},
	} {
		w.ok(os.WriteFile(format, []byte(c.text), 0o600))
		if out, code := w.run("images"); code != c.read {
			t.Errorf("%s: reading: exit code %d, want %d\n%s", name, code, c.read, out)
		}
		if out, code := w.run("tag", "a:1", "b:1"); code != c.write {
			t.Errorf("%s: writing: exit code %d, want %d\n%s", name, code, c.write, out)
		}
	}
}

// A store of each format there was is read and written. To keep one of today's:
// go test ./internal/crashtest -run TestFixture -keep-store
func TestFixture(t *testing.T) {
	dir := tmpfs(t)
	if *keepStore {
		keepFixture(t, dir+"/made")
	}
	fixtures, err := filepath.Glob("testdata/store-*.tar.gz")
	if err != nil || len(fixtures) == 0 {
		t.Fatalf("no stores are kept: %v", err)
	}
	for _, fixture := range fixtures {
		t.Run(filepath.Base(fixture), func(t *testing.T) {
			to := dir + "/w"
			if err := os.Mkdir(to, 0o755); err != nil {
				t.Fatal(err)
			}
			testenv.Output(t, "tar", "-xzf", fixture, "-C", to, "--xattrs", "--xattrs-include=*")
			w := newWorld(t, to)
			defer w.discard()
			w.sound()
			if got := w.must("cat", "two:1", "/etc/one"); got != content("changed", 4000) {
				t.Errorf("a file of an image: %.40q", got)
			}
			if got := w.must("diff", "w"); !strings.Contains(got, "/new") {
				t.Errorf("changes of a snapshot: %q", got)
			}
			w.must("mount", "w", w.path("mnt"))
			if got, err := os.ReadFile(w.path("mnt", "etc/two")); err != nil || string(got) != content("two", 9000) {
				t.Errorf("a file of a mounted snapshot: %.40q, %v", got, err)
			}
			w.must("umount", "w")
			w.must("commit", "w", "three:1")
			w.must("gc")
			w.sound()
		})
	}
}

// keepFixture writes testdata/store-v1.tar.gz.
func keepFixture(t testing.TB, dir string) {
	w := newWorld(t, dir)
	defer w.discard()
	base := files{"etc/": "", "etc/small": "small", "etc/one": content("one", 3000), "etc/two": content("two", 9000)}
	w.must("import", "-q", w.tar("base.tar", base), "base:1")
	w.must("mount", "--name", "w", "base:1", w.path("mnt"))
	w.write(w.path("mnt"), files{"etc/one": content("changed", 4000), "new/": "", "new/file": content("new", 5000)})
	w.must("umount", "w")
	w.must("commit", "w", "two:1")
	w.must("fork", "w", "f")
	w.must("gc")
	w.ok(os.MkdirAll("testdata", 0o755))
	testenv.Output(t, "tar", "-czf", "testdata/store-v1.tar.gz", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", dir, "store")
}
