package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/layerfs/layerfs/tarstream"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// outFile is where a command writes its result: standard output, or a file that appears
// under its name only when it is whole and on the disk.
type outFile struct {
	*bufio.Writer
	f    *os.File // nil for standard output
	name string
}

// earlyWrite is after how many bytes the kernel is asked to begin to write a file. It
// would else wait for the flush at the end, and the disk stand idle until then.
const earlyWrite = 8 << 20

// earlyFile is a new file that goes to the disk while it is being written.
type earlyFile struct {
	f         *os.File
	from, end int64 // what has been written since the kernel was asked last
}

func (e *earlyFile) Write(p []byte) (int, error) {
	n, err := e.f.Write(p)
	e.end += int64(n)
	if e.end-e.from >= earlyWrite {
		// What goes wrong with that is reported by the flush at the end.
		_ = unix.SyncFileRange(int(e.f.Fd()), e.from, e.end-e.from, unix.SYNC_FILE_RANGE_WRITE)
		e.from = e.end
	}
	return n, err
}

// outputFile opens name, or standard output when it is "" or "-". A terminal is refused:
// a tar on it helps nobody.
func (a *app) outputFile(name string) (*outFile, error) {
	if name == "" || name == "-" {
		if f, ok := a.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return nil, usageError{errors.New("standard output is a terminal; give a file with -o, or redirect")}
		}
		return &outFile{Writer: bufio.NewWriterSize(a.stdout, 1<<20)}, nil
	}
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		if st.IsDir() {
			return nil, fmt.Errorf("write %s: it is a directory: %w", name, fs.ErrInvalid)
		}
		// A device or a pipe is written to as it is.
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		return &outFile{Writer: bufio.NewWriterSize(f, 1<<20), f: f}, nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	return &outFile{Writer: bufio.NewWriterSize(&earlyFile{f: f}, 1<<20), f: f, name: name}, nil
}

// finish ends the file after err, the outcome of writing to it: without one it takes its
// name, else it is removed. It returns err with what went wrong here.
func (o *outFile) finish(err error) error {
	if err == nil {
		err = o.Flush()
	}
	if o.f == nil {
		return err
	}
	if err == nil && o.name != "" {
		err = errors.Join(o.f.Chmod(0o644), o.f.Sync())
	}
	err = errors.Join(err, o.f.Close())
	if o.name == "" {
		return err
	}
	if err == nil {
		err = os.Rename(o.f.Name(), o.name)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(o.f.Name()))
	}
	return err
}

var _ io.Writer = (*outFile)(nil)

// exportOptions are those of a canonical tar.
func (a *app) exportOptions() tarstream.WriteOptions {
	var o tarstream.WriteOptions
	if a.now != nil {
		o.Clamp = a.now()
	}
	return o
}
