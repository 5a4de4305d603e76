package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/console"
	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/monitor"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

type execOptions struct {
	interactive, terminal, detach bool
	env, envFiles                 []string
	workdir, user                 string
}

func newExecCmd(a *app) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARG...]",
		Short: "Run one more process in a container",
		Long: `Exec starts a process in a container that runs, with the container's environment, limits
and permissions, and ends with its exit code.`,
		Example: `  layerfs exec -it web sh
  layerfs exec -u 1000 web id`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeContainers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return exitWith(a.runExec(cmd.Context(), o, args[0], args[1:]))
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.interactive, "interactive", "i", false, "pass standard input on to the process")
	f.BoolVarP(&o.terminal, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&o.detach, "detach", "d", false, "leave it running in the background")
	f.StringArrayVarP(&o.env, "env", "e", nil, "environment variable, NAME=VALUE or NAME to pass on (repeatable)")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "file of environment variables, one a line (repeatable)")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working directory (default: the container's)")
	f.StringVarP(&o.user, "user", "u", "", "user and group, NAME|UID[:GROUP|GID] (default: the container's)")
	return cmd
}

func (a *app) runExec(ctx context.Context, o execOptions, word string, command []string) (code int, err error) {
	code = runtime.ExitFailed
	if err := a.enter(); err != nil {
		return code, err
	}
	if err := a.seal(); err != nil {
		return code, err
	}
	if o.terminal && !o.detach {
		if err := a.needTerminal(o.interactive); err != nil {
			return code, err
		}
	}
	s, c, err := a.container(ctx, word)
	if err != nil {
		return code, err
	}
	switch {
	case c.State.Status == container.Paused:
		return code, fmt.Errorf("container %s is paused; unpause it first: %w", c.Name, container.ErrNotActive)
	case c.State.Status != container.Running || c.State.Process.Pid == 0:
		return code, fmt.Errorf("container %s: %w", c.Name, container.ErrNotActive)
	}
	ec, err := a.execConfig(s, c, o, command)
	if err != nil {
		return code, err
	}
	s.Emit("exec_start", &c.Record, map[string]string{"execCommand": strings.Join(command, " ")})
	if o.terminal && !o.detach {
		return a.execTerminal(ctx, &c.Record, ec, o)
	}
	var outs [2]outPipe
	if !o.detach {
		if f, ok := a.stdin.(*os.File); ok && o.interactive {
			ec.Stdin = f
		}
		for i, w := range []io.Writer{a.stdout, a.stderr} {
			if err := outs[i].open(w); err != nil {
				return code, errors.Join(err, outs[0].wait())
			}
		}
		ec.Stdout, ec.Stderr = outs[0].file, outs[1].file
	}
	p, err := startExec(ctx, a.external(&c.Record), ec)
	if err != nil {
		return runtime.StartCode(err), errors.Join(err, outs[0].wait(), outs[1].wait())
	}
	if o.detach {
		return 0, p.Close()
	}
	signals, stop := forwardSignals(func() { _ = p.Signal(syscall.SIGKILL) }) // it has ended already
	defer stop()
	st, err := waitSignalled(p, signals)
	return st.ExitCode, errors.Join(err, outs[0].wait(), outs[1].wait(), p.Close())
}

// waitSignalled passes signals on to a process until it has ended.
func waitSignalled(p monitor.Process, signals <-chan os.Signal) (st runtime.Status, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		st, err = p.Wait()
	}()
	for {
		select {
		case <-done:
			return st, err
		case s := <-signals:
			if n, ok := s.(syscall.Signal); ok && n != syscall.SIGWINCH {
				_ = p.Signal(n) // it has ended already
			}
		}
	}
}

