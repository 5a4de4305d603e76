package logs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Record is a line of output, or a part of a long one.
type Record struct {
	Text   string    `json:"log"`
	Stream Stream    `json:"stream"`
	Time   time.Time `json:"time"`
}

// maxRecord limits a record in the file, in bytes: each byte of a line may have become
// six.
const maxRecord = 6*MaxLine + 1<<10

// ReadOptions say what to read of a log.
type ReadOptions struct {
	Tail         int       // how many of the last records; negative is all
	Since, Until time.Time // zero is no limit
	// Follow waits for more to be written and returns whether there is any use in
	// looking again: false when nothing is written any more. Nil does not follow.
	Follow func(context.Context) (bool, error)
}

// Read calls fn for the records of the log in a directory, oldest first. A log that is
// not there is empty. Lines that are no record are passed over: a full disk leaves
// halves.
func Read(ctx context.Context, root *os.Root, o ReadOptions, fn func(Record) error) (err error) {
	files, err := openAll(root)
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	if err != nil {
		return err
	}
	if o.Tail >= 0 {
		if files, err = seekTail(files, o.Tail); err != nil {
			return err
		}
	}
	give := func(r Record) error {
		if r.Time.Before(o.Since) || !o.Until.IsZero() && r.Time.After(o.Until) {
			return nil
		}
		return fn(r)
	}
	var lines lineReader
	for _, f := range files {
		lines = lineReader{f: f}
		if err := lines.each(ctx, give); err != nil {
			return err
		}
	}
	for more := true; more && o.Follow != nil; {
		if !o.Until.IsZero() && time.Now().After(o.Until) {
			return nil
		}
		// The last look comes after the answer that there is no more.
		if more, err = o.Follow(ctx); err != nil {
			return err
		}
		for {
			if lines.f != nil {
				if err := lines.each(ctx, give); err != nil {
					return err
				}
			}
			next, err := newer(root, lines.f)
			if err != nil {
				return err
			}
			if next == nil {
				break
			}
			// What came between the last look and the rotation.
			if lines.f != nil {
				if err := lines.each(ctx, give); err != nil {
					return errors.Join(err, next.Close())
				}
			}
			files = append(files, next)
			lines = lineReader{f: next}
		}
	}
	return nil
}

// openAll opens the files of a log, oldest first.
func openAll(root *os.Root) ([]*os.File, error) {
	var out []*os.File
	for i := range maxFiles {
		f, err := root.Open(fileName(i))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return out, fmt.Errorf("open log: %w", err)
		}
		// It may have been renamed between two opens.
		if i > 0 && sameFile(f, out[0]) {
			if err := f.Close(); err != nil {
				return out, err
			}
			continue
		}
		out = append([]*os.File{f}, out...)
	}
	return out, nil
}

func sameFile(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// newer opens the file that is written to now if it is not f, else it returns nil.
func newer(root *os.Root, f *os.File) (*os.File, error) {
	next, err := root.Open(FileName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if f != nil && sameFile(f, next) {
		return nil, next.Close()
	}
	return next, nil
}

// seekTail places the files so that n records are left to read, and closes those that
// are not needed.
func seekTail(files []*os.File, n int) ([]*os.File, error) {
	for i := len(files) - 1; i >= 0; i-- {
		found, err := seekLines(files[i], n)
		if err != nil {
			return files, err
		}
		if n -= found; n > 0 || i == 0 {
			continue
		}
		for _, f := range files[:i] {
			if err := f.Close(); err != nil {
				return files[i:], err
			}
		}
		return files[i:], nil
	}
	return files, nil
}

// seekLines places a file at the beginning of its last n lines, and returns how many
// there are.
func seekLines(f *os.File, n int) (int, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	at, found := st.Size(), 0
	buf := make([]byte, 32<<10)
	for end := at; end > 0; {
		begin := max(0, end-int64(len(buf)))
		b := buf[:end-begin]
		if _, err := f.ReadAt(b, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != '\n' {
				continue
			}
			// This newline ends a line; what is behind it begins the next one.
			if found == n {
				_, err := f.Seek(begin+int64(i)+1, io.SeekStart)
				return n, err
			}
			found++
		}
		end = begin
	}
	_, err = f.Seek(0, io.SeekStart)
	if n == 0 {
		_, err = f.Seek(at, io.SeekStart)
	}
	return found, err
}

// lineReader reads whole lines of a file that grows.
type lineReader struct {
	f    *os.File
	rest []byte // the beginning of a line
}

// each gives the records up to the present end of the file.
func (l *lineReader) each(ctx context.Context, fn func(Record) error) error {
	r := bufio.NewReaderSize(l.f, 32<<10)
	for {
		part, err := r.ReadSlice('\n')
		if len(l.rest)+len(part) <= maxRecord {
			l.rest = append(l.rest, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		rec, ok := parse(l.rest)
		l.rest = l.rest[:0]
		if !ok {
			continue
		}
		if err := fn(rec); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func parse(line []byte) (Record, bool) {
	var r Record
	if len(line) > maxRecord || !bytes.HasPrefix(line, []byte{'{'}) || json.Unmarshal(line, &r) != nil {
		return r, false
	}
	return r, r.Stream == Stdout || r.Stream == Stderr
}
