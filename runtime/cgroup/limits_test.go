package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What a child of the test does when it is in its group, by the name in asChild.
const asChild = "CGROUP_TEST_DO"

func TestMain(m *testing.M) {
	if what := os.Getenv(asChild); what != "" {
		os.Exit(child(what))
	}
	os.Exit(m.Run())
}

// Exit codes of a child.
const (
	fine     = 0
	stopped  = 3 // a limit stopped it
	notReady = 4
)

// child waits for a byte, by which time it is in the group, and does what it should.
func child(what string) int {
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return notReady
	}
	switch what {
	case "memory": // 64 MiB
		b := make([]byte, 64<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
	case "pids":
		for range 20 {
			cmd := exec.Command("sleep", "1000")
			if err := cmd.Start(); err != nil {
				if errors.Is(err, syscall.EAGAIN) {
					return stopped
				}
				return notReady
			}
		}
	case "spin":
		for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		}
	case "affinity":
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil || set.Count() != 1 {
			return notReady
		}
	case "open", "open to read":
		mode := os.O_RDWR
		if what == "open to read" {
			mode = os.O_RDONLY
		}
		f, err := os.OpenFile("/dev/fuse", mode, 0)
		if err != nil {
			if errors.Is(err, fs.ErrPermission) {
				return stopped
			}
			return notReady
		}
		_ = f.Close()
	case "null":
		if err := os.WriteFile("/dev/null", []byte("x"), 0); err != nil {
			return stopped
		}
	case "read": // 8 MiB around the page cache
		f, err := os.OpenFile(os.Getenv("CGROUP_TEST_FILE"), os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			return notReady
		}
		b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return notReady
		}
		for range 8 {
			if _, err := f.Read(b); err != nil {
				return notReady
			}
		}
	case "huge pages":
		return takeHugePages()
	case "delegated":
		return useDelegated()
	case "sleep":
		time.Sleep(time.Hour)
	}
	return fine
}

// hugePage is the size of the pages that x86 and ARM have beside the usual ones.
const hugePage = 2 << 20

// takeHugePages uses two.
func takeHugePages() (code int) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			code = stopped // by SIGBUS
		}
	}()
	b, err := unix.Mmap(-1, 0, 2*hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_HUGETLB)
	if err != nil {
		return notReady
	}
	b[0], b[hugePage] = 1, 1
	return fine
}

// ordinary is the user to whom a group is delegated.
const ordinary = 65534

// useDelegated makes a group below the one that was delegated to an ordinary user, limits
// it, and runs a process in it that exceeds the limit.
func useDelegated() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return notReady
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(ordinary), syscall.Setuid(ordinary)); err != nil {
		return fail(err)
	}
	g, err := Open(context.Background(), Options{Path: "box/one"})
	if err != nil {
		return fail(err)
	}
	limits := specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}, Pids: &specs.LinuxPids{Limit: ptr(int64(100))}}
	if err := errors.Join(g.Apply(&limits)...); err != nil {
		return fail(err)
	}
	cmd := exec.Command("/proc/self/exe") // its directory is closed to this user
	cmd.Env = append(os.Environ(), asChild+"=memory")
	begin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		err = g.Add(cmd.Process.Pid)
	}
	if err == nil {
		_, err = begin.Write([]byte{1})
	}
	if err != nil {
		return fail(err)
	}
	_ = cmd.Wait()
	if err := g.Remove(context.Background()); err != nil {
		return fail(err)
	}
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		return fine
	}
	return stopped
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unifiedRoot is where the tree of version 2 is on machines with both.
const unifiedRoot = "/sys/fs/cgroup/unified"

// newGroup makes a group that is gone after the test.
func newGroup(t *testing.T) *Group { return newGroupIn(t, "") }

func newGroupIn(t *testing.T, root string) *Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: groups are made below the machine's roots")
	}
	name := "layerfs-test-" + strconv.Itoa(os.Getpid()) + "/" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	g, err := Open(t.Context(), Options{Path: name, Root: root})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		must(t, g.Kill(context.Background()))
		must(t, g.Remove(context.Background()))
		for _, d := range g.Dirs() {
			_ = os.Remove(filepath.Dir(d)) // with the last group
		}
	})
	return g
}

