package crashtest

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

var containerSeed = flag.Uint64("seed", 1, "what TestContainers does to containers, and when")

// How many containers TestContainers starts, and how many of them at once.
const (
	containersShort = 20
	containersLong  = 1000
	containersBatch = 50
)

// Containers are started, stopped and removed by the batch, and meanwhile monitors and
// commands are killed at random. Who was let live has the state and the code that its
// process had, and after `layerfs gc` nothing is left of anybody: no mount, process, control
// group, interface, element of the packet filter or file.
func TestContainers(t *testing.T) {
	testenv.Long(t)
	testenv.Tools(t, "busybox", "nsenter", "unshare", "nft")
	c := newCity(t)
	n := containersShort
	if *long {
		n = containersLong
	}
	t.Logf("seed %d", *containerSeed)
	for first := 0; first < n; first += containersBatch {
		c.batch(first, min(containersBatch, n-first))
		if t.Failed() {
			break
		}
	}
	var fates []string
	for fate, n := range c.fates {
		fates = append(fates, fmt.Sprintf("%d × %s", n, fate))
	}
	slices.Sort(fates)
	t.Logf("containers: %s", strings.Join(fates, ", "))
	c.sound()
}

// city is a world with containers, in a network namespace of its own.
type city struct {
	*world
	holder int // a process that is in the network namespace
	groups string
	before cityState

	mu    sync.Mutex
	fates map[string]int // how many met which
}

// cityState is what there is when no container is.
type cityState struct {
	files      map[string]string
	interfaces []string
	filter     string
}

const townImage = "town:1"

func newCity(t *testing.T) *city {
	c := &city{world: newWorld(t, t.TempDir()), fates: map[string]int{}}
	hold := exec.Command("unshare", "--net", "sh", "-c", "busybox ip link set lo up && exec sleep infinity")
	hold.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	c.ok(hold.Start())
	t.Cleanup(func() {
		c.ok(hold.Process.Kill())
		_ = hold.Wait() // it was killed
	})
	c.holder = hold.Process.Pid
	c.waitFor("a network namespace", func() bool {
		own, _ := os.Readlink("/proc/self/ns/net")
		its, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", c.holder))
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.holder))
		return its != own && strings.TrimSpace(string(name)) == "sleep"
	})
	busybox, err := exec.LookPath("busybox")
	c.ok(err)
	program, err := os.ReadFile(busybox)
	c.ok(err)
	archive := c.tar("town.tar", files{"bin/busybox": string(program), "bin/sh": string(program), "proc/": "", "dev/": "", "sys/": "", "tmp/": ""})
	c.must("import", archive, townImage)
	t.Cleanup(func() {
		// Whatever failed, nothing runs on.
		if ids := strings.Fields(c.must("ps", "-aq")); len(ids) > 0 {
			c.run(append([]string{"rm", "-f"}, ids...)...)
		}
		c.run("gc")
		for _, pid := range c.processes() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	// One that nothing happens to shows where things are, and leaves what stays: the
	// network's bridge, the tables of the packet filter.
	c.must(c.args(0, "first", "exec busybox sleep 1000")...)
	pid := strings.TrimSpace(c.must("inspect", "-f", "{{.State.Pid}}", "first"))
	c.groups = groupOf(t, pid)
	c.must("rm", "-f", "first")
	c.must("gc")
	c.before = c.state()
	return c
}

// groupOf is the name, in each hierarchy, of the control group above a process's.
func groupOf(t *testing.T, pid string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if i := strings.Index(f[2], "layerfs/"); i >= 0 {
			return filepath.Dir(f[2][i:])
		}
	}
	t.Fatalf("process %s is in no control group of layerfs: %s", pid, data)
	return ""
}

// command runs layerfs in the city's network namespace, as the process that it names.
func (c *city) command(args ...string) *exec.Cmd {
	cmd := c.world.command()
	cmd.Args = append([]string{"nsenter", "--net=/proc/" + strconv.Itoa(c.holder) + "/ns/net", c.bin}, args...)
	cmd.Path, cmd.Err = exec.LookPath("nsenter")
	return cmd
}

