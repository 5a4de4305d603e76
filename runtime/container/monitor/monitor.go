package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/logs"
)

// Process is the first process of a container; [runtime.Process] is one.
type Process interface {
	Pid() int
	Console() *os.File // the terminal's end to work with, nil without one
	Signal(syscall.Signal) error
	Wait() (runtime.Status, error) // once
	Close() error
}

// Started is a container that runs.
type Started struct {
	Process Process
	Cgroup  string          // path of its control group, "" if it has none
	Network json.RawMessage // what its network is, for the state
	// Ended takes down what was set up for it, once its process has gone. It may be nil.
	Ended func(context.Context) error
	// OutOfMemory tells whether the kernel killed a process of it for that. It may be nil.
	OutOfMemory func() bool
	// Check runs a command in the container and returns its exit code and the beginning
	// of its output. It is nil where health is not checked.
	Check func(ctx context.Context, command []string) (code int, output string, err error)
}

// Start mounts what a container stands on and starts its process with these streams; nil
// ones are the null device, and with a terminal all are nil.
type Start func(ctx context.Context, rec *container.Record, streams [3]*os.File) (*Started, error)

// Config of a monitor. Store, ID and Start are required.
type Config struct {
	Store *container.Store
	ID    container.ID
	Start Start

	// Detached says that this is a process of its own, to which others connect by the
	// socket of the container.
	Detached bool
	// Client is a connection whose other end is there from the beginning, or nil.
	Client *os.File
	// Streams are those of the command in whose foreground the container runs; they stay
	// the caller's. Output goes to them, and to the log if there is to be one.
	Streams [3]*os.File

	// Signals are passed on to the process.
	Signals <-chan os.Signal
	// Kill, when closed, kills it; its restart policy rests then.
	Kill <-chan struct{}
	// Idle is called when the container has been started and there is nothing to do for
	// a while. It may be nil.
	Idle func()

	Logger *slog.Logger // nil discards
}

// Run runs a container until it has ended for good, and returns what then is its state.
// An error says that it could not be started; State.ExitCode has the code for it.
func Run(ctx context.Context, c Config) (_ *container.State, err error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	m := &monitor{Config: c}
	rec, err := m.begin(ctx)
	if err != nil {
		return nil, errors.Join(err, m.refuse(err))
	}
	st, err := m.run(ctx, rec)
	n := Notice{Code: st.ExitCode}
	if err != nil {
		n.Error = err.Error()
	}
	m.hub.close(n)
	return st, errors.Join(err, m.end())
}

type monitor struct {
	Config
	hub    *hub
	socket *listener
	root   *os.Root // of the container's directory
	record interface {
		sink
		Close() error
	}
	wait time.Duration // before the last restart
}

// refuse tells the client that the monitor could not begin.
func (m *monitor) refuse(why error) error {
	if m.Client == nil {
		return nil
	}
	conn := NewConn(m.Client)
	// Whether anybody listens is not known.
	_ = conn.sendJSON(kindState, Notice{Code: runtime.ExitFailed, Error: why.Error()})
	return conn.Close()
}

// begin takes the container for this monitor.
func (m *monitor) begin(ctx context.Context) (_ *container.Record, err error) {
	self, err := container.Identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	ctr, err := m.Store.Read(m.ID)
	if err != nil {
		return nil, err
	}
	rec := &ctr.Record
	_, err = m.Store.Change(ctx, m.ID, func(st *container.State) error {
		maker := st.Monitor.Pid == self.Pid || st.Monitor.Pid == os.Getppid()
		if st.Active() || !maker && st.Monitor.Alive() {
			return fmt.Errorf("start container %s: it runs already: %w", rec.Name, container.ErrActive)
		}
		if st.Status == container.Dead {
			return fmt.Errorf("start container %s: it was removed half-way: %w", rec.Name, container.ErrNotActive)
		}
		*st = container.State{Version: st.Version, Status: st.Status, Monitor: self, Detached: m.Detached,
			Started: st.Started, Finished: st.Finished, ExitCode: st.ExitCode}
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_, cerr := m.Store.Change(context.WithoutCancel(ctx), m.ID, func(st *container.State) error {
				st.Monitor = container.Proc{}
				return nil
			})
			err = errors.Join(err, cerr)
		}
	}()
	m.hub = &hub{log: m.Logger, once: rec.StdinOnce, tty: rec.Terminal}
	if m.root, err = os.OpenRoot(m.Store.Dir(m.ID)); err != nil {
		return nil, err
	}
	if err := m.openLog(rec); err != nil {
		return nil, errors.Join(err, m.root.Close())
	}
	if m.Streams[1] != nil || m.Streams[2] != nil {
		m.hub.local = files(m.Streams)
	}
	if !m.Detached {
		return rec, nil
	}
	if m.socket, err = listen(m.Store.Dir(m.ID)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for clients: %w", err), m.root.Close())
	}
	go m.socket.serve(ctx, m.hub)
	if m.Client != nil {
		conn := NewConn(m.Client)
		m.Client = nil
		return rec, m.hub.attach(conn)
	}
	return rec, nil
}

