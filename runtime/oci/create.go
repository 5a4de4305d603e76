package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/cgroup"
)

// Options are about one process that is started.
type Options struct {
	PidFile       string // is written with the process's id; or ""
	ConsoleSocket string // is sent the terminal; or "", without a terminal

	// The streams of a process without a terminal. They are the caller's to close.
	Stdin, Stdout, Stderr *os.File

	// InUserNamespace tells that the caller is the root of a user namespace only. No device
	// opens through a node that was made there, so rules for devices are not needed.
	InUserNamespace bool

	Logger *slog.Logger // nil discards
}

// Create makes a container of a bundle, up to its gate. An id that is taken wraps
// fs.ErrExist. On failure nothing is left of it.
func (s *Store) Create(ctx context.Context, id, bundle string, o Options) (*Container, error) {
	c, p, err := s.create(ctx, id, bundle, o)
	if err != nil {
		return nil, err
	}
	return c, p.Close()
}

// Run creates a container, starts it and waits for its end, after which it is deleted
// unless it is to be kept.
func (s *Store) Run(ctx context.Context, id, bundle string, keep bool, o Options) (status runtime.Status, err error) {
	status.ExitCode = runtime.ExitFailed
	c, p, err := s.create(ctx, id, bundle, o)
	if err != nil {
		return status, err
	}
	after := context.WithoutCancel(ctx)
	if err = c.Start(ctx, o.Logger); err != nil {
		status.ExitCode = runtime.StartCode(err)
	}
	if err != nil || ctx.Err() != nil {
		err = errors.Join(err, p.Signal(unix.SIGKILL))
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Signal(unix.SIGKILL) }) // it has ended otherwise
	ended, waitErr := p.Wait()
	stop()
	if err == nil {
		status = ended
	}
	err = errors.Join(err, waitErr, p.Close())
	if keep && err == nil {
		return status, nil
	}
	return status, errors.Join(err, c.Delete(after, true))
}

func (s *Store) create(ctx context.Context, id, bundle string, o Options) (_ *Container, _ *runtime.Process, err error) {
	if err := checkID(id); err != nil {
		return nil, nil, err
	}
	if bundle, err = filepath.Abs(bundle); err != nil {
		return nil, nil, err
	}
	spec := &specs.Spec{}
	if err := readJSON(filepath.Join(bundle, "config.json"), spec); err != nil {
		return nil, nil, fmt.Errorf("read configuration of bundle %s: %w", bundle, err)
	}
	if spec.Root == nil || spec.Root.Path == "" || spec.Process == nil || spec.Linux == nil {
		return nil, nil, fmt.Errorf("read configuration of bundle %s: it needs root, process and linux: %w", bundle, fs.ErrInvalid)
	}
	if (o.ConsoleSocket != "") != spec.Process.Terminal {
		return nil, nil, fmt.Errorf("create container: a console socket goes with process.terminal, and nothing else does: %w", fs.ErrInvalid)
	}
	root := spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(bundle, root)
	}
	fitMounts(spec, bundle, o.Logger)
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, nil, fmt.Errorf("create container: %w", err)
	}
	c := &Container{dir: filepath.Join(s.root, id), Spec: spec, rec: record{
		ID: id, Bundle: bundle, Root: root, Created: time.Now().UTC(), Owner: os.Geteuid(),
	}}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("container with id %q exists already: %w", id, fs.ErrExist)
		}
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.remove(context.WithoutCancel(ctx)))
		}
	}()
	if err := writeJSON(filepath.Join(c.dir, "config.json"), spec); err != nil {
		return nil, nil, err
	}
	p, err := c.create(ctx, o)
	return c, p, err
}

// fitMounts makes sources of bind mounts absolute: they are relative to the bundle. It
// leaves out, and says so, what other runtimes pass on to the kernel, which does not heed
// it: options with a value on a bind mount, and a label without SELinux.
func fitMounts(spec *specs.Spec, bundle string, logger *slog.Logger) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	for i, m := range spec.Mounts {
		if !runtime.IsBind(m) {
			continue
		}
		if !filepath.IsAbs(m.Source) {
			spec.Mounts[i].Source = filepath.Join(bundle, m.Source)
		}
		spec.Mounts[i].Options = slices.DeleteFunc(m.Options, func(o string) bool {
			// Maps of owners in crun's form are not known, and not passed over either.
			unheeded := strings.Contains(o, "=") && !strings.HasPrefix(strings.TrimPrefix(o, "r"), "idmap=")
			if unheeded {
				logger.Warn("option has no effect on a bind mount", "option", o, "destination", m.Destination)
			}
			return unheeded
		})
	}
	if spec.Linux.MountLabel != "" && !runtime.HaveSELinux() {
		logger.Warn("mounts are not labelled: this machine has no SELinux", "label", spec.Linux.MountLabel)
		spec.Linux.MountLabel = ""
	}
}

