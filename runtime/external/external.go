package external

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What a bundle holds besides config.json, by name.
const (
	rootName  = "rootfs"  // where the root is attached
	stateName = "runtime" // what the runtime keeps, which is its --root
	pidName   = "runtime.pid"
)

// oldVersion is the version of the OCI specification that a bundle says it is of: runtimes
// refuse those that they do not know, and nothing that is newer is used here.
const oldVersion = "1.0.2"

// maxLog is how much of a runtime's log is read, in bytes.
const maxLog = 64 << 10

// Runtime is a program that runs one container.
type Runtime struct {
	Program string   // its path
	Bundle  string   // absolute; a directory of the container's own, with config.json
	ID      string   // of the container
	Env     []string // of the program
	Logger  *slog.Logger

	orphans orphans
}

// Fit changes a specification for another program that is to carry it out in the bundle:
// files that this process has open are named so that others find them, and the control
// group, which may be nil, is given by path, with its limits. Mounts whose propagation
// would have to leave the runtime's mount namespace wrap errors.ErrUnsupported.
func Fit(spec *specs.Spec, group *cgroup.Group, limits *specs.LinuxResources) error {
	spec.Root.Path, spec.Version = rootName, oldVersion
	const own = "/proc/self/"
	for i, n := range spec.Linux.Namespaces {
		if rest, ok := strings.CutPrefix(n.Path, own); ok {
			spec.Linux.Namespaces[i].Path = "/proc/" + strconv.Itoa(os.Getpid()) + "/" + rest
		}
	}
	for _, m := range spec.Mounts {
		if slices.Contains(m.Options, "shared") || slices.Contains(m.Options, "rshared") {
			return fmt.Errorf("mount on %s with the propagation shared and another runtime; the built-in launcher can: %w", m.Destination, errors.ErrUnsupported)
		}
	}
	if err := ownCapabilities(spec.Process.Capabilities); err != nil {
		return err
	}
	if group == nil {
		return nil
	}
	mounts, err := cgroup.Mounted()
	if err != nil {
		return err
	}
	for _, dir := range group.Dirs() {
		for _, m := range mounts {
			if rest, ok := strings.CutPrefix(dir, m.At+"/"); ok {
				spec.Linux.CgroupsPath, spec.Linux.Resources = "/"+rest, limits
				return nil
			}
		}
	}
	return fmt.Errorf("control group %s: %w", group.Path(), fs.ErrNotExist)
}

// ownCapabilities takes away what this process does not have itself and so no program that
// it starts can give.
func ownCapabilities(c *specs.LinuxCapabilities) error {
	if c == nil {
		return nil
	}
	known := runtime.Capabilities()
	have, err := runtime.OwnCapabilities()
	if err != nil {
		return err
	}
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted, &c.Inheritable, &c.Ambient} {
		*set = slices.DeleteFunc(slices.Clone(*set), func(name string) bool {
			return slices.Contains(known, name) && !slices.Contains(have, name)
		})
	}
	return nil
}

