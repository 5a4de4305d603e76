package monitor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// The kinds of packet, their first byte.
const (
	kindHello  = 'h' // client: a Hello as JSON
	kindInput  = 'i' // client: bytes for standard input
	kindEnd    = 'e' // client: standard input has ended
	kindResize = 'r' // client: rows and columns, two bytes each, little endian
	kindStdout = '1' // monitor: output
	kindStderr = '2' // monitor: output
	kindState  = 's' // monitor: a Notice as JSON
)

// maxPacket is the size of a packet in bytes, well below a socket's buffer.
const maxPacket = 32 << 10

// Hello is what a client wants.
type Hello struct {
	Stdin  bool   `json:"stdin,omitempty"`
	Output bool   `json:"output,omitempty"`
	Rows   uint16 `json:"rows,omitempty"` // of its terminal; 0 if it has none
	Cols   uint16 `json:"cols,omitempty"`
}

// Notice is what a client is told of the container.
type Notice struct {
	Running bool   `json:"running,omitempty"` // it was started
	Code    int    `json:"code,omitempty"`    // the exit code, when it has ended or could not be started
	Error   string `json:"error,omitempty"`   // why it could not be started
}

// Conn is one end of a connection. Reading is for one goroutine at a time; writing for
// any.
type Conn struct {
	f   *os.File
	mu  sync.Mutex // a packet at a time
	out []byte
	in  []byte
}

// NewConn returns a connection over a socket, which it owns.
func NewConn(f *os.File) *Conn { return &Conn{f: f} }

// Pair makes a connection to a monitor that is about to be started: the other end is to
// be given to it.
func Pair() (_ *Conn, other *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return NewConn(os.NewFile(uintptr(fds[0]), "monitor")), os.NewFile(uintptr(fds[1]), "client"), nil
}

// socketFile is the name of the socket in the container's directory.
const socketFile = "attach"

// socketPath names the socket by a handle on its directory: the path of a socket must
// be short, and that of a store need not be.
func socketPath(dir *os.File) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + socketFile
}

// Dial connects to the monitor of the container in a directory. The error wraps
// fs.ErrNotExist when none listens.
func Dial(dir string) (_ *Conn, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: socketPath(d)})
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	f := os.NewFile(uintptr(fd), "monitor")
	if errors.Is(err, unix.ECONNREFUSED) {
		err = fs.ErrNotExist // left by one that was killed
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the monitor: %w", err), f.Close())
	}
	return NewConn(f), nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.f.Close() }

func (c *Conn) send(kind byte, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), maxPacket-1)
		c.out = append(append(c.out[:0], kind), data[:n]...)
		data = data[n:]
		if _, err := c.f.Write(c.out); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) sendJSON(kind byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) >= maxPacket {
		return fmt.Errorf("message of %d bytes: %w", len(data), fs.ErrInvalid)
	}
	return c.send(kind, data)
}

// receive returns the next packet, valid until the next call.
func (c *Conn) receive() (kind byte, data []byte, err error) {
	if c.in == nil {
		c.in = make([]byte, maxPacket)
	}
	n, err := c.f.Read(c.in)
	if err != nil {
		if errors.Is(err, unix.ECONNRESET) {
			err = io.EOF
		}
		return 0, nil, err
	}
	if n == 0 {
		return 0, nil, io.EOF
	}
	return c.in[0], c.in[1:n], nil
}

func parseHello(kind byte, data []byte) (Hello, error) {
	var h Hello
	if kind != kindHello {
		return h, fmt.Errorf("client begins with packet %q: %w", kind, fs.ErrInvalid)
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return h, fmt.Errorf("greeting of client: %w: %w", err, fs.ErrInvalid)
	}
	return h, nil
}

// peer checks that the other end belongs to this user or to root.
func peer(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("client of user %d: %w", cred.Uid, fs.ErrPermission)
	}
	return nil
}

// Hello says what the client wants; it comes first.
func (c *Conn) Hello(h Hello) error { return c.sendJSON(kindHello, h) }

// Resize tells the size of the client's terminal.
func (c *Conn) Resize(rows, cols uint16) error {
	var b [4]byte
	binary.LittleEndian.PutUint16(b[:], rows)
	binary.LittleEndian.PutUint16(b[2:], cols)
	return c.send(kindResize, b[:])
}

// Input sends bytes for the container's standard input.
func (c *Conn) Input(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	return c.send(kindInput, p)
}

// EndInput tells that there is no more input.
func (c *Conn) EndInput() error { return c.send(kindEnd, nil) }

// Receive waits for what the monitor sends: output, which is written to stdout and
// stderr, is not returned. It returns io.EOF when the monitor has gone.
func (c *Conn) Receive(stdout, stderr io.Writer) (Notice, error) {
	for {
		kind, data, err := c.receive()
		if err != nil {
			return Notice{}, err
		}
		switch kind {
		case kindStdout:
			_, err = stdout.Write(data)
		case kindStderr:
			_, err = stderr.Write(data)
		case kindState:
			var n Notice
			if err := json.Unmarshal(data, &n); err != nil {
				return n, fmt.Errorf("message of the monitor: %w: %w", err, fs.ErrInvalid)
			}
			return n, nil
		default:
			err = fmt.Errorf("packet %q of the monitor: %w", kind, fs.ErrInvalid)
		}
		if err != nil {
			return Notice{}, err
		}
	}
}
