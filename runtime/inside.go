package runtime

import (
	"errors"
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
func (p *plan) mounts(c *Config, root int) error {
	s := c.Spec
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
		p.adapt(&mp, s.Linux.MountLabel)
		var source *os.File
		dir := true
		if mp.kind == "bind" {
			if source, dir, err = p.clone(&mp, s.Linux); err != nil {
				return err
			}
		}
		covered := false
		for _, e := range earlier {
			covered = covered || below(mp.to, e)
		}
		if !covered && !p.look {
			if err := makeIn(root, mp.to, dir, c.Made); err != nil {
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
		if mp.kind == "cgroup" || mp.kind == "cgroup2" {
			if err := p.mountCgroups(&mp, target, c.Cgroup); err != nil {
				return err
			}
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

// adapt changes what a user namespace cannot have: sysfs without a network namespace of
// its own is the host's, bound; and terminals belong to a group only if it is mapped.
func (p *plan) adapt(mp *mountPlan, label string) {
	if label != "" && labelled(mp.kind) {
		mp.data = append(mp.data, "context="+label)
	}
	if p.flags&unix.CLONE_NEWUSER == 0 {
		return
	}
	switch mp.kind {
	case "sysfs":
		if p.flags&unix.CLONE_NEWNET == 0 {
			mp.kind, mp.source, mp.recursive, mp.data = "bind", "/sys", true, nil
		}
	case "devpts":
		mp.data = slices.DeleteFunc(mp.data, func(o string) bool {
			gid, ok := strings.CutPrefix(o, "gid=")
			n, err := strconv.ParseUint(gid, 10, 32)
			return ok && err == nil && !has(p.mapping.groups, uint32(n))
		})
	}
}

// clone takes the source of a bind mount, and holds it.
func (p *plan) clone(mp *mountPlan, l *specs.Linux) (source *os.File, dir bool, err error) {
	var shift *os.File
	if mp.idmap {
		m := mp.mapping
		if len(m.users) == 0 && len(m.groups) == 0 {
			m = mapping{l.UIDMappings, l.GIDMappings}
		}
		if shift, err = newUserNamespace(m); err != nil {
			return nil, false, fmt.Errorf("bind %s with shifted owners: %w", mp.source, err)
		}
		defer func() { err = errors.Join(err, shift.Close()) }()
	}
	if source, dir, err = mp.clone(shift); err != nil {
		return nil, false, err
	}
	p.hold(source)
	return source, dir, nil
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
		value := s.Linux.Sysctl[key]
		if name == "sys/net/ipv4/ping_group_range" && p.flags&unix.CLONE_NEWUSER != 0 {
			value = p.mappedGroups(value)
		}
		if err := write("sysctl "+key+" to", name, value); err != nil {
			return err
		}
	}
	if s.Process.OOMScoreAdj != nil {
		return write("oom_score_adj to", "self/oom_score_adj", strconv.Itoa(*s.Process.OOMScoreAdj))
	}
	return nil
}

// mappedGroups cuts a range of groups down to those that are mapped: the kernel refuses
// others, and all that there are is what the range of the usual specification means.
func (p *plan) mappedGroups(value string) string {
	var first, last uint32
	if n, err := fmt.Sscanf(value, "%d %d", &first, &last); n != 2 || err != nil || has(p.mapping.groups, last) {
		return value
	}
	for _, r := range p.mapping.groups {
		if has([]specs.LinuxIDMapping{r}, first) {
			last = min(last, r.ContainerID+(r.Size-1))
		}
	}
	return fmt.Sprintf("%d %d", first, last)
}

// sysctlPath returns the file of a sysctl below proc, if it belongs to a namespace that
// is not the caller's: one of the container's own, or one that was made for it.
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
		own = (p.flags|p.joined)&unix.CLONE_NEWNET != 0
	case strings.HasPrefix(name, "kernel/msg"), strings.HasPrefix(name, "kernel/sem"),
		strings.HasPrefix(name, "kernel/shm"), strings.HasPrefix(name, "fs/mqueue/"):
		own = (p.flags|p.joined)&unix.CLONE_NEWIPC != 0
	case name == "kernel/domainname", name == "kernel/hostname":
		own = (p.flags|p.joined)&unix.CLONE_NEWUTS != 0
	}
	if !own {
		return "", fmt.Errorf("sysctl %q: it is the host's, too: %w", key, fs.ErrPermission)
	}
	return "sys/" + name, nil
}
