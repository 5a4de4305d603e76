// Package bundle makes the OCI specification of a container: of what was asked for, on
// the root that it will have.
package bundle

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Host is what the specification needs of this machine.
type Host struct {
	Volume func(name string) (path string, err error) // where the data of a volume lie
	Init   string                                     // the program that is the init, read-only in the container
	// Network is the path of the network namespace to join, "" for a new one without a
	// connection, and HostNetwork for this machine's own. Hosts and Resolv are the files
	// to mount in /etc, "" where the image's are to be seen.
	Network, Hosts, Resolv string
	// PID is the path of the pid namespace to join, or HostNamespace; "" is a new one.
	PID string
	// Devices says that a privileged container has all devices of this machine, which an
	// ordinary user cannot give.
	Devices bool
}

// HostNamespace says that a container shares a namespace of this machine.
const HostNamespace = "host"

// NoShm says that a container has no /dev/shm.
const NoShm = "none"

// HostNetwork says that a container has the network of this machine.
const HostNetwork = "host"

// InitPath is where the init lies in a container, in the file system of its devices, so
// that it is no change of the image; InitCommand is its first argument.
const (
	InitPath    = "/dev/init"
	InitCommand = "container-init"
)

// Spec makes the specification. The root is looked at for users.
func Spec(rec *container.Record, root runtime.Root, h Host) (*specs.Spec, error) {
	args := slices.Concat(rec.Entrypoint, rec.Command)
	s := runtime.Settings{Args: args, Env: rec.Env, Cwd: rec.Cwd, User: rec.User, Hostname: rec.Hostname, AllowNewPrivileges: !rec.NoNewPrivileges}
	var err error
	switch {
	case rec.UTS == HostNamespace: // for the environment
		if s.Hostname, err = os.Hostname(); err != nil {
			return nil, err
		}
	case rec.Hostname == "":
		s.Hostname = rec.ID.Short()
	}
	spec, err := runtime.SpecFor(root, s)
	if err != nil {
		return nil, err
	}
	spec.Root.Readonly = rec.ReadOnly
	spec.Annotations = rec.Annotations
	if rec.Terminal {
		spec.Process.Terminal = true
		if !slices.ContainsFunc(spec.Process.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
			spec.Process.Env = append(spec.Process.Env, "TERM=xterm")
		}
	}
	spec.Process.Rlimits = rec.Rlimits
	if err := capabilities(spec, rec.CapAdd, rec.CapDrop); err != nil {
		return nil, err
	}
	spec.Linux.Sysctl = maps.Clone(spec.Linux.Sysctl)
	maps.Copy(spec.Linux.Sysctl, rec.Sysctls)
	if err := mounts(spec, rec, h); err != nil {
		return nil, err
	}
	if spec.Linux.Devices, err = Devices(rec.Devices); err != nil {
		return nil, err
	}
	if err := filter(spec, rec.Seccomp); err != nil {
		return nil, err
	}
	labels(spec, rec.AppArmor, rec.SELinux)
	spec.Process.User.AdditionalGids = append(spec.Process.User.AdditionalGids, rec.Groups...)
	spec.Process.OOMScoreAdj = rec.OOMScoreAdj
	if rec.Privileged {
		if err := privilege(spec, rec, h.Devices); err != nil {
			return nil, err
		}
	}
	connect(spec, h)
	if err := share(spec, rec, h); err != nil {
		return nil, err
	}
	if rec.Init {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: InitPath, Type: "bind", Source: h.Init, Options: []string{"bind", "ro", "nosuid", "nodev"}})
		spec.Process.Args = append([]string{InitPath, InitCommand, "--"}, spec.Process.Args...)
	}
	return spec, nil
}

// Unconfined is the profile that allows all system calls.
const Unconfined = "unconfined"

// filter sets the filter of system calls, for which the capabilities are settled.
func filter(spec *specs.Spec, profile string) error {
	switch profile {
	case "":
		return runtime.FilterCalls(spec, nil)
	case Unconfined:
		spec.Linux.Seccomp = nil
		return nil
	}
	return runtime.FilterCalls(spec, []byte(profile))
}

