package runtime

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// device is a node to make in /dev.
type device struct {
	name  string // below /dev, without "/"
	mode  uint32 // type and permissions
	major uint32
	minor uint32
	uid   int
	gid   int
}

// defaultDevices returns those that the OCI runtime specification wants in every
// container (config-linux, "Default Devices").
func defaultDevices() []device {
	return []device{
		{name: "null", mode: unix.S_IFCHR | 0o666, major: 1, minor: 3},
		{name: "zero", mode: unix.S_IFCHR | 0o666, major: 1, minor: 5},
		{name: "full", mode: unix.S_IFCHR | 0o666, major: 1, minor: 7},
		{name: "random", mode: unix.S_IFCHR | 0o666, major: 1, minor: 8},
		{name: "urandom", mode: unix.S_IFCHR | 0o666, major: 1, minor: 9},
		{name: "tty", mode: unix.S_IFCHR | 0o666, major: 5, minor: 0},
	}
}

// planDevices returns the default devices and those of the specification.
func planDevices(wanted []specs.LinuxDevice) ([]device, error) {
	devices := defaultDevices()
	for _, w := range wanted {
		name, ok := strings.CutPrefix(path.Clean(w.Path), "/dev/")
		if !ok || strings.Contains(name, "/") {
			return nil, fmt.Errorf("make device %q: not directly below /dev: %w", w.Path, fs.ErrInvalid)
		}
		d := device{name: name, mode: 0o666, uid: -1, gid: -1}
		if w.Major < 0 || w.Minor < 0 || w.Major >= 1<<12 || w.Minor >= 1<<20 {
			return nil, fmt.Errorf("make device %q: number %d:%d is out of range: %w", w.Path, w.Major, w.Minor, fs.ErrInvalid)
		}
		d.major, d.minor = uint32(w.Major), uint32(w.Minor)
		if w.FileMode != nil {
			d.mode = uint32(*w.FileMode) & 0o777
		}
		switch w.Type {
		case "c", "u":
			d.mode |= unix.S_IFCHR
		case "b":
			d.mode |= unix.S_IFBLK
		case "p":
			d.mode |= unix.S_IFIFO
		default:
			return nil, fmt.Errorf("make device %q: type %q is none: %w", w.Path, w.Type, fs.ErrInvalid)
		}
		if w.UID != nil {
			d.uid = int(*w.UID)
		}
		if w.GID != nil {
			d.gid = int(*w.GID)
		}
		// A default device may be given other permissions.
		replaced := false
		for i := range devices {
			if devices[i].name == name {
				devices[i], replaced = d, true
			}
		}
		if !replaced {
			devices = append(devices, d)
		}
	}
	return devices, nil
}

// fillDev adds the rows that put devices and links into a new /dev. Where nodes may not
// be made, the host's are bound instead.
func (t *table) fillDev(dev result, devices []device) {
	for _, d := range devices {
		name := "/dev/" + d.name
		t.call(step{"make device", name}, unix.SYS_MKNODAT, dev, d.name, int(d.mode), int(unix.Mkdev(d.major, d.minor)))
		if d.mode&unix.S_IFMT != unix.S_IFIFO {
			const rowsOfBind = 4
			t.allow(0, unix.EPERM)
			t.last().skipOK = rowsOfBind
			t.call(step{"make file for device", name}, unix.SYS_MKNODAT, dev, d.name, unix.S_IFREG|0o600, 0)
			target := t.open(step{"open file for device", name}, dev, d.name, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
			mount := t.call(step{"take the host's", name}, unix.SYS_OPEN_TREE, unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			t.attach(step{"bind", name}, mount, target)
		}
		if d.uid > 0 || d.gid > 0 {
			t.call(step{"set owner of", name}, unix.SYS_FCHOWNAT, dev, d.name, d.uid, d.gid, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	for _, l := range [][2]string{
		{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
		{"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"},
	} {
		t.call(step{"link", "/dev/" + l[0]}, unix.SYS_SYMLINKAT, l[1], dev, l[0])
	}
}

// checkNull refuses a host whose /dev/null is something else: it is what masked files
// are covered with, and what streams that are not given are connected to.
func checkNull(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &Error{Step: "look at", Object: "/dev/null", Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return fmt.Errorf("use /dev/null of the host: it is not the null device: %w", fs.ErrInvalid)
	}
	return nil
}
