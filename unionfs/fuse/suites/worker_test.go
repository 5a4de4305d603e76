package suites

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// workerCommand is the first argument of this program as one of the processes that
// TestChaos has at work on a union.
const workerCommand = "work-in-chaos"

// worker does random things in a directory of a union, and those that are done also in a
// plain directory, its shadow. Between two operations the directories are equal.
type worker struct {
	Root   string // of the union
	Dir    string // in the union; nobody else has anything to do with it
	Shadow string
	Intent string // a file with the operation that is under way; empty between two
	Stop   string // when this file is there, enough has been done
	Seed   uint64
	Dirs   bool // directories of lower layers can be renamed
}

// operation is one call that changes something, or a look at a file.
type operation struct {
	Kind string
	A, B string // paths in the worker's directory
	Off  int64
	Size int
	Seed uint64 // of what is written
}

const maxFile = 128 << 10 // bytes

// random draws an operation.
func (w *worker) random(r *rand.Rand) operation {
	file := func() string {
		return []string{"", "d/", "e/"}[r.IntN(3)] + fmt.Sprint("f", r.IntN(6))
	}
	o := operation{A: file(), B: file(), Off: r.Int64N(maxFile), Size: 1 + r.IntN(32<<10), Seed: r.Uint64()}
	kinds := []string{"write", "write", "write", "synced", "append", "truncate", "create", "rename", "unlink", "link", "chmod", "look", "look", "list"}
	if w.Dirs {
		kinds = append(kinds, "swap")
	}
	o.Kind = kinds[r.IntN(len(kinds))]
	return o
}

// content returns what the operation writes.
func (o *operation) content() []byte {
	out := make([]byte, o.Size)
	var key [32]byte
	for i := range 8 {
		key[i] = byte(o.Seed >> (8 * i))
	}
	_, _ = rand.NewChaCha8(key).Read(out) // never fails
	return out
}

// do carries the operation out below dir. It returns what was seen, or how many bytes
// were written.
func (o *operation) do(dir string) (seen string, n int, err error) {
	a, b := filepath.Join(dir, o.A), filepath.Join(dir, o.B)
	switch o.Kind {
	case "write", "synced", "append":
		n, err = o.write(a)
	case "truncate":
		err = unix.Truncate(a, o.Off)
	case "create":
		var fd int
		if fd, err = unix.Open(a, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err == nil {
			err = unix.Close(fd)
		}
	case "rename":
		err = unix.Rename(a, b)
	case "swap":
		err = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "d"), unix.AT_FDCWD, filepath.Join(dir, "e"), unix.RENAME_EXCHANGE)
	case "unlink":
		err = unix.Unlink(a)
	case "link":
		err = unix.Link(a, b)
	case "chmod":
		err = unix.Chmod(a, uint32(0o600|o.Off&0o177))
	case "look":
		seen, err = look(a)
	case "list":
		var entries []os.DirEntry
		entries, err = os.ReadDir(filepath.Join(dir, filepath.Dir(o.A)))
		for _, e := range entries {
			seen += fmt.Sprintf("%s %v\n", e.Name(), e.Type())
		}
	}
	return seen, n, err
}

func (o *operation) write(path string) (n int, err error) {
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if o.Kind == "append" {
		flags |= unix.O_APPEND
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if o.Kind == "append" {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return 0, err
		}
		if st.Size > maxFile {
			return 0, nil
		}
		n, err = unix.Write(fd, o.content())
	} else {
		n, err = unix.Pwrite(fd, o.content(), o.Off)
	}
	if err == nil && o.Kind == "synced" {
		err = unix.Fsync(fd)
	}
	return max(n, 0), err
}

func look(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	content, err := os.ReadFile(path)
	return fmt.Sprintf("mode %o, %d links, %d bytes: %s", st.Mode, st.Nlink, st.Size, content), err
}