// in runs a child in the group and returns how it ended.
func in(t *testing.T, g *Group, what string, env ...string) syscall.WaitStatus {
	t.Helper()
	cmd := start(t, g, what, env...)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// start puts a child into the group, and lets it go. The caller waits for it.
func start(t *testing.T, g *Group, what string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), asChild+"="+what), env...)
	cmd.Stderr = os.Stderr
	begin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	must(t, g.Add(cmd.Process.Pid))
	_, err = begin.Write([]byte{1})
	must(t, err)
	return cmd
}

func apply(t *testing.T, g *Group, r *specs.LinuxResources) {
	t.Helper()
	for _, err := range g.Apply(r) {
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		t.Error(err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestMemoryLimitKills(t *testing.T) {
	g := newGroup(t)
	apply(t, g, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}})
	if st := in(t, g, "memory"); st.Signal() != syscall.SIGKILL {
		t.Errorf("64 MiB in 32: %v", st)
	}
	s, err := g.Stats()
	must(t, err)
	// Charges that the kernel may not refuse go some pages beyond the limit.
	const beyond = 1 << 20
	if s.Memory.OOMKills != 1 || s.Memory.Limit != 32<<20 || s.Memory.Peak < 16<<20 || s.Memory.Peak > 32<<20+beyond {
		t.Errorf("stats %+v", s.Memory)
	}
	// Raised, both together, while the group is in use.
	apply(t, g, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(256 << 20)), Swap: ptr(int64(256 << 20))}})
	if st := in(t, g, "memory"); st.ExitStatus() != fine {
		t.Errorf("64 MiB in 256: %v", st)
	}
}

func TestPidsLimitRefuses(t *testing.T) {
	g := newGroup(t)
	apply(t, g, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(16))}})
	if st := in(t, g, "pids"); st.ExitStatus() != stopped {
		t.Errorf("20 processes and threads in 16: %v", st)
	}
	s, err := g.Stats()
	must(t, err)
	if s.Pids.Limit != 16 || s.Pids.Current == 0 {
		t.Errorf("stats %+v", s.Pids)
	}
	pids, err := g.Procs()
	must(t, err)
	if len(pids) == 0 || len(pids) > 16 {
		t.Errorf("processes %v", pids)
	}
	must(t, g.Kill(t.Context()))
	if pids, err := g.Procs(); err != nil || len(pids) != 0 {
		t.Errorf("after the kill: processes %v, error %v", pids, err)
	}
}

func TestQuotaThrottles(t *testing.T) {
	g := newGroup(t)
	apply(t, g, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(10_000)), Period: ptr(uint64(100_000)), Shares: ptr(uint64(512))}})
	began := time.Now()
	if st := in(t, g, "spin"); st.ExitStatus() != fine {
		t.Fatalf("%v", st)
	}
	took := time.Since(began)
	s, err := g.Stats()
	must(t, err)
	// It spun for half a second on the clock, or longer, with a tenth of a processor. What
	// it has used of a period when it is stopped goes beyond that.
	if s.CPU.ThrottledPeriods == 0 || s.CPU.Usage == 0 || s.CPU.Usage > took/5+100*time.Millisecond {
		t.Errorf("in %v, stats %+v", took, s.CPU)
	}
}

func TestCpusetBinds(t *testing.T) {
	g := newGroup(t)
	apply(t, g, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}})
	if st := in(t, g, "affinity"); st.ExitStatus() != fine {
		t.Errorf("not bound to one processor: %v", st)
	}
	errs := g.Apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}})
	var limit *LimitError
	if len(errs) != 1 || !errors.As(errs[0], &limit) || limit.Limit != "cpu.cpus" {
		t.Errorf("a processor that is not there: %v", errs)
	}
}

