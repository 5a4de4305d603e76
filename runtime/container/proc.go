package container

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Proc is a process that is not mistaken for another one that has its pid later.
type Proc struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks from boot to its start (proc_pid_stat(5), field 22)
	Boot  string `json:"boot"`  // what identifies that boot (/proc/sys/kernel/random/boot_id)
	NS    string `json:"ns"`    // the pid namespace in which the number is meant
}

// here is what this process knows of the machine it runs on.
type here struct{ boot, ns string }

//nolint:gochecknoglobals // read once, the same for as long as the process lives
var readHere = sync.OnceValues(func() (here, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return here{}, fmt.Errorf("identify the boot: %w", err)
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return here{}, fmt.Errorf("identify the pid namespace: %w", err)
	}
	return here{strings.TrimSpace(string(boot)), ns}, nil
})

// Identify returns what identifies a process that runs. It wraps fs.ErrNotExist when
// there is none.
func Identify(pid int) (Proc, error) {
	h, err := readHere()
	if err != nil {
		return Proc{}, err
	}
	start, err := startTime(pid)
	if err != nil {
		return Proc{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return Proc{Pid: pid, Start: start, Boot: h.boot, NS: h.ns}, nil
}

// startTime reads when a process was started; one that has ended and only waits for its
// parent to look is not there.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, syscall.ESRCH) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything.
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	const state, start = 0, 19 // after the name
	if len(f) <= start {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields after the name: %w", pid, len(f), fs.ErrInvalid)
	}
	if f[state] == "Z" || f[state] == "X" {
		return 0, fs.ErrNotExist
	}
	return strconv.ParseUint(f[start], 10, 64)
}

// Elsewhere tells whether the process belongs to another pid namespace of this boot:
// then nothing can be said of it from here.
func (p Proc) Elsewhere() bool {
	h, err := readHere()
	return err != nil || p.Pid != 0 && p.Boot == h.boot && p.NS != h.ns
}

// Alive tells whether the process runs. Of one that is elsewhere it says yes.
func (p Proc) Alive() bool {
	if p.Pid <= 0 {
		return false
	}
	h, err := readHere()
	if err != nil {
		return true
	}
	if p.Boot != h.boot {
		return false
	}
	if p.NS != h.ns {
		return true
	}
	start, err := startTime(p.Pid)
	return err == nil && start == p.Start
}

// Open returns a handle on the process, to be released by its Release. It wraps
// os.ErrProcessDone when the process has ended, and fs.ErrPermission when it is
// elsewhere.
func (p Proc) Open() (*os.Process, error) {
	if p.Elsewhere() {
		return nil, fmt.Errorf("process %d is in another pid namespace: %w", p.Pid, fs.ErrPermission)
	}
	if p.Pid <= 0 {
		return nil, os.ErrProcessDone
	}
	handle, err := os.FindProcess(p.Pid) // a pidfd: what is found stays what is meant
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", p.Pid, err)
	}
	if !p.Alive() {
		return nil, errors.Join(os.ErrProcessDone, handle.Release())
	}
	return handle, nil
}

// Verify fails, with the errors of Open, unless the pid is the process's here and now.
func (p Proc) Verify() error {
	handle, err := p.Open()
	if err != nil {
		return err
	}
	return handle.Release()
}

// Signal sends a signal to the process, see Open for errors.
func (p Proc) Signal(s syscall.Signal) error {
	handle, err := p.Open()
	if err != nil {
		return err
	}
	return errors.Join(handle.Signal(s), handle.Release())
}
