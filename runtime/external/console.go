package external

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// consoleSocket is where a runtime sends the master end of a terminal to: a Unix socket
// in the bundle, which the runtime, whose working directory the bundle is, is told by its
// name alone, since the path of a socket must be short.
type consoleSocket struct {
	dir  *os.File
	name string
	fd   int
}

func listenConsole(bundle string) (_ *consoleSocket, err error) {
	dir, err := os.Open(bundle)
	if err != nil {
		return nil, err
	}
	c := &consoleSocket{dir: dir, fd: -1, name: fmt.Sprintf("console-%d", os.Getpid())}
	if err := os.Remove(filepath.Join(bundle, c.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, dir.Close())
	}
	c.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Bind(c.fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + c.name})
	}
	if err == nil {
		err = unix.Listen(c.fd, 1)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for a terminal: %w", err), c.close())
	}
	return c, nil
}

// receive returns the terminal that was sent. It is called when the runtime has returned,
// so what it sent is there.
func (c *consoleSocket) receive() (*os.File, error) {
	failed := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("receive the container's terminal: %w", err)
	}
	conn, _, err := unix.Accept4(c.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return failed(err)
	}
	defer unix.Close(conn) //nolint:errcheck // nothing is written to it
	name, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(conn, name, control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return failed(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return failed(err)
	}
	if len(messages) != 1 {
		return failed(fmt.Errorf("%d control messages: %w", len(messages), fs.ErrInvalid))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return failed(err)
	}
	if len(fds) != 1 {
		return failed(fmt.Errorf("%d descriptors: %w", len(fds), fs.ErrInvalid))
	}
	// Reads then wait in the poller, and end when it is closed.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return failed(errors.Join(err, unix.Close(fds[0])))
	}
	return os.NewFile(uintptr(fds[0]), "console"), nil
}

func (c *consoleSocket) close() error {
	err := os.Remove(filepath.Join(c.dir.Name(), c.name))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if c.fd >= 0 {
		err = errors.Join(err, unix.Close(c.fd))
	}
	return errors.Join(err, c.dir.Close())
}
