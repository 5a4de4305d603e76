package cgroup

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// throttles are the four rates of a device: their name in the specification, their file
// in version 1, and their key in io.max of version 2.
var throttles = [...]struct{ limit, file, key string }{
	{"blockIO.throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"},
	{"blockIO.throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"},
	{"blockIO.throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"},
	{"blockIO.throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"},
}

func rates(b *specs.LinuxBlockIO) [4][]specs.LinuxThrottleDevice {
	return [4][]specs.LinuxThrottleDevice{
		b.ThrottleReadBpsDevice, b.ThrottleWriteBpsDevice, b.ThrottleReadIOPSDevice, b.ThrottleWriteIOPSDevice,
	}
}

func io1(b *specs.LinuxBlockIO) []setting {
	l := list{controller: "blkio"}
	if b == nil {
		return nil
	}
	if given(b.Weight) {
		l.add("blockIO.weight", "blkio.bfq.weight", number64(b.Weight))
	}
	leaf(&l, b)
	for _, d := range b.WeightDevice {
		if given(d.Weight) {
			l.add("blockIO.weightDevice", "blkio.bfq.weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
		}
	}
	for i, devices := range rates(b) {
		for _, d := range devices {
			l.add(throttles[i].limit, throttles[i].file, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
		}
	}
	return l.all
}

func io2(b *specs.LinuxBlockIO) []setting {
	l := list{controller: "io"}
	if b == nil {
		return nil
	}
	if given(b.Weight) {
		l.add("blockIO.weight", "io.bfq.weight", number64(b.Weight))
	}
	leaf(&l, b)
	for _, d := range b.WeightDevice {
		if given(d.Weight) {
			l.add("blockIO.weightDevice", "io.bfq.weight", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
		}
	}
	for i, devices := range rates(b) {
		for _, d := range devices {
			rate := "max" // 0 takes a limit back, as in version 1
			if d.Rate > 0 {
				rate = fmt.Sprint(d.Rate)
			}
			l.add(throttles[i].limit, "io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, throttles[i].key, rate))
		}
	}
	return l.all
}

// leaf refuses weights of a scheduler that Linux 5.0 removed.
func leaf(l *list, b *specs.LinuxBlockIO) {
	if given(b.LeafWeight) {
		l.refuse("blockIO.leafWeight", number64(b.LeafWeight), fmt.Errorf("kernels since 5.0 have nothing like it: %w", errors.ErrUnsupported))
	}
	for _, d := range b.WeightDevice {
		if given(d.LeafWeight) {
			l.refuse("blockIO.weightDevice.leafWeight", number64(d.LeafWeight), fmt.Errorf("kernels since 5.0 have nothing like it: %w", errors.ErrUnsupported))
		}
	}
}
