package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	table   *table
	flags   uint64
	files   []*os.File
	entry   *cgroup.Entry // or nil
	cgroup  int           // to be made in, of version 2, or -1
	streams [3]*os.File   // nil is the null device
	nulls   []int         // the standard streams that are the null device
	report  result        // the row of the descriptor to report failures on

	terminal   *os.File // what the caller gets a terminal from, or nil
	terminalTo int      // the other end of it, in the child
}

func newPlan(stdin, stdout, stderr *os.File) *plan {
	return &plan{table: newTable(), cgroup: -1, streams: [3]*os.File{stdin, stdout, stderr}}
}

// close closes what is not needed once the child is made.
func (p *plan) close() error {
	var errs []error
	for _, f := range p.files {
		errs = append(errs, f.Close())
	}
	p.files = nil
	if p.terminal != nil {
		errs = append(errs, p.terminal.Close())
	}
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
	if err := checkProcess(s.Process); err != nil {
		return err
	}
	l := s.Linux
	for _, c := range []struct {
		asked bool
		what  string
	}{
		{s.Hooks != nil, "hooks"},
		{len(l.UIDMappings) > 0 || len(l.GIDMappings) > 0, "linux.uidMappings and linux.gidMappings"},
		{l.Resources != nil && !limited, "linux.resources and no cgroup"},
		{len(l.NetDevices) > 0, "linux.netDevices"},
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

// checkProcess refuses what the specification of a process may say and this package does
// not do.
func checkProcess(p *specs.Process) error {
	if p == nil {
		return fmt.Errorf("start process: none is specified: %w", fs.ErrInvalid)
	}
	for _, c := range []struct {
		asked bool
		what  string
	}{
		{p.ApparmorProfile != "", "apparmorProfile"},
		{p.SelinuxLabel != "", "selinuxLabel"},
		{p.Scheduler != nil, "scheduler"},
		{p.IOPriority != nil, "ioPriority"},
		{p.ExecCPUAffinity != nil, "execCPUAffinity"},
	} {
		if c.asked {
			return fmt.Errorf("start process with process.%s: %w", c.what, errors.ErrUnsupported)
		}
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
	p := newPlan(c.Stdin, c.Stdout, c.Stderr)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	rootFile, err := c.Root.detached()
	if err != nil {
		return nil, err
	}
	rootFD := p.hold(rootFile)
	if err := p.connect(failed, s.Process.Terminal); err != nil {
		return nil, err
	}
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
	if err := p.leave(s, rootFD); err != nil {
		return nil, err
	}
	if err := p.process(s.Process, s.Linux.Seccomp, c.Detach, c.Logger); err != nil {
		return nil, err
	}
	return p, p.table.err
}
