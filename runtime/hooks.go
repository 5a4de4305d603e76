package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path"
	goruntime "runtime"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	maxHooks  = 256      // of a kind
	maxOutput = 64 << 10 // bytes of a failed hook's output that its error has
)

// RunHooks runs hooks of the OCI runtime specification in the caller's namespaces, one
// after the other, with the state as their input, and ends at the first that fails. It
// is for the kinds that are not about the start: poststart and poststop.
func RunHooks(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State) error {
	for i, h := range hooks {
		if err := runHook(ctx, h, state); err != nil {
			return fmt.Errorf("run %s hook %d, %s: %w", kind, i, h.Path, err)
		}
	}
	return nil
}

func runHook(ctx context.Context, h specs.Hook, state *specs.State) error {
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if h.Timeout != nil {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // nil would be the caller's
	cmd.Dir = state.Bundle
	cmd.Stdin = bytes.NewReader(input)
	out := &limited{most: maxOutput}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // for what a hook leaves behind
	// One whose time is over is killed with all that it started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		if errors.Is(err, unix.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	if err := cmd.Run(); err != nil {
		return hookError(ctx, err, out.Bytes())
	}
	return nil
}

func hookError(ctx context.Context, err error, output []byte) error {
	if ctx.Err() != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	if output = bytes.TrimSpace(output); len(output) > 0 {
		return fmt.Errorf("%w: %s", err, output)
	}
	return err
}

// limited keeps the start of what is written to it.
type limited struct {
	bytes.Buffer
	most int
}

func (l *limited) Write(b []byte) (int, error) {
	l.Buffer.Write(b[:min(len(b), max(0, l.most-l.Len()))])
	return len(b), nil
}

// checkHooks refuses hooks that cannot be run before anything is done.
func checkHooks(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	for kind, hooks := range map[string][]specs.Hook{
		"prestart": h.Prestart, "createRuntime": h.CreateRuntime, "createContainer": h.CreateContainer, //nolint:staticcheck // tools still use prestart
		"startContainer": h.StartContainer, "poststart": h.Poststart, "poststop": h.Poststop,
	} {
		if len(hooks) > maxHooks {
			return fmt.Errorf("%d %s hooks, at most %d: %w", len(hooks), kind, maxHooks, fs.ErrInvalid)
		}
		for _, one := range hooks {
			if !path.IsAbs(one.Path) {
				return fmt.Errorf("%s hook %q: not an absolute path: %w", kind, one.Path, fs.ErrInvalid)
			}
			if one.Timeout != nil && *one.Timeout <= 0 {
				return fmt.Errorf("%s hook %q: timeout of %d seconds: %w", kind, one.Path, *one.Timeout, fs.ErrInvalid)
			}
		}
	}
	return nil
}

// state is what hooks are told.
func (c *Config) state(status specs.ContainerState, pid int) *specs.State {
	return &specs.State{
		Version: specs.Version, ID: c.ID, Status: status, Pid: pid, Bundle: c.Bundle, Annotations: c.Spec.Annotations,
	}
}

// beforeRoot runs the hooks for a container whose namespaces and mounts are made. To the
// old prestart hooks it is created by then, as crun has it, to the others creating.
func (c *Config) beforeRoot(ctx context.Context, pid int) error {
	h, state := c.Spec.Hooks, c.state(specs.StateCreating, pid)
	if err := RunHooks(ctx, "prestart", h.Prestart, c.state(specs.StateCreated, pid)); err != nil { //nolint:staticcheck // tools still use it
		return err
	}
	if err := RunHooks(ctx, "createRuntime", h.CreateRuntime, state); err != nil {
		return err
	}
	return runInside(ctx, "createContainer", h.CreateContainer, state, true, c.Logger)
}

// beforeProgram runs the hooks for a container whose program is about to be started.
func (c *Config) beforeProgram(ctx context.Context, pid int) error {
	return runInside(ctx, "startContainer", c.Spec.Hooks.StartContainer, c.state(specs.StateCreated, pid), false, c.Logger)
}

// runInside runs hooks in the container's namespaces: with the host's root, which their
// paths are in, or with the container's.
func runInside(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State, hostRoot bool, logger *slog.Logger) error {
	for i, h := range hooks {
		if err := runHookInside(ctx, h, state, hostRoot, logger); err != nil {
			return fmt.Errorf("run %s hook %d, %s: %w", kind, i, h.Path, err)
		}
	}
	return nil
}

