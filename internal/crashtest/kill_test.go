package crashtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// operation is a command that is killed.
type operation struct {
	name    string
	prepare func(w *world) // brings the store of stocked to where the command starts
	args    []string
	// done are the exit codes, besides 0, with which the command says when it is
	// repeated that it was done before.
	done []int
	// whole is a file that is there whole or not at all.
	whole string
	// leaves says of a snapshot that it may be there after a kill though it is neither
	// before nor after the command.
	leaves func(snapshot string) bool
}

func operations() []operation {
	mount := func(w *world) { w.must("mount", "--name", "m", "base:1", w.path("mnt")) }
	return []operation{
		{name: "init", args: []string{"images"}, prepare: func(w *world) { w.ok(os.RemoveAll(w.root)) }},
		{name: "load", args: []string{"load", "-q", "-i", "three.tar"}},
		{name: "import", args: []string{"import", "-q", "other.tar", "other:1"}},
		{name: "tag", args: []string{"tag", "base:1", "again:1", "again:2"}},
		{name: "rmi", args: []string{"rmi", "two:1"}, done: []int{3}},
		{name: "mount", args: []string{"mount", "--name", "m", "base:1", "mnt"}, done: []int{4}},
		{name: "mount again", args: []string{"mount", "w", "mnt"}, done: []int{6}},
		{name: "umount", args: []string{"umount", "m"}, prepare: mount, done: []int{3}},
		{name: "umount --rm", args: []string{"umount", "--rm", "m"}, prepare: mount, done: []int{3}},
		{name: "commit", args: []string{"commit", "w", "three:1"}},
		{name: "fork", args: []string{"fork", "w", "f"}, done: []int{4}},
		{name: "reset", args: []string{"reset", "w"}},
		{name: "snapshots rm", args: []string{"snapshots", "rm", "w"}, done: []int{3}},
		{name: "gc", args: []string{"gc"}, prepare: func(w *world) { w.must("rmi", "two:1"); w.must("snapshots", "rm", "w") }},
		{name: "save", args: []string{"save", "-q", "-o", "saved.tar", "two:1"}, whole: "saved.tar"},
		{name: "run", args: []string{"run", "--rm", "--network", "none", "--name", "run1", "base:1", "/bin/busybox", "touch", "/new"},
			leaves: func(key string) bool { return key != "w" }, done: []int{125}},
	}
}

// stocked makes a store with two images, garbage, and a snapshot that was written to;
// beside it lie an image in an archive and a tar.
func stocked(t testing.TB, dir string) *world {
	t.Helper()
	testenv.Tools(t, "busybox")
	w := newWorld(t, dir)
	busybox, err := exec.LookPath("busybox")
	w.ok(err)
	shell, err := os.ReadFile(busybox)
	w.ok(err)
	base := files{"bin/": "", "bin/busybox": string(shell), "etc/": "", "etc/small": "small", "etc/one": content("one", 3000),
		"etc/two": content("two", 9000), "proc/": "", "sys/": "", "dev/": "", "tmp/": ""}
	w.must("import", "-q", w.tar("base.tar", base), "base:1")
	w.must("mount", "--name", "w", "base:1", w.path("mnt"))
	w.write(w.path("mnt"), files{"etc/one": content("changed", 4000), "new/": "", "new/file": content("new", 5000)})
	w.must("commit", "w", "two:1")
	w.write(w.path("mnt"), files{"new/more": content("more", 6000)})
	w.must("commit", "w", "three:1")
	w.ok(os.Remove(w.path("mnt", "etc/two")))
	w.must("umount", "w")
	w.must("save", "-q", "-o", w.path("three.tar"), "three:1")
	w.must("rmi", "three:1")
	w.must("gc")
	w.tar("other.tar", files{"a/": "", "a/small": "tiny", "a/large": content("large", 70000), "a/two": content("two", 9000)})
	w.must("import", "-q", w.tar("junk.tar", files{"junk": content("junk", 8000)}), "junk:1")
	w.must("rmi", "junk:1")
	return w
}

// copyOf returns a world in dir that begins as this one.
func (w *world) copyOf(t testing.TB, dir string) *world {
	t.Helper()
	testenv.Output(t, "cp", "-a", w.dir, dir)
	return newWorld(t, dir)
}

// Whatever a command was doing when it was killed: others are not disturbed, nothing
// half-done is to be seen, the command can be repeated, and gc leaves a store that is,
// byte for byte, that of a command that was never killed.
func TestKill(t *testing.T) {
	testenv.Long(t)
	dir := tmpfs(t)
	stock := stocked(t, dir+"/stock")
	kills := 0
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			kills += disturb(t, stock, dir, op, sampled, killed, func(_ *world, n int) disturbance { return disturbance{at: n} })
		})
	}
	t.Logf("%d kills", kills)
}