// execConfig is the process to start: the container's own, with what the flags say
// instead.
func (a *app) execConfig(s *container.Store, c *container.Container, o execOptions, command []string) (runtime.ExecConfig, error) {
	pid := c.State.Process.Pid
	ec := runtime.ExecConfig{Pid: pid, Verify: c.State.Process.Verify, Detach: o.detach, Logger: a.logger()}
	data, err := s.ReadSpec(c.ID)
	if err != nil {
		return ec, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return ec, fmt.Errorf("specification of container %s: %w", c.Name, err)
	}
	p := spec.Process
	p.Args, p.Terminal = command, o.terminal
	var env []string
	for _, name := range o.envFiles {
		vars, err := readEnvFile(name)
		if err != nil {
			return ec, err
		}
		env = append(env, vars...)
	}
	for _, e := range o.env {
		v, ok, err := envArg(e)
		if err != nil {
			return ec, err
		}
		if ok {
			env = append(env, v)
		}
	}
	if o.workdir != "" {
		if !path.IsAbs(o.workdir) {
			return ec, usageError{fmt.Errorf("--workdir %q: want an absolute path", o.workdir)}
		}
		p.Cwd = path.Clean(o.workdir)
	}
	if o.user != "" {
		// As the container sees its own files of users now.
		root := runtime.RootPath("/proc/" + strconv.Itoa(pid) + "/root")
		as, err := runtime.SpecFor(root, runtime.Settings{Args: command, User: o.user})
		if err != nil {
			return ec, err
		}
		p.User = as.Process.User
		for _, e := range as.Process.Env {
			if strings.HasPrefix(e, "HOME=") {
				env = append([]string{e}, env...)
			}
		}
	}
	p.Env = mergeEnv(p.Env, env)
	if o.terminal {
		p.Env = mergeEnv([]string{"TERM=xterm"}, p.Env)
		if rows, cols := a.screen(); rows > 0 {
			p.ConsoleSize = &specs.Box{Height: uint(rows), Width: uint(cols)}
		}
	}
	ec.Process, ec.Seccomp = p, spec.Linux.Seccomp
	if c.State.Cgroup != "" {
		if ec.Cgroup, err = cgroup.Load(c.State.Cgroup); err != nil {
			return ec, err
		}
	}
	return ec, nil
}

// mergeEnv returns variables with those of a second list in the place of those of the
// same name.
func mergeEnv(env, over []string) []string {
	at := map[string]int{}
	var out []string
	for _, list := range [][]string{env, over} {
		for _, e := range list {
			name, _, _ := strings.Cut(e, "=")
			if i, ok := at[name]; ok {
				out[i] = e
				continue
			}
			at[name] = len(out)
			out = append(out, e)
		}
	}
	return out
}

// execTerminal runs a process on a terminal of its own, connected with this one.
func (a *app) execTerminal(ctx context.Context, rec *container.Record, ec runtime.ExecConfig, o execOptions) (code int, err error) {
	p, err := startExec(ctx, a.external(rec), ec)
	if err != nil {
		return runtime.StartCode(err), err
	}
	defer join(&err, p.Close)
	theirs := p.Console()
	if tty := a.terminal(); tty != nil && o.interactive {
		c, err := console.ConsoleFromFile(tty)
		if err != nil {
			return runtime.ExitFailed, err
		}
		if err := c.SetRaw(); err != nil {
			return runtime.ExitFailed, fmt.Errorf("set up terminal: %w", err)
		}
		defer join(&err, c.Reset)
		go func() { _, _ = io.Copy(theirs, tty) }() // until this process ends
	}
	resize := make(chan os.Signal, 1)
	signal.Notify(resize, syscall.SIGWINCH)
	defer signal.Stop(resize)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-ended:
				return
			case <-resize:
				if rows, cols := a.screen(); rows > 0 {
					_ = unix.IoctlSetWinsize(int(theirs.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}) // it has ended
				}
			}
		}
	}()
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		_, _ = io.Copy(a.stdout, theirs) // it ends with EIO
	}()
	st, err := p.Wait()
	<-shown
	return st.ExitCode, err
}
