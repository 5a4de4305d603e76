package crashtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// damage is something that happens to a file.
type damage struct {
	name string
	do   func(data []byte) []byte // nil removes the file
}

func damages() []damage {
	flip := func(part, of int) damage {
		return damage{fmt.Sprintf("flip a bit %d/%d in", part, of), func(b []byte) []byte {
			b = bytes.Clone(b)
			b[(len(b)-1)*part/of] ^= 1 << (part % 8)
			return b
		}}
	}
	out := []damage{
		flip(0, 8), flip(4, 8), flip(8, 8),
		{"cut in half", func(b []byte) []byte { return b[:len(b)/2] }},
		{"cut to nothing", func([]byte) []byte { return []byte{} }},
		{"zeroed", func(b []byte) []byte { return make([]byte, len(b)) }},
		{"removed", func([]byte) []byte { return nil }},
		{"longer", func(b []byte) []byte { return append(bytes.Clone(b), "more"...) }},
		{"of another", func([]byte) []byte { return []byte(`{"schemaVersion":2}`) }},
	}
	if *long {
		for _, part := range []int{1, 2, 3, 5, 6, 7} {
			out = append(out, flip(part, 8))
		}
	}
	return out
}

// fileKinds are the kinds of files in a store, with a pattern that finds one, and whether
// a repair can do without another store.
func fileKinds() []struct{ name, pattern string } {
	return []struct{ name, pattern string }{
		{"object", "objects/*/*"},
		{"document", "blobs/sha256/*"},
		{"recipe", "layers/sha256/*"},
		{"blob record", "layers/blobs/sha256/*"},
		{"merged tree", "stacks/sha256/*[0-9a-f].v1.erofs"},
		{"delta tree", "stacks/sha256/*.delta.*"},
		{"name", "refs/docker.io/library/base:1"},
		{"index.json", "index.json"},
		{"oci-layout", "oci-layout"},
		{"usage.json", "usage.json"},
	}
}

// Whatever happens to a file of whatever kind is found by fsck, or changes nothing that
// anybody sees; fsck --repair mends it from a copy of the store and touches no other file.
func TestDamage(t *testing.T) {
	testenv.Long(t)
	dir := tmpfs(t)
	stock := stocked(t, dir+"/stock")
	// A layer that came compressed has a blob and a record of it.
	testenv.Output(t, "gzip", "-n", stock.path("other.tar"))
	stock.must("import", "-q", stock.path("other.tar.gz"), "packed:1")
	stock.must("mount", "--name", "s", "two:1", stock.path("mnt"))
	stock.must("umount", "s")
	stock.must("gc")
	want := stock.observe()
	cases := 0
	for _, kind := range fileKinds() {
		t.Run(kind.name, func(t *testing.T) {
			all := damages()
			for _, i := range sample(t, len(all), 3) {
				d := all[i-1]
				if kind.name == "name" && d.name == "removed" {
					continue // as rmi does
				}
				t.Run(d.name, func(t *testing.T) {
					cases++
					testDamage(t, stock, dir+"/damaged", kind.pattern, d, want)
				})
			}
		})
	}
	t.Logf("%d cases", cases)
}

func testDamage(t *testing.T, stock *world, dir, pattern string, d damage, want map[string]string) {
	w := stock.copyOf(t, dir)
	defer w.discard()
	w.t = t
	found, err := filepath.Glob(filepath.Join(w.root, pattern))
	w.ok(err)
	if len(found) == 0 {
		t.Fatalf("no file matches %s", pattern)
	}
	victim := found[0]
	data, err := os.ReadFile(victim)
	w.ok(err)
	w.ok(os.Remove(victim))
	if data = d.do(data); data != nil {
		w.ok(os.WriteFile(victim, data, 0o444))
	}
	untouched := w.inodes(victim)
	out, code := w.run("fsck", "-q")
	rel, err := filepath.Rel(w.root, victim)
	w.ok(err)
	if code != 5 && code != 0 {
		t.Fatalf("fsck: exit code %d\n%s", code, out)
	}
	// A sum that is lost, and a record of which only a note for people was changed.
	unseen := strings.HasPrefix(rel, "usage") || len(different(w.observeLax(), want)) == 0
	cache := strings.HasPrefix(rel, "stacks/") || strings.HasPrefix(rel, "layers/blobs/")
	if code == 0 && !unseen && !(cache && data == nil) {
		t.Errorf("%s: fsck finds nothing", rel)
	}
	if out, code := w.run("fsck", "-q", "--repair", "--from", stock.root); code != 0 {
		t.Errorf("%s: repair: exit code %d\n%s", rel, code, out)
	}
	w.sound()
	if diff := different(w.observe(), want); len(diff) > 0 {
		t.Errorf("%s: repaired, %q", rel, diff)
	}
	for _, diff := range different(w.inodes(victim), untouched) {
		if !strings.HasPrefix(diff, "has ") { // it may make trees
			t.Errorf("%s: the repair touched another file: %s", rel, diff)
		}
	}
}

// observeLax is observe for a store in which commands may fail.
func (w *world) observeLax() map[string]string {
	seen := map[string]string{}
	out, _ := w.run("images", "--format", "{{.Name}} {{.Digest}}{{.Error}}")
	for line := range strings.Lines(out) {
		name, digest, _ := strings.Cut(strings.TrimSpace(line), " ")
		seen["image "+name] = digest
	}
	out, _ = w.run("snapshots", "-q")
	for key := range strings.FieldsSeq(out) {
		seen["snapshot "+key], _ = w.run("diff", key)
	}
	return seen
}

// inodes returns the identity of every file whose content matters, but for one.
func (w *world) inodes(but string) map[string]string {
	out := map[string]string{}
	for _, dir := range []string{"objects/*/*", "blobs/*/*", "layers/*/*", "layers/blobs/*/*", "stacks/*/*", "snapshots/*/*", "refs/*/*/*"} {
		names, err := filepath.Glob(filepath.Join(w.root, dir))
		w.ok(err)
		for _, name := range names {
			var st unix.Stat_t
			w.ok(unix.Lstat(name, &st))
			if name != but {
				if st.Mode&unix.S_IFMT != unix.S_IFREG {
					continue
				}
				out[name] = fmt.Sprintf("%d %d %d", st.Ino, st.Mtim.Nano(), st.Ctim.Nano())
			}
		}
	}
	return out
}
