package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/monitor"
	"github.com/spf13/cobra"
)

func newRunCmd(a *app) *cobra.Command {
	var o createOptions
	var detach, dry bool
	var out outputFlags
	var keys string
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Run a process on an image, isolated from this machine",
		Long: `Run makes a container: a writable snapshot of an image with a process on it, in
namespaces of its own. It ends with the exit code of the process. The container stays,
to be looked at, committed or started again, unless --rm is given. COMMAND replaces the
image's own.

With -d the command ends as soon as the process runs, and prints the container's id; a
monitor, a small process for each container, goes on with it, as it does with -t and
with --restart. Without them the container is in the foreground of the command and
ends with it; signals are passed on, and the third Ctrl-C kills.

With --dry-run it prints what it would do, one step a line, and does nothing.`,
		Example: `  layerfs run --rm debian:12 cat /etc/os-release
  layerfs run -it debian:12 bash
  layerfs run -d --name web --restart always -v data:/srv web:1
  layerfs run --name build -i debian:12 sh < script.sh && layerfs commit build built:1`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dry {
				return a.runDry(cmd.Context(), &o, out, args[0], args[1:])
			}
			if cmd.Flags().Changed("format") {
				return usageError{errors.New("--format goes with --dry-run")}
			}
			return exitWith(a.runRun(cmd.Context(), &o, detach, keys, args[0], args[1:]))
		},
	}
	o.add(a, cmd)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "run it in the background and print its id")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print the steps, and do nothing")
	out.addFormat(cmd, "", formatTable, `with --dry-run: "table", "json", or a Go template`)
	addDetachKeys(cmd, &keys)
	return cmd
}

// exitWith makes an exit code of a container the command's.
func exitWith(code int, err error) error {
	var exit *exitError
	if err == nil && code == 0 || errors.As(err, &exit) {
		return err
	}
	return &exitError{code: code, err: err}
}

// runRun returns the exit code of the process, or that of a container that could not be
// started with the reason.
func (a *app) runRun(ctx context.Context, o *createOptions, detach bool, keys, word string, command []string) (int, error) {
	o.detached = detach || o.terminal || o.restart != "no"
	if !detach && o.terminal {
		if err := a.needTerminal(o.interactive); err != nil {
			return runtime.ExitFailed, err
		}
	}
	parsed, err := parseDetachKeys(keys)
	if err != nil {
		return runtime.ExitFailed, err
	}
	if !o.detached {
		if err := a.seal(); err != nil {
			return runtime.ExitFailed, err
		}
	}
	rec, err := a.create(ctx, o, word, command)
	if err != nil {
		return runtime.ExitFailed, err
	}
	if !o.detached {
		return a.runHere(ctx, rec)
	}
	if detach {
		if err := a.startDetached(ctx, rec); err != nil {
			return startCode(err), err
		}
		_, err := fmt.Fprintln(a.stdout, rec.ID)
		return 0, err
	}
	if rec.Stdin && !rec.StdinOnce {
		if err := a.ctrs.Update(ctx, rec.ID, func(r *container.Record) error { r.StdinOnce = true; return nil }); err != nil {
			return runtime.ExitFailed, err
		}
	}
	return a.startAttached(ctx, rec, attachOptions{stdin: rec.Stdin, output: true, terminal: rec.Terminal, keys: parsed, signals: !rec.Terminal})
}

// runHere runs a container in the foreground of this command.
func (a *app) runHere(ctx context.Context, rec *container.Record) (code int, err error) {
	c := monitor.Config{Store: a.ctrs, ID: rec.ID, Start: a.launch, Logger: a.logger()}
	if f, ok := a.stdin.(*os.File); ok && rec.Stdin {
		c.Streams[0] = f
	}
	var outs [2]outPipe
	for i, w := range []io.Writer{a.stdout, a.stderr} {
		if err := outs[i].open(w); err != nil {
			return runtime.ExitFailed, errors.Join(err, outs[0].wait())
		}
	}
	c.Streams[1], c.Streams[2] = outs[0].file, outs[1].file
	// Signals are the process's business, so they must not end the context.
	kill := make(chan struct{})
	signals, stop := forwardSignals(func() { close(kill) })
	defer stop()
	c.Signals, c.Kill = signals, kill
	keep := context.WithoutCancel(ctx)
	st, err := monitor.Run(keep, c)
	err = errors.Join(err, outs[0].wait(), outs[1].wait())
	code = runtime.ExitFailed
	if st != nil {
		code = st.ExitCode
	}
	if rec.Remove {
		c := &container.Container{Record: *rec}
		err = errors.Join(err, a.removeContainer(keep, a.ctrs, c, true))
	}
	return code, err
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
