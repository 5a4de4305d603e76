package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The program runs as three processes. The first waits. The second is the init of a
// process and mount namespace, in which daemons and containers of peers cannot outlive
// it and nothing stays mounted, whatever way the run ends. The third does the work.
const (
	stage     = "LAYERFS_BENCH_STAGE"
	groupName = "LAYERFS_BENCH_GROUP"

	stageInit = "init"
	stageWork = "work"
)

// outer runs the init in its namespaces and removes the control groups when all has ended.
func outer() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("mounting needs root: %w", os.ErrPermission)
	}
	name := fmt.Sprintf("layerfs-bench-%d", os.Getpid())
	// Ctrl-C reaches the whole process group; this process only waits.
	signal.Ignore(os.Interrupt)
	cmd, err := again(stageInit, groupName+"="+name)
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		for range ended {
			if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
				return // it has ended
			}
		}
	}()
	return errors.Join(cmd.Wait(), removeGroups(name))
}

// again is a command that runs this program in another stage.
func again(to string, env ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, os.Args[1:]...) //nolint:noctx // ends by itself when its signals come
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, stage+"=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(append(cmd.Env, stage+"="+to), env...)
	return cmd, nil
}

// initProcess prepares the namespaces, starts the worker, passes signals on, and waits for
// orphans until the worker has ended.
func initProcess() error {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// podman keeps its locks in /dev/shm, by numbers that other stores on the machine use
	// too; runtimes keep states in /run, by names, and would leave those of what is killed.
	for _, dir := range []string{"/dev/shm", "/run"} {
		if err := unix.Mount("layerfs-bench", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	// crun refuses to run where there is an (empty) unified hierarchy beside others.
	if err := unix.Unmount(cgroups+"/unified", unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s/unified: %w", cgroups, err)
	}
	worker, err := again(stageWork)
	if err != nil {
		return err
	}
	worker.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM)
	if err := worker.Start(); err != nil {
		return err
	}
	go func() {
		for range ended {
			_ = worker.Process.Signal(unix.SIGTERM) // fails when it has ended
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case pid == worker.Process.Pid:
			if status.ExitStatus() != 0 {
				return errSaid
			}
			return nil
		}
	}
}

// errSaid is the error of a process that has already said what was wrong.
var errSaid = errors.New("the worker failed")
