package suites

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

// Sizes of TestChaos.
const (
	chaosWorkers = 16
	chaosDisk    = 64 << 20        // bytes of the upper's file system, as root
	chaosRound   = 3 * time.Second // until the union ends, in one way or another
	// patience is how long something may take before it counts as stuck.
	patience = 2 * time.Minute
)

// workInChaos is the life of a worker's process.
func workInChaos(config string) {
	var w worker
	if err := json.Unmarshal([]byte(config), &w); err != nil {
		log.Fatal(err)
	}
	count, err := w.work()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(count)
}

// TestChaos has 16 processes at work on a union while its server is stopped and slowed
// and its disk fills up, round after round; a round ends by the workers' stopping, by the
// server's being killed, or by a forced unmount while it is stopped. Whatever ended
// without an error is there afterwards, whether it was flushed or not; what was under way
// was done or not; nobody waits for ever.
func TestChaos(t *testing.T) {
	testenv.Long(t)
	c := newChaos(t)
	var rounds, done int
	ends := []func() int{c.rest, c.kill, c.abort}
	for end := time.Now().Add(duration(8 * time.Second)); time.Now().Before(end) || rounds < len(ends); rounds++ {
		c.start(rounds)
		for until := time.Now().Add(chaosRound); time.Now().Before(until); {
			c.disturb()
		}
		done += ends[rounds%len(ends)]()
		c.verify(rounds)
	}
	t.Logf("%d rounds, %d operations", rounds, done)
}

type chaos struct {
	t       *testing.T
	p       *place
	random  *rand.Rand
	workers []*worker
	running []*exec.Cmd
	output  []*bytes.Buffer
	server  int
}

func newChaos(t *testing.T) *chaos {
	p := newPlace(t, fuse.New(fuse.Options{}), "")
	c := &chaos{t: t, p: p, random: rand.New(rand.NewPCG(1, 1))}
	shadow := filepath.Join(p.dir, "shadow")
	must(t, os.Mkdir(shadow, 0o755))
	for i := range chaosWorkers {
		name := fmt.Sprint("w", i)
		c.workers = append(c.workers, &worker{
			Root: p.root, Dir: filepath.Join(p.root, name), Shadow: filepath.Join(shadow, name),
			Intent: filepath.Join(p.dir, "intent"+name), Stop: filepath.Join(p.dir, "stop"), Dirs: os.Geteuid() == 0,
		})
		for j, dir := range []string{"", "d", "e"} {
			must(t, os.Mkdir(filepath.Join(shadow, name, dir), 0o755))
			for k := range 4 {
				must(t, os.WriteFile(filepath.Join(shadow, name, dir, fmt.Sprint("f", k)), fill(i*100+j*10+k, 90_000>>(4*k)), 0o644))
			}
		}
	}
	_, err := run(t, p.dir, "cp", "-aT", shadow, p.lower)
	must(t, err)
	lower, data := unionfstest.AsTree(t, p.lower, namespace())
	p.layers.Lower, p.layers.Data = []unionfs.Lower{lower}, data
	if os.Geteuid() == 0 {
		disk := testenv.Disk(t, "ext4", chaosDisk)
		p.layers.Upper, p.layers.Work = filepath.Join(disk, "upper"), filepath.Join(disk, "work")
		must(t, os.Mkdir(p.layers.Upper, 0o755))
		must(t, os.Mkdir(p.layers.Work, 0o755))
	}
	return c
}

// start mounts the union and starts the workers.
func (c *chaos) start(round int) {
	c.t.Helper()
	c.p.mount(c.t)
	c.server = server(c.t, c.p.root)
	if err := os.Remove(c.workers[0].Stop); round > 0 && err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	self, err := os.Executable()
	must(c.t, err)
	c.running, c.output = nil, nil
	for i, w := range c.workers {
		w.Seed = uint64(round*chaosWorkers + i + 1)
		config, err := json.Marshal(w)
		must(c.t, err)
		out := &bytes.Buffer{}
		cmd := exec.Command(self, workerCommand, string(config))
		cmd.Stdout, cmd.Stderr = out, out
		must(c.t, cmd.Start())
		c.running, c.output = append(c.running, cmd), append(c.output, out)
	}
}

