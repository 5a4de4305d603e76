package runtime_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/layerfs/layerfs/runtime"
	"golang.org/x/sys/unix"
)

// TestProcesses finds the processes of a pid namespace, and of one that was made in it.
func TestProcesses(t *testing.T) {
	// As root of a user namespace of its own, so that an ordinary user may, too.
	cmd := exec.Command("sh", "-c", `unshare --pid --fork sh -c 'echo up; exec sleep 1000' & echo up; wait`)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   unix.SIGKILL,
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); errors.Is(err, fs.ErrPermission) {
		t.Skip("needs user namespaces for ordinary users:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }() // it was killed
	defer func() { _ = cmd.Process.Kill() }()
	if _, err := io.ReadFull(out, make([]byte, len("up\nup\n"))); err != nil {
		t.Fatal(err)
	}
	pids, err := runtime.Processes(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// The shell, unshare, and the process of the namespace below.
	if len(pids) != 3 || !slices.Contains(pids, cmd.Process.Pid) || slices.Contains(pids, os.Getpid()) {
		t.Errorf("process %d and those with it are %v", cmd.Process.Pid, pids)
	}
	for _, pid := range pids {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
			t.Error(err)
		}
	}
	if _, err := runtime.Processes(os.Getpid()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("of this process: %v", err)
	}
	if _, err := runtime.Processes(1 << 22); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of none: %v", err)
	}
}
