package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// Limits of a stress run.
const (
	stressShort = 8 * time.Second
	stressLong  = 20 * time.Minute
	// patience is how long one command may take before it counts as stuck. 32 processes with
	// the race detector on two processors leave each the time of a tenth.
	patience     = 2 * time.Minute
	patienceLong = 8 * time.Minute
)

// Many processes run every command on one store, a collector among them. No command fails
// in a way that another's doing does not explain, none waits for ever, and in the end
// everybody has what he was told that he has, and it is sound. The long form runs a program
// with the race detector.
func TestStress(t *testing.T) {
	testenv.Long(t)
	w := stocked(t, tmpfs(t)+"/w")
	workers, length := 8, stressShort
	if *long {
		workers, length = 32, stressLong
		bin, err := build("-race")
		w.ok(err)
		t.Cleanup(func() { w.ok(os.RemoveAll(filepath.Dir(bin))) })
		w.bin = bin
		w.env = append(w.env, "GORACE=atexit_sleep_ms=10 exitcode=66", "CGO_ENABLED=1")
	}
	w.must("gc")
	var commands atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(length)
	users := make([]*user, workers)
	for i := range users {
		users[i] = &user{w: w, id: i, random: rand.New(rand.NewPCG(uint64(i), 7)), images: map[string]bool{}, snapshots: map[string]bool{}, commands: &commands}
		w.ok(os.MkdirAll(w.path("mnt", fmt.Sprint(i)), 0o755))
		wg.Go(func() { users[i].work(end) })
	}
	wg.Wait()
	t.Logf("%d processes ran %d commands", workers, commands.Load())
	w.unmountAll()
	w.sound()
	seen := w.observe()
	for _, u := range users {
		u.check(seen)
	}
	w.must("gc")
	w.sound()
	if kept, counted := w.must("df"), w.must("df", "--recount"); kept != counted {
		t.Errorf("the kept sums are not those of the store:\n%s\nbut\n%s", kept, counted)
	}
}

// user runs commands, one after another, on things of its own and on things of all.
type user struct {
	w        *world
	id       int
	random   *rand.Rand
	n        int
	commands *atomic.Int64

	images, snapshots map[string]bool
	mounted           string // snapshot
}

// run runs a command that may end with one of these codes, besides 0, and returns whether
// it ended with 0.
func (u *user) run(codes []int, args ...string) bool {
	limit := patience
	if *long {
		limit = patienceLong
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, u.w.bin, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGQUIT) } // it says where it is stuck
	cmd.WaitDelay = 10 * time.Second
	cmd.Env, cmd.Dir = u.w.env, u.w.dir
	out, err := cmd.CombinedOutput()
	u.commands.Add(1)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	said := string(out)
	switch {
	case ctx.Err() != nil:
		u.w.t.Errorf("layerfs %s is stuck:\n%s", strings.Join(args, " "), said)
	case strings.Contains(said, "DATA RACE"), strings.Contains(said, "panic:"), code != 0 && !slices.Contains(codes, code):
		u.w.t.Errorf("layerfs %s: exit code %d\n%s", strings.Join(args, " "), code, said)
	}
	return code == 0
}

func (u *user) name(word string) string {
	u.n++
	return fmt.Sprintf("%s%d-%d", word, u.id, u.n)
}

func (u *user) pick(from map[string]bool) string {
	names := make([]string, 0, len(from))
	for n := range from {
		names = append(names, n)
	}
	slices.Sort(names)
	return names[u.random.IntN(len(names))]
}

func (u *user) work(end time.Time) {
	mnt := u.w.path("mnt", fmt.Sprint(u.id))
	gone := []int{3, 4, 6} // what another may have removed, made or mounted
	for time.Now().Before(end) && !u.w.t.Failed() {
		switch c := u.random.IntN(16); {
		case c == 0 || len(u.images) == 0: // of contents that others import too
			n := u.name("i") + ":1"
			tar := u.w.tar(u.name("layer")+".tar", files{"d/": "", "d/common": content("common", 9000),
				"d/some": content(fmt.Sprint(u.random.IntN(5)), 7000), "d/own": content(n, 3000)})
			if u.run(nil, "import", "-q", tar, n) {
				u.images[n] = true
			}
			u.w.ok(os.Remove(tar))
		case c == 1:
			u.run(nil, "load", "-q", "-i", "three.tar")
		case c == 2:
			u.run(gone, "rmi", "three:1")
		case c == 3:
			n := u.name("t") + ":1"
			if u.run(nil, "tag", u.pick(u.images), n) {
				u.images[n] = true
			}
		case c == 4 && len(u.images) > 2:
			n := u.pick(u.images)
			u.run(nil, "rmi", n)
			delete(u.images, n)
		case c == 5 && u.mounted == "":
			u.mounted = u.name("s")
			u.snapshots[u.mounted] = u.run(nil, "mount", "--name", u.mounted, u.pick(u.images), mnt)
			u.w.write(mnt, files{"d/new": content(u.mounted, 5000)})
		case c == 6 && u.mounted != "":
			u.run(nil, "umount", u.mounted)
			u.mounted = ""
		case c == 7 && len(u.snapshots) > 0:
			n := u.name("c") + ":1"
			if u.run(nil, "commit", u.pick(u.snapshots), n) {
				u.images[n] = true
			}
		case c == 8 && len(u.snapshots) > 0:
			n, s := u.name("s"), u.pick(u.snapshots)
			if s != u.mounted && u.run(nil, "fork", s, n) {
				u.snapshots[n] = true
			}
		case c == 9 && len(u.snapshots) > 1:
			if s := u.pick(u.snapshots); s != u.mounted {
				u.run(nil, "snapshots", "rm", s)
				delete(u.snapshots, s)
			}
		case c == 10 && len(u.snapshots) > 0:
			if s := u.pick(u.snapshots); s != u.mounted {
				u.run(nil, "reset", s)
			}
		case c == 11:
			u.run(nil, "gc")
		case c == 12:
			u.run(nil, "images", "-q")
			u.run(nil, "df")
			u.run(nil, "snapshots", "-q")
		case c == 13:
			out := u.name("saved") + ".tar"
			u.run(nil, "save", "-q", "-o", out, u.pick(u.images))
			u.w.ok(os.RemoveAll(u.w.path(out)))
		case c == 14:
			u.run(nil, "run", "--rm", "--network", "none", "base:1", "/bin/busybox", "true")
		case c == 15:
			u.run(gone, "mount", "--name", "shared", "three:1", mnt+"/none") // no such directory
			u.run(nil, "ls", u.pick(u.images))
		}
	}
	if u.mounted != "" {
		u.run(nil, "umount", u.mounted)
	}
}

// check compares what this user was told with what there is.
func (u *user) check(seen map[string]string) {
	for n := range u.images {
		if _, ok := seen["image "+n]; !ok {
			u.w.t.Errorf("image %s is lost", n)
		}
	}
	for n := range u.snapshots {
		if _, ok := seen["snapshot "+n]; !ok {
			u.w.t.Errorf("snapshot %s is lost", n)
		}
	}
	own := regexp.MustCompile(fmt.Sprintf("^image ([itc]%d-.*)", u.id))
	for name := range seen {
		if m := own.FindStringSubmatch(name); m != nil && !u.images[m[1]] {
			u.w.t.Errorf("image %s was removed and is there", m[1])
		}
	}
}
