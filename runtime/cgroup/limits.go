package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// LimitError is a limit that is not enforced.
type LimitError struct {
	Limit string // its name in the OCI runtime specification, such as "memory.limit"
	Value string // as it was to be written
	Err   error
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("limit %s (%s) is not enforced: %v", e.Limit, e.Value, e.Err)
}

// Unwrap returns the reason.
func (e *LimitError) Unwrap() error { return e.Err }

// setting is one write that makes a limit.
type setting struct {
	limit      string
	controller string // of version 1, or of version 2
	file       string
	value      string
	err        error // it cannot be written, and why
}

// kind is what limits ask of a controller, which may have another name in each version.
type kind struct {
	controllers [2]string // of version 1 and of version 2
	settings    [2][]setting
}

func kinds(r *specs.LinuxResources) []kind {
	return []kind{
		{[2]string{"cpu", "cpu"}, [2][]setting{cpu1(r.CPU), cpu2(r.CPU)}},
		{[2]string{"cpuset", "cpuset"}, [2][]setting{cpuset(r.CPU), cpuset(r.CPU)}},
		{[2]string{"memory", "memory"}, [2][]setting{memory1(r.Memory), memory2(r.Memory)}},
		{[2]string{"pids", "pids"}, [2][]setting{pids(r.Pids), pids(r.Pids)}},
		{[2]string{"blkio", "io"}, [2][]setting{io1(r.BlockIO), io2(r.BlockIO)}},
		{[2]string{"hugetlb", "hugetlb"}, [2][]setting{huge(r.HugepageLimits, ".limit_in_bytes"), huge(r.HugepageLimits, ".max")}},
		{[2]string{"net_cls", ""}, [2][]setting{netClass(r.Network), netClass(r.Network)}},
		{[2]string{"net_prio", ""}, [2][]setting{netPriorities(r.Network), netPriorities(r.Network)}},
		{[2]string{"rdma", "rdma"}, [2][]setting{rdma(r.Rdma), rdma(r.Rdma)}},
	}
}

// Asks tells whether any limit is given: then Apply has something to do.
func Asks(r *specs.LinuxResources) bool {
	if r == nil {
		return false
	}
	return len(r.Devices) > 0 || len(r.Unified) > 0 || slices.ContainsFunc(kinds(r), func(k kind) bool {
		return len(k.settings[0])+len(k.settings[1]) > 0
	})
}

// Apply sets the limits that are given, and leaves the others as they are. It tries all
// and returns one error for each that is not enforced now, mostly a [*LimitError]: one
// wraps errors.ErrUnsupported where the machine, or what of it was delegated, lacks the
// controller, and the errno where the kernel refuses the value.
func (g *Group) Apply(r *specs.LinuxResources) []error {
	if r == nil {
		return nil
	}
	var errs []error
	refused := func(s setting, err error) {
		errs = append(errs, &LimitError{Limit: s.limit, Value: s.value, Err: err})
	}
	for _, kind := range kinds(r) {
		const v1, v2 = 0, 1
		h, ok := g.with(kind.controllers[v2])
		settings := kind.settings[v2]
		if !ok || !h.unified {
			if h, ok = g.with(kind.controllers[v1]); ok && !h.unified {
				settings = kind.settings[v1]
			} else {
				ok = false
			}
		}
		for i, s := range settings {
			switch {
			case !ok:
				refused(s, g.missing(kind.controllers[v2]))
			case s.err != nil:
				refused(s, s.err)
			default:
				if err := g.set(h, settings, i); err != nil {
					refused(s, err)
				}
			}
		}
	}
	errs = append(errs, g.applyUnified(r.Unified)...)
	if len(r.Devices) > 0 {
		if err := g.allowDevices(r.Devices); err != nil {
			errs = append(errs, &LimitError{Limit: "devices", Value: fmt.Sprintf("%d rules", len(r.Devices)), Err: err})
		}
	}
	return errs
}

// missing says why no hierarchy has a controller.
func (g *Group) missing(controller string) error {
	why := fmt.Errorf("no %s controller: %w", controller, errors.ErrUnsupported)
	for _, h := range g.in {
		if h.disabled != nil {
			why = fmt.Errorf("%w (%w)", why, h.disabled)
		}
	}
	return why
}

// set writes a setting. Limits of memory without and with swap bound each other, so that
// one that is refused may only have come too early.
func (g *Group) set(h hierarchy, all []setting, i int) error {
	s := all[i]
	err := write(filepath.Join(h.dir, s.file), s.value)
	if errors.Is(err, unix.EINVAL) && s.file == "memory.limit_in_bytes" && i+1 < len(all) && all[i+1].file == "memory.memsw.limit_in_bytes" {
		if swapErr := write(filepath.Join(h.dir, all[i+1].file), all[i+1].value); swapErr != nil {
			return swapErr
		}
		err = write(filepath.Join(h.dir, s.file), s.value)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("this kernel has no %s: %w", s.file, errors.ErrUnsupported)
	case errors.Is(err, unix.EBUSY) && s.controller == "memory":
		return fmt.Errorf("%w (more is in use already)", err)
	}
	return err
}

