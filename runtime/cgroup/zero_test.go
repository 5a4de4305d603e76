package cgroup

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestZerosAreNoLimits: engines write zeros for limits that nobody asked for.
func TestZerosAreNoLimits(t *testing.T) {
	var (
		none  uint64
		all   int64
		small uint16
	)
	r := &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Shares: &none, Period: &none, Quota: &all, RealtimePeriod: &none, RealtimeRuntime: &all},
		Memory:  &specs.LinuxMemory{Limit: &all, Swap: &all, Reservation: &all, KernelTCP: &all},
		BlockIO: &specs.LinuxBlockIO{Weight: &small, LeafWeight: &small},
	}
	if Asks(r) {
		t.Errorf("limits of 0 are taken for limits: %+v", kinds(r))
	}
	one := uint64(2)
	r.CPU.Shares = &one
	if !Asks(r) {
		t.Error("a limit among limits of 0 is not seen")
	}
}