// server returns the one process that serves a mount.
func server(t *testing.T, root string) int {
	t.Helper()
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, root, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st))
	want := fmt.Sprintf("layerfs\x00%s\x00%d\x00", strings.Join(fuse.ServerArgs(), "\x00"), st.Dev_minor)
	// One of an earlier mount with the same number may be about to end.
	for range 500 {
		found, err := filepath.Glob("/proc/[0-9]*/cmdline")
		must(t, err)
		var pids []int
		for _, path := range found {
			if line, err := os.ReadFile(path); err == nil && string(line) == want {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
				must(t, err)
				pids = append(pids, pid)
			}
		}
		if len(pids) == 1 {
			return pids[0]
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not one process serves %s", root)
	return 0
}

func (c *chaos) signal(sig unix.Signal) {
	if err := unix.Kill(c.server, sig); err != nil {
		c.t.Errorf("signal server: %v", err)
	}
}

// disturb does one thing to the server or the disk.
func (c *chaos) disturb() {
	moment := time.Duration(1+c.random.IntN(200)) * time.Millisecond
	switch c.random.IntN(4) {
	case 0: // stopped
		c.signal(unix.SIGSTOP)
		time.Sleep(moment)
		c.signal(unix.SIGCONT)
	case 1: // slowed to a tenth
		for range 20 {
			c.signal(unix.SIGSTOP)
			time.Sleep(9 * time.Millisecond)
			c.signal(unix.SIGCONT)
			time.Sleep(time.Millisecond)
		}
	case 2:
		if os.Geteuid() == 0 {
			c.fillDisk(moment)
		}
	case 3:
		time.Sleep(moment)
	}
}

// fillDisk leaves no space on the upper's file system for a moment.
func (c *chaos) fillDisk(moment time.Duration) {
	path := filepath.Join(filepath.Dir(c.p.layers.Upper), "filler")
	f, err := os.Create(path)
	if err != nil {
		return // full without it
	}
	block := make([]byte, 256<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	time.Sleep(moment)
	_ = f.Close() // what it holds is for nobody
	must(c.t, os.Remove(path))
}

// rest lets the workers come to their end and unmounts.
func (c *chaos) rest() int {
	must(c.t, os.WriteFile(c.workers[0].Stop, nil, 0o600))
	done := c.wait()
	c.p.unmount(c.t, false)
	return done
}

// kill kills the server; every worker notices.
func (c *chaos) kill() int {
	c.signal(unix.SIGKILL)
	done := c.wait()
	c.p.unmount(c.t, false)
	return done
}

// abort unmounts while the server does not answer and the workers wait for it.
func (c *chaos) abort() int {
	c.signal(unix.SIGSTOP)
	time.Sleep(20 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	un, ok := c.p.driver.(unionfs.Unmounter)
	if !ok {
		c.t.Fatalf("%s cannot unmount", c.p.driver.Name())
	}
	err := un.Unmount(ctx, c.p.root, true)
	done := c.wait()
	must(c.t, err)
	return done
}

// wait waits for the workers to end.
func (c *chaos) wait() (done int) {
	c.t.Helper()
	for i, cmd := range c.running {
		stuck := time.AfterFunc(patience, func() {
			c.t.Errorf("worker %d is stuck", i)
			_ = cmd.Process.Kill() // it may end just now
		})
		err := cmd.Wait()
		stuck.Stop()
		if err != nil {
			c.t.Errorf("worker %d: %v\n%s", i, err, tail(c.output[i].String()))
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(c.output[i].String()))
		must(c.t, err)
		done += n
	}
	return done
}

// verify compares the union, mounted anew, with the shadows.
func (c *chaos) verify(round int) {
	c.t.Helper()
	c.p.mount(c.t)
	for i, w := range c.workers {
		difference := func() []string { return unionfstest.Difference(c.t, w.Dir, w.Shadow, time.Unix(0, 0)) }
		if err := w.settle(func() bool { return len(difference()) == 0 }); err != nil {
			c.t.Errorf("worker %d: %v", i, err)
		}
		if diffs := difference(); len(diffs) > 0 {
			intent, _ := os.ReadFile(w.Intent)
			c.t.Errorf("round %d, worker %d: the union differs from what was done (under way: %s):\n%s", round, i, intent, strings.Join(diffs, "\n"))
		}
	}
	c.p.unmount(c.t, false)
	if c.t.Failed() {
		c.t.FailNow()
	}
}
