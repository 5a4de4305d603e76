package runtime

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mounts adds the rows of the specification's mounts, devices, settings of the kernel,
// and read-only and masked paths, in this order.
func (p *plan) mounts(s *specs.Spec, root int) error {
	t := p.table
	devices, err := planDevices(s.Linux.Devices)
	if err != nil {
		return err
	}
	null := t.call(step{"open the host's", "/dev/null"}, unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0)
	proc := result(-1)
	pts, dev := result(-1), result(-1)
	var earlier []string
	for _, m := range s.Mounts {
		mp, err := planMount(m)
		if err != nil {
			return err
		}
		var source *os.File
		dir := true
		if mp.kind == "bind" {
			if source, dir, err = mp.clone(); err != nil {
				return err
			}
			p.hold(source)
		}
		covered := false
		for _, e := range earlier {
			covered = covered || below(mp.to, e)
		}
		if !covered {
			if err := makeIn(root, mp.to, dir); err != nil {
				return &Error{Step: "make mount point", Object: m.Destination, Err: err}
			}
		}
		earlier = append(earlier, mp.to)
		var more uint64
		if mp.kind == "proc" || mp.kind == "sysfs" {
			more = unix.RESOLVE_NO_SYMLINKS
		}
		target := t.target(root, mp.to, dir, covered, more)
		if mp.kind == "bind" {
			t.attach(step{"bind " + mp.source + " on", m.Destination}, int(source.Fd()), target)
			continue
		}
		mount := t.mountNew(&mp, target)
		switch {
		case mp.kind == "proc":
			proc = mount
		case mp.kind == "devpts" && mp.to == "dev/pts":
			pts = mount
		case mp.kind == "tmpfs" && mp.to == "dev":
			dev = mount
			t.fillDev(mount, devices)
			null = t.open(step{"open", "/dev/null"}, mount, "null", unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
			// Not the host's: whoever has it open may change its permissions.
			for _, i := range p.nulls {
				s := step{"connect to /dev/null standard stream", strconv.Itoa(i)}
				f := t.open(s, mount, "null", unix.O_RDWR, unix.RESOLVE_NO_SYMLINKS)
				t.call(s, unix.SYS_DUP3, f, i, 0)
			}
		}
	}
	if s.Process.Terminal {
		if pts < 0 {
			return fmt.Errorf("start process with a terminal: no devpts is mounted on /dev/pts: %w", fs.ErrInvalid)
		}
		p.openTerminal(t.open(step{"open", "/dev/pts/ptmx"}, pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY, unix.RESOLVE_NO_SYMLINKS), s.Process, dev)
	}
	if err := p.kernelSettings(s, proc); err != nil {
		return err
	}
	for _, to := range s.Linux.ReadonlyPaths {
		t.readOnly(root, strings.TrimPrefix(path.Clean("/"+to), "/"))
	}
	for _, to := range s.Linux.MaskedPaths {
		t.mask(root, strings.TrimPrefix(path.Clean("/"+to), "/"), null)
	}
	if s.Root != nil && s.Root.Readonly {
		t.setattr(step{"make root read-only", ""}, root, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, 0)
	}
	return nil
}

// kernelSettings adds the rows that write sysctls and the adjustment for the killer of
// processes when memory runs out. They are written through the proc that was just
// mounted, and what lies upon it is refused.
func (p *plan) kernelSettings(s *specs.Spec, proc result) error {
	t := p.table
	write := func(what, name, value string) error {
		if proc < 0 {
			return fmt.Errorf("set %s: the container has no proc: %w", what, fs.ErrInvalid)
		}
		sg := step{"set " + what, value}
		f := t.open(sg, proc, name, unix.O_WRONLY, unix.RESOLVE_NO_XDEV)
		t.call(sg, unix.SYS_WRITE, f, value, len(value))
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(s.Linux.Sysctl)) {
		name, err := p.sysctlPath(key)
		if err != nil {
			return err
		}
		if err := write("sysctl "+key+" to", name, s.Linux.Sysctl[key]); err != nil {
			return err
		}
	}
	if s.Process.OOMScoreAdj != nil {
		return write("oom_score_adj to", "self/oom_score_adj", strconv.Itoa(*s.Process.OOMScoreAdj))
	}
	return nil
}

// sysctlPath returns the file of a sysctl below proc, if it belongs to a namespace of
// the container alone.
func (p *plan) sysctlPath(key string) (string, error) {
	name := strings.ReplaceAll(key, ".", "/")
	if strings.Contains(key, "/") { // the other way to write them: a dot is part of a name
		name = key
	}
	if path.Clean("/"+name) != "/"+name {
		return "", fmt.Errorf("sysctl %q: not a name: %w", key, fs.ErrInvalid)
	}
	var own bool
	switch {
	case strings.HasPrefix(name, "net/"):
		own = p.flags&unix.CLONE_NEWNET != 0
	case strings.HasPrefix(name, "kernel/msg"), strings.HasPrefix(name, "kernel/sem"),
		strings.HasPrefix(name, "kernel/shm"), strings.HasPrefix(name, "fs/mqueue/"):
		own = p.flags&unix.CLONE_NEWIPC != 0
	case name == "kernel/domainname", name == "kernel/hostname":
		own = p.flags&unix.CLONE_NEWUTS != 0
	}
	if !own {
		return "", fmt.Errorf("sysctl %q: it is the host's, too: %w", key, fs.ErrPermission)
	}
	return "sys/" + name, nil
}
