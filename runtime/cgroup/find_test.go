package cgroup

import (
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestParseMountinfo(t *testing.T) {
	text := `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 /docker/abc /sys/fs/cgroup/mem\040ory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /mnt rw - cgroupish x rw
short - cgroup
`
	want := []mounted{
		{root: "/", at: "/sys/fs/cgroup/cpu,cpuacct", options: []string{"rw", "cpu", "cpuacct"}},
		{root: "/docker/abc", at: "/sys/fs/cgroup/mem ory", options: []string{"rw", "memory"}},
		{root: "/", at: "/sys/fs/cgroup/unified", unified: true, options: []string{"rw"}},
	}
	if got := parseMountinfo(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := parseMountinfo(text + "\n99 1 0:9 / " + want[0].at + " rw - tmpfs tmpfs rw"); !reflect.DeepEqual(got, want[1:]) {
		t.Errorf("what is covered: %+v", got)
	}
	own := parseOwn("4:memory:/docker/abc/x\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/me\nbroken\n")
	if own["memory"] != "/docker/abc/x" || own["cpuacct"] != "/" || own[""] != "/me" {
		t.Errorf("own groups %v", own)
	}
	if got := controllersOf(own, want[0].options); !reflect.DeepEqual(got, []string{"cpu", "cpuacct"}) {
		t.Errorf("controllers %v", got)
	}
	for _, c := range [][3]string{{"/", "/a/b", "/a/b"}, {"/docker/abc", "/docker/abc/x", "/x"}, {"/docker/abc", "/docker/abc", "/"}, {"/other", "/a", "/"}} {
		if got := within(c[0], c[1]); got != c[2] {
			t.Errorf("%s within %s is %s, want %s", c[1], c[0], got, c[2])
		}
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add(`33 31 0:30 /docker/abc /sys/fs/cgroup/mem\040ory rw,relatime shared:9 - cgroup cgroup rw,memory`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range parseMountinfo(text) {
			if len(m.options) == 0 {
				t.Errorf("no options: %+v", m)
			}
		}
		parseOwn(text)
		pairs(text)
	})
}

func TestPathsAreChecked(t *testing.T) {
	for _, good := range []string{"layerfs/x", "/layerfs/x", "x", strings.Repeat("a", maxPath)} {
		if err := checkPath(good); err != nil {
			t.Errorf("%.20q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "/", ".", "..", "../x", "/../x", "a//b", "a/../b", "a/", "a\nb", strings.Repeat("a", maxPath+1)} {
		if err := checkPath(bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 100, 1: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("weight of %d shares is %d, want %d", shares, got, want)
		}
	}
}

// The values as a kernel with version 2 wants them (cgroup-v2.rst).
func TestVersion2Settings(t *testing.T) {
	var dev specs.LinuxThrottleDevice
	dev.Major, dev.Minor, dev.Rate = 8, 16, 1000
	got := map[string]string{}
	for _, settings := range [][]setting{
		cpu2(&specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Shares: ptr(uint64(1024)), Burst: ptr(uint64(5))}),
		memory2(&specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(150)), Reservation: ptr(int64(-1))}),
		pids(&specs.LinuxPids{Limit: ptr(int64(-1))}),
		io2(&specs.LinuxBlockIO{ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{dev}, Weight: ptr(uint16(10))}),
		huge([]specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1 << 21}}, ".max"),
	} {
		for _, s := range settings {
			if s.err != nil {
				t.Error(s.err)
			}
			got[s.file] = s.value
		}
	}
	want := map[string]string{
		"cpu.weight": "100", "cpu.max": "50000 100000", "cpu.max.burst": "5",
		"memory.max": "100", "memory.swap.max": "50", "memory.low": "max", "pids.max": "max",
		"io.max": "8:16 wiops=1000", "io.bfq.weight": "10", "hugetlb.2MB.max": "2097152",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for name, settings := range map[string][]setting{
		"swap below memory": memory2(&specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(50))}),
		"swap alone":        memory2(&specs.LinuxMemory{Swap: ptr(int64(50))}),
		"swappiness":        memory2(&specs.LinuxMemory{Swappiness: ptr(uint64(0))}),
		"realtime":          cpu2(&specs.LinuxCPU{RealtimePeriod: ptr(uint64(1))}),
		"leaf weight":       io2(&specs.LinuxBlockIO{LeafWeight: ptr(uint16(1))}),
		"page size":         huge([]specs.LinuxHugepageLimit{{Pagesize: "../x"}}, ".max"),
	} {
		if len(settings) == 0 || settings[len(settings)-1].err == nil {
			t.Errorf("%s is not refused: %+v", name, settings)
		}
	}
}

// What no hierarchy has, or what is not to be written, is said.
func TestLimitsWithoutAController(t *testing.T) {
	g := &Group{path: "x", in: []hierarchy{{unified: true, dir: t.TempDir()}}}
	errs := g.Apply(&specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(1))},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(1))},
		Unified: map[string]string{"../x": "1", "cgroup.procs": "1", "memory.high": "1"},
	})
	if len(errs) != 5 {
		t.Errorf("%d errors: %v", len(errs), errs)
	}
	for _, err := range errs {
		var limit *LimitError
		if !errors.As(err, &limit) || limit.Limit == "" || !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("error %v", err)
		}
	}
}
