package unionfstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func eventCases() theme {
	return theme{"locks and events", []testCase{
		{name: "flock over copy-up", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			reader := open(t, u.At("f"), os.O_RDONLY)
			must(t, unix.Flock(int(reader.Fd()), unix.LOCK_EX|unix.LOCK_NB))
			writer := open(t, u.At("f"), os.O_RDWR)
			_, err := writer.WriteString("copied up")
			must(t, err)
			if err := unix.Flock(int(writer.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
				t.Errorf("a lock taken before copy-up is not seen after it: %v", err)
			}
			must(t, unix.Flock(int(reader.Fd()), unix.LOCK_UN))
			must(t, unix.Flock(int(writer.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		}},
		{name: "record lock over copy-up", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			reader := open(t, u.At("f"), os.O_RDONLY)
			lock := unix.Flock_t{Type: unix.F_RDLCK, Whence: unix.SEEK_SET, Start: 0, Len: 10}
			must(t, unix.FcntlFlock(reader.Fd(), unix.F_OFD_SETLK, &lock))
			writer := open(t, u.At("f"), os.O_RDWR)
			_, err := writer.WriteString("copied up")
			must(t, err)
			lock = unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: 5, Len: 1}
			if err := unix.FcntlFlock(writer.Fd(), unix.F_OFD_SETLK, &lock); !errors.Is(err, unix.EAGAIN) {
				t.Errorf("a lock taken before copy-up is not seen after it: %v", err)
			}
			lock.Start = 20
			must(t, unix.FcntlFlock(writer.Fd(), unix.F_OFD_SETLK, &lock))
		}},
		{name: "inotify of a directory", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			watch := newWatch(t, u.At("d"), unix.IN_ALL_EVENTS)
			u.Apply(t, Append("d/a", "!"), WriteFile("d/new", "x"), Unlink("d/b"), Rename("d/new", "d/newer"), Mkdir("d/dir"), Chmod("d/a", 0o600))
			for _, want := range []event{
				{unix.IN_MODIFY, "a"}, {unix.IN_CREATE, "new"}, {unix.IN_DELETE, "b"}, {unix.IN_MOVED_FROM, "new"}, {unix.IN_MOVED_TO, "newer"}, {unix.IN_CREATE | unix.IN_ISDIR, "dir"}, {unix.IN_ATTRIB, "a"},
			} {
				if !slices.Contains(watch.events(t), want) {
					t.Errorf("no event %#x of %q among %v", want.mask, want.name, watch.seen)
				}
			}
			u.CloseAndVerify(t, watch.file)
		}},
		{name: "inotify of a copied-up file", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			u.Apply(t, Append("f", "!"))
			watch := newWatch(t, u.At("f"), unix.IN_ALL_EVENTS)
			u.Apply(t, Append("f", "!"), Unlink("f"))
			for _, want := range []event{{unix.IN_MODIFY, ""}, {unix.IN_CLOSE_WRITE, ""}, {unix.IN_DELETE_SELF, ""}} {
				if !slices.Contains(watch.events(t), want) {
					t.Errorf("no event %#x among %v", want.mask, watch.seen)
				}
			}
			u.CloseAndVerify(t, watch.file)
		}},
		{name: "a running program is busy", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			program, err := exec.LookPath("sleep")
			if err != nil {
				t.Skip("there is no program sleep to run")
			}
			content, err := os.ReadFile(program)
			must(t, err)
			must(t, os.WriteFile(u.At("sleep"), content, 0o755))
			command := exec.CommandContext(t.Context(), u.At("sleep"), "60")
			must(t, command.Start())
			defer func() {
				must(t, command.Process.Kill())
				_ = command.Wait() // ends with the signal
			}()
			if _, err := OpenClose("sleep", unix.O_WRONLY, 0).Do(u.Root); errno(err) != unix.ETXTBSY {
				t.Errorf("opening a running program for writing ended with %v, want ETXTBSY", err)
			}
			must(t, os.Remove(u.At("sleep")))
		}},
		{name: "a program open for writing does not run", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			writer := open(t, u.At("g"), os.O_RDWR)
			if err := exec.CommandContext(t.Context(), u.At("g")).Run(); !errors.Is(err, unix.ETXTBSY) {
				t.Errorf("running a file that is open for writing ended with %v, want ETXTBSY", err)
			}
			must(t, writer.Close())
		}},
	}}
}

// event is one inotify event.
type event struct {
	mask uint32
	name string
}

type watch struct {
	file *os.File
	seen []event
}

func newWatch(t *testing.T, path string, mask uint32) *watch {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	f := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { _ = f.Close() }) // often closed already
	_, err = unix.InotifyAddWatch(fd, path, mask)
	must(t, err)
	return &watch{file: f}
}

// events reads what is there and returns all that was ever read. Records are struct
// inotify_event of inotify(7).
func (w *watch) events(t *testing.T) []event {
	t.Helper()
	const header = 16
	buf := make([]byte, 64*1024)
	n, err := unix.Read(int(w.file.Fd()), buf)
	if errors.Is(err, unix.EAGAIN) {
		return w.seen
	}
	must(t, err)
	for rest := buf[:n]; len(rest) >= header; {
		length := int(binary.NativeEndian.Uint32(rest[12:]))
		name, _, _ := bytes.Cut(rest[header:header+length], []byte{0})
		w.seen = append(w.seen, event{binary.NativeEndian.Uint32(rest[4:]), string(name)})
		rest = rest[header+length:]
	}
	return w.seen
}
