package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Who may not administer the host's network has bridges and rules in a network namespace
// of their own, the street, in which all their containers live as those of root do on
// the host. A program in user space, the uplink, carries what leaves the street, as
// connections of that user; ports of the host are brought in by the process that looks
// after the container. The street is kept by a mount on a file of the directory, so it
// lasts as long as the user's mount namespace.

const (
	streetFile = "street"      // the namespace is mounted here
	uplinkFile = "uplink.json" // what runs for it
)

// uplink is a program that connects a street with the outside.
type uplink struct {
	Program string `json:"program"`
	PID     int    `json:"pid"`
	Started string `json:"started"` // as in /proc/PID/stat: tells a process from a later one
}

// ownsNetwork says whether the network namespace of this process belongs to its user
// namespace, and not to one above.
func ownsNetwork() (bool, error) {
	ns, err := os.Open(currentNamespace)
	if err != nil {
		return false, fmt.Errorf("open network namespace: %w", err)
	}
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	above := errors.Is(err, unix.EPERM)
	if err := errors.Join(ns.Close(), ignore(err, unix.EPERM)); err != nil || above {
		return false, err
	}
	owner := os.NewFile(uintptr(fd), "owner")
	theirs, err := owner.Stat()
	if err := errors.Join(err, owner.Close()); err != nil {
		return false, err
	}
	ours, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return false, err
	}
	return os.SameFile(theirs, ours), nil
}

func ignore(err, one error) error {
	if errors.Is(err, one) {
		return nil
	}
	return err
}

// place is where bridges and rules are: nil is the namespace of this process.
type place = *os.File

// place returns the street of a user who needs one, which with build is made if it is
// not there, and else is reported missing by an error that wraps [fs.ErrNotExist]. The
// caller closes it.
func (n *Networks) place(ctx context.Context, build bool) (place, error) {
	if n.owner {
		return nil, nil
	}
	ns, err := n.openStreet()
	if !errors.Is(err, fs.ErrNotExist) || !build {
		return ns, err
	}
	lock, err := n.lock(ctx, setupFile, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer lock.Close() //nolint:errcheck // only a lock
	if ns, err := n.openStreet(); !errors.Is(err, fs.ErrNotExist) {
		return ns, err
	}
	return n.makeStreet(ctx)
}

// openStreet opens the street that this mount namespace has.
func (n *Networks) openStreet() (*os.File, error) {
	f, err := n.root.Open(streetFile)
	if err != nil {
		return nil, err
	}
	if isNetworkNamespace(f) != nil {
		return nil, errors.Join(fs.ErrNotExist, f.Close()) // the file without the mount
	}
	return f, nil
}

func (n *Networks) makeStreet(ctx context.Context) (*os.File, error) {
	// Of a mount namespace that has gone.
	if err := n.stopUplink(); err != nil {
		return nil, err
	}
	ns, err := newNamespace(func(*os.File) error { return loopbackOn() })
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("%w; a user without privileges needs a user namespace", err)
	}
	if err != nil {
		return nil, err
	}
	if err := n.replace(streetFile, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("make file for network namespace: %w", err), ns.Close())
	}
	file := filepath.Join(n.dir, streetFile)
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), file, "", unix.MS_BIND, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("keep network namespace: %w", err), ns.Close())
	}
	up, err := startUplink(ctx, file)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		n.o.Logger.Warn("containers reach each other and published ports work, but nothing outside is reached: neither pasta (package passt) nor slirp4netns is installed")
	case err != nil:
		// Without the file the next attempt begins anew.
		return nil, errors.Join(err, n.removeStreet(), ns.Close())
	default:
		data, err := json.Marshal(up)
		if err == nil {
			err = n.replace(uplinkFile, data)
		}
		if err != nil {
			return nil, errors.Join(err, up.stop(), n.removeStreet(), ns.Close())
		}
		n.o.Logger.Debug("uplink started", "program", up.Program, "pid", up.PID)
	}
	return ns, nil
}

func loopbackOn() error {
	r, err := openRoute()
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // answers were read
	lo, err := r.link("lo")
	if err != nil {
		return err
	}
	return r.switchOn(lo.index)
}

// removeStreet ends the street; its namespace goes with the last container in it.
func (n *Networks) removeStreet() error {
	if err := n.stopUplink(); err != nil {
		return err
	}
	err := unix.Unmount(filepath.Join(n.dir, streetFile), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release network namespace: %w", err)
	}
	if err := n.root.Remove(streetFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove file of network namespace: %w", err)
	}
	return nil
}

