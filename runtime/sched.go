package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Names of specifications by what the kernel knows them as (include/uapi/linux/sched.h,
// ioprio.h, personality.h and mempolicy.h).
func schedulerPolicy(p specs.LinuxSchedulerPolicy) (uint32, bool) {
	n, ok := map[specs.LinuxSchedulerPolicy]uint32{
		specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedIdle: 5, specs.SchedDeadline: 6,
	}[p]
	return n, ok
}

func schedulerFlag(f specs.LinuxSchedulerFlag) (uint64, bool) {
	n, ok := map[specs.LinuxSchedulerFlag]uint64{
		specs.SchedFlagResetOnFork: 0x01, specs.SchedFlagReclaim: 0x02, specs.SchedFlagDLOverrun: 0x04, specs.SchedFlagKeepPolicy: 0x08,
		specs.SchedFlagKeepParams: 0x10, specs.SchedFlagUtilClampMin: 0x20, specs.SchedFlagUtilClampMax: 0x40,
	}[f]
	return n, ok
}

// schedule adds the rows that set scheduling and the priority of input and output, while
// the process may still do so.
func (t *table) schedule(p *specs.Process) error {
	if s := p.Scheduler; s != nil {
		policy, ok := schedulerPolicy(s.Policy)
		if !ok {
			return fmt.Errorf("scheduler policy %q: %w", s.Policy, fs.ErrInvalid)
		}
		attr := &unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority),
			Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
		}
		for _, f := range s.Flags {
			flag, ok := schedulerFlag(f)
			if !ok {
				return fmt.Errorf("scheduler flag %q: %w", f, fs.ErrInvalid)
			}
			attr.Flags |= flag
		}
		t.call(step{"set scheduler", string(s.Policy)}, unix.SYS_SCHED_SETATTR, 0, at(attr), 0)
	}
	if io := p.IOPriority; io != nil {
		class := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}[io.Class]
		const lowest, who, shift = 7, 1, 13
		if class == 0 || io.Priority < 0 || io.Priority > lowest {
			return fmt.Errorf("priority %s %d of input and output: %w", io.Class, io.Priority, fs.ErrInvalid)
		}
		t.call(step{"set priority of input and output", string(io.Class)}, unix.SYS_IOPRIO_SET, who, 0, class<<shift|io.Priority)
	}
	return nil
}

// personality adds the row of the execution domain (personality(2)).
func (t *table) personality(p *specs.LinuxPersonality) error {
	if p == nil {
		return nil
	}
	domain, ok := map[specs.LinuxPersonalityDomain]int{specs.PerLinux: 0, specs.PerLinux32: 8}[p.Domain]
	if !ok || len(p.Flags) > 0 { // there are none yet in the specification
		return fmt.Errorf("personality %q with flags %v: %w", p.Domain, p.Flags, fs.ErrInvalid)
	}
	t.call(step{"set personality", string(p.Domain)}, unix.SYS_PERSONALITY, domain)
	return nil
}

// maxNumber is the largest processor or node in a list, as many as the kernel can have.
const maxNumber = 8192

// parseList reads a list of numbers and ranges, such as "0-3,7", into a set of bits
// (cpuset(7), "List format").
func parseList(text string) ([]uint64, error) {
	const bits = 64
	set := make([]uint64, maxNumber/bits)
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || first > last || last >= maxNumber {
			return nil, fmt.Errorf("list %q, part %q: %w", text, part, fs.ErrInvalid)
		}
		for n := first; n <= last; n++ {
			set[n/bits] |= 1 << (n % bits)
		}
	}
	return set, nil
}

// affinity adds the row that binds the process to processors.
func (t *table) affinity(list string) error {
	if list == "" {
		return nil
	}
	set, err := parseList(list)
	if err != nil {
		return fmt.Errorf("bind to processors: %w", err)
	}
	t.call(step{"bind to processors", list}, unix.SYS_SCHED_SETAFFINITY, 0, len(set)*int(unsafe.Sizeof(set[0])), at(&set[0]))
	return nil
}

// memoryPolicy adds the row that says on which nodes memory is taken (set_mempolicy(2)).
func (t *table) memoryPolicy(p *specs.LinuxMemoryPolicy) error {
	if p == nil {
		return nil
	}
	mode, ok := map[specs.MemoryPolicyModeType]int{
		specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4,
		specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
	}[p.Mode]
	if !ok {
		return fmt.Errorf("memory policy %q: %w", p.Mode, fs.ErrInvalid)
	}
	for _, f := range p.Flags {
		flag, ok := map[specs.MemoryPolicyFlagType]int{specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13}[f]
		if !ok {
			return fmt.Errorf("memory policy flag %q: %w", f, fs.ErrInvalid)
		}
		mode |= flag
	}
	if p.Nodes == "" {
		t.call(step{"set memory policy", string(p.Mode)}, unix.SYS_SET_MEMPOLICY, mode, 0, 0)
		return nil
	}
	nodes, err := parseList(p.Nodes)
	if err != nil {
		return fmt.Errorf("memory policy: %w", err)
	}
	const most = 1024 // of nodes, in any kernel (MAX_NUMNODES)
	t.call(step{"set memory policy", string(p.Mode) + " " + p.Nodes}, unix.SYS_SET_MEMPOLICY, mode, at(&nodes[0]), most+1)
	return nil
}

// Clocks of a time namespace (time_namespaces(7)).
var timeClocks = [...]string{"monotonic", "boottime"}

// timeNamespace adds the rows of a new time namespace, which the program gets into when it
// is executed.
func (p *plan) timeNamespace(offsets map[string]specs.LinuxTimeOffset) error {
	if p.flags&unix.CLONE_NEWTIME == 0 {
		if len(offsets) > 0 {
			return fmt.Errorf("shift clocks without a time namespace of its own: %w", fs.ErrInvalid)
		}
		return nil
	}
	if err := newerThan(6, 3); err != nil { // before, execve does not enter it
		return fmt.Errorf("make time namespace: %w", err)
	}
	t := p.table
	t.call(step{"make time namespace", ""}, unix.SYS_UNSHARE, unix.CLONE_NEWTIME)
	var text strings.Builder
	known := 0
	for _, clock := range timeClocks {
		if o, ok := offsets[clock]; ok {
			known++
			fmt.Fprintf(&text, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
		}
	}
	if known != len(offsets) {
		return fmt.Errorf("shift clocks: only %v can be: %w", timeClocks, fs.ErrInvalid)
	}
	if known > 0 {
		s := step{"shift clocks", strings.TrimSpace(text.String())}
		f := t.call(s, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/timens_offsets", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		t.call(s, unix.SYS_WRITE, f, text.String(), text.Len())
	}
	return nil
}

// newerThan refuses kernels before a version.
func newerThan(major, minor int) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	var haveMajor, haveMinor int
	release := unix.ByteSliceToString(u.Release[:])
	if _, err := fmt.Sscanf(release, "%d.%d", &haveMajor, &haveMinor); err != nil {
		return fmt.Errorf("read version %q of the kernel: %w", release, err)
	}
	if haveMajor < major || haveMajor == major && haveMinor < minor {
		return fmt.Errorf("it takes Linux %d.%d, this is %s: %w", major, minor, release, errors.ErrUnsupported)
	}
	return nil
}
