package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

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
	t.beginSession()
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
