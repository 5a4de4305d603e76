package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/spf13/cobra"
)

type runOptions struct {
	mount       mountOptions
	remove      bool
	interactive bool
	entrypoint  string
	env         []string
	workdir     string
	user        string
	hostname    string
}

func newRunCmd(a *app) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Run a process on an image, isolated from this machine",
		Long: `Run mounts a writable snapshot of an image, starts a process on it in namespaces of its
own and ends with the exit code of the process. The snapshot stays, to be looked at or
committed, unless --rm is given. COMMAND replaces the image's own; signals are passed on,
and the third Ctrl-C kills.`,
		Example: `  layerfs run --rm debian:12 cat /etc/os-release
  layerfs run --name build -i debian:12 sh < script.sh && layerfs commit build built:1`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runRun(cmd.Context(), o, args[0], args[1:])
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // flags after the image are the command's
	addDriverFlag(cmd, &o.mount.driver)
	f.StringVar(&o.mount.name, "name", "", "name of the snapshot (default: made from the image's name)")
	f.StringArrayVarP(&o.mount.labels, "label", "l", nil, "label of the snapshot, KEY=VALUE (repeatable)")
	f.BoolVar(&o.mount.readOnly, "read-only", false, "mount the root file system read-only")
	f.BoolVar(&o.remove, "rm", false, "remove the snapshot at the end")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "pass standard input on to the process")
	f.StringVar(&o.entrypoint, "entrypoint", "", "program to run instead of the image's entrypoint")
	f.StringArrayVarP(&o.env, "env", "e", nil, "environment variable, NAME=VALUE or NAME to pass on (repeatable)")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working directory")
	f.StringVarP(&o.user, "user", "u", "", "user and group, NAME|UID[:GROUP|GID]")
	f.StringVar(&o.hostname, "hostname", "", "host name (default: the snapshot's name)")
	return cmd
}

func (a *app) runRun(ctx context.Context, o runOptions, word string, command []string) error {
	code, err := a.runContainer(ctx, o, word, command)
	var exit *exitError
	if err == nil && code == 0 || errors.As(err, &exit) {
		return err
	}
	return &exitError{code: code, err: err}
}

// runContainer returns the exit code of the process, or that of a container that could
// not be started with the reason.
func (a *app) runContainer(ctx context.Context, o runOptions, word string, command []string) (code int, err error) {
	code = runtime.ExitFailed
	if err := a.enter(); err != nil {
		return code, err
	}
	s, err := a.store(ctx)
	if err != nil {
		return code, err
	}
	drivers, err := a.candidates(o.mount.driver)
	if err != nil {
		return code, err
	}
	o.mount.ephemeral = o.remove
	rec, created, err := a.snapshotFor(ctx, s, o.mount, word)
	if err != nil {
		return code, err
	}
	if created && o.remove {
		defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx), rec.Key)) }()
	}
	img := &image.Config{}
	if rec.Image != "" {
		parent, err := a.parentOf(ctx, rec)
		if err != nil {
			return code, err
		}
		img = parent.Config
	}
	settings, err := o.settings(img, rec.Key, command)
	if err != nil {
		return code, err
	}
	unlock, err := s.Claim(ctx, rec.Key)
	if err != nil {
		return code, err
	}
	// From here on the snapshot is in use until the mount has gone, which nobody else
	// can see: it is in the container's mount namespace only.
	use, err := s.Use(rec.Key)
	unlock()
	if err != nil {
		return code, err
	}
	defer join(&err, use.Close)
	m, err := a.openMount(ctx, s, drivers, rec.Key, o.mount.readOnly)
	if err != nil {
		return code, err
	}
	defer join(&err, m.Close)
	return a.start(ctx, o, m, settings)
}

// detached is a mount that can be handed to a container without being attached here.
type detached interface{ FD() int }

