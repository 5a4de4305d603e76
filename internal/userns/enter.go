package userns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Space is the namespaces of one user for one purpose, which its lock file names.
type Space struct {
	// File is the lock file. It is made if it is not there; its directory is not.
	File string
	// Keeper is the arguments, the name of the program first, with which this program
	// calls [Keep].
	Keeper []string
	// Single leaves subordinate ids out.
	Single bool
	Logger *slog.Logger // nil discards
}

// Command is what to run inside.
type Command struct {
	Args []string // the name of the program and its arguments; the program is this one
	Env  []string
	Dir  string // where to start; "" is the root directory
	// Signals are passed on to the process. It may be nil, and may be closed.
	Signals <-chan os.Signal
}

// maxTries limits how often Run looks for a keeper that has just ended.
const maxTries = 8

// Run executes this program anew inside the namespaces, with the standard streams of
// this process, and waits for its end. It returns the exit code, 128 plus the number of
// the signal if one ended it; an error says that it did not run. The process is killed if
// this one dies.
func (s Space) Run(c Command) (code int, err error) {
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	lock, err := openLock(s.File)
	if err != nil {
		return codeFailed, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := flock(lock, unix.LOCK_SH); err != nil {
		return codeFailed, fmt.Errorf("lock %s: %w", s.File, err)
	}
	ns, err := s.namespaces(lock)
	if err != nil {
		return codeFailed, err
	}
	// The kernel kills the child when the thread that made it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := ns.start(lock, c)
	if cerr := ns.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return codeFailed, fmt.Errorf("enter user namespace: %w", err)
	}
	done := make(chan struct{})
	go forward(pid, c.Signals, done)
	code, err = wait(pid)
	close(done)
	return code, err
}

func forward(pid int, signals <-chan os.Signal, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case s, ok := <-signals:
			if !ok {
				return
			}
			if number, ok := s.(syscall.Signal); ok {
				_ = unix.Kill(pid, number) // one that has just ended needs none
			}
		}
	}
}

// Find returns the process id of the keeper; 0 where there is none.
func (s Space) Find() (pid int, err error) {
	lock, err := os.OpenFile(s.File, os.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return holder(lock)
}

// namespaces are handles of the two namespaces.
type namespaces struct{ user, mount *os.File }

func (n namespaces) close() error { return errors.Join(n.user.Close(), n.mount.Close()) }

// namespaces opens those of the keeper, which is started if there is none. The caller
// holds the lock, so the keeper stays.
func (s Space) namespaces(lock *os.File) (namespaces, error) {
	for range maxTries {
		pid, err := holder(lock)
		if err != nil {
			return namespaces{}, err
		}
		if pid == 0 {
			if err := s.startKeeper(); err != nil {
				return namespaces{}, fmt.Errorf("make user namespace: %w", err)
			}
			continue
		}
		dir := "/proc/" + strconv.Itoa(pid) + "/ns/"
		var ns namespaces
		if ns.user, err = os.Open(dir + "user"); err == nil {
			if ns.mount, err = os.Open(dir + "mnt"); err != nil {
				err = errors.Join(err, ns.user.Close())
			}
		}
		// Were it another process by now, the lock would be gone or another's.
		again, herr := holder(lock)
		if again == pid && err == nil {
			return ns, nil
		}
		if err == nil {
			err = ns.close()
		}
		if again == pid || herr != nil {
			return namespaces{}, errors.Join(fmt.Errorf("open namespaces of process %d: %w", pid, err), herr)
		}
	}
	return namespaces{}, fmt.Errorf("the process that keeps the user namespace ended %d times: %w", maxTries, unix.EAGAIN)
}

// start makes the process inside.
func (n namespaces) start(lock *os.File, c Command) (int, error) {
	exe, err := os.OpenFile("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = exe.Close() }() // a handle without content
	argv, err := strings0(c.Args)
	if err != nil {
		return 0, err
	}
	envp, err := strings0(c.Env)
	if err != nil {
		return 0, err
	}
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	where, err := unix.BytePtrFromString(dir)
	if err != nil {
		return 0, fmt.Errorf("directory %q: %w", dir, err)
	}
	program, err := unix.BytePtrFromString(self(exe))
	if err != nil {
		return 0, err
	}
	execute := call{what: "execute this program", nr: unix.SYS_EXECVE, args: [5]uintptr{address(program), address(&argv[0]), address(&envp[0])}, keep: []any{program, argv, envp}}
	if *program == 0 {
		execute = call{what: "execute this program", nr: unix.SYS_EXECVEAT, args: [5]uintptr{exe.Fd(), address(program), address(&argv[0]), address(&envp[0]), unix.AT_EMPTY_PATH},
			keep: []any{exe, program, argv, envp}}
	}
	return fork([]call{
		{what: "pass lock on", nr: unix.SYS_FCNTL, args: [5]uintptr{lock.Fd(), unix.F_SETFD, 0}, keep: lock},
		{what: "join user namespace", nr: unix.SYS_SETNS, args: [5]uintptr{n.user.Fd(), unix.CLONE_NEWUSER}, keep: n},
		{what: "join mount namespace", nr: unix.SYS_SETNS, args: [5]uintptr{n.mount.Fd(), unix.CLONE_NEWNS}},
		{what: "enter directory " + dir, nr: unix.SYS_CHDIR, args: [5]uintptr{address(where)}, keep: where},
		// A change of credentials clears this, so it comes after.
		{what: "die with the caller", nr: unix.SYS_PRCTL, args: [5]uintptr{unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL)}},
		execute,
	})
}

// self returns the path of the program in exe, by which it is of the mount namespace
// where it is executed: a handle would be of the one outside, and nothing inside could
// bind it. It is "" where the path leads to another file by now, as after an upgrade.
func self(exe *os.File) string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	have, err := exe.Stat()
	if err != nil {
		return ""
	}
	found, err := os.Stat(path)
	if err != nil || !os.SameFile(have, found) {
		return ""
	}
	return path
}