// applyUnified writes files of version 2 by name.
func (g *Group) applyUnified(files map[string]string) []error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		s := setting{limit: "unified." + name, file: name, value: files[name]}
		h, ok := g.unified()
		var err error
		switch {
		case !ok:
			err = fmt.Errorf("cgroup version 2 is not there: %w", errors.ErrUnsupported)
		case strings.ContainsAny(name, "/\x00") || !strings.Contains(name, ".") || strings.HasPrefix(name, "cgroup."):
			err = fmt.Errorf("not the name of a controller's file: %w", fs.ErrInvalid)
		default:
			err = g.set(h, []setting{s}, 0)
		}
		if err != nil {
			errs = append(errs, &LimitError{Limit: s.limit, Value: s.value, Err: err})
		}
	}
	return errs
}

// list collects the settings of a controller.
type list struct {
	controller string
	all        []setting
}

func (l *list) add(limit, file, value string) {
	l.all = append(l.all, setting{limit: limit, controller: l.controller, file: file, value: value})
}

func (l *list) refuse(limit, value string, err error) {
	l.all = append(l.all, setting{limit: limit, controller: l.controller, value: value, err: err})
}

func number64[T int64 | uint64 | uint32 | uint16](n *T) string { return fmt.Sprint(*n) }

// given tells whether a value is there. A 0 where none is possible is what engines write
// for a limit that nobody asked for; runc and crun pass it over, too.
func given[T int64 | uint64 | uint16](n *T) bool { return n != nil && *n != 0 }

func cpu1(c *specs.LinuxCPU) []setting {
	l := list{controller: "cpu"}
	if c == nil {
		return nil
	}
	if given(c.Shares) {
		l.add("cpu.shares", "cpu.shares", number64(c.Shares))
	}
	// A burst may not be larger than the quota, and a quota not smaller than one
	// millisecond of its period.
	if given(c.Period) {
		l.add("cpu.period", "cpu.cfs_period_us", number64(c.Period))
	}
	if given(c.Quota) {
		l.add("cpu.quota", "cpu.cfs_quota_us", number64(c.Quota))
	}
	if c.Burst != nil {
		l.add("cpu.burst", "cpu.cfs_burst_us", number64(c.Burst))
	}
	if given(c.RealtimePeriod) {
		l.add("cpu.realtimePeriod", "cpu.rt_period_us", number64(c.RealtimePeriod))
	}
	if given(c.RealtimeRuntime) {
		l.add("cpu.realtimeRuntime", "cpu.rt_runtime_us", number64(c.RealtimeRuntime))
	}
	if c.Idle != nil {
		l.add("cpu.idle", "cpu.idle", number64(c.Idle))
	}
	return l.all
}

func cpu2(c *specs.LinuxCPU) []setting {
	l := list{controller: "cpu"}
	if c == nil {
		return nil
	}
	if given(c.Shares) {
		l.add("cpu.shares", "cpu.weight", strconv.FormatUint(Weight(*c.Shares), 10))
	}
	if given(c.Quota) || given(c.Period) {
		value := "max"
		if c.Quota != nil && *c.Quota > 0 {
			value = number64(c.Quota)
		}
		if given(c.Period) {
			value += " " + number64(c.Period)
		}
		l.add("cpu.quota", "cpu.max", value)
	}
	if c.Burst != nil {
		l.add("cpu.burst", "cpu.max.burst", number64(c.Burst))
	}
	for limit, set := range map[string]bool{"cpu.realtimePeriod": given(c.RealtimePeriod), "cpu.realtimeRuntime": given(c.RealtimeRuntime)} {
		if set {
			l.refuse(limit, "set", fmt.Errorf("cgroup version 2 has no limit of realtime scheduling: %w", errors.ErrUnsupported))
		}
	}
	if c.Idle != nil {
		l.add("cpu.idle", "cpu.idle", number64(c.Idle))
	}
	return l.all
}

// Weight turns shares of version 1 (2 to 262144, usually 1024) into a weight of version
// 2 (1 to 10000, usually 100), so that the usual one stays the usual one: the formula of
// the OCI runtimes since 2025 (runc 1.3.2, crun 1.23).
func Weight(shares uint64) uint64 {
	const least, most, leastWeight, mostWeight = 2, 262144, 1, 10000
	switch {
	case shares == 0:
		return 100
	case shares <= least:
		return leastWeight
	case shares >= most:
		return mostWeight
	}
	l := math.Log2(float64(shares))
	exponent := (l*l+125*l)/612.0 - 7.0/34.0
	return uint64(math.Ceil(math.Pow(10, exponent)))
}

