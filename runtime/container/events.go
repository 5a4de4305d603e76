package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Event is something that happened to a container.
type Event struct {
	Time   time.Time         `json:"time"`
	Type   string            `json:"type"`   // "container" or "volume"
	Action string            `json:"action"` // Docker's words: create, start, die, …
	ID     string            `json:"id"`
	Attrs  map[string]string `json:"attributes,omitempty"`
}

const (
	eventsFile = "events.json"
	eventsOld  = "events.json.1"
	// maxEvents is the size in bytes at which the file of events is put aside, in the
	// place of the one put aside before.
	maxEvents    = 4 << 20
	maxEventLine = 64 << 10
)

// Emit adds an event. It is for people to look at: what fails is logged, and keeps
// nobody from his work.
func (s *Store) Emit(action string, rec *Record, attrs map[string]string) {
	e := Event{Type: "container", Action: action, ID: string(rec.ID), Attrs: map[string]string{"name": rec.Name, "image": rec.Image}}
	for k, v := range attrs {
		e.Attrs[k] = v
	}
	s.EmitEvent(e)
}

// EmitEvent is Emit for events of other things than containers.
func (s *Store) EmitEvent(e Event) {
	if e.Time.IsZero() {
		e.Time = s.now()
	}
	if err := s.emit(e); err != nil {
		s.log.Warn("event is lost", "action", e.Action, "error", err)
	}
}

func (s *Store) emit(e Event) (err error) {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if len(data) >= maxEventLine {
		return fmt.Errorf("event of %d bytes: %w", len(data), fs.ErrInvalid)
	}
	f, err := s.root.OpenFile(eventsFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// One write, appended: lines of several processes do not mix.
	if _, err := f.Write(append(data, '\n')); err != nil {
		return err
	}
	if st, err := f.Stat(); err != nil || st.Size() < maxEvents {
		return err
	}
	err = s.root.Rename(eventsFile, eventsOld)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another process was first
	}
	return err
}

// Events calls fn for the events from since until until, a zero time being no limit,
// oldest first. With follow it goes on with those that come, until the context or the
// time is over.
func (s *Store) Events(ctx context.Context, since, until time.Time, follow bool, fn func(Event) error) (err error) {
	w, err := NewWatch(s.opts.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	give := func(line []byte) error {
		var e Event
		if json.Unmarshal(line, &e) != nil {
			return nil //nolint:nilerr // half a line, of a full disk
		}
		if e.Time.Before(since) || !until.IsZero() && e.Time.After(until) {
			return nil
		}
		return fn(e)
	}
	if old, err := s.root.Open(eventsOld); err == nil {
		t := tail{f: old}
		if err := errors.Join(t.lines(give), old.Close()); err != nil {
			return err
		}
	}
	t := tail{}
	defer func() { err = errors.Join(err, t.close()) }()
	for {
		if err := t.follow(filepath.Join(s.opts.Dir, eventsFile), give); err != nil {
			return err
		}
		if !follow || !until.IsZero() && !s.now().Before(until) {
			return nil
		}
		wait := attention
		if !until.IsZero() {
			wait = min(wait, time.Until(until))
		}
		if err := w.Next(ctx, max(wait, time.Millisecond)); err != nil {
			return err
		}
	}
}

// tail reads whole lines of a file that others append to and now and then put aside.
type tail struct {
	f    *os.File
	rest []byte
}

func (t *tail) close() error {
	if t.f == nil {
		return nil
	}
	return t.f.Close()
}

// lines gives all whole lines from where it stands.
func (t *tail) lines(give func([]byte) error) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := t.f.Read(buf)
		t.rest = append(t.rest, buf[:n]...)
		for {
			i := bytes.IndexByte(t.rest, '\n')
			if i < 0 {
				break
			}
			if err := give(t.rest[:i]); err != nil {
				return err
			}
			t.rest = t.rest[i+1:]
		}
		if len(t.rest) > maxEventLine {
			t.rest = nil
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// follow gives what was added to the file of that name, in the one put aside first.
func (t *tail) follow(name string, give func([]byte) error) error {
	for {
		now, err := os.Stat(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if t.f != nil {
			if err := t.lines(give); err != nil {
				return err
			}
			if mine, err := t.f.Stat(); err != nil || now != nil && os.SameFile(mine, now) {
				return err
			}
		}
		if now == nil {
			return nil
		}
		if err := t.close(); err != nil {
			return err
		}
		t.rest = nil
		if t.f, err = os.Open(name); err != nil {
			return err
		}
	}
}