func (c *city) run(args ...string) (string, int) {
	c.t.Helper()
	out, err := c.command(args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Errorf("layerfs %s: %v", strings.Join(args, " "), err)
	}
	if exit != nil {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// must is called by many at once, so that a failure does not end the test.
func (c *city) must(args ...string) string {
	c.t.Helper()
	out, code := c.run(args...)
	if code != 0 {
		c.t.Errorf("layerfs %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// killed runs a command and kills it some time after its start, and tells whether it came
// to its end before.
func (c *city) killed(after time.Duration, args ...string) (ended bool) {
	c.t.Helper()
	cmd := c.command(args...)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		c.t.Error(err)
		return false
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	return cmd.Wait() == nil
}

// args are a call that starts a container in the background: some on a network, some of
// these with a published port, some with a volume, some with limits.
func (c *city) args(i int, name, script string, flags ...string) []string {
	args := []string{"run", "-d", "--name", name, "-e", "TOWN=" + c.root}
	if i%2 == 1 {
		args = append(args, "--network", "none")
	} else if i%4 == 0 {
		const firstPort = 20000
		args = append(args, "-p", fmt.Sprintf("127.0.0.1:%d:80", firstPort+i))
	}
	if i%3 == 0 {
		args = append(args, "-v", "/data", "--pids-limit", "20")
	}
	return append(append(args, flags...), townImage, "sh", "-c", script)
}

// end is what the model knows of a container: whether it is listed, in which state and
// with which code.
type end struct {
	name   string
	known  bool // nothing was killed that could have decided otherwise
	listed bool
	state  string
}

// batch starts containers at once, lets each meet its fate, compares what is listed with
// what happened, and removes all.
func (c *city) batch(first, n int) {
	c.t.Helper()
	ends := make([]end, n)
	var wg sync.WaitGroup
	for i := range n {
		random := rand.New(rand.NewPCG(*containerSeed, uint64(first+i)))
		wg.Go(func() { ends[i] = c.live(first+i, random) })
	}
	wg.Wait()
	listed := map[string]string{}
	for line := range strings.Lines(c.must("ps", "-a", "--format", "{{.Names}} {{.State}} {{.ExitCode}}")) {
		name, state, _ := strings.Cut(strings.TrimSpace(line), " ")
		listed[name] = state
	}
	for _, e := range ends {
		state, is := listed[e.name]
		switch {
		case e.known && is != e.listed:
			c.t.Errorf("container %s: listed %v (%s), want %v", e.name, is, state, e.listed)
		case e.known && is && state != e.state:
			c.t.Errorf("container %s is %q, want %q", e.name, state, e.state)
		}
	}
	// Who was started by a command that was killed then may have begun to live just now.
	c.waitFor("the batch to be removed", func() bool {
		if ids := strings.Fields(c.must("ps", "-aq")); len(ids) > 0 {
			c.run(append([]string{"rm", "-f", "-v"}, ids...)...)
		}
		c.must("gc")
		return strings.TrimSpace(c.must("ps", "-aq")) == "" && len(c.processes()) == 0
	})
	c.nothingLeft()
}

// live is the life of one container.
func (c *city) live(i int, random *rand.Rand) end {
	name := "c" + strconv.Itoa(i)
	// Long enough for each command to have come to its end on a machine that is not busy.
	moment := func() time.Duration { return time.Duration(random.Int64N(int64(150 * time.Millisecond))) }
	start := func(script string, flags ...string) { c.must(c.args(i, name, script, flags...)...) }
	const forever = "trap 'exit 9' TERM; echo up; while :; do busybox sleep 0.1; done"
	stop := func() {
		c.waitFor(name+" to say that it is up", func() bool { return strings.Contains(c.must("logs", name), "up") })
		c.must("stop", name)
	}
	e := end{name: name, known: true, listed: true}
	fates := []struct {
		name string
		live func()
	}{
		{"ends by itself", func() {
			code := random.IntN(120)
			start(fmt.Sprintf("busybox sleep 0.2; exit %d", code))
			if out := strings.TrimSpace(c.must("wait", name)); out != strconv.Itoa(code) {
				c.t.Errorf("wait %s printed %q, want %d", name, out, code)
			}
			e.state = fmt.Sprintf("exited %d", code)
		}},
		{"stopped", func() {
			start(forever)
			stop()
			e.state = "exited 9"
		}},
		{"killed", func() {
			start(forever)
			c.must("kill", name)
			c.must("wait", name)
			e.state = "exited 137"
		}},
		{"removed at its end", func() {
			start(forever, "--rm")
			stop()
			e.listed = false
		}},
		{"stopped and started", func() {
			start(forever)
			stop()
			c.must("start", name)
			e.state = "running 0"
		}},
		{"monitor killed", func() {
			start(forever)
			process, monitor := c.pids(name)
			c.killMonitor(process, monitor, moment())
			e.state = "exited 137"
		}},
		{"monitor killed, to be restarted always", func() {
			start(forever, "--restart", "always")
			process, monitor := c.pids(name)
			c.killMonitor(process, monitor, moment())
			e.state = "exited 137"
		}},
		{"monitor killed, started again", func() {
			start(forever)
			process, monitor := c.pids(name)
			c.killMonitor(process, monitor, moment())
			c.must("start", name)
			e.state = "running 0"
		}},
		{"monitor killed while it is stopped", func() {
			start(forever)
			process, monitor := c.pids(name)
			var wg sync.WaitGroup
			wg.Go(func() { c.run("stop", name) })
			c.killMonitor(process, monitor, moment())
			wg.Wait()
			e.known = false // 9 or 137
		}},
		{"run killed", func() {
			c.killed(moment(), c.args(i, name, forever)...)
			e.known = false
		}},
		{"run --rm killed", func() {
			c.killed(moment(), c.args(i, name, forever, "--rm")...)
			e.known = false
		}},
		{"run in the foreground killed", func() {
			args := c.args(i, name, forever)
			c.killed(moment(), slices.Delete(args, 1, 2)...) // without -d
			e.known = false
		}},
		{"stop killed", func() {
			start(forever)
			c.killed(moment(), "stop", name)
			e.known = false
		}},
		{"rm killed", func() {
			start(forever)
			c.killed(moment(), "rm", "-f", "-v", name)
			e.known = false
		}},
		{"start killed", func() {
			start("exit 3")
			c.must("wait", name)
			c.killed(moment(), "start", name)
			e.known = false
		}},
		{"exec killed", func() {
			start(forever)
			c.killed(moment(), "exec", name, "busybox", "sleep", "1000")
			e.state = "running 0"
		}},
		{"gc killed", func() {
			start(forever)
			c.killed(moment(), "gc")
			e.state = "running 0"
		}},
	}
	fate := fates[random.IntN(len(fates))]
	fate.live()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fates[fate.name]++
	return e
}

// pids returns the processes of a container that runs and of its monitor.
func (c *city) pids(name string) (process, monitor int) {
	c.t.Helper()
	out := strings.TrimSpace(c.must("inspect", "-f", "{{.State.Pid}} {{.State.MonitorPid}}", name))
	if _, err := fmt.Sscan(out, &process, &monitor); err != nil || process == 0 || monitor == 0 {
		c.t.Errorf("inspect %s printed %q", name, out)
	}
	return process, monitor
}

// killMonitor kills who attends a container, after a while, and waits for the container's
// end.
func (c *city) killMonitor(process, monitor int, after time.Duration) {
	c.t.Helper()
	if process == 0 || monitor == 0 {
		return // reported
	}
	time.Sleep(after)
	if err := unix.Kill(monitor, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		c.t.Error(err)
	}
	c.waitFor("a container without its monitor", func() bool { return ended(monitor) && ended(process) })
}

// ended tells whether a process has gone, or waits to be looked at.
func ended(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func (c *city) waitFor(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	c.t.Errorf("waited %v for %s", patience, what)
}

// processes are those of layerfs and of containers, told by their environment.
func (c *city) processes() []int {
	c.t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/environ")
	c.ok(err)
	var pids []int
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(data), "="+c.root+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		c.ok(err)
		if !ended(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (c *city) state() cityState {
	c.t.Helper()
	dev, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", c.holder))
	c.ok(err)
	s := cityState{files: c.listing()}
	// The address that is given next is another each time.
	maps.DeleteFunc(s.files, func(name, _ string) bool {
		return strings.HasPrefix(name, "network/networks/") && strings.HasSuffix(name, "/next")
	})
	for line := range strings.Lines(string(dev)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			s.interfaces = append(s.interfaces, strings.TrimSpace(name))
		}
	}
	slices.Sort(s.interfaces)
	out, err := exec.Command("nsenter", "--net=/proc/"+strconv.Itoa(c.holder)+"/ns/net", "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		c.t.Errorf("nft: %v: %s", err, out)
	}
	s.filter = string(out)
	return s
}

// nothingLeft compares what there is with what there was before.
func (c *city) nothingLeft() {
	c.t.Helper()
	now := c.state()
	if d := different(now.files, c.before.files); len(d) > 0 {
		c.t.Errorf("the store: %s", strings.Join(d, "\n"))
	}
	if !slices.Equal(now.interfaces, c.before.interfaces) {
		c.t.Errorf("interfaces %v, want %v", now.interfaces, c.before.interfaces)
	}
	if now.filter != c.before.filter {
		c.t.Errorf("the packet filter is\n%s\nwant\n%s", now.filter, c.before.filter)
	}
	if at := testenv.Mounts(c.t, c.dir); len(at) > 0 {
		c.t.Errorf("mounts %v", at)
	}
	for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		left, err := filepath.Glob(filepath.Join(hierarchy, c.groups, "*"))
		c.ok(err)
		left = slices.DeleteFunc(left, func(name string) bool { st, err := os.Stat(name); return err != nil || !st.IsDir() })
		if len(left) > 0 {
			c.t.Errorf("control groups %v", left)
		}
	}
}
