package union

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// TestOffsetsOfNames gives offsets to the names of a large directory. They must differ,
// grow, fit into 31 bits, and stay when other names come and go.
func TestOffsetsOfNames(t *testing.T) {
	const n = 100_000 // enough for some equal hashes
	l := newLists()
	list := func(skip int) []dirent {
		var all []dirent
		for i := range n {
			if skip == 0 || i%skip != 0 {
				all = append(all, dirent{name: strconv.Itoa(i)})
			}
		}
		l.order(all)
		return all
	}
	all := list(0)
	before := map[string]uint64{}
	last := uint64(firstHash - 1)
	for _, e := range all {
		if e.next <= last || e.next > 1<<31-1 {
			t.Fatalf("name %s has offset %d after %d", e.name, e.next, last)
		}
		last, before[e.name] = e.next, e.next
	}
	moved := 0
	for _, e := range list(3) {
		if before[e.name] != e.next {
			moved++
		}
	}
	if moved > n/1000 { // of equal hashes one may move
		t.Errorf("%d of %d offsets have changed with other names", moved, n)
	}
}

func TestListsAreBounded(t *testing.T) {
	l := newLists()
	var dirs []*node
	for range maxLists + 1 {
		dirs = append(dirs, &node{})
		l.put(dirs[len(dirs)-1], []dirent{{name: "a"}})
	}
	if _, ok := l.find(dirs[0]); ok || len(l.m) != maxLists || len(l.made) != maxLists {
		t.Errorf("%d lists are kept, the first: %v; want %d", len(l.m), ok, maxLists)
	}
	for _, d := range dirs {
		l.drop(d)
	}
	if len(l.m)+len(l.made) > 0 {
		t.Errorf("%d lists are left", len(l.m))
	}
}

func openedFile(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open(filepath.Join(t.TempDir(), "f"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	must(t, err)
	return fd
}

// TestContentThatMoves has a file opened while a copy-up moves its content: who asked
// gets what was opened, and nobody after them.
func TestContentThatMoves(t *testing.T) {
	const id = 7
	o := newOpenFiles()
	defer o.closeAll()
	old, err := o.take(id, false, func() (int, openMode, error) {
		fd := openedFile(t)
		o.forget(id)
		return fd, forReading, nil
	})
	must(t, err)
	next, err := o.take(id, false, func() (int, openMode, error) { return openedFile(t), forReading, nil })
	must(t, err)
	if next == old {
		t.Error("the content's old place is still used")
	}
	o.release(old)
	o.release(next)
	if err := unix.Fstat(next.fd, &unix.Stat_t{}); err != nil {
		t.Errorf("the new place is not kept open: %v", err)
	}
}

// TestWritingReplacesReading opens a file for reading and then for writing.
func TestWritingReplacesReading(t *testing.T) {
	const id = 7
	o := newOpenFiles()
	defer o.closeAll()
	read, err := o.take(id, false, func() (int, openMode, error) { return openedFile(t), forReading, nil })
	must(t, err)
	if o.find(id, true) != nil {
		t.Error("a file that is open for reading is found for writing")
	}
	write, err := o.take(id, true, func() (int, openMode, error) { return openedFile(t), forWriting, nil })
	must(t, err)
	if again := o.find(id, false); again != write {
		t.Error("reading does not use what is open for writing")
	} else {
		o.release(again)
	}
	o.release(write)
	o.release(read)
}

func TestOpenFilesAreBounded(t *testing.T) {
	o := newOpenFiles()
	defer o.closeAll()
	for id := range uint64(maxFiles + 10) {
		o.put(id, openedFile(t))
	}
	if len(o.m) != maxFiles || o.idle.Len() != maxFiles {
		t.Errorf("%d files are open, %d of them idle; want %d", len(o.m), o.idle.Len(), maxFiles)
	}
}

// TestForbiddenModes reads and writes a file whose mode forbids that to the server, which
// is what a request by who had it open before means.
func TestForbiddenModes(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("nothing is forbidden to root")
	}
	f := open(t, many(1, 1))
	var out fuse.CreateOut
	in := fuse.CreateIn{InHeader: header(rootID), Mode: unix.S_IFREG | 0o041}
	if s := f.Create(nil, &in, "f", &out); !s.Ok() {
		t.Fatal(s)
	}
	for _, step := range []string{"while it is open", "when it has to be opened"} {
		if n, s := f.Write(nil, &fuse.WriteIn{InHeader: header(out.NodeId)}, []byte(step)); !s.Ok() || int(n) != len(step) {
			t.Fatalf("write %s: %d bytes, %v", step, n, s)
		}
		f.files.forget(out.NodeId)
		buf := make([]byte, len(step))
		if _, s := f.Read(nil, &fuse.ReadIn{InHeader: header(out.NodeId)}, buf); !s.Ok() || string(buf) != step {
			t.Fatalf("read %s: %q, %v", step, buf, s)
		}
		f.files.forget(out.NodeId)
	}
	var attr fuse.AttrOut
	if s := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(out.NodeId)}, &attr); !s.Ok() || attr.Mode != unix.S_IFREG|0o041 {
		t.Errorf("the file has mode %o, %v", attr.Mode, s)
	}
}
