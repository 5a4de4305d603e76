package runtime

import (
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// reportFD is where a failure is reported once all other descriptors are closed.
const reportFD = 3

// Where are then the pipe to wait on, and the socket of the gate.
const (
	syncFD = 4
	gateFD = 5
)

// leave adds the rows that make the root the only one: the host's is put upon it and
// detached.
func (p *plan) leave(s *specs.Spec, root int) error {
	t := p.table
	t.call(step{"enter root", ""}, unix.SYS_FCHDIR, root)
	t.call(step{"change root", ""}, unix.SYS_PIVOT_ROOT, ".", ".")
	t.call(step{"detach the host's root", ""}, unix.SYS_UMOUNT2, ".", unix.MNT_DETACH)
	t.call(step{"enter root", ""}, unix.SYS_CHDIR, "/")
	// The root cannot be changed to a shared one.
	if how, ok := propagations[s.Linux.RootfsPropagation]; ok && how != unix.MS_PRIVATE {
		flags := 0
		if strings.HasPrefix(s.Linux.RootfsPropagation, "r") {
			flags = unix.AT_RECURSIVE
		}
		t.setattr(step{"set propagation of root", s.Linux.RootfsPropagation}, root, &unix.MountAttr{Propagation: how}, flags)
	}
	return p.settle(s.Process.Cwd, root, true)
}

// settle adds the rows that open the working directory and, before any name of the image
// is looked up the usual way, close all descriptors but the streams and the report.
func (p *plan) settle(cwd string, root any, makeIt bool) error {
	t := p.table
	if !path.IsAbs(cwd) {
		return fmt.Errorf("working directory %q: not an absolute path: %w", cwd, fs.ErrInvalid)
	}
	cwd = path.Clean(cwd)
	to := strings.TrimPrefix(cwd, "/")
	if to != "" && makeIt {
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

	p.clear()
	return nil
}

// clear adds the rows that close all descriptors but the streams, the report and what is
// still to be waited on.
func (p *plan) clear() {
	t := p.table
	const all uintptr = 1<<32 - 1
	if p.gate == nil && !p.syncLate {
		// When the copy has this number already, dup3 refuses.
		t.call(step{"place report", ""}, unix.SYS_DUP3, p.report, reportFD, unix.O_CLOEXEC)
		t.last().kind = kindReport
		t.allow(0, unix.EINVAL)
		t.call(step{"close descriptors", ""}, unix.SYS_CLOSE_RANGE, reportFD+1, all, 0)
		return
	}
	// One's number may be another's place, so all are copied out of the way first.
	const aside = 16
	place := func(what string, from any, number int) func() {
		c := t.call(step{"copy " + what, ""}, unix.SYS_FCNTL, from, unix.F_DUPFD_CLOEXEC, aside)
		return func() { t.call(step{"place " + what, ""}, unix.SYS_DUP3, c, number, unix.O_CLOEXEC) }
	}
	report := place("report", p.report, reportFD)
	t.last().kind = kindReport
	others := []func(){}
	if p.syncLate {
		others = append(others, place("pipe to wait on", p.syncFrom, syncFD))
	}
	if p.gate != nil {
		others = append(others, place("gate", int(p.gate.Fd()), gateFD))
	}
	report()
	t.last().kind = kindReport
	for _, o := range others {
		o()
	}
	t.call(step{"close descriptors", ""}, unix.SYS_CLOSE_RANGE, gateFD+1, all, 0)
}

// process adds the rows that make the process what the specification says.
//
// A system call filter comes last, between the look for the program and its execution, so
// that it need allow nothing else of what is done here. Without no_new_privs it takes a
// capability to install it: then it must allow to give up privileges, too, and the program
// is looked at before that, since older profiles do not have openat2.
func (p *plan) process(s *specs.Process, profile *specs.LinuxSeccomp, logger *slog.Logger) error {
	t := p.table
	filter, err := compileFilter(profile, logger)
	if err != nil {
		return err
	}
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
		logger.Warn("container gets fewer capabilities than asked for", "missing", missing.String())
	}
	if err := t.signals(); err != nil {
		return err
	}
	umask := 0o022
	if s.User.Umask != nil {
		umask = int(*s.User.Umask & 0o777)
	}
	t.call(step{"set umask", ""}, unix.SYS_UMASK, umask)
	if filter != nil && !s.NoNewPrivileges {
		t.refuseMagic(s.Args, s.Env)
		t.install(filter)
		filter, p.looked = nil, true
	}
	if err := t.schedule(s); err != nil {
		return err
	}
	t.become(s.User, caps)
	if s.NoNewPrivileges {
		t.call(step{"set no_new_privs", ""}, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	p.filter = filter
	return nil
}

// program adds the rows that execute the program.
func (p *plan) program(s *specs.Process) error {
	return p.table.execute(s.Args, s.Env, p.filter, p.looked)
}

// wait adds the rows at which a container stands still before its program: at the gate,
// and for hooks.
func (p *plan) wait(c *Config) {
	t := p.table
	late := c.Spec.Hooks != nil && len(c.Spec.Hooks.StartContainer) > 0
	if p.gate == nil {
		if late {
			p.reach("startContainer hooks", reportFD, syncFD, c.beforeProgram)
		}
		return
	}
	// Whoever joins the container meanwhile shall not get at the launcher through it.
	t.call(step{"hide from the container", ""}, unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	p.gateStage = len(p.stages)
	p.reach("the gate", reportFD, nil, nil)
	t.call(step{"close report", ""}, unix.SYS_CLOSE, reportFD)
	p.gateRow = len(t.ops)
	conn := t.call(step{"wait at the gate", ""}, unix.SYS_ACCEPT4, gateFD, 0, 0, unix.SOCK_CLOEXEC)
	t.last().kind = kindReport
	if late {
		p.reach("startContainer hooks", conn, conn, nil)
	}
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