// connect sets the network namespace.
func connect(spec *specs.Spec, h Host) {
	for i, n := range spec.Linux.Namespaces {
		if n.Type != specs.NetworkNamespace || h.Network == "" {
			continue
		}
		if h.Network != HostNetwork {
			spec.Linux.Namespaces[i].Path = h.Network
			continue
		}
		spec.Linux.Namespaces = slices.Delete(spec.Linux.Namespaces, i, i+1)
		// Settings of a network are for one's own.
		maps.DeleteFunc(spec.Linux.Sysctl, func(name, _ string) bool { return strings.HasPrefix(name, "net.") || strings.HasPrefix(name, "net/") })
		break
	}
	for _, m := range []struct{ source, target string }{{h.Hosts, "/etc/hosts"}, {h.Resolv, "/etc/resolv.conf"}} {
		if m.source == "" || slices.ContainsFunc(spec.Mounts, func(x specs.Mount) bool { return x.Destination == m.target || x.Destination == "/etc" }) {
			continue
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: m.target, Type: "bind", Source: m.source, Options: []string{"bind"}})
	}
}

// capabilities adds to and drops from the default set, which ALL stands for as a whole.
func capabilities(spec *specs.Spec, add, drop []string) error {
	set, err := ChangeCapabilities(spec.Process.Capabilities.Bounding, add, drop)
	if err != nil {
		return err
	}
	c := spec.Process.Capabilities
	c.Bounding, c.Effective, c.Permitted = set, slices.Clone(set), slices.Clone(set)
	return nil
}

// ChangeCapabilities returns a set with some more and some fewer, in which case does not
// matter and CAP_ can be left out. ALL is all that there are; what is dropped by name
// stays dropped.
func ChangeCapabilities(set, add, drop []string) ([]string, error) {
	known := runtime.Capabilities()
	parse := func(list []string) ([]string, error) {
		var out []string
		for _, c := range list {
			c = strings.ToUpper(c)
			if c == "ALL" {
				return []string{c}, nil
			}
			if !strings.HasPrefix(c, "CAP_") {
				c = "CAP_" + c
			}
			if !slices.Contains(known, c) {
				return nil, fmt.Errorf("capability %q is unknown: %w", c, fs.ErrInvalid)
			}
			out = append(out, c)
		}
		return out, nil
	}
	add, err := parse(add)
	if err != nil {
		return nil, err
	}
	drop, err = parse(drop)
	if err != nil {
		return nil, err
	}
	all := []string{"ALL"}
	switch {
	case slices.Equal(drop, all):
		set, drop = nil, nil
	case slices.Equal(add, all):
		set, add = known, nil
	}
	if slices.Equal(add, all) {
		set, add = known, nil
	}
	set = slices.Concat(set, add)
	slices.Sort(set)
	set = slices.Compact(set)
	return slices.DeleteFunc(set, func(c string) bool { return slices.Contains(drop, c) }), nil
}

// mounts adds what was asked for to the default mounts; of two on one place, what was
// asked for wins. A mount comes after those that it lies below.
func mounts(spec *specs.Spec, rec *container.Record, h Host) error {
	if rec.ShmSize > 0 {
		for i, m := range spec.Mounts {
			if m.Destination == "/dev/shm" {
				spec.Mounts[i].Options = append(slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return strings.HasPrefix(o, "size=") }),
					"size="+strconv.FormatInt(rec.ShmSize, 10))
			}
		}
	}
	var own []specs.Mount
	for _, m := range rec.Mounts {
		out := specs.Mount{Destination: path.Clean(m.Target), Type: "bind", Source: m.Source, Options: slices.Clone(m.Options)}
		switch m.Kind {
		case container.MountTmpfs:
			out.Type, out.Source = "tmpfs", "tmpfs"
		case container.MountVolume:
			dir, err := h.Volume(m.Source)
			if err != nil {
				return fmt.Errorf("mount on %s: %w", m.Target, err)
			}
			out.Source = dir
			out.Options = append(out.Options, "rbind")
		case container.MountBind:
			if !slices.Contains(out.Options, "bind") && !slices.Contains(out.Options, "rbind") {
				out.Options = append(out.Options, "rbind")
			}
		}
		if m.ReadOnly {
			out.Options = append(out.Options, "ro")
		}
		own = append(own, out)
	}
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool {
		return slices.ContainsFunc(own, func(o specs.Mount) bool { return o.Destination == m.Destination })
	})
	spec.Mounts = append(spec.Mounts, own...)
	return nil
}

// Devices returns what a specification says of devices of this machine.
func Devices(wanted []container.Device) ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	for _, d := range wanted {
		var st unix.Stat_t
		if err := unix.Stat(d.Source, &st); err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Source, err)
		}
		kind := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR:
			kind = "c"
		case unix.S_IFBLK:
			kind = "b"
		default:
			return nil, fmt.Errorf("device %s: it is none: %w", d.Source, fs.ErrInvalid)
		}
		mode := os.FileMode(st.Mode & 0o777)
		out = append(out, specs.LinuxDevice{Path: d.Target, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
			FileMode: &mode, UID: &st.Uid, GID: &st.Gid})
	}
	return out, nil
}