// files are the streams of a command.
type files [3]*os.File

func (f files) Write(s logs.Stream, p []byte) error {
	to := f[1]
	if s == logs.Stderr {
		to = f[2]
	}
	if to == nil {
		return nil
	}
	_, err := to.Write(p)
	return err
}

func (m *monitor) openLog(rec *container.Record) error {
	if rec.Log.Driver != container.LogJSON || m.direct(rec) {
		return nil
	}
	w, err := logs.NewWriter(m.root, logs.Options{MaxSize: rec.Log.MaxSize, MaxFiles: rec.Log.MaxFiles})
	if err != nil {
		return err
	}
	m.record = w
	if rec.Log.NonBlocking {
		m.record = logs.NewRing(w, rec.Log.BufferSize)
	}
	m.hub.record = m.record
	return nil
}

// direct tells whether the process is given the streams of the command as they are: when
// nobody can come to read its log, since both end together.
func (m *monitor) direct(rec *container.Record) bool { return !m.Detached && rec.Remove }

func (m *monitor) end() error {
	var errs []error
	if m.socket != nil {
		errs = append(errs, m.socket.close())
	}
	if m.record != nil {
		errs = append(errs, m.record.Close())
	}
	return errors.Join(append(errs, m.root.Close())...)
}

// run starts the container, and again as often as its policy says.
func (m *monitor) run(ctx context.Context, rec *container.Record) (*container.State, error) {
	for restarts := 0; ; restarts++ {
		began := time.Now()
		st, again, err := m.once(ctx, rec, restarts)
		if err != nil || !again {
			return st, err
		}
		// Who is attached is so to one run, as in Docker.
		m.hub.dismiss(Notice{Code: st.ExitCode})
		if st.Status != container.Restarting {
			restarts, m.wait = -1, 0 // somebody asked for it
		} else {
			due, err := m.delay(ctx, rec, time.Since(began))
			if err != nil {
				return st, err
			}
			if !due {
				return m.settled(ctx, rec)
			}
		}
		if fresh, err := m.Store.Read(m.ID); err == nil {
			rec = &fresh.Record
		}
	}
}

// delay waits before a restart, and tells whether there is to be one still.
func (m *monitor) delay(ctx context.Context, rec *container.Record, ran time.Duration) (bool, error) {
	m.wait = rec.Restart.Delay(m.wait, ran)
	wctx, cancel := context.WithTimeout(ctx, m.wait)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-m.Kill:
			cancel()
		case <-stop:
		}
	}()
	st, err := m.Store.Wait(wctx, m.ID, func(st *container.State) bool { return st.Stopped })
	select {
	case <-m.Kill:
		return false, nil
	default:
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return true, nil
	}
	return err == nil && !st.Stopped, err
}

// settled ends a container that waited for its next start.
func (m *monitor) settled(ctx context.Context, rec *container.Record) (*container.State, error) {
	st, err := m.Store.Change(context.WithoutCancel(ctx), m.ID, func(st *container.State) error {
		st.Status, st.Monitor = container.Exited, container.Proc{}
		return nil
	})
	if err == nil {
		m.Store.Emit("stop", rec, nil)
	}
	return st, err
}