// uplink reads the record of what runs for the street.
func (n *Networks) uplink() (uplink, error) {
	const limit = 4096 // bytes
	var up uplink
	data, err := n.read(uplinkFile, limit)
	if err != nil {
		return up, fmt.Errorf("read record of uplink: %w", err)
	}
	if err := json.Unmarshal(data, &up); err != nil {
		return uplink{}, nil //nolint:nilerr // one that is damaged names nobody
	}
	return up, nil
}

func (n *Networks) stopUplink() error {
	up, err := n.uplink()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := up.stop(); err != nil {
		return fmt.Errorf("stop uplink: %w", err)
	}
	if err := n.root.Remove(uplinkFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of uplink: %w", err)
	}
	return nil
}

// startUplink starts the first program that there is, which goes on when this process
// ends. The error wraps [exec.ErrNotFound] if there is none.
func startUplink(ctx context.Context, file string) (uplink, error) {
	var missing error
	for _, program := range []string{"pasta", "slirp4netns"} {
		path, err := exec.LookPath(program)
		if err != nil {
			missing = err
			continue
		}
		start := startPasta
		if program != "pasta" {
			start = startSlirp
		}
		said, err := complaints(filepath.Dir(file))
		if err != nil {
			return uplink{}, fmt.Errorf("start %s: %w", program, err)
		}
		pid, err := start(ctx, path, file, said)
		if err != nil {
			err = complain(err, said)
		}
		if err := errors.Join(err, said.Close()); err != nil {
			return uplink{}, fmt.Errorf("start %s, which connects the networks of a user without privileges: %w", program, err)
		}
		up := uplink{Program: program, PID: pid}
		if up.Started, err = startTime(pid); err != nil {
			return uplink{}, fmt.Errorf("start %s: it ended: %w", program, err)
		}
		return up, nil
	}
	return uplink{}, missing
}

// complaints is a file for what a program says when it fails: a pipe would last as long as
// the program.
func complaints(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), "complaints"), nil
}

// complain adds to an error what the program said.
func complain(err error, said *os.File) error {
	const most = 4096 // bytes
	text := make([]byte, most)
	k, _ := said.ReadAt(text, 0)
	return fmt.Errorf("%w: %s", err, bytes.TrimSpace(text[:k]))
}

// startPasta returns when the namespace is connected: then pasta goes to the background.
func startPasta(ctx context.Context, path, file string, said *os.File) (int, error) {
	pidFile := file + ".pid"
	// No ports: neither the host's into the street nor the other way round, which would be
	// all of them.
	cmd := exec.CommandContext(ctx, path, "--config-net", "--quiet", "--stderr", "--no-map-gw", "--pid", pidFile,
		"--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none", "--netns", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = []string{}
	cmd.Stderr = said
	if err := cmd.Run(); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(pidFile)
	if err := errors.Join(err, os.Remove(pidFile)); err != nil {
		return 0, err
	}
	return strconv.Atoi(string(bytes.TrimSpace(data)))
}

// startSlirp returns when the namespace is connected, which slirp4netns says on a pipe.
func startSlirp(ctx context.Context, path, file string, said *os.File) (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close() //nolint:errcheck // read to the end
	// Not by the context, which ends before the program is to.
	cmd := exec.Command(path, "--configure", "--mtu=65520", "--disable-host-loopback", "--ready-fd=3", "--netns-type=path", file, "tap0") //nolint:noctx // see above
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = []string{}
	cmd.Stderr = said
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Start()
	if err := errors.Join(err, w.Close()); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		return 0, cmd.Wait()
	}
	pid := cmd.Process.Pid
	return pid, cmd.Process.Release()
}

// startTime returns when a process was started, in clock ticks since boot.
func startTime(pid int) (string, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", err
	}
	const field = 22 - 3 // proc(5): counted from the first after the name, which is the third
	f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(f) <= field {
		return "", fmt.Errorf("stat of process %d: %w", pid, fs.ErrInvalid)
	}
	return string(f[field]), nil
}

// stop ends the program, and waits until it has gone; it is no error if it has already.
func (u uplink) stop() error {
	if u.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(u.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return err
	}
	process := os.NewFile(uintptr(fd), u.Program)
	defer process.Close() //nolint:errcheck // only a handle
	// The handle first: now the number cannot become another's between look and kill.
	if started, err := startTime(u.PID); err != nil || started != u.Started {
		return ignore(err, fs.ErrNotExist)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	const patience = 5 * time.Second
	for end := time.Now().Add(patience); ; {
		k, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(end)/time.Millisecond))
		switch {
		case k > 0:
			return nil
		case err == nil:
			return fmt.Errorf("process %d does not end: %w", u.PID, unix.ETIMEDOUT)
		case !errors.Is(err, unix.EINTR): // by a signal of the Go runtime
			return err
		}
	}
}