// startKeeper starts a keeper and waits until it holds its lock, or another one does.
func (s Space) startKeeper() error {
	mapping, why := Allowed()
	if s.Single {
		mapping.UIDs, mapping.GIDs, why = mapping.UIDs[:1], mapping.GIDs[:1], nil
	}
	if why != nil {
		s.Logger.Warn("there will be one user in the user namespace", "because", why)
	}
	err := s.startKeeperWith(mapping)
	if err == nil || mapping.Single() {
		return err
	}
	s.Logger.Warn("there will be one user in the user namespace", "because", err)
	mapping.UIDs, mapping.GIDs = mapping.UIDs[:1], mapping.GIDs[:1]
	return s.startKeeperWith(mapping)
}

func (s Space) startKeeperWith(m Mapping) (err error) {
	// The keeper reads the end of the first pipe when its ids are there, and closes the
	// other when it holds its lock.
	goR, goW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, goR.Close(), goW.Close()) }()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, readyR.Close()) }()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: s.Keeper, Dir: "/", ExtraFiles: []*os.File{goR, readyW}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, Setsid: true}
	if m.Single() {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: int(m.UIDs[0].Outside), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: int(m.GIDs[0].Outside), Size: 1}}
	}
	err = cmd.Start()
	if cerr := readyW.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("start the process that keeps it (are user namespaces allowed here?): %w", err)
	}
	if !m.Single() {
		if err := writeMappings(cmd.Process.Pid, m); err != nil {
			return errors.Join(err, cmd.Process.Kill(), ended(cmd))
		}
	}
	if _, err := goW.Write([]byte{0}); err != nil {
		return errors.Join(err, ended(cmd))
	}
	switch _, err := io.ReadFull(readyR, make([]byte, 1)); {
	case errors.Is(err, io.EOF):
		// It ended: with 0 if another one was faster.
		return cmd.Wait()
	case err != nil:
		return err
	}
	return cmd.Process.Release()
}

// ended reaps a keeper whose end was asked for.
func ended(cmd *exec.Cmd) error {
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		return err
	}
	return nil
}

// writeMappings lets the programs of the system that are allowed to, map the ids of a
// process that is in a new user namespace.
func writeMappings(pid int, m Mapping) error {
	ctx := context.Background() // they take a millisecond
	run := func(program string, ranges []Range) error {
		args := []string{strconv.Itoa(pid)}
		for _, r := range ranges {
			for _, n := range []int64{r.Inside, r.Outside, r.Count} {
				args = append(args, strconv.FormatInt(n, 10))
			}
		}
		if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", program, err, out)
		}
		return nil
	}
	groups := make(chan error, 1)
	go func() { groups <- run("newgidmap", m.GIDs) }()
	return errors.Join(run("newuidmap", m.UIDs), <-groups)
}
