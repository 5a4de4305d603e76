package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

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

// connect adds the rows that put the standard streams in their place. They are copied
// first, since one's number may be another's place. What is reported from the child
// goes to a copy as well.
func (p *plan) connect(failed int, terminal bool) error {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open null device: %w", err)
	}
	nullFD := p.hold(null)
	if err := checkNull(nullFD); err != nil {
		return err
	}
	if terminal {
		if p.streams != [3]*os.File{} {
			return fmt.Errorf("start process with a terminal and other streams: %w", fs.ErrInvalid)
		}
		if err := p.openTerminalSocket(); err != nil {
			return err
		}
	}
	t := p.table
	const firstFree = 3
	dup := func(fd int) result {
		return t.call(step{"copy descriptor", strconv.Itoa(fd)}, unix.SYS_FCNTL, fd, unix.F_DUPFD_CLOEXEC, firstFree)
	}
	p.report = dup(failed)
	t.last().kind = kindReport
	var copies [3]result
	for i, f := range p.streams {
		fd := nullFD
		if f != nil && checkNull(int(f.Fd())) != nil {
			fd = int(f.Fd())
		} else if !terminal {
			p.nulls = append(p.nulls, i)
		}
		copies[i] = dup(fd)
	}
	for i, c := range copies {
		t.call(step{"place standard stream", strconv.Itoa(i)}, unix.SYS_DUP3, c, i, 0)
	}
	return nil
}

// beginSession adds the rows that cut the process loose from the caller's session.
func (t *table) beginSession() {
	t.call(step{"begin session", ""}, unix.SYS_SETSID)
	t.call(step{"set umask", ""}, unix.SYS_UMASK, 0)
	t.call(step{"join a new session keyring", ""}, unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0)
	t.allow(0, unix.ENOSYS)
}

// namespace is one that is there already, to be joined.
type namespace struct {
	file *os.File
	flag int
	name string // in /proc/PID/ns
}

// namespaces sets the flags of new namespaces and adds the rows that join others. A new
// user namespace has no power over namespaces that are there already, and a pid
// namespace is for those who are made in it: then the thread that makes the child joins
// them for that moment.
func (p *plan) namespaces(s *specs.Linux, limited bool) error {
	var joins []namespace
	for _, n := range s.Namespaces {
		flag, ok := namespaceFlags[n.Type]
		switch {
		case !ok:
			return fmt.Errorf("namespace %q is unknown: %w", n.Type, fs.ErrInvalid)
		case p.flags&flag != 0:
			return fmt.Errorf("namespace %q is there twice: %w", n.Type, fs.ErrInvalid)
		case n.Path == "":
			p.flags |= flag
			continue
		case flag == unix.CLONE_NEWNS || flag == unix.CLONE_NEWUSER:
			return fmt.Errorf("join %s namespace %s: %w", n.Type, n.Path, errors.ErrUnsupported)
		}
		f, err := os.Open(n.Path)
		if err != nil {
			return fmt.Errorf("join %s namespace: %w", n.Type, err)
		}
		p.hold(f)
		j := namespace{f, int(flag), joinableName(int(flag))}
		joins = append(joins, j)
		// The calling thread's, which makes the child: the process's first thread may be in
		// another namespace for a while, or for good.
		ours, err := os.Stat("/proc/thread-self/ns/" + j.name)
		if err != nil {
			return fmt.Errorf("join %s namespace: %w", n.Type, err)
		}
		theirs, err := f.Stat()
		if err != nil {
			return fmt.Errorf("join %s namespace: %w", n.Type, err)
		}
		if !os.SameFile(ours, theirs) {
			p.joined |= flag
		}
	}
	if p.flags&unix.CLONE_NEWNS == 0 {
		return fmt.Errorf("start container without a mount namespace of its own: %w", errors.ErrUnsupported)
	}
	if p.flags&unix.CLONE_NEWPID == 0 && !limited {
		// Its end is what kills all that belongs to the container.
		return fmt.Errorf("start container without a pid namespace or a cgroup of its own: %w", errors.ErrUnsupported)
	}
	for _, j := range joins {
		if j.flag == unix.CLONE_NEWPID || p.flags&unix.CLONE_NEWUSER != 0 && j.flag != unix.CLONE_NEWTIME {
			p.joins = append(p.joins, j)
			continue
		}
		p.table.call(step{"join " + j.name + " namespace", j.file.Name()}, unix.SYS_SETNS, int(j.file.Fd()), j.flag)
	}
	if p.flags&unix.CLONE_NEWUSER == 0 {
		if len(s.UIDMappings) > 0 || len(s.GIDMappings) > 0 {
			return fmt.Errorf("map ids without a user namespace: %w", fs.ErrInvalid)
		}
		return nil
	}
	p.mapping = mapping{s.UIDMappings, s.GIDMappings}
	if err := checkMapping(p.mapping); err != nil {
		return err
	}
	if err := p.needSync(); err != nil {
		return err
	}
	p.table.await("the mapping of ids", p.syncFrom)
	if has(p.mapping.users, 0) && has(p.mapping.groups, 0) {
		p.table.becomeRoot()
	}
	return nil
}

// visitAll makes the calling thread join the namespaces that it has to. The way back is
// never nil.
func (p *plan) visitAll() (back func() error, err error) {
	var backs []func() error
	back = func() error {
		var errs []error
		for _, b := range backs {
			errs = append(errs, b())
		}
		return errors.Join(errs...)
	}
	for _, j := range p.joins {
		b, err := visit(j.file, j.flag, j.name)
		if err != nil {
			return back, err
		}
		backs = append(backs, b)
	}
	return back, nil
}

// enter adds the rows that cut the mounts loose from the host's, attach the root and
// set what the other namespaces need. The root is attached upon "/", where it is in
// nobody's way: a lookup that starts at "/" still sees the host below it.
func (p *plan) enter(s *specs.Spec, root int) error {
	t := p.table
	t.beginSession()
	how := unix.MS_PRIVATE
	switch strings.TrimPrefix(s.Linux.RootfsPropagation, "r") {
	case "", "private":
	case "shared", "slave": // what is mounted on the host later is to arrive
		how = unix.MS_SLAVE
	case "unbindable":
	default:
		return fmt.Errorf("propagation %q of the root: %w", s.Linux.RootfsPropagation, fs.ErrInvalid)
	}
	t.call(step{"cut mounts loose from the host's", ""}, unix.SYS_MOUNT, 0, "/", 0, uintptr(unix.MS_REC|how), 0)
	t.call(step{"attach root", ""}, unix.SYS_MOVE_MOUNT, root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH)
	t.setattr(step{"make root private", ""}, root, &unix.MountAttr{Propagation: unix.MS_PRIVATE}, unix.AT_RECURSIVE)

	uts := (p.flags | p.joined) & unix.CLONE_NEWUTS
	if uts == 0 && (s.Hostname != "" || s.Domainname != "") {
		return fmt.Errorf("set host name without a uts namespace of its own: %w", fs.ErrInvalid)
	}
	if s.Hostname != "" {
		t.call(step{"set host name", s.Hostname}, unix.SYS_SETHOSTNAME, s.Hostname, len(s.Hostname))
	}
	if s.Domainname != "" {
		t.call(step{"set domain name", s.Domainname}, unix.SYS_SETDOMAINNAME, s.Domainname, len(s.Domainname))
	}
	if p.flags&unix.CLONE_NEWNET != 0 {
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
