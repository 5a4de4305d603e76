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
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime/cgroup"
)

const sizeofHow = unsafe.Sizeof(unix.OpenHow{})

// Names of namespaces by the flag that makes one.
var namespaceFlags = map[specs.LinuxNamespaceType]uint64{
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.TimeNamespace:    unix.CLONE_NEWTIME,
}

// plan is a container ready to be started: the table, and the files that its rows use.
type plan struct {
	table  *table
	flags  uint64
	files  []*os.File
	entry  *cgroup.Entry // or nil
	cgroup int           // to be made in, of version 2, or -1
	nulls  []int         // the standard streams that are the null device
}

func (p *plan) close() error {
	var errs []error
	for _, f := range p.files {
		errs = append(errs, f.Close())
	}
	p.files = nil
	if p.entry != nil {
		errs = append(errs, p.entry.Close())
	}
	return errors.Join(errs...)
}

// cloneFlags are the namespaces that the child is made with. One of cgroups shows as its
// root the group that its maker is in, so where the child has to go into a group first,
// it makes that namespace itself.
func (p *plan) cloneFlags() uint64 {
	if p.entry != nil {
		return p.flags &^ unix.CLONE_NEWCGROUP
	}
	return p.flags
}

// enterCgroup adds the rows that put the process into its group.
func (p *plan) enterCgroup(g *cgroup.Group) error {
	if g == nil {
		return nil
	}
	var err error
	if p.entry, err = g.Enter(); err != nil {
		return err
	}
	if p.entry.Unified != nil {
		p.cgroup = int(p.entry.Unified.Fd())
	}
	for _, f := range p.entry.Procs {
		s := step{"enter cgroup", f.Name()}
		p.table.call(s, unix.SYS_WRITE, int(f.Fd()), "0", 1)
	}
	if p.flags&unix.CLONE_NEWCGROUP != 0 {
		p.table.call(step{"make cgroup namespace", ""}, unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
	return nil
}

// hold keeps a file open until the container runs.
func (p *plan) hold(f *os.File) int {
	p.files = append(p.files, f)
	return int(f.Fd())
}

// checkSupported refuses what a specification may say and this package does not do.
// Limits are applied by whoever made the group.
func checkSupported(s *specs.Spec, limited bool) error {
	if s == nil || s.Process == nil || s.Linux == nil {
		return fmt.Errorf("start container: a specification needs process and linux: %w", fs.ErrInvalid)
	}
	p, l := s.Process, s.Linux
	for _, c := range []struct {
		asked bool
		what  string
	}{
		{s.Hooks != nil, "hooks"},
		{p.Terminal, "process.terminal"},
		{p.ApparmorProfile != "", "process.apparmorProfile"},
		{p.SelinuxLabel != "", "process.selinuxLabel"},
		{p.Scheduler != nil, "process.scheduler"},
		{p.IOPriority != nil, "process.ioPriority"},
		{p.ExecCPUAffinity != nil, "process.execCPUAffinity"},
		{len(l.UIDMappings) > 0 || len(l.GIDMappings) > 0, "linux.uidMappings and linux.gidMappings"},
		{l.Resources != nil && !limited, "linux.resources and no cgroup"},
		{len(l.NetDevices) > 0, "linux.netDevices"},
		{l.Seccomp != nil, "linux.seccomp"},
		{strings.TrimPrefix(l.RootfsPropagation, "r") != "" && l.RootfsPropagation != "private" && l.RootfsPropagation != "rprivate", "linux.rootfsPropagation " + l.RootfsPropagation},
		{l.MountLabel != "", "linux.mountLabel"},
		{l.IntelRdt != nil, "linux.intelRdt"},
		{l.MemoryPolicy != nil, "linux.memoryPolicy"},
		{l.Personality != nil, "linux.personality"},
		{len(l.TimeOffsets) > 0, "linux.timeOffsets"},
		{strconv.IntSize != 64, "a machine of less than 64 bits"},
	} {
		if c.asked {
			return fmt.Errorf("start container with %s: %w", c.what, errors.ErrUnsupported)
		}
	}
	if len(s.Mounts) > maxMounts {
		return fmt.Errorf("start container: %d mounts, at most %d: %w", len(s.Mounts), maxMounts, fs.ErrInvalid)
	}
	return nil
}

// makePlan writes the table of a container, whose failures go to the descriptor failed.
// On failure nothing is held.
func makePlan(c *Config, failed int) (_ *plan, err error) {
	s := c.Spec
	if err := checkSupported(s, c.Cgroup != nil); err != nil {
		return nil, err
	}
	p := &plan{table: newTable(), cgroup: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open null device: %w", err)
	}
	nullFD := p.hold(null)
	if err := checkNull(nullFD); err != nil {
		return nil, err
	}
	rootFile, err := c.Root.detached()
	if err != nil {
		return nil, err
	}
	rootFD := p.hold(rootFile)

	report := p.streams([3]*os.File{c.Stdin, c.Stdout, c.Stderr}, nullFD, failed)
	newNet, err := p.namespaces(s.Linux.Namespaces)
	if err != nil {
		return nil, err
	}
	if err := p.enterCgroup(c.Cgroup); err != nil {
		return nil, err
	}
	if err := p.enter(s, rootFD, newNet); err != nil {
		return nil, err
	}
	if err := p.mounts(s, rootFD); err != nil {
		return nil, err
	}
	if err := p.leave(s, rootFD, report); err != nil {
		return nil, err
	}
	if err := p.process(c); err != nil {
		return nil, err
	}
	return p, p.table.err
}

// streams adds the rows that put the standard streams in their place. They are copied
// first, since one's number may be another's place. What is reported from the child
// goes to a copy as well, whose row is returned.
func (p *plan) streams(streams [3]*os.File, null, failed int) result {
	t := p.table
	const firstFree = 3
	dup := func(fd int) result {
		return t.call(step{"copy descriptor", strconv.Itoa(fd)}, unix.SYS_FCNTL, fd, unix.F_DUPFD_CLOEXEC, firstFree)
	}
	report := dup(failed)
	t.last().kind = kindReport
	var copies [3]result
	for i, f := range streams {
		fd := null
		if f != nil && checkNull(int(f.Fd())) != nil {
			fd = int(f.Fd())
		} else {
			p.nulls = append(p.nulls, i)
		}
		copies[i] = dup(fd)
	}
	for i, c := range copies {
		t.call(step{"place standard stream", strconv.Itoa(i)}, unix.SYS_DUP3, c, i, 0)
	}
	return report
}

// namespaces sets the flags of new namespaces and adds the rows that join others.
func (p *plan) namespaces(wanted []specs.LinuxNamespace) (newNet bool, err error) {
	for _, n := range wanted {
		flag, ok := namespaceFlags[n.Type]
		switch {
		case n.Type == specs.UserNamespace:
			return false, fmt.Errorf("start container in a user namespace: %w", errors.ErrUnsupported)
		case !ok:
			return false, fmt.Errorf("namespace %q is unknown: %w", n.Type, fs.ErrInvalid)
		case n.Path == "":
			p.flags |= flag
			continue
		case flag == unix.CLONE_NEWNS || flag == unix.CLONE_NEWPID || flag == unix.CLONE_NEWTIME:
			return false, fmt.Errorf("join %s namespace %s: %w", n.Type, n.Path, errors.ErrUnsupported)
		}
		f, err := os.Open(n.Path)
		if err != nil {
			return false, fmt.Errorf("join %s namespace: %w", n.Type, err)
		}
		p.table.call(step{"join " + string(n.Type) + " namespace", n.Path}, unix.SYS_SETNS, p.hold(f), int(flag))
	}
	const needed = unix.CLONE_NEWNS | unix.CLONE_NEWPID
	if p.flags&needed != needed {
		// Their end is what unmounts and kills all that belongs to the container.
		return false, fmt.Errorf("start container without mount and pid namespaces of its own: %w", errors.ErrUnsupported)
	}
	return p.flags&unix.CLONE_NEWNET != 0, nil
}

// enter adds the rows that cut the mounts loose from the host's, attach the root and
// set what the other namespaces need. The root is attached upon "/", where it is in
// nobody's way: a lookup that starts at "/" still sees the host below it.
func (p *plan) enter(s *specs.Spec, root int, newNet bool) error {
	t := p.table
	t.call(step{"begin session", ""}, unix.SYS_SETSID)
	t.call(step{"set umask", ""}, unix.SYS_UMASK, 0)
	t.call(step{"join a new session keyring", ""}, unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0)
	t.allow(0, unix.ENOSYS)
	t.call(step{"make mounts private", ""}, unix.SYS_MOUNT, 0, "/", 0, unix.MS_REC|unix.MS_PRIVATE, 0)
	t.call(step{"attach root", ""}, unix.SYS_MOVE_MOUNT, root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH)
	t.setattr(step{"make root private", ""}, root, &unix.MountAttr{Propagation: unix.MS_PRIVATE}, unix.AT_RECURSIVE)

	uts := p.flags & unix.CLONE_NEWUTS
	if uts == 0 && (s.Hostname != "" || s.Domainname != "") {
		return fmt.Errorf("set host name without a uts namespace of its own: %w", fs.ErrInvalid)
	}
	if s.Hostname != "" {
		t.call(step{"set host name", s.Hostname}, unix.SYS_SETHOSTNAME, s.Hostname, len(s.Hostname))
	}
	if s.Domainname != "" {
		t.call(step{"set domain name", s.Domainname}, unix.SYS_SETDOMAINNAME, s.Domainname, len(s.Domainname))
	}
	if newNet {
		request, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		socket := t.call(step{"open socket to set up", "lo"}, unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		t.call(step{"set up", "lo"}, unix.SYS_IOCTL, socket, unix.SIOCSIFFLAGS, at(request))
	}
	return nil
}

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
		case mp.kind == "tmpfs" && mp.to == "dev":
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

// reportFD is where a failure is reported once all other descriptors are closed.
const reportFD = 3

// leave adds the rows that make the root the only one: the host's is put upon it and
// detached. Then the working directory is opened, and all descriptors but the streams
// and the report are closed, before any name of the image is looked up the usual way.
func (p *plan) leave(s *specs.Spec, root int, report result) error {
	t := p.table
	cwd := s.Process.Cwd
	if !path.IsAbs(cwd) {
		return fmt.Errorf("working directory %q: not an absolute path: %w", cwd, fs.ErrInvalid)
	}
	cwd = path.Clean(cwd)
	t.call(step{"enter root", ""}, unix.SYS_FCHDIR, root)
	t.call(step{"change root", ""}, unix.SYS_PIVOT_ROOT, ".", ".")
	t.call(step{"detach the host's root", ""}, unix.SYS_UMOUNT2, ".", unix.MNT_DETACH)
	t.call(step{"enter root", ""}, unix.SYS_CHDIR, "/")

	to := strings.TrimPrefix(cwd, "/")
	if to != "" {
		const rowsOfOpen = 1
		_ = t.open(step{"open working directory", cwd}, root, to, unix.O_PATH|unix.O_DIRECTORY, 0)
		t.allow(0, unix.ENOENT)
		made := len(t.ops) - 1
		t.makeBelow(root, to, true)
		t.ops[made].skipOK = uint16(len(t.ops) - made - rowsOfOpen)
	}
	dir := t.open(step{"open working directory", cwd}, root, to, unix.O_PATH|unix.O_DIRECTORY, 0)
	t.call(step{"enter working directory", cwd}, unix.SYS_FCHDIR, dir)
	// The kernel writes "(unreachable)" for a directory outside the root.
	where := make([]byte, unix.PathMax)
	t.call(step{"check working directory", cwd}, unix.SYS_GETCWD, at(&where[0]), len(where))
	t.last().kind, t.last().text = kindAbsolute, &where[0]

	// When the copy has this number already, dup3 refuses.
	t.call(step{"place report", ""}, unix.SYS_DUP3, report, reportFD, unix.O_CLOEXEC)
	t.last().kind = kindReport
	t.allow(0, unix.EINVAL)
	const all uintptr = 1<<32 - 1
	t.call(step{"close descriptors", ""}, unix.SYS_CLOSE_RANGE, reportFD+1, all, 0)
	return nil
}

// process adds the rows that make the process what the specification says, the
// program last.
func (p *plan) process(c *Config) error {
	t, s := p.table, c.Spec.Process
	if err := t.limits(s.Rlimits); err != nil {
		return err
	}
	caps, err := planCaps(s.Capabilities)
	if err != nil {
		return err
	}
	have, err := own()
	if err != nil {
		return err
	}
	if missing := caps.limit(have); missing != 0 {
		c.Logger.Warn("container gets fewer capabilities than asked for", "missing", missing.String())
	}
	umask := 0o022
	if s.User.Umask != nil {
		umask = int(*s.User.Umask & 0o777)
	}
	t.call(step{"set umask", ""}, unix.SYS_UMASK, umask)
	t.become(s.User, caps)
	if s.NoNewPrivileges {
		t.call(step{"set no_new_privs", ""}, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if !c.Detach {
		t.dieWithCaller()
	}
	return t.execute(s.Args, s.Env)
}

// dieWithCaller adds the rows that make the kernel kill the process when the thread that
// made it ends. A change of user clears this, so it comes after.
func (t *table) dieWithCaller() {
	t.call(step{"die with the caller", ""}, unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL), 0, 0, 0)
	// If the caller is gone by now, nobody reads the report, which poll tells.
	reader := &unix.PollFd{Fd: reportFD}
	t.call(step{"look for the caller", ""}, unix.SYS_PPOLL, at(reader), 1, at(&unix.Timespec{}), 0, 0)
	t.last().kind = kindZero
}