// Start creates the container of the bundle and starts it. The root is a detached mount,
// which stays the caller's. The streams are those of its process, nil is the null device;
// with a terminal all are nil. Whatever was left of an earlier run is deleted first. The
// caller waits for the process, closes it and calls Delete then; after an error nothing
// is left.
func (r *Runtime) Start(ctx context.Context, root int, terminal bool, streams [3]*os.File) (_ *Process, err error) {
	if err := r.reset(ctx); err != nil {
		return nil, err
	}
	args := []string{"create", "--bundle", r.Bundle, "--pid-file", r.Bundle + "/" + pidName}
	r.orphans.start()
	p, err := r.launch(ctx, args, root, terminal, streams, pidName)
	if err != nil {
		return nil, errors.Join(err, r.Delete(context.WithoutCancel(ctx)))
	}
	p.kill = func(s syscall.Signal) error { return r.Kill(context.Background(), s) }
	if err := r.do(ctx, "start", r.ID); err != nil {
		killErr := p.handle.Kill()
		if errors.Is(killErr, os.ErrProcessDone) {
			killErr = nil
		}
		_, waitErr := p.Wait()
		return nil, errors.Join(err, killErr, waitErr, p.Close(), r.Delete(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// reset deletes what is left of a run that nobody ended.
func (r *Runtime) reset(ctx context.Context) error {
	state := filepath.Join(r.Bundle, stateName)
	left, err := os.ReadDir(state)
	if err == nil && len(left) > 0 {
		err = r.Delete(ctx)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, dir := range []string{state, filepath.Join(r.Bundle, rootName)} {
		if merr := os.Mkdir(dir, 0o700); merr != nil && !errors.Is(merr, fs.ErrExist) {
			err = errors.Join(err, merr)
		}
	}
	return err
}

// Exec starts one more process in the container, see Start.
func (r *Runtime) Exec(ctx context.Context, process *specs.Process, streams [3]*os.File) (_ *Process, err error) {
	data, err := json.Marshal(process)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(r.Bundle, "exec-*.json")
	if err != nil {
		return nil, err
	}
	pid := strings.TrimSuffix(filepath.Base(f.Name()), ".json") + ".pid"
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, werr := f.Write(data)
	if err := errors.Join(werr, f.Close()); err != nil {
		return nil, err
	}
	args := []string{"exec", "--detach", "--process", f.Name(), "--pid-file", r.Bundle + "/" + pid}
	const noRoot = -1
	return r.launch(ctx, args, noRoot, process.Terminal, streams, pid)
}

// launch runs a command that leaves a process, whose id it writes to a file.
func (r *Runtime) launch(ctx context.Context, args []string, root int, terminal bool, streams [3]*os.File, pidName string) (_ *Process, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("adopt the container's process: %w", err)
	}
	dir, err := os.OpenRoot(r.Bundle)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	var from *consoleSocket
	if terminal {
		if from, err = listenConsole(r.Bundle); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, from.close()) }()
		args = append(args, "--console-socket", from.name)
	}
	p, err := r.orphans.adopt(func() (*Process, error) {
		if err := r.run(ctx, append(args, r.ID), root, streams); err != nil {
			return nil, err
		}
		return r.left(dir, pidName)
	})
	if err != nil || from == nil {
		return p, err
	}
	if p.console, err = from.receive(); err != nil {
		killErr := p.handle.Kill()
		_, waitErr := p.Wait()
		return nil, errors.Join(err, killErr, waitErr, p.Close())
	}
	return p, nil
}

// left takes hold of the process whose id a runtime wrote.
func (r *Runtime) left(dir *os.Root, pidName string) (*Process, error) {
	text, err := dir.ReadFile(pidName)
	if err != nil {
		return nil, fmt.Errorf("process that %s made: %w", r.Program, err)
	}
	if err := dir.Remove(pidName); err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 1 {
		return nil, fmt.Errorf("process that %s made: %q is no id: %w", r.Program, text, fs.ErrInvalid)
	}
	// The process is this one's to wait for, so the number is still its own.
	handle, err := os.FindProcess(pid)
	if err != nil {
		return nil, fmt.Errorf("take hold of process %d: %w", pid, err)
	}
	return &Process{pid: pid, handle: handle}, nil
}

// Kill sends a signal to the first process of the container.
func (r *Runtime) Kill(ctx context.Context, s syscall.Signal) error {
	return r.do(ctx, "kill", r.ID, strconv.Itoa(int(s)))
}

// Delete has the runtime forget the container, which is killed if it still runs.
func (r *Runtime) Delete(ctx context.Context) error {
	defer r.orphans.end()
	left, err := os.ReadDir(filepath.Join(r.Bundle, stateName))
	if err != nil || len(left) == 0 {
		return err // it made none
	}
	return r.do(ctx, "delete", "--force", r.ID)
}

func (r *Runtime) do(ctx context.Context, args ...string) error {
	const noRoot = -1
	return r.run(ctx, args, noRoot, [3]*os.File{})
}

// run runs a command of the runtime and returns what it wrote to its log as an error if
// it fails.
func (r *Runtime) run(ctx context.Context, args []string, root int, streams [3]*os.File) (err error) {
	// One for each command: several may run at once.
	log, err := os.CreateTemp(r.Bundle, "runtime-*.log")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close(), os.Remove(log.Name())) }()
	all := append([]string{"--root", filepath.Join(r.Bundle, stateName), "--log", log.Name(), "--log-format", "json"}, args...)
	cmd := exec.CommandContext(ctx, r.Program, all...)
	cmd.Dir, cmd.Env = r.Bundle, r.Env
	for i, to := range []func(f *os.File){
		func(f *os.File) { cmd.Stdin = f }, func(f *os.File) { cmd.Stdout = f }, func(f *os.File) { cmd.Stderr = f },
	} {
		if streams[i] != nil {
			to(streams[i])
		}
	}
	if err := apart(func() error {
		if err := r.arrange(root); err != nil {
			return err
		}
		return cmd.Run()
	}); err != nil {
		if why := lastError(log); why != "" {
			err = classify(why)
		}
		return fmt.Errorf("%s %s: %w", filepath.Base(r.Program), args[0], err)
	}
	if r.Logger != nil {
		r.Logger.Debug("runtime", "program", r.Program, "command", args[0])
	}
	return nil
}

// lastError is the last message of level error in the log of a runtime: lines of JSON
// with level and msg, as runc writes them and others do after it.
func lastError(f io.Reader) string {
	data, err := io.ReadAll(io.LimitReader(f, maxLog))
	if err != nil {
		return ""
	}
	why := ""
	for line := range bytes.Lines(data) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			why = entry.Msg
		}
	}
	return why
}

// Error is what a runtime said when it failed.
type Error struct {
	Text string
	Code int // the exit code of a container that was not started for that
}

func (e *Error) Error() string { return e.Text }

// StartCode is the exit code, see [runtime.StartCode].
func (e *Error) StartCode() int { return e.Code }

// classify makes an error of what a runtime wrote. That the program of a container is not
// there, or cannot be executed, is told from the words of the message, for there is
// nothing else; podman looks for the same.
func classify(why string) error {
	e := &Error{Text: why, Code: runtime.ExitFailed}
	text := strings.ToLower(why)
	switch {
	case !strings.Contains(text, "exec") && !strings.Contains(text, "find program"):
	case strings.Contains(text, "not found"), strings.Contains(text, "no such file"):
		e.Code = runtime.ExitNotFound
	case strings.Contains(text, "permission denied"), strings.Contains(text, "format error"):
		e.Code = runtime.ExitNotExecutable
	}
	return e
}
