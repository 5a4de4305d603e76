package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/containerd/console"
	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/monitor"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newAttachCmd(a *app) *cobra.Command {
	var noStdin bool
	var keys string
	cmd := &cobra.Command{
		Use:   "attach [flags] CONTAINER",
		Short: "Connect this terminal to a container that runs",
		Long: `Attach shows what a container writes from now on and passes on what is typed, until it
ends or ctrl-p ctrl-q is typed. It ends with the exit code of the container. Signals
are passed on to a container without a terminal.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			parsed, err := parseDetachKeys(keys)
			if err != nil {
				return err
			}
			s, c, err := a.container(ctx, args[0])
			if err != nil {
				return err
			}
			o := attachOptions{stdin: c.Stdin && !noStdin, output: true, terminal: c.Terminal, keys: parsed, signals: !c.Terminal}
			conn, err := dialMonitor(s, c)
			if err != nil {
				return err
			}
			if err := a.hello(conn, o); err != nil {
				return errors.Join(err, conn.Close())
			}
			return exitWith(a.attached(ctx, conn, &c.Record, o))
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not pass on what is typed")
	addDetachKeys(cmd, &keys)
	return cmd
}

// dialMonitor connects to the monitor of a container that runs.
func dialMonitor(s *container.Store, c *container.Container) (*monitor.Conn, error) {
	if !c.State.Active() {
		return nil, fmt.Errorf("attach to %s: %w", c.Name, container.ErrNotActive)
	}
	if !c.State.Detached {
		return nil, fmt.Errorf("attach to %s: it is in the foreground of another command: %w", c.Name, errors.ErrUnsupported)
	}
	conn, err := monitor.Dial(s.Dir(c.ID))
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", c.Name, err)
	}
	return conn, nil
}

// attachOptions say how a command takes part in a container.
type attachOptions struct {
	stdin, output bool
	terminal      bool   // the container has one
	signals       bool   // pass them on
	keys          []byte // that detach
}

// defaultDetachKeys are Docker's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

func addDetachKeys(cmd *cobra.Command, keys *string) {
	cmd.Flags().StringVar(keys, "detach-keys", defaultDetachKeys, "keys that disconnect and leave the container running")
}

// parseDetachKeys reads a list of characters and ctrl-X, where X is a letter or one of
// @ [ \ ] ^ _; an empty one switches detaching off.
func parseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var out []byte
	for k := range strings.SplitSeq(s, ",") {
		letter, ctrl := strings.CutPrefix(strings.ToLower(k), "ctrl-")
		if len(letter) != 1 || ctrl && (letter[0] < '@' || letter[0] > '_') && (letter[0] < 'a' || letter[0] > 'z') {
			return nil, usageError{fmt.Errorf("--detach-keys %q: want characters and ctrl-X, such as %s", s, defaultDetachKeys)}
		}
		if !ctrl {
			out = append(out, k[0])
			continue
		}
		out = append(out, letter[0]&0x1f)
	}
	return out, nil
}

// keyWatcher looks for a sequence of keys in what is typed.
type keyWatcher struct {
	keys []byte
	held int // how many of them came so far; they are not passed on yet
}

// next returns what of p is to be passed on, and whether the sequence is complete.
func (k *keyWatcher) next(p []byte) (pass []byte, detach bool) {
	if len(k.keys) == 0 {
		return p, false
	}
	for _, b := range p {
		if b == k.keys[k.held] {
			if k.held++; k.held == len(k.keys) {
				return pass, true
			}
			continue
		}
		pass = append(pass, k.keys[:k.held]...)
		k.held = 0
		if b == k.keys[0] {
			k.held = 1
			continue
		}
		pass = append(pass, b)
	}
	return pass, false
}

// needTerminal refuses -t with -i where there is no terminal to type on.
func (a *app) needTerminal(interactive bool) error {
	if interactive && a.terminal() == nil {
		return usageError{errors.New("-i -t: standard input is not a terminal; leave out -t")}
	}
	return nil
}

// terminal returns standard input if it is a terminal.
func (a *app) terminal() *os.File {
	f, ok := a.stdin.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return f
}

// screen returns the size of the terminal, zero without one.
func (a *app) screen() (rows, cols uint16) {
	for _, s := range []any{a.stdin, a.stdout} {
		if f, ok := s.(*os.File); ok {
			if w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
				return w.Row, w.Col
			}
		}
	}
	return 0, 0
}

func (a *app) hello(conn *monitor.Conn, o attachOptions) error {
	h := monitor.Hello{Stdin: o.stdin, Output: o.output}
	if o.terminal {
		h.Rows, h.Cols = a.screen()
	}
	return conn.Hello(h)
}

// startError is why a container could not be started, with the exit code for it.
type startError struct {
	code int
	text string
}

func (e *startError) Error() string { return e.text }

func startCode(err error) int {
	var s *startError
	if errors.As(err, &s) {
		return s.code
	}
	return runtime.ExitFailed
}

// startMonitor starts a container by a monitor of its own, and returns the connection to
// it once the container runs.
func (a *app) startMonitor(ctx context.Context, rec *container.Record, o attachOptions) (_ *monitor.Conn, err error) {
	conn, other, err := monitor.Pair()
	if err != nil {
		return nil, err
	}
	err = errors.Join(a.hello(conn, o), a.spawnMonitor(a.ctrs, rec.ID, other), other.Close())
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	n, err := conn.Receive(a.stdout, a.stderr)
	switch {
	case errors.Is(err, io.EOF):
		err = a.monitorFailed(rec)
	case err == nil && !n.Running:
		err = &startError{n.Code, n.Error}
		if rec.Remove {
			a.awaitRemoval(ctx, rec)
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// monitorFailed says what a monitor that ended at once wrote.
func (a *app) monitorFailed(rec *container.Record) error {
	const most = 2000
	text, err := os.ReadFile(a.ctrs.Dir(rec.ID) + "/" + monitorLog)
	if err != nil {
		text = []byte(err.Error())
	}
	return fmt.Errorf("the monitor of container %s ended: %.*s", rec.Name, most, strings.TrimSpace(string(text)))
}

// awaitRemoval waits until the monitor has removed a container.
func (a *app) awaitRemoval(ctx context.Context, rec *container.Record) {
	st, err := a.ctrs.Wait(ctx, rec.ID, func(st *container.State) bool { return !st.Active() && !st.Monitor.Alive() })
	if err == nil && st.Monitor.Pid == 0 {
		// Its last word is written; the directory goes next.
		_, _ = a.ctrs.Wait(ctx, rec.ID, func(*container.State) bool { return false })
	}
}

// startDetached starts a container and leaves it alone.
func (a *app) startDetached(ctx context.Context, rec *container.Record) error {
	conn, err := a.startMonitor(ctx, rec, attachOptions{})
	if err != nil {
		return err
	}
	return conn.Close()
}

// startAttached starts a container and takes part in it until it ends.
func (a *app) startAttached(ctx context.Context, rec *container.Record, o attachOptions) (int, error) {
	conn, err := a.startMonitor(ctx, rec, o)
	if err != nil {
		return startCode(err), err
	}
	return a.attached(ctx, conn, rec, o)
}

// attached takes part in a container that runs, until it ends or the keys are typed. It
// owns the connection.
func (a *app) attached(ctx context.Context, conn *monitor.Conn, rec *container.Record, o attachOptions) (code int, err error) {
	ctx = context.WithoutCancel(ctx) // Ctrl-C is the container's
	defer func() {
		if cerr := conn.Close(); cerr != nil && !errors.Is(cerr, fs.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}()
	if tty := a.terminal(); tty != nil && o.terminal && o.stdin {
		c, err := console.ConsoleFromFile(tty)
		if err != nil {
			return runtime.ExitFailed, err
		}
		if err := c.SetRaw(); err != nil {
			return runtime.ExitFailed, fmt.Errorf("set up terminal: %w", err)
		}
		defer join(&err, c.Reset)
	}
	stop := a.attachSignals(conn, rec, o)
	defer stop()
	detached := make(chan struct{})
	if o.stdin {
		go func() {
			if a.passInput(conn, o) {
				close(detached)
				_ = conn.Close() // it wakes the one who receives
			}
		}()
	}
	for {
		n, err := conn.Receive(a.stdout, a.stderr)
		select {
		case <-detached:
			_, err := fmt.Fprint(a.stderr, "read escape sequence\r\n")
			return 0, err
		default:
		}
		if errors.Is(err, io.EOF) {
			return a.lost(rec)
		}
		if err != nil {
			return runtime.ExitFailed, err
		}
		if n.Running {
			continue
		}
		if rec.Remove {
			a.awaitRemoval(ctx, rec)
		}
		if n.Error != "" {
			return n.Code, errors.New(n.Error)
		}
		return n.Code, nil
	}
}

// lost is how a container ended whose monitor was killed.
func (a *app) lost(rec *container.Record) (int, error) {
	st, err := a.ctrs.State(rec.ID)
	if err != nil {
		return runtime.ExitFailed, err
	}
	if st.Active() {
		return runtime.ExitFailed, fmt.Errorf("container %s: the connection to its monitor ended", rec.Name)
	}
	return st.ExitCode, fmt.Errorf("container %s: %s", rec.Name, st.Error)
}

// passInput passes on what is typed, and tells whether the keys were that detach.
func (a *app) passInput(conn *monitor.Conn, o attachOptions) bool {
	watch := keyWatcher{}
	if o.terminal {
		watch.keys = o.keys
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := a.stdin.Read(buf)
		pass, detach := watch.next(buf[:n])
		if conn.Input(pass) != nil {
			return false // it has ended
		}
		if detach {
			return true
		}
		if err != nil {
			_ = conn.EndInput() // as above
			return false
		}
	}
}

// attachSignals passes signals on as signals, or what the terminal does as its size.
func (a *app) attachSignals(conn *monitor.Conn, rec *container.Record, o attachOptions) (stop func()) {
	in := make(chan os.Signal, 16)
	var catch []os.Signal
	if o.terminal {
		catch = append(catch, syscall.SIGWINCH)
	}
	if o.signals {
		catch = append(catch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT)
	}
	if len(catch) == 0 {
		return func() {}
	}
	signal.Notify(in, catch...)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-in:
				a.attachSignal(conn, rec, s)
			}
		}
	}()
	return func() {
		signal.Stop(in)
		close(done)
	}
}

func (a *app) attachSignal(conn *monitor.Conn, rec *container.Record, s os.Signal) {
	if s == syscall.SIGWINCH {
		if rows, cols := a.screen(); rows > 0 {
			_ = conn.Resize(rows, cols) // it has ended
		}
		return
	}
	n, ok := s.(syscall.Signal)
	if !ok {
		return
	}
	st, err := a.ctrs.State(rec.ID)
	if err == nil {
		err = st.Process.Signal(n)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		a.logger().Warn("signal is not passed on", "error", err)
	}
}
