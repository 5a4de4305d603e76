package crashtest

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// acknowledged is what was there when a command had returned.
type acknowledged struct {
	position int    // in the recording
	command  string // that had returned
	seen     map[string]string
	mounted  map[string]bool // snapshots whose uppers are not promised to be durable
}

// Whenever the power goes: what a command had acknowledged is there, what is reachable is
// sound, and work goes on.
func TestPowerCut(t *testing.T) {
	testenv.Long(t)
	testenv.Root(t)
	first, seeds, cuts := *draw, uint64(1), 5
	if *long {
		first, seeds, cuts = 0, 5, 140
	}
	for _, kind := range fileSystems() {
		t.Run(kind.name, func(t *testing.T) {
			for seed := first; seed < first+seeds; seed++ {
				cutPower(t, kind, seed, cuts)
			}
		})
	}
}

func cutPower(t *testing.T, kind fileSystem, seed uint64, cuts int) {
	testenv.Tools(t, kind.make[0], "mount")
	random := rand.New(rand.NewPCG(seed, 1))
	base := kind.mkfs(t)
	live := &device{data: base}
	dead := &device{data: slices.Clone(base)}
	served := serve(t, live, dead)
	dir := t.TempDir()
	detach := attach(t, served+"/0", dir)
	unix.Sync() // the mount's own writes are no part of this, but of both devices
	live.mu.Lock()
	copy(dead.data, live.data)
	live.recording = true
	live.mu.Unlock()

	acks := workload(t, newWorld(t, dir), live, random)
	live.mu.Lock()
	live.recording = false
	log := live.log
	live.mu.Unlock()
	detach()

	points := make([]int, cuts)
	for i := range points {
		points[i] = random.IntN(len(log) + 1)
	}
	slices.Sort(points)
	done := 0
	for i, n := range points {
		flushed := dead.replay(log, done, n, random)
		done = flushed
		t.Run(fmt.Sprintf("seed %d event %d of %d", seed, n, len(log)), func(t *testing.T) {
			checkCut(t, kind, fmt.Sprintf("%s/1-%d", served, i), dir, n, acks)
		})
		dead.revert()
	}
	t.Logf("seed %d: %d cuts in %d writes and flushes of %d commands", seed, cuts, len(log), len(acks))
}

// workload runs commands by chance and notes what each has acknowledged.
func workload(t *testing.T, w *world, d *device, random *rand.Rand) []acknowledged {
	var acks []acknowledged
	mounted := ""
	images, snapshots := []string{}, []string{}
	run := func(args ...string) {
		t.Helper()
		w.must(args...)
		a := acknowledged{position: d.position(), command: strings.Join(args, " "), seen: w.observe(), mounted: map[string]bool{mounted: true}}
		acks = append(acks, a)
	}
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	without := func(from []string, name string) []string {
		return slices.DeleteFunc(slices.Clone(from), func(n string) bool { return n == name })
	}
	fresh := 0
	name := func(word string) string { fresh++; return fmt.Sprintf("%s%d", word, fresh) }
	for range 30 {
		idle := without(snapshots, mounted)
		switch c := random.IntN(11); {
		case c == 0 || len(images) == 0:
			n := name("i") + ":1"
			f := files{"d/": "", "d/small": n, "d/large": content(n, 5000+random.IntN(40000)), "d/common": content("common", 10000)}
			run("import", "-q", w.tar("../layer.tar", f), n)
			images = append(images, n)
		case c == 1:
			n := name("t") + ":1"
			run("tag", pick(images), n)
			images = append(images, n)
		case c == 2 && len(images) > 2:
			n := pick(images)
			run("rmi", n)
			images = without(images, n)
		case c <= 4 && mounted == "":
			if len(idle) > 0 && c == 3 {
				mounted = pick(idle)
				run("mount", mounted, w.path("mnt"))
			} else {
				mounted = name("s")
				snapshots = append(snapshots, mounted)
				run("mount", "--name", mounted, pick(images), w.path("mnt"))
			}
			w.write(w.path("mnt"), files{name("f"): content(mounted, 3000+random.IntN(20000)), "d/small": name("changed")})
		case c == 5 && mounted != "" || c == 6 && mounted != "":
			n := mounted
			mounted = ""
			run("umount", n)
		case c == 7 && len(snapshots) > 0:
			n := name("c") + ":1"
			run("commit", pick(snapshots), n)
			images = append(images, n)
		case c == 8 && len(idle) > 0:
			n := name("s")
			run("fork", pick(idle), n)
			snapshots = append(snapshots, n)
		case c == 9 && len(idle) > 0:
			n := pick(idle)
			if random.IntN(2) == 0 {
				run("reset", n)
			} else {
				run("snapshots", "rm", n)
				snapshots = without(snapshots, n)
			}
		default:
			run("gc")
		}
	}
	if mounted != "" {
		n := mounted
		mounted = ""
		run("umount", n)
	}
	return acks
}