// once starts the container, waits for its end and writes down how it was. It tells
// whether it is to be started again, at once or, when it is Restarting, after a while.
func (m *monitor) once(ctx context.Context, rec *container.Record, restarts int) (_ *container.State, again bool, err error) {
	io, err := m.connect(rec)
	if err != nil {
		return m.notStarted(ctx, rec, restarts, err)
	}
	started, err := m.Start(ctx, rec, io.theirs)
	io.give()
	if err != nil {
		m.hub.clearInput()
		io.wait()
		return m.notStarted(ctx, rec, restarts, err)
	}
	p := started.Process
	if console := p.Console(); console != nil {
		io.terminal(console)
	}
	id, err := container.Identify(p.Pid())
	if err != nil {
		id = container.Proc{Pid: p.Pid()} // it has ended already
	}
	var health *container.HealthState
	if rec.Health != nil && started.Check != nil {
		health = &container.HealthState{Status: container.HealthStarting}
	}
	keep := context.WithoutCancel(ctx)
	stopped := false
	_, err = m.Store.Change(keep, m.ID, func(st *container.State) error {
		st.Status, st.Process, st.Cgroup, st.Network = container.Running, id, started.Cgroup, started.Network
		st.Started, st.Finished, st.Restarts, st.Health = time.Now().UTC(), time.Time{}, restarts, health
		st.ExitCode, st.Error, st.OOMKilled = 0, "", false
		// What was asked for while there was no process: the start is this one.
		st.StartAgain, stopped = false, st.Stopped
		return nil
	})
	if err != nil || stopped {
		err = errors.Join(err, p.Signal(syscall.SIGKILL))
	}
	m.Store.Emit("start", rec, nil)
	// A client that has much output to take already is told after that; it keeps nobody.
	var telling sync.WaitGroup
	telling.Go(func() { m.hub.notify(Notice{Running: true}) })

	checks, stopChecks := context.WithCancel(ctx)
	var checking sync.WaitGroup
	if health != nil {
		checking.Go(func() { m.checkHealth(checks, rec, started) })
	}
	if m.Idle != nil {
		m.Idle()
	}
	status, killed, werr := m.follow(p)
	stopChecks()
	checking.Wait()
	io.finish()
	telling.Wait()
	m.hub.clearInput()
	oom := started.OutOfMemory != nil && started.OutOfMemory()
	err = errors.Join(err, werr, p.Close())
	if started.Ended != nil {
		if eerr := started.Ended(keep); eerr != nil {
			m.Logger.Error("something of the container is left", "error", eerr)
		}
	}
	if fresh, err := m.Store.Read(m.ID); err == nil {
		rec = &fresh.Record // it may have another name by now
	}
	if oom {
		m.Store.Emit("oom", rec, nil)
	}
	m.Store.Emit("die", rec, map[string]string{"exitCode": strconv.Itoa(status.ExitCode)})
	return m.ended(ctx, restarts, status, oom, killed, err)
}

// ended writes down how a run ended and decides what comes.
func (m *monitor) ended(ctx context.Context, restarts int, status runtime.Status, oom, killed bool, err error) (*container.State, bool, error) {
	policy := container.RestartPolicy{Mode: container.RestartNo}
	if fresh, rerr := m.Store.Read(m.ID); rerr == nil {
		policy = fresh.Restart // it may have been changed meanwhile
	}
	again := false
	st, cerr := m.Store.Change(context.WithoutCancel(ctx), m.ID, func(st *container.State) error {
		st.Process, st.Finished = container.Proc{}, time.Now().UTC()
		st.ExitCode, st.OOMKilled, st.Cgroup, st.Network = status.ExitCode, oom, "", nil
		switch {
		case err == nil && st.StartAgain:
			again = true
			st.StartAgain, st.Stopped, st.Status = false, false, container.Running
		case err == nil && policy.Again(status.ExitCode, restarts, st.Stopped || killed):
			again = true
			st.Status = container.Restarting
		default:
			st.Status, st.Monitor = container.Exited, container.Proc{}
		}
		return nil
	})
	if st == nil {
		st = &container.State{Status: container.Exited, ExitCode: status.ExitCode}
	}
	return st, again && cerr == nil, errors.Join(err, cerr)
}

// notStarted writes down that the container could not be started. The first time it
// goes back to what it was; a restart that fails is an end like another, which its policy
// judges.
func (m *monitor) notStarted(ctx context.Context, rec *container.Record, restarts int, why error) (*container.State, bool, error) {
	code := runtime.StartCode(why)
	again := restarts > 0 && rec.Restart.Again(code, restarts, false)
	st, err := m.Store.Change(context.WithoutCancel(ctx), m.ID, func(st *container.State) error {
		st.ExitCode, st.Error = code, why.Error()
		st.Process = container.Proc{}
		switch {
		case again && !st.Stopped:
			st.Status = container.Restarting
		case restarts > 0:
			st.Status, st.Monitor, again = container.Exited, container.Proc{}, false
		default:
			st.Monitor, again = container.Proc{}, false
			if st.Active() { // it was to be started again at once
				st.Status = container.Exited
			}
		}
		return nil
	})
	if again {
		m.Logger.Error("container could not be started again", "error", why)
		why = nil
	}
	if st == nil {
		st = &container.State{Status: container.Created, ExitCode: code}
	}
	return st, again, errors.Join(why, err)
}

// follow passes signals on until the process has ended.
func (m *monitor) follow(p Process) (status runtime.Status, killed bool, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		status, err = p.Wait()
	}()
	signals, kill := m.Signals, m.Kill
	for {
		select {
		case <-done:
			return status, killed, err
		case s, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			if n, ok := s.(syscall.Signal); ok && n != syscall.SIGCHLD && n != syscall.SIGURG {
				if err := p.Signal(n); err != nil {
					m.Logger.Warn("signal is not passed on", "signal", s.String(), "error", err)
				}
			}
		case <-kill:
			kill, killed = nil, true
			if err := p.Signal(syscall.SIGKILL); err != nil {
				m.Logger.Error("container is not killed", "error", err)
			}
		}
	}
}