func TestDeviceRules(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("the device to try with is not there:", err)
	}
	for name, root := range map[string]string{"usual": "", "version 2": unifiedRoot} {
		t.Run(name, func(t *testing.T) {
			g := newGroupIn(t, root)
			none := specs.LinuxDeviceCgroup{Type: "a", Access: "rwm"}
			fuse := func(allow bool, access string) specs.LinuxDeviceCgroup {
				return specs.LinuxDeviceCgroup{Allow: allow, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: access}
			}
			for _, c := range []struct {
				name       string
				rules      []specs.LinuxDeviceCgroup
				read, both int
			}{
				{"none", []specs.LinuxDeviceCgroup{none}, stopped, stopped},
				{"one", []specs.LinuxDeviceCgroup{none, fuse(true, "rw")}, fine, fine},
				{"to read", []specs.LinuxDeviceCgroup{none, fuse(true, "r")}, fine, stopped},
				{"in two rules", []specs.LinuxDeviceCgroup{none, fuse(true, "r"), fuse(true, "w")}, fine, fine},
				{"taken back", []specs.LinuxDeviceCgroup{none, fuse(true, "rw"), fuse(false, "w")}, fine, stopped},
				{"all", []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}, fine, fine},
				{"all but one", []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}, fuse(false, "rwm")}, stopped, stopped},
			} {
				apply(t, g, &specs.LinuxResources{Devices: c.rules})
				for what, want := range map[string]int{"open to read": c.read, "open": c.both, "null": fine} {
					if st := in(t, g, what); st.ExitStatus() != want {
						t.Errorf("%s, %s: %v, want %d", c.name, what, st, want)
					}
				}
			}
		})
	}
}

func TestDeviceRulesAreChecked(t *testing.T) {
	many := make([]specs.LinuxDeviceCgroup, maxRules+1)
	if _, err := parseRules(many[:maxRules]); err != nil {
		t.Error(err)
	}
	for name, rules := range map[string][]specs.LinuxDeviceCgroup{
		"too many": many,
		"type":     {{Type: "x"}},
		"access":   {{Type: "c", Access: "rx"}},
		"number":   {{Type: "c", Major: ptr(int64(1 << 32))}},
		"negative": {{Type: "c", Minor: ptr(int64(-2))}},
		"all of a": {{Type: "a", Major: ptr(int64(1))}},
	} {
		if _, err := parseRules(rules); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestThrottledReads(t *testing.T) {
	g := newGroup(t)
	file := filepath.Join(t.TempDir(), "data")
	must(t, os.WriteFile(file, make([]byte, 8<<20), 0o600))
	var st unix.Stat_t
	must(t, unix.Stat(file, &st))
	major, minor := unix.Major(st.Dev), unix.Minor(st.Dev)
	if major == 0 {
		t.Skip("the temporary directory is on no block device")
	}
	var d specs.LinuxThrottleDevice
	d.Major, d.Minor, d.Rate = int64(major), int64(minor), 8<<20
	apply(t, g, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{d}}})
	began := time.Now()
	if st := in(t, g, "read", "CGROUP_TEST_FILE="+file); st.ExitStatus() != fine {
		t.Fatalf("%v", st)
	}
	// 8 MiB at 8 MiB/s. The limit holds from below, so this is no race with a machine.
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("8 MiB read in %v at 8 MiB/s", took)
	}
	s, err := g.Stats()
	must(t, err)
	if s.IO.ReadBytes < 8<<20 || s.IO.Reads == 0 {
		t.Errorf("stats %+v", s.IO)
	}
}

func TestHugePagesRefused(t *testing.T) {
	g := newGroup(t)
	apply(t, g, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: hugePage}}})
	// The machine may have none in store; then it is let make some.
	const overcommit = "/proc/sys/vm/nr_overcommit_hugepages"
	before, err := os.ReadFile(overcommit)
	must(t, err)
	if strings.TrimSpace(string(before)) == "0" {
		must(t, os.WriteFile(overcommit, []byte("4"), 0))
		t.Cleanup(func() { must(t, os.WriteFile(overcommit, before, 0)) })
	}
	if st := in(t, g, "huge pages"); st.ExitStatus() != stopped {
		t.Errorf("two huge pages where one is allowed: %v", st)
	}
	apply(t, g, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 2 * hugePage}}})
	if st := in(t, g, "huge pages"); st.ExitStatus() != fine {
		t.Errorf("two huge pages where two are allowed: %v", st)
	}
}

