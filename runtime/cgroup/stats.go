package cgroup

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Stats are what the processes of a group have used and use. A counter whose controller
// is not there is zero, and has says which are.
type Stats struct {
	CPU    CPUStats
	Memory MemoryStats
	Pids   PidsStats
	IO     IOStats

	// Controllers are those that counted: "cpu", "memory", "pids", "io".
	Controllers []string
}

// CPUStats is time on processors.
type CPUStats struct {
	Usage, User, System time.Duration
	Periods             uint64 // of the quota
	ThrottledPeriods    uint64 // in which it was used up
	Throttled           time.Duration
}

// MemoryStats are in bytes, but for OOMKills.
type MemoryStats struct {
	Usage    uint64 // with page cache
	Inactive uint64 // page cache that is given back first; Usage without it is what tools show
	Peak     uint64 // the most that Usage has been; 0 if not recorded
	Swap     uint64
	Limit    uint64 // 0 without one
	OOMKills uint64 // processes killed because memory ran out
}

// PidsStats counts processes and threads.
type PidsStats struct {
	Current uint64
	Limit   uint64 // 0 without one
}

// IOStats are sums over block devices.
type IOStats struct {
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// noLimit is from where on a limit of version 1 means that there is none: the kernel
// reports the largest multiple of a page.
const noLimit = 1<<63 - 1<<16

// Stats reads the counters.
func (g *Group) Stats() (Stats, error) {
	var s Stats
	for _, c := range []struct {
		name, old string
		read      func(hierarchy, *Stats) error
	}{
		{"cpu", "cpuacct", readCPU}, {"memory", "memory", readMemory}, {"pids", "pids", readPids}, {"io", "blkio", readIO},
	} {
		h, ok := g.with(c.name)
		if !ok || !h.unified {
			h, ok = g.with(c.old)
		}
		if !ok {
			continue
		}
		if err := c.read(h, &s); err != nil {
			return Stats{}, fmt.Errorf("read counters of cgroup %s: %w", g.path, err)
		}
		s.Controllers = append(s.Controllers, c.name)
	}
	if h, ok := g.with("cpu"); ok && !h.unified {
		p := pairs(readShort(filepath.Join(h.dir, "cpu.stat")))
		s.CPU.Periods, s.CPU.ThrottledPeriods = p["nr_periods"], p["nr_throttled"]
		s.CPU.Throttled = time.Duration(p["throttled_time"])
	}
	return s, nil
}

func readCPU(h hierarchy, s *Stats) error {
	if !h.unified {
		usage, err := number(h, "cpuacct.usage")
		if err != nil {
			return err
		}
		p := pairs(readShort(filepath.Join(h.dir, "cpuacct.stat")))
		const tick = time.Second / 100 // USER_HZ
		s.CPU.Usage = time.Duration(usage)
		s.CPU.User, s.CPU.System = time.Duration(p["user"])*tick, time.Duration(p["system"])*tick
		return nil
	}
	text, err := readLimited(filepath.Join(h.dir, "cpu.stat"), maxFile)
	if err != nil {
		return err
	}
	p := pairs(text)
	micro := func(name string) time.Duration { return time.Duration(p[name]) * time.Microsecond }
	s.CPU = CPUStats{
		Usage: micro("usage_usec"), User: micro("user_usec"), System: micro("system_usec"),
		Periods: p["nr_periods"], ThrottledPeriods: p["nr_throttled"], Throttled: micro("throttled_usec"),
	}
	return nil
}

func readMemory(h hierarchy, s *Stats) (err error) {
	m := &s.Memory
	usage, limit, peak := "memory.usage_in_bytes", "memory.limit_in_bytes", "memory.max_usage_in_bytes"
	if h.unified {
		usage, limit, peak = "memory.current", "memory.max", "memory.peak"
	}
	if m.Usage, err = number(h, usage); err != nil {
		return err
	}
	if m.Limit, err = number(h, limit); err != nil {
		return err
	}
	if m.Limit >= noLimit {
		m.Limit = 0
	}
	m.Peak, _ = parseNumber(readShort(filepath.Join(h.dir, peak)))
	stat := pairs(readShort(filepath.Join(h.dir, "memory.stat")))
	if h.unified {
		m.Inactive = stat["inactive_file"]
		m.Swap, _ = parseNumber(readShort(filepath.Join(h.dir, "memory.swap.current")))
		m.OOMKills = pairs(readShort(filepath.Join(h.dir, "memory.events")))["oom_kill"]
		return nil
	}
	m.Inactive = stat["total_inactive_file"]
	m.Swap = stat["total_swap"]
	m.OOMKills = pairs(readShort(filepath.Join(h.dir, "memory.oom_control")))["oom_kill"]
	return nil
}

func readPids(h hierarchy, s *Stats) (err error) {
	if s.Pids.Current, err = number(h, "pids.current"); err != nil {
		return err
	}
	s.Pids.Limit, err = number(h, "pids.max")
	return err
}

func readIO(h hierarchy, s *Stats) error {
	if h.unified {
		text, err := readLimited(filepath.Join(h.dir, "io.stat"), maxFile)
		if err != nil {
			return err
		}
		for field := range strings.FieldsSeq(text) {
			name, value, _ := strings.Cut(field, "=")
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				continue // the device's number
			}
			switch name {
			case "rbytes":
				s.IO.ReadBytes += n
			case "wbytes":
				s.IO.WriteBytes += n
			case "rios":
				s.IO.Reads += n
			case "wios":
				s.IO.Writes += n
			}
		}
		return nil
	}
	for file, to := range map[string][2]*uint64{
		"blkio.throttle.io_service_bytes_recursive": {&s.IO.ReadBytes, &s.IO.WriteBytes},
		"blkio.throttle.io_serviced_recursive":      {&s.IO.Reads, &s.IO.Writes},
	} {
		text, err := readLimited(filepath.Join(h.dir, file), maxFile)
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(text, "\n") {
			const device, kind, value, fields = 0, 1, 2, 3
			f := strings.Fields(line)
			if len(f) != fields || !strings.Contains(f[device], ":") {
				continue
			}
			n, err := strconv.ParseUint(f[value], 10, 64)
			switch {
			case err != nil:
			case f[kind] == "Read":
				*to[0] += n
			case f[kind] == "Write":
				*to[1] += n
			}
		}
	}
	return nil
}

// number reads a file that holds one number.
func number(h hierarchy, name string) (uint64, error) {
	text, err := readLimited(filepath.Join(h.dir, name), maxFile)
	if err != nil {
		return 0, err
	}
	n, err := parseNumber(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}

// parseNumber reads a number, or "max", which is 0: no limit.
func parseNumber(text string) (uint64, error) {
	text = strings.TrimSpace(text)
	if text == "max" {
		return 0, nil
	}
	return strconv.ParseUint(text, 10, 64)
}

// pairs reads lines of a name and a number.
func pairs(text string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.SplitSeq(text, "\n") {
		name, value, _ := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64); err == nil {
			m[name] = n
		}
	}
	return m
}