// work works until the union has ended or the time has. It returns an error when the
// union does what a plain directory does not.
func (w *worker) work() (count int, err error) {
	intent, err := os.OpenFile(w.Intent, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer intent.Close()
	note := func(text []byte) error {
		_, err := intent.WriteAt(text, 0)
		return errors.Join(err, intent.Truncate(int64(len(text))))
	}
	var mount unix.Stat_t
	if err := unix.Stat(w.Root, &mount); err != nil {
		return 0, ignoreDead(err)
	}
	r := rand.New(rand.NewPCG(w.Seed, 0))
	for ; ; count++ {
		if _, err := os.Lstat(w.Stop); !errors.Is(err, fs.ErrNotExist) {
			return count, err
		}
		o := w.random(r)
		text, err := json.Marshal(&o)
		if err == nil {
			err = note(text)
		}
		if err != nil {
			return count, err
		}
		seen, n, uerr := o.do(w.Dir)
		// A write that the server's end cut short says how much was done and gives no
		// error. Numbers of free blocks come from the server each time.
		var now unix.Stat_t
		var space unix.Statfs_t
		if isDead(uerr) || unix.Statfs(w.Root, &space) != nil || unix.Stat(w.Root, &now) != nil || now.Dev != mount.Dev {
			return count, nil // the intent stays: it may have been done
		}
		// Without space for its redirect a directory has to be copied, as in overlayfs.
		full := errors.Is(uerr, unix.ENOSPC) || errors.Is(uerr, unix.EDQUOT) || o.Kind == "swap" && errors.Is(uerr, unix.EXDEV)
		if full && n == 0 {
			o.Kind = "look" // nothing may have changed
			if seen, _, uerr = o.do(w.Dir); isDead(uerr) {
				return count, note(nil)
			}
		} else if n > 0 {
			o.Size, seen = n, fmt.Sprint(n)
		}
		if err := w.differs(&o, seen, uerr); err != nil {
			return count, err
		}
		if err := note(nil); err != nil {
			return count, err
		}
	}
}

// differs does in the shadow what was done in the union, and compares.
func (w *worker) differs(o *operation, seen string, uerr error) error {
	want, n, err := o.do(w.Shadow)
	if n > 0 {
		want = fmt.Sprint(n)
	}
	var got, wanted unix.Errno
	if errors.As(uerr, &got) != errors.As(err, &wanted) || got != wanted || seen != want {
		return fmt.Errorf("%+v ended with %s and %s, in a plain directory with error number %d and %s", o, fmt.Sprint(uerr), brief(seen), int(wanted), brief(want))
	}
	return nil
}

func brief(text string) string {
	if len(text) > 60 {
		return fmt.Sprintf("%q… (%d bytes)", text[:60], len(text))
	}
	return fmt.Sprintf("%q", text)
}

// isDead reports whether an error is that of a union without a server.
func isDead(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

func ignoreDead(err error) error {
	if isDead(err) {
		return nil
	}
	return err
}

// settle brings the shadow to what the union has, if the operation that was under way
// when the union ended explains it: it was done, or not, or a write in part.
func (w *worker) settle(equal func() bool) error {
	text, err := os.ReadFile(w.Intent)
	if err != nil || len(text) == 0 || equal() {
		return err
	}
	var o operation
	if err := json.Unmarshal(text, &o); err != nil {
		return err
	}
	if !slices.Contains([]string{"write", "synced", "append"}, o.Kind) {
		_, _, err := o.do(w.Shadow)
		return err
	}
	got, err := os.ReadFile(filepath.Join(w.Dir, o.A))
	if err != nil {
		return err
	}
	path := filepath.Join(w.Shadow, o.A)
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if o.Kind == "append" {
		o.Off = int64(len(old))
	}
	// A write is done from its start on.
	part := bytes.Clone(got[min(int(o.Off), len(got)):])
	part = part[:min(len(part), o.Size)]
	for !strings.HasPrefix(string(o.content()), string(part)) {
		part = part[:len(part)-1]
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(part, o.Off)
	return errors.Join(err, f.Close())
}
