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

// leave adds the rows that make the root the only one: the host's is put upon it and
// detached.
func (p *plan) leave(s *specs.Spec, root int) error {
	t := p.table
	t.call(step{"enter root", ""}, unix.SYS_FCHDIR, root)
	t.call(step{"change root", ""}, unix.SYS_PIVOT_ROOT, ".", ".")
	t.call(step{"detach the host's root", ""}, unix.SYS_UMOUNT2, ".", unix.MNT_DETACH)
	t.call(step{"enter root", ""}, unix.SYS_CHDIR, "/")
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

	// When the copy has this number already, dup3 refuses.
	t.call(step{"place report", ""}, unix.SYS_DUP3, p.report, reportFD, unix.O_CLOEXEC)
	t.last().kind = kindReport
	t.allow(0, unix.EINVAL)
	const all uintptr = 1<<32 - 1
	t.call(step{"close descriptors", ""}, unix.SYS_CLOSE_RANGE, reportFD+1, all, 0)
	return nil
}

// process adds the rows that make the process what the specification says, the
// program last.
//
// A system call filter comes last, between the look for the program and its execution, so
// that it need allow nothing else of what is done here. Without no_new_privs it takes a
// capability to install it: then it must allow to give up privileges, too.
func (p *plan) process(s *specs.Process, profile *specs.LinuxSeccomp, detach bool, logger *slog.Logger) error {
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
	umask := 0o022
	if s.User.Umask != nil {
		umask = int(*s.User.Umask & 0o777)
	}
	t.call(step{"set umask", ""}, unix.SYS_UMASK, umask)
	if filter != nil && !s.NoNewPrivileges {
		t.install(filter)
		filter = nil
	}
	t.become(s.User, caps)
	if s.NoNewPrivileges {
		t.call(step{"set no_new_privs", ""}, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if !detach {
		t.dieWithCaller()
	}
	return t.execute(s.Args, s.Env, filter)
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

// becomeRoot adds the rows that make the process the root of a user namespace: its
// capabilities are all there, but files that it makes need an owner that is mapped.
func (t *table) becomeRoot() {
	t.call(step{"become root of the user namespace: group", ""}, unix.SYS_SETRESGID, 0, 0, 0)
	t.call(step{"become root of the user namespace: user", ""}, unix.SYS_SETRESUID, 0, 0, 0)
}
