package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress shows on standard error how far long work has come: on a terminal one line
// that is rewritten, elsewhere a line now and then, and nothing for work that is soon
// done. It is safe for concurrent use; a nil *progress shows nothing.
type progress struct {
	w        io.Writer
	terminal bool
	what     string
	start    time.Time

	mu    sync.Mutex // guards what follows
	parts map[string][2]int64
	done  int64
	total int64
	last  time.Time
	shown bool
	step  string // instead of the bytes
}

const (
	progressAfter    = 300 * time.Millisecond // work quicker than this shows nothing
	progressTerminal = 100 * time.Millisecond
	progressLog      = 5 * time.Second
)

// newProgress begins showing work named what, such as "loading".
func (a *app) newProgress(what string, quiet bool) *progress {
	if quiet {
		return nil
	}
	p := &progress{w: a.stderr, what: what, start: time.Now(), parts: map[string][2]int64{}}
	if f, ok := a.stderr.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
	p.last = p.start
	return p
}

// part says that done of total bytes of one part are done.
func (p *progress) part(name string, done, total int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.parts[name]
	p.parts[name] = [2]int64{done, total}
	p.done += done - old[0]
	p.total += total - old[1]
	p.show(time.Now())
}

// add says that n more bytes are done, of an unknown total.
func (p *progress) add(n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	p.show(time.Now())
}

// stage says what is being done to how many things, instead of bytes.
func (p *progress) stage(what string, n int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step = fmt.Sprintf("%s: %d %s", p.what, n, what)
	p.show(time.Now())
}

func (p *progress) show(now time.Time) {
	every := progressLog
	if p.terminal {
		every = progressTerminal
	}
	if now.Sub(p.start) < progressAfter || now.Sub(p.last) < every {
		return
	}
	p.last = now
	line := p.step
	if line == "" {
		line = p.bytes(now)
	}
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", line)
		p.shown = true
		return
	}
	fmt.Fprintln(p.w, line)
}

func (p *progress) bytes(now time.Time) string {
	rate := float64(p.done) / now.Sub(p.start).Seconds()
	line := fmt.Sprintf("%s %s", p.what, size(p.done))
	if p.total > p.done {
		line += fmt.Sprintf(" of %s, %d%%", size(p.total), p.done*100/p.total)
	}
	return line + fmt.Sprintf(", %s/s", size(int64(rate)))
}

// end takes the line away.
func (p *progress) end() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
