package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
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
	specs.UserNamespace:    unix.CLONE_NEWUSER,
}

// plan is a container ready to be started: the table, and the files that its rows use.
type plan struct {
	table   *table
	flags   uint64 // of new namespaces
	joined  uint64 // of namespaces that were there and are not the caller's
	files   []*os.File
	entry   *cgroup.Entry // or nil
	cgroup  int           // to be made in, of version 2, or -1
	streams [3]*os.File   // nil is the null device
	nulls   []int         // the standard streams that are the null device
	report  result        // the row of the descriptor to report failures on

	stages   []stage
	sync     *os.File // what the child waits on, to write to; or nil
	syncFrom int      // the other end of it, in the child
	syncLate bool     // it is also waited on after descriptors are closed

	gate      *os.File // the socket to wait at, or nil
	gateStage int
	gateRow   int // the first that is reported to who opens the gate

	filter *filter // to be installed last, or nil
	looked bool    // the filter is there already, and magic links were refused before
	look   bool    // it is only to be looked at

	mapping mapping     // of a new user namespace
	joins   []namespace // that the thread joins before it makes the child

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
	for _, f := range []*os.File{p.terminal, p.sync} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if p.entry != nil {
		errs = append(errs, p.entry.Close())
	}
	return errors.Join(errs...)
}

// cloneFlags are the namespaces that the child is made with; the rest it makes itself. One of cgroups shows as its
// root the group that its maker is in, so where the child has to go into a group first,
// it makes that namespace itself.
func (p *plan) cloneFlags() uint64 {
	flags := p.flags &^ unix.CLONE_NEWTIME // its clocks can only be set before it is entered
	if p.entry != nil {
		flags &^= unix.CLONE_NEWCGROUP
	}
	return flags
}

// hold keeps a file open until the container runs.
func (p *plan) hold(f *os.File) int {
	p.files = append(p.files, f)
	return int(f.Fd())
}

// checkSupported refuses what a specification may say and this package does not do.
// Limits are applied by whoever made the group.
func checkSupported(c *Config) error {
	s := c.Spec
	if s == nil || s.Process == nil || s.Linux == nil {
		return fmt.Errorf("start container: a specification needs process and linux: %w", fs.ErrInvalid)
	}
	if err := errors.Join(checkProcess(s.Process), checkHooks(s.Hooks)); err != nil {
		return err
	}
	l := s.Linux
	for _, u := range []struct {
		asked bool
		what  string
	}{
		{l.Resources != nil && c.Cgroup == nil, "linux.resources and no cgroup"},
		{len(l.NetDevices) > 0, "linux.netDevices"},
		{l.MountLabel != "" && !HaveSELinux(), "linux.mountLabel and no SELinux"},
		{l.IntelRdt != nil, "linux.intelRdt"},
		{strconv.IntSize != 64, "a machine of less than 64 bits"},
	} {
		if u.asked {
			return fmt.Errorf("start container with %s: %w", u.what, errors.ErrUnsupported)
		}
	}
	if c.Gate != nil && !c.Detach {
		return fmt.Errorf("start container at a gate that is not detached: %w", fs.ErrInvalid)
	}
	if len(s.Mounts) > maxMounts {
		return fmt.Errorf("start container: %d mounts, at most %d: %w", len(s.Mounts), maxMounts, fs.ErrInvalid)
	}
	return nil
}

// checkProcess refuses a specification without a process.
func checkProcess(p *specs.Process) error {
	if p == nil {
		return fmt.Errorf("start process: none is specified: %w", fs.ErrInvalid)
	}
	return nil
}

// makePlan writes the table of a container, whose failures go to the descriptor failed.
// Mount points that are missing in the root are made, unless it is only to be looked at.
// On failure nothing is held.
func makePlan(c *Config, failed int, look bool) (_ *plan, err error) {
	s := c.Spec
	if err := checkSupported(c); err != nil {
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
	p.look = look
	if err := p.connect(failed, s.Process.Terminal); err != nil {
		return nil, err
	}
	if err := p.namespaces(s.Linux, c.Cgroup != nil); err != nil {
		return nil, err
	}
	hooks := s.Hooks
	if hooks != nil {
		p.syncLate = len(hooks.StartContainer) > 0 && c.Gate == nil
		if err := p.needSync(); err != nil {
			return nil, err
		}
	}
	if p.gate = c.Gate; p.gate != nil {
		if err := unix.SetNonblock(int(p.gate.Fd()), false); err != nil {
			return nil, &Error{Step: "prepare gate", Err: err}
		}
	}
	if err := p.enterCgroup(c.Cgroup); err != nil {
		return nil, err
	}
	if err := p.enter(s, rootFD); err != nil {
		return nil, err
	}
	if err := p.timeNamespace(s.Linux.TimeOffsets); err != nil {
		return nil, err
	}
	if err := p.table.confine(s.Process); err != nil {
		return nil, err
	}
	if err := p.mounts(c, rootFD); err != nil {
		return nil, err
	}
	if hooks != nil {
		p.reach("hooks", p.report, p.syncFrom, c.beforeRoot)
	}
	if err := errors.Join(p.leave(s, rootFD), p.table.personality(s.Linux.Personality), p.table.memoryPolicy(s.Linux.MemoryPolicy)); err != nil {
		return nil, err
	}
	if err := p.process(s.Process, s.Linux.Seccomp, c.Logger); err != nil {
		return nil, err
	}
	p.wait(c)
	if !c.Detach {
		p.table.dieWithCaller()
	}
	if err := p.program(s.Process); err != nil {
		return nil, err
	}
	return p, p.table.err
}
