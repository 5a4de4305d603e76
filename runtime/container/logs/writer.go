// Package logs keeps what a container writes as Docker's json-file log driver does: a
// line of JSON for each line of output,
//
//	{"log":"text\n","stream":"stdout","time":"2026-01-02T15:04:05.123456789Z"}
//
// in log.json, with older files as log.json.1, log.json.2 and so on. A line of output
// that is longer than [MaxLine] is several records, of which only the last ends with a
// newline.
package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"
	"unicode/utf8"
)

// FileName is the name of the file that is written to, in the container's directory.
const FileName = "log.json"

// MaxLine is how much of a line of output goes into one record, in bytes, as in Docker.
const MaxLine = 16 << 10

// maxFiles limits how many files of a log can be kept.
const maxFiles = 1000

// Stream is where output comes from.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Options of a Writer.
type Options struct {
	MaxSize  int64            // bytes at which a file is put aside; 0 is never
	MaxFiles int              // files to keep, the one that is written to included; 0 is 1
	Now      func() time.Time // nil is time.Now
}

// Writer writes a log. It is for one goroutine at a time.
type Writer struct {
	root *os.Root
	opts Options
	f    *os.File
	size int64
	out  []byte // records that are not written yet
	part [2]partial
}

// partial is the beginning of a line.
type partial struct {
	text []byte
	at   time.Time // when it came
}

// NewWriter opens the log in a directory, which stays the caller's, to add to it.
func NewWriter(root *os.Root, o Options) (*Writer, error) {
	if o.MaxSize < 0 || o.MaxFiles < 0 || o.MaxFiles > maxFiles {
		return nil, fmt.Errorf("log of %d files of %d bytes, want at most %d files: %w", o.MaxFiles, o.MaxSize, maxFiles, fs.ErrInvalid)
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = 1
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	w := &Writer{root: root, opts: o}
	return w, w.open()
}

func (w *Writer) open() error {
	f, err := w.root.OpenFile(FileName, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	w.f, w.size = f, st.Size()
	return nil
}

// Write adds output of a stream. What does not end with a newline waits for the rest of
// its line.
func (w *Writer) Write(s Stream, p []byte) error {
	part := &w.part[0]
	if s == Stderr {
		part = &w.part[1]
	}
	now := w.opts.Now()
	for len(p) > 0 {
		n := bytes.IndexByte(p, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(p)
		}
		if room := MaxLine - len(part.text); n > room {
			n, whole = room, true
		}
		if len(part.text) == 0 {
			part.at = now
		}
		if !whole {
			part.text = append(part.text, p[:n]...)
			break
		}
		if len(part.text) > 0 {
			part.text = append(part.text, p[:n]...)
			w.add(s, part.text, part.at)
			part.text = part.text[:0]
		} else {
			w.add(s, p[:n], now)
		}
		p = p[n:]
	}
	return w.flush()
}

// add formats a record, by hand because this is what a busy container costs.
func (w *Writer) add(s Stream, text []byte, at time.Time) {
	b := append(w.out, `{"log":"`...)
	for len(text) > 0 {
		c := text[0]
		if c < utf8.RuneSelf {
			text = text[1:]
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\n':
				b = append(b, '\\', 'n')
			case c == '\r':
				b = append(b, '\\', 'r')
			case c == '\t':
				b = append(b, '\\', 't')
			case c < ' ' || c == 0x7f:
				const hex = "0123456789abcdef"
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
			default:
				b = append(b, c)
			}
			continue
		}
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 {
			b = append(b, `\ufffd`...)
		} else {
			b = append(b, text[:n]...)
		}
		text = text[n:]
	}
	b = append(b, `","stream":"`...)
	b = append(b, s...)
	b = append(b, `","time":"`...)
	b = at.UTC().AppendFormat(b, time.RFC3339Nano)
	w.out = append(b, "\"}\n"...)
}

// flush writes the records that wait, whole records to each file.
func (w *Writer) flush() error {
	const keep = 64 << 10
	defer func() {
		if cap(w.out) > keep {
			w.out = nil
		}
		w.out = w.out[:0]
	}()
	for rest := w.out; len(rest) > 0; {
		n := len(rest)
		if most := w.opts.MaxSize; most > 0 && w.size+int64(n) > most {
			n = 0
			// A file holds at least one record.
			for n < len(rest) {
				next := n + bytes.IndexByte(rest[n:], '\n') + 1
				if w.size+int64(next) > most && (n > 0 || w.size > 0) {
					break
				}
				n = next
			}
		}
		if n > 0 {
			m, err := w.f.Write(rest[:n])
			w.size += int64(m)
			if err != nil {
				return fmt.Errorf("write log: %w", err)
			}
			rest = rest[n:]
		}
		if len(rest) > 0 {
			if err := w.rotate(); err != nil {
				return err
			}
		}
	}
	return nil
}

// rotate puts the file aside and begins a new one. Who reads the old one keeps it open.
func (w *Writer) rotate() error {
	if err := w.f.Close(); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	last := w.opts.MaxFiles - 1
	if err := w.root.Remove(fileName(last)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rotate log: %w", err)
	}
	for i := last - 1; i >= 0; i-- {
		if err := w.root.Rename(fileName(i), fileName(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	return w.open()
}

// Close writes what is left of lines without an end.
func (w *Writer) Close() error {
	for i, s := range []Stream{Stdout, Stderr} {
		if p := &w.part[i]; len(p.text) > 0 {
			w.add(s, p.text, p.at)
			p.text = nil
		}
	}
	return errors.Join(w.flush(), w.f.Close())
}

// fileName is the name of the i-th file, 0 being the one that is written to.
func fileName(i int) string {
	if i == 0 {
		return FileName
	}
	return FileName + "." + strconv.Itoa(i)
}
