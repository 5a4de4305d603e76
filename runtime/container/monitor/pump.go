package monitor

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/logs"
	"golang.org/x/sys/unix"
)

// pumps connect the streams of one run of a container.
type pumps struct {
	hub    *hub
	theirs [3]*os.File // for the process
	mine   []*os.File  // of theirs, what is closed once the process has it
	mu     sync.Mutex  // guards outputs
	// outputs are what is read still.
	outputs []*os.File
	done    sync.WaitGroup
}

// grace is how long output may come, and how long a client has to take a piece of it, when
// the container's processes have ended: one of them may have given its output to a process
// elsewhere, and a client may have been stopped.
const grace = 3 * time.Second

// connect makes the streams of a run: those of the command itself where it can have
// them, pipes otherwise, none where there will be a terminal.
func (m *monitor) connect(rec *container.Record) (_ *pumps, err error) {
	p := &pumps{hub: m.hub}
	if rec.Terminal {
		return p, nil
	}
	defer func() {
		if err != nil {
			m.hub.clearInput()
			p.give()
			p.wait()
		}
	}()
	if rec.Stdin && m.Streams[0] != nil {
		p.theirs[0] = m.Streams[0]
	} else if rec.Stdin && m.Detached {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.theirs[0], p.mine = r, append(p.mine, r)
		m.hub.setInput(w, true)
	}
	if m.direct(rec) {
		p.theirs[1], p.theirs[2] = m.Streams[1], m.Streams[2]
		return p, nil
	}
	for i, s := range []logs.Stream{logs.Stdout, logs.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.theirs[i+1], p.mine = w, append(p.mine, w)
		p.copy(s, r)
	}
	return p, nil
}

// give closes what the process has by now.
func (p *pumps) give() {
	for _, f := range p.mine {
		if err := f.Close(); err != nil {
			p.hub.log.Warn("close stream of the container", "error", err)
		}
	}
	p.mine = nil
}

// terminal connects a terminal, which stays the process's to close.
func (p *pumps) terminal(console *os.File) {
	p.hub.setInput(console, false)
	p.track(console)
	p.done.Go(func() { p.read(logs.Stdout, console) })
}

func (p *pumps) track(r *os.File) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outputs = append(p.outputs, r)
}

func (p *pumps) untrack(r *os.File) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outputs = slices.DeleteFunc(p.outputs, func(f *os.File) bool { return f == r })
}

func (p *pumps) copy(s logs.Stream, r *os.File) {
	p.track(r)
	p.done.Go(func() {
		p.read(s, r)
		if err := r.Close(); err != nil {
			p.hub.log.Warn("close output of the container", "error", err)
		}
	})
}

func (p *pumps) read(s logs.Stream, r *os.File) {
	const chunk = 16 << 10 // a monitor is to be small; a pipe gives 64 KiB at most
	defer p.untrack(r)
	buf := make([]byte, chunk)
	from := io.Reader(r)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.hub.write(s, buf[:n])
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// What is there was written before, and can be read without waiting.
			from = io.LimitReader(r, waiting(r))
			err = r.SetReadDeadline(time.Time{})
		}
		if err != nil {
			// A terminal that nobody has open any more reads EIO.
			if !errors.Is(err, io.EOF) && !errors.Is(err, unix.EIO) && !errors.Is(err, fs.ErrClosed) {
				p.hub.log.Warn("output of the container", "error", err)
			}
			return
		}
	}
}

// waiting returns how many bytes can be read at once.
func waiting(r *os.File) int64 {
	var n int
	raw, err := r.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return 0
	}
	return int64(n)
}

// finish is wait for when the container's processes have ended: then it does not take
// for ever, whoever has the other ends. Only the command in whose foreground the container
// runs has the time that it takes.
func (p *pumps) finish() {
	p.hub.hurry()
	end := time.Now().Add(grace)
	p.mu.Lock()
	for _, r := range p.outputs {
		if err := r.SetReadDeadline(end); err != nil && !errors.Is(err, fs.ErrClosed) {
			p.hub.log.Warn("output of the container", "error", err)
		}
	}
	p.mu.Unlock()
	p.wait()
}

// wait returns when all output was passed on.
func (p *pumps) wait() { p.done.Wait() }
