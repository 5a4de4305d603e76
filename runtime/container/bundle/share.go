package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// share gives a container namespaces of others in place of its own. What of /dev belongs
// to a namespace goes with it.
func share(spec *specs.Spec, rec *container.Record, h Host) error {
	namespace(spec, specs.PIDNamespace, h.PID)
	namespace(spec, specs.UTSNamespace, rec.UTS)
	if rec.UTS == HostNamespace {
		spec.Hostname = ""
	}
	const shm, queues = "/dev/shm", "/dev/mqueue"
	switch rec.IPC {
	case NoShm:
		spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == shm && m.Type == "tmpfs" })
	case HostNamespace:
		namespace(spec, specs.IPCNamespace, HostNamespace)
		return errors.Join(shareMount(spec, "tmpfs", shm), shareMount(spec, "mqueue", queues))
	}
	return nil
}

// namespace sets what is shared of a kind; "" leaves a new one.
func namespace(spec *specs.Spec, kind specs.LinuxNamespaceType, how string) {
	switch how {
	case "":
	case HostNamespace:
		spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	default:
		for i := range spec.Linux.Namespaces {
			if spec.Linux.Namespaces[i].Type == kind {
				spec.Linux.Namespaces[i].Path = how
			}
		}
	}
}

// shareMount puts this machine's directory in the place of a default mount, which goes
// where the machine has none.
func shareMount(spec *specs.Spec, kind, dir string) error {
	at := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Type == kind && m.Destination == dir })
	if at < 0 {
		return nil // something else was asked for there
	}
	_, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		spec.Mounts = slices.Delete(spec.Mounts, at, at+1)
		return nil
	case err != nil:
		return fmt.Errorf("share %s: %w", dir, err)
	}
	spec.Mounts[at] = specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"rbind", "nosuid", "noexec", "nodev"}}
	return nil
}