func (c *Container) create(ctx context.Context, o Options) (_ *runtime.Process, err error) {
	group, err := c.openGroup(ctx, o)
	if err != nil {
		return nil, err
	}
	spec := *c.Spec
	if group == nil && spec.Linux.Resources != nil {
		linux := *spec.Linux
		linux.Resources = nil // they ask for nothing
		spec.Linux = &linux
	}
	gate, err := c.listen()
	if err != nil {
		return nil, err
	}
	p, err := runtime.Start(ctx, runtime.Config{
		Spec: &spec, Root: runtime.RootPath(c.rec.Root), Cgroup: group, Gate: gate, Detach: true,
		Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, ID: c.rec.ID, Bundle: c.rec.Bundle, Logger: o.Logger,
	})
	if err = errors.Join(err, gate.Close()); err != nil {
		return nil, fmt.Errorf("create container %s: %w", c.rec.ID, err)
	}
	c.rec.Pid, c.rec.Gate = p.Pid(), p.GateSteps()
	if c.rec.StartTime, _, err = process(p.Pid()); err == nil {
		err = handOver(p, o)
	}
	if err == nil {
		err = writeJSON(filepath.Join(c.dir, "state.json"), c.rec)
	}
	if err != nil {
		killErr := p.Signal(unix.SIGKILL)
		_, waitErr := p.Wait()
		return nil, errors.Join(err, killErr, waitErr, p.Close())
	}
	return p, nil
}

// openGroup makes the container's cgroup with its limits. A limit that is not enforced is
// a failure. Who may not make a cgroup, and asks for no limit, runs without: it is nil.
func (c *Container) openGroup(ctx context.Context, o Options) (*cgroup.Group, error) {
	path := c.Spec.Linux.CgroupsPath
	if strings.Contains(path, ":") && !strings.Contains(path, "/") {
		return nil, fmt.Errorf("cgroup path %q is for systemd, which is not asked to make cgroups: %w", path, errors.ErrUnsupported)
	}
	if path == "" {
		path = "layerfs-oci/" + c.rec.ID
	}
	var limits specs.LinuxResources
	if c.Spec.Linux.Resources != nil {
		limits = *c.Spec.Linux.Resources
	}
	if o.InUserNamespace {
		limits.Devices = nil
	}
	g, err := cgroup.Open(ctx, cgroup.Options{Path: path})
	if err != nil {
		if !o.InUserNamespace || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
		if cgroup.Asks(&limits) {
			return nil, fmt.Errorf("linux.resources take a cgroup, which this user was not given the right to make: %w", err)
		}
		if o.Logger != nil {
			o.Logger.Debug("container has no cgroup", "error", err)
		}
		return nil, nil
	}
	c.rec.Cgroup = path
	return g, errors.Join(g.Apply(&limits)...)
}

// listen makes the gate.
func (c *Container) listen() (*os.File, error) {
	dir, err := os.Open(c.dir)
	if err != nil {
		return nil, err
	}
	// The address of a socket is short, and paths may be long.
	l, err := net.Listen("unix", "/proc/self/fd/"+strconv.Itoa(int(dir.Fd()))+"/gate") //nolint:noctx // it does not wait
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make gate of container: %w", err), dir.Close())
	}
	socket, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("make gate of container: it is a %T: %w", l, fs.ErrInvalid), l.Close(), dir.Close())
	}
	socket.SetUnlinkOnClose(false)
	f, err := socket.File()
	if err = errors.Join(err, l.Close(), dir.Close()); err != nil {
		return nil, fmt.Errorf("make gate of container: %w", err)
	}
	return f, nil
}

// handOver gives the caller what it asked for of a process that was started.
func handOver(p *runtime.Process, o Options) error {
	if o.ConsoleSocket != "" {
		if err := sendConsole(o.ConsoleSocket, p.Console()); err != nil {
			return fmt.Errorf("send terminal to %s: %w", o.ConsoleSocket, err)
		}
	}
	if o.PidFile != "" {
		if err := writeFile(o.PidFile, []byte(strconv.Itoa(p.Pid()))); err != nil {
			return fmt.Errorf("write pid file: %w", err)
		}
	}
	return nil
}

// sendConsole sends the master end of a terminal over a Unix socket, as runc does
// (docs/terminals.md there).
func sendConsole(path string, console *os.File) error {
	conn, err := net.Dial("unix", path) //nolint:noctx // a socket of this machine
	if err != nil {
		return err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.Join(fmt.Errorf("connection is a %T: %w", conn, fs.ErrInvalid), conn.Close())
	}
	raw, err := console.SyscallConn()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = unixConn.WriteMsgUnix([]byte("/dev/ptmx"), unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sendErr, conn.Close())
}

// Start lets a created container's program run.
func (c *Container) Start(ctx context.Context, logger *slog.Logger) error {
	if c.status() != specs.StateCreated {
		return fmt.Errorf("start container %s: %w", c.rec.ID, ErrNotCreated)
	}
	dir, err := os.Open(c.dir)
	if err != nil {
		return err
	}
	socket := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/gate"
	config := runtime.Config{Spec: c.Spec, ID: c.rec.ID, Bundle: c.rec.Bundle, Logger: logger}
	err = runtime.OpenGate(ctx, socket, c.rec.Pid, c.rec.Gate, config)
	if err = errors.Join(err, dir.Close(), os.Remove(c.gate())); err != nil {
		return fmt.Errorf("start container %s: %w", c.rec.ID, err)
	}
	return nil
}
