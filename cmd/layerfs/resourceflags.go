package main

import (
	"errors"
	"fmt"
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"
)

// resourceFlags are the limits that a control group enforces, with Docker's names.
type resourceFlags struct {
	cpus                float64
	cpuShares           uint64
	cpuPeriod           uint64
	cpuQuota            int64
	cpusetCPUs, cpuset  string
	memory, reservation string
	swap                string
	pids                int64
	blkioWeight         uint16
	changed             func(string) bool
}

func (r *resourceFlags) add(f *pflag.FlagSet) {
	r.changed = f.Changed
	f.Float64Var(&r.cpus, "cpus", 0, "processors that it may use, such as 1.5")
	f.Uint64VarP(&r.cpuShares, "cpu-shares", "c", 0, "share of the processors where they are short, beside 1024 of others")
	f.Uint64Var(&r.cpuPeriod, "cpu-period", 0, "microseconds in which --cpu-quota may be used")
	f.Int64Var(&r.cpuQuota, "cpu-quota", 0, "microseconds on processors in each period")
	f.StringVar(&r.cpusetCPUs, "cpuset-cpus", "", "processors that it may run on, such as 0-2,4")
	f.StringVar(&r.cpuset, "cpuset-mems", "", "memory nodes that it may use")
	f.StringVarP(&r.memory, "memory", "m", "", "memory, in bytes or with k, m, g")
	f.StringVar(&r.reservation, "memory-reservation", "", "memory that it is left where it is short")
	f.StringVar(&r.swap, "memory-swap", "", "memory and swap space together; -1 is no limit (default: twice the memory)")
	f.Int64Var(&r.pids, "pids-limit", 0, "processes and threads; -1 is no limit")
	f.Uint16Var(&r.blkioWeight, "blkio-weight", 0, "share of the block devices, 10 to 1000")
}

// defaultPeriod is the kernel's, in microseconds.
const defaultPeriod = 100_000

// apply changes resources by the flags that were given.
func (r *resourceFlags) apply(to *specs.LinuxResources) error {
	if r.changed("cpus") && (r.changed("cpu-quota") || r.changed("cpu-period")) {
		return usageError{errors.New("--cpus excludes --cpu-quota and --cpu-period")}
	}
	cpu := func() *specs.LinuxCPU {
		if to.CPU == nil {
			to.CPU = &specs.LinuxCPU{}
		}
		return to.CPU
	}
	if r.changed("cpus") {
		const most = 10_000
		if !(r.cpus >= 0.01 && r.cpus <= most) {
			return usageError{fmt.Errorf("--cpus %v: want 0.01 or more", r.cpus)}
		}
		period, quota := uint64(defaultPeriod), int64(math.Round(r.cpus*defaultPeriod))
		cpu().Period, cpu().Quota = &period, &quota
	}
	if r.changed("cpu-period") {
		cpu().Period = &r.cpuPeriod
	}
	if r.changed("cpu-quota") {
		cpu().Quota = &r.cpuQuota
	}
	if r.changed("cpu-shares") {
		cpu().Shares = &r.cpuShares
	}
	if r.changed("cpuset-cpus") {
		cpu().Cpus = r.cpusetCPUs
	}
	if r.changed("cpuset-mems") {
		cpu().Mems = r.cpuset
	}
	if r.changed("pids-limit") {
		to.Pids = &specs.LinuxPids{Limit: &r.pids}
	}
	if r.changed("blkio-weight") {
		to.BlockIO = &specs.LinuxBlockIO{Weight: &r.blkioWeight}
	}
	return r.applyMemory(to)
}

func (r *resourceFlags) applyMemory(to *specs.LinuxResources) error {
	memory := func() *specs.LinuxMemory {
		if to.Memory == nil {
			to.Memory = &specs.LinuxMemory{}
		}
		return to.Memory
	}
	const least = 6 << 20 // Docker's: with less a container does not start
	if r.changed("memory") {
		n, err := parseBytes(r.memory)
		if err != nil || n < least {
			return usageError{fmt.Errorf("--memory %q: want 6m or more", r.memory)}
		}
		swap := 2 * n
		memory().Limit = &n
		if memory().Swap == nil || *memory().Swap >= 0 && *memory().Swap < n {
			memory().Swap = &swap
		}
	}
	if r.changed("memory-reservation") {
		n, err := parseBytes(r.reservation)
		if err != nil {
			return err
		}
		memory().Reservation = &n
	}
	if r.changed("memory-swap") {
		if memory().Limit == nil {
			return usageError{errors.New("--memory-swap needs --memory")}
		}
		n := int64(-1)
		if r.swap != "-1" {
			var err error
			if n, err = parseBytes(r.swap); err != nil {
				return err
			}
			if n < *memory().Limit {
				return usageError{errors.New("--memory-swap is less than --memory, which is part of it")}
			}
		}
		memory().Swap = &n
	}
	return nil
}