// tmpfs mounts one for the test: kills do not touch what a flush would save.
func tmpfs(t testing.TB) string {
	t.Helper()
	testenv.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1g,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// sampled is how many kills of one command the short form takes.
const sampled = 3

// What happens to a command, for people.
const (
	killed   = "killed"
	failed   = "failed"
	cutShort = "cut short"
)

// disturb runs a command as often as it has system calls that can be disturbed, or a sample
// of some, each time on a copy of the stock in which another one is. It returns how often.
func disturb(t *testing.T, stock *world, dir string, op operation, some int, how string, at func(w *world, n int) disturbance) (times int) {
	t.Helper()
	before := stock.copyOf(t, dir+"/before")
	defer before.discard()
	if op.prepare != nil {
		op.prepare(before)
		before.unmountAll()
	}
	fresh := func(n int) *world {
		w := stock.copyOf(t, fmt.Sprintf("%s/k%d", dir, n))
		if op.prepare != nil {
			op.prepare(w)
		}
		return w
	}
	clean := fresh(0)
	defer clean.discard()
	r := trace(t, clean.command(op.args...), at(clean, 0))
	if r.code != 0 {
		t.Fatalf("layerfs %s, undisturbed: exit code %d\n%s", strings.Join(op.args, " "), r.code, r.output)
	}
	var whole []byte
	if op.whole != "" {
		whole, _ = os.ReadFile(clean.path(op.whole))
	}
	clean.unmountAll()
	after := clean.observe()
	clean.must("gc")
	want := clean.listing()
	old := map[string]string{}
	if op.name != "init" {
		old = before.observe()
	}
	total := r.counted
	for _, n := range sample(t, total, some) {
		times++
		w := fresh(n)
		w.t = t
		r := trace(t, w.command(op.args...), at(w, n))
		where := fmt.Sprintf("%s at %d of %d, %s", how, n, total, r.last)
		if !r.killed && r.code != 0 && how != failed || strings.Contains(r.output, "panic:") {
			t.Errorf("%s: exit code %d\n%s", where, r.code, r.output)
		}
		if r.code == 0 {
			if diff := different(w.observe(), after); len(diff) > 0 {
				t.Errorf("%s, the command says that it is done: %q", where, diff)
			}
		}
		w.checkKilled(where, op, old, after, whole)
		if _, code := w.run(op.args...); code != 0 && !slices.Contains(op.done, code) {
			out, code := w.run(op.args...)
			t.Errorf("%s, repeated: exit code %d\n%s", where, code, out)
		}
		w.unmountAll()
		w.must("gc")
		if diff := different(w.listing(), want); len(diff) > 0 {
			t.Errorf("%s, repeated and collected, the store differs from an undisturbed one:\n%s", where, strings.Join(diff, "\n"))
		}
		if out := w.must("df"); out != w.must("df", "--recount") {
			t.Errorf("%s: the kept sums are not those of the store:\n%s", where, out)
		}
		w.discard()
		if t.Failed() {
			break // one is enough to look at
		}
	}
	t.Logf("%s: %d system calls, %d that can be disturbed, %s at %d of them", op.name, r.calls, total, how, times)
	return times
}

// discard removes a world.
func (w *world) discard() {
	w.unmountAll()
	if err := os.RemoveAll(w.dir); err != nil && !errors.Is(err, unix.EBUSY) {
		w.t.Error(err)
	}
}

// checkKilled looks at a store as the kill left it.
func (w *world) checkKilled(where string, op operation, before, after map[string]string, whole []byte) {
	w.t.Helper()
	if out, code := w.run("fsck", "-q"); code != 0 {
		w.t.Errorf("%s, fsck: exit code %d\n%s", where, code, out)
	}
	for name, what := range w.observe() {
		b, inBefore := before[name]
		a, inAfter := after[name]
		key, isSnapshot := strings.CutPrefix(name, "snapshot ")
		switch {
		case inBefore && what == b, inAfter && what == a:
		case isSnapshot && op.leaves != nil && op.leaves(key):
		default:
			w.t.Errorf("%s: %s is %q; before the command %q, after it %q", where, name, what, b, a)
		}
	}
	seen := w.observe()
	for name := range before {
		_, now := seen[name]
		_, then := after[name]
		if then && !now {
			w.t.Errorf("%s: %s is gone", where, name)
		}
	}
	if op.whole == "" {
		return
	}
	if got, err := os.ReadFile(w.path(op.whole)); err == nil && string(got) != string(whole) {
		w.t.Errorf("%s: %s is there but not whole", where, op.whole)
	}
}
