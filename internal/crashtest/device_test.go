package crashtest

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// device is the content of a disk: a file of a FUSE file system in this process, which a
// loop device makes a block device of. The loop driver turns a flush of the block device
// into an fsync of the file and has no other barrier.
type device struct {
	mu        sync.Mutex // guards what follows
	data      []byte
	recording bool
	log       []event // since recording began
	undo      []event // old contents of what was written while not recording, newest last
	reverts   int
}

// event is a write, or where data is nil a flush.
type event struct {
	off  int64
	data []byte
}

// deviceFile is a device under one name.
type deviceFile struct {
	fs.Inode
	*device
	reverts int // of the device when the name was looked up
}

var (
	_ fs.NodeOpener    = (*deviceFile)(nil)
	_ fs.NodeGetattrer = (*deviceFile)(nil)
	_ fs.NodeReader    = (*deviceFile)(nil)
	_ fs.NodeWriter    = (*deviceFile)(nil)
	_ fs.NodeFsyncer   = (*deviceFile)(nil)
	_ fs.NodeSetattrer = (*deviceFile)(nil)
)

func (d *device) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, 0
}

func (d *device) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size, out.Blksize = 0o600, uint64(len(d.data)), 4096
	return 0
}

func (d *device) Setattr(ctx context.Context, f fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return d.Getattr(ctx, f, out)
}

func (d *device) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off >= int64(len(d.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, d.data[off:])]), 0
}

// Write is what the loop device does. One of a cut that is over, which goes on as long as
// somebody's mount namespace has a copy of the mount, has nothing to write any more.
func (f *deviceFile) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	d := f.device
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.reverts != d.reverts {
		return uint32(len(data)), 0
	}
	if off+int64(len(data)) > int64(len(d.data)) {
		return 0, syscall.ENOSPC
	}
	if d.recording {
		d.log = append(d.log, event{off, append([]byte{}, data...)})
		copy(d.data[off:], data)
	} else {
		d.put(event{off, data})
	}
	return uint32(len(data)), 0
}

func (d *device) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.recording {
		d.log = append(d.log, event{})
	}
	return 0
}

// put writes and remembers what was there.
func (d *device) put(e event) {
	old := append([]byte{}, d.data[e.off:e.off+int64(len(e.data))]...)
	d.undo = append(d.undo, event{e.off, old})
	copy(d.data[e.off:], e.data)
}

// revert undoes all writes that were not recorded.
func (d *device) revert() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.undo) - 1; i >= 0; i-- {
		copy(d.data[d.undo[i].off:], d.undo[i].data)
	}
	d.undo = nil
	d.reverts++
}

// position is how much was recorded.
func (d *device) position() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.log)
}

// shelf is the root of a file system in which a device is a file under any name that
// begins with its number. A name that was not used before is a file that no cache of the
// kernel, and no loop device, knows.
type shelf struct {
	fs.Inode
	devices []*device
}

var _ fs.NodeLookuper = (*shelf)(nil)

func (s *shelf) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	i := int(name[0] - '0')
	if i < 0 || i >= len(s.devices) {
		return nil, syscall.ENOENT
	}
	d := s.devices[i]
	d.mu.Lock()
	defer d.mu.Unlock()
	out.Mode, out.Size, out.Blksize = 0o600, uint64(len(d.data)), 4096
	return s.NewInode(ctx, &deviceFile{device: d, reverts: d.reverts}, fs.StableAttr{Mode: syscall.S_IFREG}), 0
}

// serve mounts a file system with the devices and returns its directory.
func serve(t testing.TB, devices ...*device) string {
	t.Helper()
	testenv.FuseDevice(t)
	dir := t.TempDir()
	hour := time.Hour
	server, err := fs.Mount(dir, &shelf{devices: devices}, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true, MaxWrite: 1 << 20, Name: "crashtest"},
		EntryTimeout: &hour, AttrTimeout: &hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	closeOnExec(t, "/dev/fuse")
	t.Cleanup(func() {
		// A loop device goes when the last mount namespace that had copied its mount does.
		if server.Unmount() == nil {
			return
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// closeOnExec keeps a file that is open here from commands that are started. One that
// works on a mount and has its device open, too, would wait for ever if the tests are
// killed: the mount ends when nobody has the device.
func closeOnExec(t testing.TB, path string) {
	t.Helper()
	const own = "/proc/self/fd"
	fds, err := os.ReadDir(own)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, err := os.Readlink(filepath.Join(own, fd.Name())); err != nil || name != path {
			continue // closed since, or another
		}
		n, err := strconv.Atoi(fd.Name())
		if err != nil {
			t.Fatal(err)
		}
		unix.CloseOnExec(n)
	}
}

// mkfs returns the bytes of an empty file system.
func (k fileSystem) mkfs(t testing.TB) []byte {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(k.size)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	testenv.Output(t, k.make[0], append(k.make[1:len(k.make):len(k.make)], image)...)
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fileSystem is a kind of file system to cut the power of.
type fileSystem struct {
	name  string
	make  []string
	size  int64    // bytes
	check []string // program to run before it is mounted again; nil for none
}

func fileSystems() []fileSystem {
	ext4 := []string{"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"}
	return []fileSystem{
		{"ext4", ext4, 64 << 20, nil},
		{"xfs", []string{"mkfs.xfs", "-q", "-K"}, 300 << 20, nil},
		// Without a journal its own check comes first, as at every boot after a power cut.
		{"ext4-nojournal", append(ext4[:len(ext4):len(ext4)], "-O", "^has_journal"), 64 << 20, []string{"e2fsck", "-fy"}},
	}
}

// attach mounts a served device, until the function returned is called or the test ends.
func attach(t testing.TB, path, at string) (detach func()) {
	t.Helper()
	testenv.Output(t, "mount", "-o", "loop", path, at)
	detach = sync.OnceFunc(func() {
		mounts := testenv.Mounts(t, at)
		for _, m := range slices.Backward(mounts) {
			flags := 0
			if m != at {
				flags = unix.MNT_DETACH // of layerfs, from a test that failed
			}
			if err := unix.Unmount(m, flags); err != nil {
				t.Errorf("unmount %s: %v", m, err)
			}
		}
	})
	t.Cleanup(detach)
	return detach
}

// replay brings a device to what a disk may hold when the power goes after the first n
// events of a recording: everything written before the last flush, and of what came
// after it any part, sectors being whole. from is how far the device is already.
func (d *device) replay(log []event, from, n int, random *rand.Rand) (flushed int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	flushed = from
	for i := from; i < n; i++ {
		if log[i].data == nil {
			flushed = i + 1
		}
	}
	for _, e := range log[from:flushed] {
		copy(d.data[e.off:], e.data) // for good
	}
	// Sometimes nothing has reached the disk, sometimes all, mostly this and that.
	chance := []float64{0, 0.2, 0.5, 0.8, 1}[random.IntN(5)]
	for _, e := range log[flushed:n] {
		switch {
		case random.Float64() < chance:
			d.put(e)
		case random.Float64() < 0.1:
			const sector = 512
			cut := random.IntN(len(e.data)/sector+1) * sector
			d.put(event{e.off, e.data[:cut]})
		}
	}
	return flushed
}