func runHookInside(ctx context.Context, h specs.Hook, state *specs.State, hostRoot bool, logger *slog.Logger) (err error) {
	if h.Timeout != nil {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	// Files and no pipes: nobody has to read or write meanwhile.
	in, err := memory("state", input)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := memory("output", nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	target, err := openContainer(state.Pid, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.close()) }()
	p, err := keep(func() (*Process, error) {
		return target.within(func() (*Process, error) {
			return begin(ctx, logger, func(failed int) (*plan, error) {
				return makeHookPlan(h, target, [3]*os.File{in, out, out}, hostRoot, failed)
			})
		})
	})
	if err != nil {
		return fmt.Errorf("start it: %s", err) //nolint:errorlint // a hook that is missing is no missing program of the container
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Signal(unix.SIGKILL) }) // it has ended otherwise
	status, err := p.Wait()
	stop()
	if err = errors.Join(err, p.Close()); err != nil {
		return err
	}
	if status.ExitCode != 0 || ctx.Err() != nil {
		text := make([]byte, maxOutput)
		n, _ := out.ReadAt(text, 0) // as much as there is
		return hookError(ctx, fmt.Errorf("exit code %d", status.ExitCode), text[:n])
	}
	return nil
}

// memory is a file that lies nowhere.
func memory(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, &Error{Step: "make file in memory", Object: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(content, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// makeHookPlan writes the table of a hook in the container's namespaces. It keeps the
// privileges of the caller there.
func makeHookPlan(h specs.Hook, target *container, streams [3]*os.File, hostRoot bool, failed int) (_ *plan, err error) {
	p := newPlan(streams[0], streams[1], streams[2])
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	t := p.table
	if err := p.connect(failed, false); err != nil {
		return nil, err
	}
	t.beginSession()
	host := t.call(step{"open the host's root", ""}, unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	t.call(step{"hide from the container", ""}, unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	target.enter(t)
	if hostRoot {
		t.call(step{"enter the host's root", ""}, unix.SYS_FCHDIR, host)
		t.call(step{"change to the host's root", ""}, unix.SYS_CHROOT, ".")
	}
	root := t.call(step{"open root", ""}, unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err := p.settle("/", root, false); err != nil {
		return nil, err
	}
	t.dieWithCaller()
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	t.try(h.Path, h.Path, t.strings(args), t.strings(h.Env), nil, false)
	return p, t.err
}

// within calls start on the calling thread with children directed into the container's
// pid namespace. The thread is locked to its goroutine.
func (c *container) within(start func() (*Process, error)) (_ *Process, err error) {
	if c.flags&unix.CLONE_NEWPID == 0 {
		return start()
	}
	back, err := visit(c.pidfd, unix.CLONE_NEWPID, "pid")
	if err != nil {
		return nil, err
	}
	defer func() {
		// A user without privileges there may not return: the thread ends with its goroutine.
		if berr := back(); !errors.Is(berr, unix.EPERM) {
			err = errors.Join(err, berr)
		}
	}()
	return start()
}

// visit makes the calling thread, which is locked to its goroutine, join a namespace,
// given by a process or by itself, and returns the way back.
func visit(namespace *os.File, flag int, name string) (back func() error, err error) {
	own, err := os.Open("/proc/thread-self/ns/" + name)
	if err != nil {
		return nil, fmt.Errorf("join %s namespace: %w", name, err)
	}
	if err := unix.Setns(int(namespace.Fd()), flag); err != nil {
		return nil, errors.Join(&Error{Step: "join namespace", Object: name, Err: err}, own.Close())
	}
	return func() error {
		err := unix.Setns(int(own.Fd()), flag)
		if err != nil {
			// The thread is of no more use: locked once more, it ends with its goroutine.
			goruntime.LockOSThread()
			err = &Error{Step: "return to own namespace", Object: name, Err: err}
		}
		return errors.Join(err, own.Close())
	}, nil
}

// enter adds the rows that join the container's namespaces but that of pids.
func (c *container) enter(t *table) {
	if flags := c.flags &^ unix.CLONE_NEWPID; flags != 0 {
		t.call(step{"join the container's namespaces", ""}, unix.SYS_SETNS, int(c.pidfd.Fd()), flags)
	}
	if c.flags&unix.CLONE_NEWUSER != 0 {
		t.call(step{"become root of the user namespace: group", ""}, unix.SYS_SETRESGID, 0, 0, 0)
		t.call(step{"become root of the user namespace: user", ""}, unix.SYS_SETRESUID, 0, 0, 0)
	}
}