func cpuset(c *specs.LinuxCPU) []setting {
	l := list{controller: "cpuset"}
	if c != nil && c.Cpus != "" {
		l.add("cpu.cpus", "cpuset.cpus", c.Cpus)
	}
	if c != nil && c.Mems != "" {
		l.add("cpu.mems", "cpuset.mems", c.Mems)
	}
	return l.all
}

func memory1(m *specs.LinuxMemory) []setting {
	l := list{controller: "memory"}
	if m == nil {
		return nil
	}
	if given(m.Limit) {
		l.add("memory.limit", "memory.limit_in_bytes", number64(m.Limit))
	}
	if given(m.Swap) {
		l.add("memory.swap", "memory.memsw.limit_in_bytes", number64(m.Swap))
	}
	if given(m.Reservation) {
		l.add("memory.reservation", "memory.soft_limit_in_bytes", number64(m.Reservation))
	}
	if given(m.KernelTCP) {
		l.add("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", number64(m.KernelTCP))
	}
	if m.Swappiness != nil {
		l.add("memory.swappiness", "memory.swappiness", number64(m.Swappiness))
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		l.add("memory.disableOOMKiller", "memory.oom_control", "1")
	}
	return l.all
}

func memory2(m *specs.LinuxMemory) []setting {
	l := list{controller: "memory"}
	if m == nil {
		return nil
	}
	most := func(n int64) string {
		if n < 0 {
			return "max"
		}
		return strconv.FormatInt(n, 10)
	}
	if given(m.Limit) {
		l.add("memory.limit", "memory.max", most(*m.Limit))
	}
	if given(m.Swap) {
		switch { // version 1 counts memory and swap together, version 2 swap alone
		case *m.Swap < 0:
			l.add("memory.swap", "memory.swap.max", "max")
		case !given(m.Limit) || *m.Limit < 0 || *m.Swap < *m.Limit:
			l.refuse("memory.swap", number64(m.Swap), fmt.Errorf("it is memory and swap together, and not below a limit of memory: %w", fs.ErrInvalid))
		default:
			l.add("memory.swap", "memory.swap.max", most(*m.Swap-*m.Limit))
		}
	}
	if given(m.Reservation) {
		l.add("memory.reservation", "memory.low", most(*m.Reservation))
	}
	for limit, set := range map[string]bool{
		"memory.kernelTCP": given(m.KernelTCP), "memory.swappiness": m.Swappiness != nil,
		"memory.disableOOMKiller": m.DisableOOMKiller != nil && *m.DisableOOMKiller,
	} {
		if set {
			l.refuse(limit, "set", fmt.Errorf("cgroup version 2 has nothing like it: %w", errors.ErrUnsupported))
		}
	}
	return l.all
}

func pids(p *specs.LinuxPids) []setting {
	l := list{controller: "pids"}
	if p != nil && p.Limit != nil {
		value := "max"
		if *p.Limit > 0 {
			value = number64(p.Limit)
		}
		l.add("pids.limit", "pids.max", value)
	}
	return l.all
}

func huge(limits []specs.LinuxHugepageLimit, suffix string) []setting {
	l := list{controller: "hugetlb"}
	for _, h := range limits {
		if h.Pagesize == "" || strings.ContainsAny(h.Pagesize, "/\x00") {
			l.refuse("hugepageLimits", h.Pagesize, fmt.Errorf("page size %q: %w", h.Pagesize, fs.ErrInvalid))
			continue
		}
		l.add("hugepageLimits."+h.Pagesize, "hugetlb."+h.Pagesize+suffix, strconv.FormatUint(h.Limit, 10))
	}
	return l.all
}

func netClass(n *specs.LinuxNetwork) []setting {
	l := list{controller: "net_cls"}
	if n != nil && n.ClassID != nil {
		l.add("network.classID", "net_cls.classid", number64(n.ClassID))
	}
	return l.all
}

func netPriorities(n *specs.LinuxNetwork) []setting {
	l := list{controller: "net_prio"}
	if n != nil {
		for _, p := range n.Priorities {
			l.add("network.priorities."+p.Name, "net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority))
		}
	}
	return l.all
}

func rdma(devices map[string]specs.LinuxRdma) []setting {
	l := list{controller: "rdma"}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		value := name
		if h := devices[name].HcaHandles; h != nil {
			value += " hca_handle=" + number64(h)
		}
		if o := devices[name].HcaObjects; o != nil {
			value += " hca_object=" + number64(o)
		}
		l.add("rdma."+name, "rdma.max", value)
	}
	return l.all
}
