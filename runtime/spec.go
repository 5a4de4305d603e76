package runtime

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultPath is what programs are searched in when an image has no PATH, as Docker has
// it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// DefaultSpec is a container as Docker starts one when asked for nothing special: its
// capabilities, mounts, devices, masked and read-only paths and settings of the
// kernel; with no_new_privs set, no limits, and a shell as its program.
func DefaultSpec() *specs.Spec {
	caps := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
		"CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: []string{"/bin/sh"},
			Env:  []string{"PATH=" + defaultPath},
			Cwd:  "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding:  caps,
				Effective: append([]string(nil), caps...),
				Permitted: append([]string(nil), caps...),
			},
			NoNewPrivileges: true,
		},
		Root:     &specs.Root{},
		Hostname: "container",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
			// Any user may ping and serve on low ports: the network is the container's own.
			Sysctl: map[string]string{
				"net.ipv4.ip_unprivileged_port_start": "0",
				"net.ipv4.ping_group_range":           "0 2147483647",
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
				"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
				"/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// Settings are what an image and the user say of a process.
type Settings struct {
	Args     []string // the program and its arguments; required
	Env      []string // "NAME=value"; a later one of a name wins
	Cwd      string   // absolute; "" is the root; made if it is not there
	User     string   // "user", "uid", "user:group", ... with names of the root; "" is root
	Hostname string   // "" leaves the default

	// AllowNewPrivileges lets set-user-ID programs and file capabilities work.
	AllowNewPrivileges bool
}

// SpecFor returns [DefaultSpec] with the standard system call filter for a process on a
// root. Users and groups are resolved
// in the root's /etc/passwd and /etc/group. PATH, HOSTNAME and HOME are set in the
// environment unless the settings have them.
func SpecFor(root Root, s Settings) (*specs.Spec, error) {
	if len(s.Args) == 0 || s.Args[0] == "" {
		return nil, fmt.Errorf("make specification: no program given: %w", fs.ErrInvalid)
	}
	cwd := s.Cwd
	if cwd == "" {
		cwd = "/"
	}
	if !path.IsAbs(cwd) {
		return nil, fmt.Errorf("working directory %q: not an absolute path: %w", cwd, fs.ErrInvalid)
	}
	handle, err := root.open()
	if err != nil {
		return nil, err
	}
	defer handle.Close() //nolint:errcheck // a handle without content
	u, home, err := resolveUser(int(handle.Fd()), s.User)
	if err != nil {
		return nil, err
	}
	spec := DefaultSpec()
	if s.Hostname != "" {
		spec.Hostname = s.Hostname
	}
	spec.Process.Args = append([]string(nil), s.Args...)
	spec.Process.Cwd = path.Clean(cwd)
	spec.Process.User = u
	spec.Process.NoNewPrivileges = !s.AllowNewPrivileges
	if spec.Process.Env, err = environment(s.Env, [][2]string{
		{"PATH", defaultPath}, {"HOSTNAME", spec.Hostname}, {"HOME", home},
	}); err != nil {
		return nil, err
	}
	if err := FilterCalls(spec, nil); err != nil {
		return nil, err
	}
	return spec, nil
}

// environment returns the variables, each name once and with its last value, with
// defaults for those that are missing.
func environment(given []string, defaults [][2]string) ([]string, error) {
	place := map[string]int{}
	var out []string
	for _, e := range given {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("environment variable %q: not of the form NAME=value: %w", e, fs.ErrInvalid)
		}
		if i, ok := place[name]; ok {
			out[i] = e
			continue
		}
		place[name] = len(out)
		out = append(out, e)
	}
	var first []string
	for _, d := range defaults {
		if _, ok := place[d[0]]; !ok {
			first = append(first, d[0]+"="+d[1])
		}
	}
	return append(first, out...), nil
}
