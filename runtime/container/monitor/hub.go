package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layerfs/layerfs/runtime/container/logs"
	"golang.org/x/sys/unix"
)

// maxClients limits how many are attached at a time.
const maxClients = 64

// sink takes output.
type sink interface {
	Write(s logs.Stream, p []byte) error
}

// hub is where the output of a container goes out and its input comes in. It lives as
// long as the monitor, over restarts.
type hub struct {
	log    *slog.Logger
	record sink // the log of the container; may be nil
	local  sink // the command in whose foreground it runs; may be nil
	once   bool // the first end of input ends the container's
	tty    bool
	// hurried says that the processes have ended, so that no client may take its time.
	hurried atomic.Bool

	mu     sync.Mutex // guards what follows
	input  *os.File   // of the process that runs now, nil when it takes none
	owned  bool       // input is the hub's to close
	size   *unix.Winsize
	conns  []*client
	closed bool
	failed bool // writing the log failed, which was said
}

type client struct {
	*Conn
	output bool
}

// write passes output on. It is called by one goroutine per stream.
func (h *hub) write(s logs.Stream, p []byte) {
	h.mu.Lock()
	if h.record != nil {
		if err := h.record.Write(s, p); err != nil && !h.failed {
			h.failed = true
			h.log.Error("output is lost from the log", "error", err)
		}
	}
	conns := h.conns
	h.mu.Unlock()
	if h.local != nil {
		_ = h.local.Write(s, p) // who does not listen any more does not end the container
	}
	kind := byte(kindStdout)
	if s == logs.Stderr {
		kind = kindStderr
	}
	for _, c := range conns {
		if c.output && h.ready(c).send(kind, p) != nil {
			h.drop(c)
		}
	}
}

// hurry drops clients that do not take what they are sent in the grace that each has,
// until they are dismissed. Before, output waits for the slowest.
func (h *hub) hurry() {
	h.hurried.Store(true)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		c.limit() // of what is being sent
	}
}

// ready is called before a client is sent something.
func (h *hub) ready(c *client) *client {
	if h.hurried.Load() {
		c.limit() // its own, whoever was slow before it
	}
	return c
}

func (c *client) limit() {
	_ = c.f.SetWriteDeadline(time.Now().Add(grace)) // it only fails when it is closed
}

// notify tells all clients.
func (h *hub) notify(n Notice) {
	h.mu.Lock()
	conns := h.conns
	h.mu.Unlock()
	for _, c := range conns {
		if h.ready(c).sendJSON(kindState, n) != nil {
			h.drop(c)
		}
	}
}

func (h *hub) drop(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.Index(h.conns, c)
	if i < 0 {
		return
	}
	// A copy: write goes through the old one without the lock.
	h.conns = slices.Delete(slices.Clone(h.conns), i, i+1)
	_ = c.Close() // it is gone or of no use
}

// attach serves a client. It returns when the client is known; what it sends is read by
// a goroutine of its own.
func (h *hub) attach(conn *Conn) error {
	kind, data, err := conn.receive()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	hello, err := parseHello(kind, data)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	c := &client{Conn: conn, output: hello.Output}
	h.mu.Lock()
	if h.closed || len(h.conns) >= maxClients {
		h.mu.Unlock()
		return errors.Join(errors.New("too many clients, or the container has ended"), conn.Close())
	}
	h.conns = append(slices.Clone(h.conns), c)
	h.mu.Unlock()
	if hello.Rows > 0 && hello.Cols > 0 {
		h.resize(hello.Rows, hello.Cols)
	}
	go h.serve(c, hello.Stdin)
	return nil
}

func (h *hub) serve(c *client, stdin bool) {
	defer h.drop(c)
	for {
		kind, data, err := c.receive()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrClosed) {
				h.log.Warn("client of the container", "error", err)
			}
			return
		}
		switch {
		case kind == kindInput && stdin:
			h.put(data)
		case kind == kindEnd && stdin:
			h.end()
		case kind == kindResize && len(data) == 4:
			h.resize(binary.LittleEndian.Uint16(data), binary.LittleEndian.Uint16(data[2:]))
		default:
			h.log.Warn("client of the container sent a packet that is not understood", "kind", kind)
			return
		}
	}
}

// put passes input on.
func (h *hub) put(p []byte) {
	h.mu.Lock()
	f := h.input
	h.mu.Unlock()
	if f == nil {
		return
	}
	if _, err := f.Write(p); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, fs.ErrClosed) && !errors.Is(err, unix.EIO) {
		h.log.Warn("input of the container", "error", err)
	}
}

// end ends the input, where a client can: a terminal's does not end with a client's.
func (h *hub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.once && !h.tty {
		h.closeInput()
	}
}

func (h *hub) closeInput() {
	if h.input != nil && h.owned {
		if err := h.input.Close(); err != nil {
			h.log.Warn("close input of the container", "error", err)
		}
	}
	h.input = nil
}

// setInput makes f the input of the process that runs now; an owned one is closed when
// the input ends.
func (h *hub) setInput(f *os.File, owned bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.input, h.owned = f, owned
	if f != nil && h.tty && h.size != nil {
		h.applySize()
	}
}

func (h *hub) clearInput() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closeInput()
}

func (h *hub) resize(rows, cols uint16) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.size = &unix.Winsize{Row: rows, Col: cols}
	if h.input != nil && h.tty {
		h.applySize()
	}
}

func (h *hub) applySize() {
	raw, err := h.input.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, h.size) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		h.log.Warn("size of the terminal", "error", err)
	}
}

// dismiss tells the clients how a run ended and closes them.
func (h *hub) dismiss(n Notice) {
	h.hurry()
	defer h.hurried.Store(false)
	h.notify(n)
	h.mu.Lock()
	conns := h.conns
	h.mu.Unlock()
	for _, c := range conns {
		h.drop(c)
	}
}

// close is dismiss for the last time.
func (h *hub) close(n Notice) {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.dismiss(n)
}

// listener takes clients from the socket in the container's directory.
type listener struct {
	dir *os.File
	f   *os.File
}

func listen(path string) (_ *listener, err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	l := &listener{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, dir.Close())
		}
	}()
	at := socketPath(dir)
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: at}), os.Chmod(at, 0o600), unix.Listen(fd, maxClients)); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	l.f = os.NewFile(uintptr(fd), socketFile)
	return l, nil
}

// serve takes clients until the listener is closed.
func (l *listener) serve(ctx context.Context, h *hub) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		h.log.Error("nobody can attach", "error", err)
		return
	}
	for ctx.Err() == nil {
		var fd int
		var aerr error
		// Read waits in the poller until accept4 does not say EAGAIN.
		err := raw.Read(func(s uintptr) bool {
			fd, _, aerr = unix.Accept4(int(s), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !errors.Is(aerr, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		if aerr != nil {
			if errors.Is(aerr, unix.ECONNABORTED) || errors.Is(aerr, unix.EINTR) {
				continue
			}
			h.log.Error("nobody can attach any more", "error", aerr)
			return
		}
		f := os.NewFile(uintptr(fd), "client")
		if err := peer(f); err != nil {
			h.log.Warn("client is refused", "error", errors.Join(err, f.Close()))
			continue
		}
		go func() {
			if err := h.attach(NewConn(f)); err != nil && !errors.Is(err, io.EOF) {
				h.log.Warn("client is refused", "error", err)
			}
		}()
	}
}

// close leaves the socket's name to the next listener and to the container's removal: by
// now it may be that of the next monitor, since the state says that this one has ended.
func (l *listener) close() error { return errors.Join(l.f.Close(), l.dir.Close()) }
