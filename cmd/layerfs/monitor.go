package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/monitor"
	"golang.org/x/sys/unix"
)

// monitorCommand is the first argument of a monitor of its own. It is no command for
// people, and does without the command line's set-up.
const monitorCommand = "container-monitor"

// monitorLog is where a monitor writes what it has to say, in the container's directory.
const monitorLog = "monitor.log"

// A monitor waits most of the time and should cost little then: a small heap, one thread
// that runs Go code, and a collector that comes early.
const (
	monitorThreads = "GOMAXPROCS=1"
	monitorCollect = "GOGC=20"
)

// settling is how long a container that was started may keep its monitor busy before
// that gives memory back.
const settling = time.Second

// spawnMonitor starts the monitor of a container and gives it the other end of a
// connection. It goes on when this process ends.
func (a *app) spawnMonitor(s *container.Store, id container.ID, client *os.File) (err error) {
	log, err := os.OpenFile(s.Dir(id)+"/"+monitorLog, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer join(&err, log.Close)
	args := []string{monitorCommand, a.disk.Root(), string(id)}
	if a.verbose {
		args = append(args, "-v")
	}
	// What this process was started from, also when another program has its name by now.
	program := "/proc/self/exe"
	sealed, err := runtime.SealedProgram()
	if err != nil {
		return err
	}
	if sealed != nil {
		defer join(&err, sealed.Close)
		// Of this process: in the new one the number may be another file's by then.
		program = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), sealed.Fd())
	}
	cmd := exec.Command(program, args...) //nolint:noctx // it is to outlive the command
	cmd.Args[0] = "layerfs"
	cmd.Dir = "/"
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{client}
	cmd.Env = append(sealedEnv(), monitorThreads, monitorCollect)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := a.keepDescriptors(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the monitor of container %s: %w", id.Short(), err)
	}
	return cmd.Process.Release()
}

// keepDescriptors marks what the caller of this command left open, so that no program
// that is executed from here on has it: a monitor would hold the caller's pipes and locks
// for as long as the container lives. Only the lock that keeps the user namespace there is
// for it, too.
func (a *app) keepDescriptors() error {
	const first = 3 // after the standard streams
	var locks []int
	if info, err := os.Stat(usernsLock(a.disk.Root())); err == nil && a.ids != nil {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return err
		}
		for _, e := range open {
			fd, err := strconv.Atoi(e.Name())
			if err != nil || fd < first {
				continue
			}
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if err != nil || flags&unix.FD_CLOEXEC != 0 {
				continue // that of the directory that was read, or this process's own
			}
			its, err := os.Stat("/proc/self/fd/" + e.Name())
			if err == nil && os.SameFile(info, its) {
				locks = append(locks, fd)
			}
		}
	}
	if err := unix.CloseRange(first, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep descriptors from other programs: %w", err)
	}
	for _, fd := range locks {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("pass on the lock of the user namespace: %w", err)
		}
	}
	return nil
}

// runMonitor is the life of a monitor: container-monitor STORE ID [-v].
func runMonitor(args []string) int {
	const least = 2
	if len(args) < least {
		return exitCode(usageError{})
	}
	a := &app{root: args[0], stdout: os.Stdout, stderr: os.Stderr, verbose: len(args) > least}
	ctx := context.Background()
	err := a.monitor(ctx, container.ID(args[1]))
	if cerr := a.close(); err == nil {
		err = cerr
	}
	if err != nil {
		printError(a.stderr, err)
		return exitCode(err)
	}
	return 0
}

func (a *app) monitor(ctx context.Context, id container.ID) error {
	const clientFD = 3
	unix.CloseOnExec(clientFD)
	if err := unix.SetNonblock(clientFD, true); err != nil {
		return fmt.Errorf("connection of the command: %w", err)
	}
	s, err := a.containers(ctx)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	// When the machine is shut down everybody is sent SIGTERM.
	signal.Notify(signals, syscall.SIGTERM)
	// Caught and dropped: what is ignored would be ignored by every program started here.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPIPE)
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
	_, err = monitor.Run(ctx, monitor.Config{Store: s, ID: id, Start: a.launch, Detached: true,
		Client: os.NewFile(clientFD, "client"), Signals: signals, Idle: func() { time.AfterFunc(settling, giveBack) }, Logger: log})
	if errors.Is(err, container.ErrActive) {
		return err
	}
	// Whether it ended or never began: with --rm nothing stays.
	c, rerr := s.Read(id)
	if rerr != nil {
		return errors.Join(err, rerr)
	}
	if c.Remove {
		err = errors.Join(err, a.removeContainer(ctx, s, c, true))
	}
	return err
}

// giveBack returns memory that starting a container took and waiting for it does not
// need: of the heap, and pages of the program's code and constants that are in the page
// cache anyway, and come back from there when they are used again.
func giveBack() {
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return // it costs memory, no more
	}
	// From proc_pid_smaps(5): "address perms offset dev inode pathname", then lines
	// "Name: value". What was written to, as a loader does before it takes the permission
	// to write away, is Anonymous and would be lost.
	var clean [][2]uintptr
	var begin, end uint64
	for line := range bytes.Lines(maps) {
		f := bytes.Fields(line)
		const fields, perms, inode = 6, 1, 4
		if len(f) >= fields && !bytes.HasSuffix(f[0], []byte(":")) {
			from, to, _ := bytes.Cut(f[0], []byte("-"))
			var err1, err2 error
			begin, err1 = strconv.ParseUint(string(from), 16, 64)
			end, err2 = strconv.ParseUint(string(to), 16, 64)
			if err1 != nil || err2 != nil || string(f[inode]) == "0" || bytes.IndexByte(f[perms], 'w') >= 0 {
				end = 0
			}
		}
		if end > 0 && len(f) > 1 && string(f[0]) == "Anonymous:" && string(f[1]) == "0" {
			clean = append(clean, [2]uintptr{uintptr(begin), uintptr(end - begin)})
		}
	}
	// Constants before code, and nothing after it: what runs comes back at once.
	debug.FreeOSMemory()
	for i := len(clean) - 1; i >= 0; i-- {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, clean[i][0], clean[i][1], unix.MADV_DONTNEED)
	}
}
