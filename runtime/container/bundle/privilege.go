package bundle

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// privilege makes a container a privileged one, in Docker's sense: all capabilities but
// those dropped by name, nothing of /proc and /sys masked or read-only, and all devices
// that lie directly in /dev.
func privilege(spec *specs.Spec, rec *container.Record, all bool) error {
	if err := capabilities(spec, []string{"ALL"}, rec.CapDrop); err != nil {
		return err
	}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil
	for i, m := range spec.Mounts {
		if m.Destination == "/sys" {
			spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
	if !all {
		return nil
	}
	paths, err := machineDevices()
	if err != nil {
		return err
	}
	for _, p := range paths {
		if slices.ContainsFunc(rec.Devices, func(d container.Device) bool { return d.Target == p }) {
			continue
		}
		d, err := Devices([]container.Device{{Source: p, Target: p, Access: "rwm"}})
		if err != nil {
			continue // it has gone meanwhile
		}
		spec.Linux.Devices = append(spec.Linux.Devices, d...)
	}
	return nil
}

// maxDevices limits how many devices of the machine a privileged container is given.
const maxDevices = 4096

// machineDevices are the paths of this machine's devices that lie directly below /dev, but
// for those that each container has of its own.
func machineDevices() ([]string, error) {
	own := []string{"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"}
	const dev = "/dev"
	entries, err := os.ReadDir(dev)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if e.Type()&fs.ModeDevice != 0 && !slices.Contains(own, e.Name()) && len(paths) < maxDevices {
			paths = append(paths, filepath.Join(dev, e.Name()))
		}
	}
	return paths, nil
}
