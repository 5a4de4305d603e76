package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	goruntime "runtime"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime/cgroup"
)

// ExecConfig is a process to start in a running container.
type ExecConfig struct {
	// Pid is a process of the container, in the caller's pid namespace, whose namespaces
	// and root the new one gets. It has a mount namespace of its own.
	Pid int
	// Verify fails unless Pid still is the process that is meant: when that has ended, its
	// number may be another's. It is called while the number cannot change hands any
	// more. Nil is for callers whose child the process is, which they have not waited for.
	Verify func() error

	Process *specs.Process

	// The streams of the process, as in Config.
	Stdin, Stdout, Stderr *os.File

	Seccomp *specs.LinuxSeccomp // system call filter; nil is none

	Cgroup *cgroup.Group // that of the container; nil is the caller's
	Detach bool          // as in Config

	Logger *slog.Logger // nil discards
}

// Exec starts one more process in a running container and returns once its program runs.
// Errors are as those of [Start]; a container that has ended wraps fs.ErrNotExist or
// unix.ESRCH. The working directory must be there. The process is a child of the caller,
// which waits for it and closes it; it ends with the container at the latest.
func Exec(ctx context.Context, c ExecConfig) (*Process, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("start process in container: %w", context.Cause(ctx))
	}
	if err := checkProcess(c.Process); err != nil {
		return nil, err
	}
	if !c.Detach {
		return keep(func() (*Process, error) { return join(ctx, &c) })
	}
	type outcome struct {
		p   *Process
		err error
	}
	started := make(chan outcome)
	go func() {
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		p, err := join(ctx, &c)
		started <- outcome{p, err}
	}()
	o := <-started
	return o.p, o.err
}

// join starts the process from the calling thread, which is locked to its goroutine. A
// process gets into a pid namespace only by being made in it, so the thread's children
// are directed there for that moment.
func join(ctx context.Context, c *ExecConfig) (_ *Process, err error) {
	target, err := openContainer(c.Pid, c.Verify)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, target.close()) }()
	return target.within(func() (*Process, error) {
		return begin(ctx, c.Logger, func(failed int) (*plan, error) { return makeExecPlan(c, target, failed) })
	})
}

// container is a container to join.
type container struct {
	pidfd *os.File
	flags int // of the namespaces that it does not share with the caller
}

func (c *container) close() error { return c.pidfd.Close() }

// joinable are the namespaces by their names in /proc/PID/ns.
var joinable = [...]struct {
	name string
	flag int
}{
	{"user", unix.CLONE_NEWUSER}, {"mnt", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"net", unix.CLONE_NEWNET},
	{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP}, {"time", unix.CLONE_NEWTIME},
}

func joinableName(flag int) string {
	for _, n := range joinable {
		if n.flag == flag {
			return n.name
		}
	}
	return ""
}

// openContainer takes hold of a process and finds out which of its namespaces are others
// than the caller's. With verify, which may be nil, the caller makes sure that it is the
// process that is meant.
func openContainer(pid int, verify func() error) (_ *container, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, &Error{Step: "take hold of the container's process", Object: strconv.Itoa(pid), Err: err}
	}
	c := &container{pidfd: os.NewFile(uintptr(fd), "pidfd")}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	step := func(what string, err error) error {
		return &Error{Step: what, Object: strconv.Itoa(pid), Err: err}
	}
	for _, n := range joinable {
		own, err := os.Readlink("/proc/thread-self/ns/" + n.name)
		if err != nil {
			continue // the kernel has none
		}
		its, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + n.name)
		if err != nil {
			return nil, fmt.Errorf("look at the container's namespaces: %w", err)
		}
		if own != its {
			c.flags |= n.flag
		}
	}
	if verify != nil {
		if err := verify(); err != nil {
			return nil, step("recognize the container's process", err)
		}
	}
	// Alive: so what was read was its and not another's that got its number.
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return nil, step("look for the container's process", err)
	}
	// Whatever it is, it is in no container: the new process would have the caller's files.
	if c.flags&unix.CLONE_NEWNS == 0 {
		return nil, step("join the container's process", fmt.Errorf("it has the mount namespace of the caller: %w", unix.ESRCH))
	}
	return c, nil
}

// makeExecPlan writes the table of a process that joins a container.
func makeExecPlan(c *ExecConfig, target *container, failed int) (_ *plan, err error) {
	p := newPlan(c.Stdin, c.Stdout, c.Stderr)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	s, t := c.Process, p.table
	if err := p.connect(failed, s.Terminal); err != nil {
		return nil, err
	}
	t.beginSession()
	affinity := specs.CPUAffinity{}
	if s.ExecCPUAffinity != nil {
		affinity = *s.ExecCPUAffinity
	}
	if err := t.affinity(affinity.Initial); err != nil {
		return nil, err
	}
	if err := p.enterCgroup(c.Cgroup); err != nil {
		return nil, err
	}
	if err := t.affinity(affinity.Final); err != nil {
		return nil, err
	}
	if err := t.confine(s); err != nil {
		return nil, err
	}
	if s.OOMScoreAdj != nil {
		sg := step{"set oom_score_adj to", strconv.Itoa(*s.OOMScoreAdj)}
		f := t.call(sg, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		t.call(sg, unix.SYS_WRITE, f, sg.object, len(sg.object))
	}
	// From here on processes of the container can see this one. They shall not read its
	// memory, take its descriptors or, by /proc/PID/exe, get at the launcher's file
	// (CVE-2016-9962, CVE-2019-5736). The program's execve undoes it.
	t.call(step{"hide from the container", ""}, unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	target.enter(t)
	root := t.call(step{"open the container's root", ""}, unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for _, i := range p.nulls {
		sg := step{"connect to /dev/null standard stream", strconv.Itoa(i)}
		f := t.open(sg, root, "dev/null", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		t.call(sg, unix.SYS_DUP3, f, i, 0)
	}
	if s.Terminal {
		master := t.open(step{"open", "/dev/pts/ptmx of the container"}, root, "dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, unix.RESOLVE_NO_SYMLINKS)
		p.openTerminal(master, s, -1)
	}
	if err := p.settle(s.Cwd, root, false); err != nil {
		return nil, err
	}
	if err := p.process(s, c.Seccomp, c.Logger); err != nil {
		return nil, err
	}
	if !c.Detach {
		t.dieWithCaller()
	}
	if err := p.program(s); err != nil {
		return nil, err
	}
	return p, t.err
}