// checkCut looks at what the disk holds after a cut.
func checkCut(t *testing.T, kind fileSystem, path, dir string, n int, acks []acknowledged) {
	t.Helper()
	var said []byte
	if kind.check != nil {
		var err error
		said, err = exec.Command(kind.check[0], append(kind.check[1:len(kind.check):len(kind.check)], path)...).CombinedOutput()
		if code := exitCode(err); code > 2 { // 1 and 2: it has mended something
			t.Fatalf("%s: exit code %d\n%s", kind.check[0], code, said)
		}
	}
	mended := string(said)
	defer func() {
		if !t.Failed() {
			return
		}
		if mended != "" {
			t.Logf("%s said:\n%s", kind.check[0], mended)
		}
		for _, a := range acks {
			if a.position <= n {
				t.Logf("acknowledged at %d: %s", a.position, a.command)
			}
		}
	}()
	detach := attach(t, path, dir)
	defer detach()
	w := newWorld(t, dir)
	// What was acknowledged last before the cut, and what the next command would have made.
	at := -1
	for i, a := range acks {
		if a.position <= n {
			at = i
		}
	}
	var before, after acknowledged
	under := "no command"
	if at >= 0 {
		before, after = acks[at], acks[at]
	}
	if at+1 < len(acks) {
		after, under = acks[at+1], acks[at+1].command
	}
	out, code := w.run("fsck", "-q")
	if kind.check != nil && strings.Contains(out, "snapshot ") {
		// Without a journal the name of a directory that was removed can come back, for an
		// inode that is another directory by now; the check takes one of the two names
		// away, and may take the wrong one. What was written to a snapshot can so be lost.
		t.Skipf("cut in %s, and the check of the file system took a directory away:\n%s", under, out)
	}
	if code != 0 {
		t.Errorf("cut in %s, fsck: exit code %d\n%s", under, code, out)
		return
	}
	seen := w.observe()
	for name, was := range before.seen {
		is, there := seen[name]
		will, stays := after.seen[name]
		key := strings.TrimPrefix(name, "snapshot ")
		open := before.mounted[key] || after.mounted[key]
		switch {
		case !there && stays:
			t.Errorf("cut in %s: %s is lost", under, name)
		case there && is != was && is != will && !open:
			t.Errorf("cut in %s: %s is %q; before the command %q, after it %q", under, name, is, was, will)
		}
	}
	for name := range seen {
		_, was := before.seen[name]
		_, will := after.seen[name]
		if !was && !will {
			t.Errorf("cut in %s: %s was never there or had gone", under, name)
		}
	}
	// Work goes on, and nothing is left of what was cut.
	w.must("import", "-q", w.tar("../layer.tar", files{"d/": "", "d/common": content("common", 10000)}), "afterwards:1")
	w.must("gc")
	w.sound()
	// Without a journal a name may come back that was removed, and be counted by nobody.
	if out := w.must("df"); out != w.must("df", "--recount") && kind.check == nil {
		t.Errorf("cut in %s: the kept sums are not those of the store:\n%s", under, out)
	}
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // as exec gives it
		return e.ExitCode()
	}
	return 1 << 10
}
