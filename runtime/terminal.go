package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// openTerminalSocket makes the socket on which the child sends the master end of its
// terminal.
func (p *plan) openTerminalSocket() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return &Error{Step: "make socket for the terminal", Err: err}
	}
	p.terminal = os.NewFile(uintptr(fds[0]), "terminal socket")
	p.terminalTo = p.hold(os.NewFile(uintptr(fds[1]), "terminal socket"))
	return nil
}

// openTerminal adds the rows that open the other end of a terminal's master, make it the
// standard streams and the controlling terminal of the session, and send the master to
// the caller. The other end is opened through the master and never by name, which
// somebody could put something else at (CVE-2025-52565). With a dev it is also
// bound to the console there.
func (p *plan) openTerminal(master result, s *specs.Process, dev result) {
	t := p.table
	unlock := new(int32)
	t.call(step{"unlock terminal", ""}, unix.SYS_IOCTL, master, unix.TIOCSPTLCK, at(unlock))
	slave := t.call(step{"open terminal", ""}, unix.SYS_IOCTL, master, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if c := s.ConsoleSize; c != nil {
		size := &unix.Winsize{Row: uint16(min(c.Height, math.MaxUint16)), Col: uint16(min(c.Width, math.MaxUint16))}
		t.call(step{"set size of terminal", ""}, unix.SYS_IOCTL, master, unix.TIOCSWINSZ, at(size))
	}
	if s.User.UID != 0 {
		t.call(step{"set owner of terminal", ""}, unix.SYS_FCHOWN, slave, int(s.User.UID), -1)
	}
	if dev >= 0 {
		t.call(step{"make file", "/dev/console"}, unix.SYS_MKNODAT, dev, "console", unix.S_IFREG|0o600, 0)
		t.allow(0, unix.EEXIST)
		target := t.open(step{"open", "/dev/console"}, dev, "console", unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
		mount := t.call(step{"take terminal", ""}, unix.SYS_OPEN_TREE, slave, "",
			unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		t.attach(step{"bind terminal on", "/dev/console"}, mount, target)
	}
	for i := range p.streams {
		t.call(step{"connect to the terminal", ""}, unix.SYS_DUP3, slave, i, 0)
	}
	t.call(step{"take as controlling terminal", ""}, unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)

	// A message of one byte and one descriptor (unix(7)). Which one is known when the
	// row has run.
	data := new(byte)
	control := make([]byte, unix.CmsgSpace(sizeofFD))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	h.SetLen(unix.CmsgLen(sizeofFD))
	message := &unix.Msghdr{Iov: &unix.Iovec{Base: data, Len: 1}, Iovlen: 1, Control: &control[0]}
	message.SetControllen(len(control))
	t.call(step{"note terminal", ""}, unix.SYS_FCNTL, master, unix.F_DUPFD_CLOEXEC, 0)
	t.last().kind, t.last().text = kindKeep, &control[unix.CmsgLen(0)]
	t.call(step{"send terminal", ""}, unix.SYS_SENDMSG, p.terminalTo, at(message), unix.MSG_NOSIGNAL)
}

const sizeofFD = 4 // of a descriptor in a control message

// receiveTerminal takes the master end that a child sent. It was opened where others may
// have put something else, so what it is, is checked before it is used.
func receiveTerminal(socket *os.File) (*os.File, error) {
	control := make([]byte, unix.CmsgSpace(sizeofFD))
	conn, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	var n int
	var recvErr error
	if err := conn.Control(func(fd uintptr) {
		_, n, _, _, recvErr = unix.Recvmsg(int(fd), make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	}); err != nil {
		return nil, err
	}
	if recvErr != nil {
		return nil, &Error{Step: "receive terminal", Err: recvErr}
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("receive terminal: %d messages: %w", len(messages), errors.Join(fs.ErrInvalid, err))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive terminal: %d descriptors: %w", len(fds), errors.Join(fs.ErrInvalid, err))
	}
	var st unix.Stat_t
	var where unix.Statfs_t
	err = errors.Join(unix.Fstat(fds[0], &st), unix.Fstatfs(fds[0], &where))
	const multiplexMajor, multiplexMinor = 5, 2
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(multiplexMajor, multiplexMinor) || where.Type != unix.DEVPTS_SUPER_MAGIC) {
		err = fmt.Errorf("it is none: %w", fs.ErrInvalid)
	}
	if err == nil {
		err = unix.SetNonblock(fds[0], true) // so that reading can be given up
	}
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", errors.Join(err, unix.Close(fds[0])))
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
