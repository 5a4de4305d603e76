package monitor

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/logs"
	"golang.org/x/sys/unix"
)

// pumps connect the streams of one run of a container.
type pumps struct {
	hub    *hub
	theirs [3]*os.File // for the process
	mine   []*os.File  // of theirs, what is closed once the process has it
	done   sync.WaitGroup
}

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
	p.done.Go(func() { p.read(logs.Stdout, console) })
}

func (p *pumps) copy(s logs.Stream, r *os.File) {
	p.done.Go(func() {
		p.read(s, r)
		if err := r.Close(); err != nil {
			p.hub.log.Warn("close output of the container", "error", err)
		}
	})
}

func (p *pumps) read(s logs.Stream, r *os.File) {
	const chunk = 16 << 10 // a monitor is to be small; a pipe gives 64 KiB at most
	buf := make([]byte, chunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			p.hub.write(s, buf[:n])
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

// wait returns when all output was passed on.
func (p *pumps) wait() { p.done.Wait() }