// Who was handed a group limits what is below it as root does.
func TestDelegated(t *testing.T) {
	g := newGroup(t)
	for _, d := range g.Dirs() {
		// As systemd delegates: the directory and the files by which processes move and
		// controllers are handed on; processes are in a group below.
		must(t, os.Mkdir(filepath.Join(d, "session"), 0o755))
		for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control", "tasks", "session", "session/cgroup.procs"} {
			if err := os.Chown(filepath.Join(d, name), ordinary, ordinary); !errors.Is(err, fs.ErrNotExist) {
				must(t, err)
			}
		}
	}
	session, err := Open(t.Context(), Options{Path: g.Path() + "/session"})
	must(t, err)
	if st := in(t, session, "delegated"); st.ExitStatus() != stopped {
		t.Errorf("64 MiB in 32, in an ordinary user's group: %v", st)
	}
}

func TestFreeze(t *testing.T) {
	g := newGroup(t)
	cmd := start(t, g, "sleep")
	must(t, g.Freeze(t.Context()))
	if frozen, err := g.Frozen(); err != nil || !frozen {
		t.Errorf("frozen %v, error %v", frozen, err)
	}
	must(t, g.Thaw(t.Context()))
	if frozen, err := g.Frozen(); err != nil || frozen {
		t.Errorf("frozen %v, error %v", frozen, err)
	}
	// A frozen process can be killed.
	must(t, g.Freeze(t.Context()))
	must(t, g.Kill(t.Context()))
	_ = cmd.Wait()
	if st := cmd.ProcessState.Sys().(syscall.WaitStatus); st.Signal() != syscall.SIGKILL {
		t.Errorf("ended by %v", st)
	}
}

func TestOpenLoadRemove(t *testing.T) {
	g := newGroup(t)
	// Twice is the same as once.
	again, err := Open(t.Context(), Options{Path: g.Path()})
	must(t, err)
	if !slices.Equal(again.Dirs(), g.Dirs()) {
		t.Errorf("%v, then %v", g.Dirs(), again.Dirs())
	}
	// Groups that the processes made are removed, too.
	for _, d := range g.Dirs() {
		must(t, os.MkdirAll(filepath.Join(d, "deep", "deeper"), 0o755))
	}
	cmd := start(t, g, "sleep")
	loaded, err := Load(g.Path())
	must(t, err)
	if pids, err := loaded.Procs(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("processes %v, error %v", pids, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := loaded.Remove(ctx); !errors.Is(err, unix.EBUSY) {
		t.Errorf("removed with a process in it: %v", err)
	}
	must(t, loaded.Kill(t.Context()))
	_ = cmd.Wait()
	must(t, loaded.Remove(t.Context()))
	must(t, loaded.Remove(t.Context()))
	if _, err := Load(g.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the removal: %v", err)
	}
}

func TestEntryLetsAProcessIn(t *testing.T) {
	g := newGroup(t)
	e, err := g.Enter()
	must(t, err)
	cmd := exec.Command("sleep", "1000")
	if e.Unified != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(e.Unified.Fd())}
	}
	must(t, cmd.Start())
	for _, f := range e.Procs {
		_, err := f.WriteString(strconv.Itoa(cmd.Process.Pid))
		must(t, err)
	}
	must(t, e.Close())
	if pids, err := g.Procs(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("processes %v, error %v", pids, err)
	}
	must(t, g.Kill(t.Context()))
	_ = cmd.Wait()
}

func TestAsks(t *testing.T) {
	for name, c := range map[string]struct {
		r    *specs.LinuxResources
		want bool
	}{
		"nothing":   {nil, false},
		"empty":     {&specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, BlockIO: &specs.LinuxBlockIO{}}, false},
		"memory":    {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 20))}}, true},
		"cpus":      {&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}}, true},
		"processes": {&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(9))}}, true},
		"rate": {&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
			ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 1}}}}, true},
		"weight": {&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr(uint16(10))}}, true},
		"file":   {&specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}, true},
		"device": {&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}, true},
	} {
		if got := Asks(c.r); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