func (a *app) start(ctx context.Context, o runOptions, m unionfs.Mount, settings runtime.Settings) (int, error) {
	d, ok := m.(detached)
	if !ok {
		return runtime.ExitFailed, fmt.Errorf("run: the driver gives no detached mounts: %w", errors.ErrUnsupported)
	}
	root := runtime.RootFD(d.FD())
	spec, err := runtime.SpecFor(root, settings)
	if err != nil {
		return runtime.ExitFailed, err
	}
	spec.Root.Readonly = o.mount.readOnly
	fitNamespace(spec, a.ids)
	// Signals are the process's business, so they must not end the context.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	signals, stop := forwardSignals(cancel)
	defer stop()
	c := runtime.Config{Spec: spec, Root: root, Signals: signals, Grace: -1, Logger: a.logger()}
	if f, ok := a.stdin.(*os.File); ok && o.interactive {
		c.Stdin = f
	}
	var outs [2]outPipe
	for i, w := range []io.Writer{a.stdout, a.stderr} {
		if err := outs[i].open(w); err != nil {
			return runtime.ExitFailed, errors.Join(err, outs[0].wait())
		}
	}
	c.Stdout, c.Stderr = outs[0].file, outs[1].file
	st, err := runtime.Run(ctx, c)
	if errors.Is(err, context.Canceled) {
		err = nil // killed on request: its code says so
	}
	return st.ExitCode, errors.Join(err, outs[0].wait(), outs[1].wait())
}

// outPipe gives a process a file to write to whatever the writer is: a file as it is,
// and a pipe to anything else.
type outPipe struct {
	file *os.File
	done chan error // nil without a pipe
}

func (o *outPipe) open(w io.Writer) error {
	if f, ok := w.(*os.File); ok {
		o.file = f
		return nil
	}
	r, file, err := os.Pipe()
	if err != nil {
		return err
	}
	o.file, o.done = file, make(chan error, 1)
	go func() {
		_, err := io.Copy(w, r)
		o.done <- errors.Join(err, r.Close())
	}()
	return nil
}

// wait ends the pipe and returns when all was copied.
func (o *outPipe) wait() error {
	if o.done == nil {
		return nil
	}
	return errors.Join(o.file.Close(), <-o.done)
}

// forwardSignals passes signals on; the third that asks to end kills.
func forwardSignals(kill func()) (<-chan os.Signal, func()) {
	const most = 3
	in, out := make(chan os.Signal, 16), make(chan os.Signal, 16)
	done := make(chan struct{})
	signal.Notify(in, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGCONT)
	go func() {
		asked := 0
		for {
			select {
			case <-done:
				return
			case sig := <-in:
				if sig == syscall.SIGINT || sig == syscall.SIGTERM {
					if asked++; asked == most {
						kill()
					}
				}
				select {
				case out <- sig:
				default: // the process takes none
				}
			}
		}
	}()
	return out, func() {
		signal.Stop(in)
		close(done)
	}
}

// settings are what the image says of the process and what the flags say instead.
func (o *runOptions) settings(img *image.Config, key snapshot.Key, command []string) (runtime.Settings, error) {
	p := img.Config
	s := runtime.Settings{Cwd: p.WorkingDir, User: p.User, Hostname: o.hostname}
	s.Env = append(s.Env, p.Env...)
	for _, e := range o.env {
		v, ok, err := envArg(e)
		if err != nil {
			return s, err
		}
		if ok {
			s.Env = append(s.Env, v)
		}
	}
	entrypoint, cmd := []string(p.Entrypoint), []string(p.Cmd)
	if o.entrypoint != "" {
		entrypoint, cmd = []string{o.entrypoint}, nil
	}
	if len(command) > 0 {
		cmd = command
	}
	s.Args = append(append(s.Args, entrypoint...), cmd...)
	if len(s.Args) == 0 {
		return s, usageError{errors.New("the image names no command; give one")}
	}
	if o.workdir != "" {
		s.Cwd = o.workdir
	}
	if o.user != "" {
		s.User = o.user
	}
	if s.Hostname == "" {
		s.Hostname = fmt.Sprintf("%.63s", key) // as long as Linux lets a host name be in DNS
	}
	return s, nil
}
