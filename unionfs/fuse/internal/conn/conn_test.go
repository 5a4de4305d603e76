package conn

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/internal/testenv"
)

// TestMain is also the server process of these tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Command {
		if err := serve(); err != nil {
			log.Fatal(err)
		}
		return
	}
	os.Exit(m.Run())
}

// empty is a file system with nothing in it.
type empty struct {
	fuse.RawFileSystem `json:"-"`
	Mode               uint32
}

func (e *empty) GetAttr(_ <-chan struct{}, _ *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Ino, out.Mode, out.Nlink = 1, unix.S_IFDIR|e.Mode, 1
	out.Owner = *fuse.CurrentOwner()
	return fuse.OK
}

func serve() error {
	e := &empty{RawFileSystem: fuse.NewDefaultRawFileSystem()}
	in, err := Inherit(e)
	if err != nil {
		return err
	}
	if e.Mode == 0 {
		return in.Fail(errors.New("no mode given"))
	}
	return in.Serve(e, fuse.MountOptions{})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expectMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	st, err := os.Stat(path)
	must(t, err)
	if st.Mode().Perm() != want {
		t.Errorf("%s has mode %v, want %v", path, st.Mode(), want)
	}
}

// mount attaches a mount that a process of its own serves.
func mount(t *testing.T, target string, e *empty) error {
	t.Helper()
	program := Program{Args: []string{Command, "test"}}
	if os.Geteuid() != 0 {
		testenv.Tools(t, fusermount)
		dev, err := Fusermount(t.Context(), target, MountOptions{Source: "a,b\\c"})
		must(t, err)
		minor, err := Minor(target)
		must(t, err)
		return errors.Join(Spawn(t.Context(), program, dev, minor, e), dev.Close())
	}
	m, err := Open(t.Context(), MountOptions{Source: "a,b\\c", AllowOther: true})
	must(t, err)
	defer func() { must(t, m.Close()) }()
	minor, err := Minor(mountapi.FdPath(m.FD()))
	must(t, err)
	if err := errors.Join(Spawn(t.Context(), program, m.Device, minor, e), m.Device.Close()); err != nil {
		return err
	}
	return m.Attach(target)
}

// children returns the handles of those processes that are children of this one, and
// closes the others: the server of a mount that has just ended somewhere else may have
// had the same device number.
func children(t *testing.T, handles []int) []int {
	t.Helper()
	var own []int
	for _, fd := range handles {
		pid := field(t, fmt.Sprintf("/proc/self/fdinfo/%d", fd), "Pid:")
		if field(t, "/proc/"+pid+"/status", "PPid:") == strconv.Itoa(os.Getpid()) {
			own = append(own, fd)
		} else {
			must(t, unix.Close(fd))
		}
	}
	return own
}

// field returns the word after a name in a file of /proc, and "" when the file has gone.
func field(t *testing.T, path, name string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), "\n"+name)
	words := strings.Fields(rest)
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

func TestSpawned(t *testing.T) {
	testenv.FuseDevice(t)
	target := t.TempDir()
	must(t, mount(t, target, &empty{Mode: 0o751}))
	expectMode(t, target, 0o751)
	infos, err := mountapi.List(target)
	must(t, err)
	if len(infos) != 1 || infos[0].Type != "fuse."+Subtype || infos[0].Source != `a,b\c` {
		t.Errorf("mountinfo shows %+v", infos)
	}
	servers := children(t, processes(target))
	if len(servers) != 1 {
		t.Fatalf("%d processes serve the mount", len(servers))
	}
	must(t, Unmount(t.Context(), target, false))
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(servers[0]), Events: unix.POLLIN}}, 0); n != 1 || err != nil {
		t.Errorf("the server has not ended with its mount: %d, %v", n, err)
	}
	must(t, unix.Close(servers[0]))
}

func TestServerRefuses(t *testing.T) {
	testenv.FuseDevice(t)
	target := t.TempDir()
	err := mount(t, target, &empty{})
	if err == nil || !strings.Contains(err.Error(), "no mode given") {
		t.Errorf("a server that refuses: %v", err)
	}
	if os.Geteuid() != 0 {
		must(t, Unmount(t.Context(), target, false))
	}
	if left := testenv.Mounts(t, target); len(left) > 0 {
		t.Errorf("left mounted: %v", left)
	}
}

// TestKilledServer kills or stops the server: users get errors, not hangs, and the
// mount can be taken down.
func TestKilledServer(t *testing.T) {
	testenv.FuseDevice(t)
	target := t.TempDir()
	must(t, mount(t, target, &empty{Mode: 0o700}))
	servers := children(t, processes(target))
	if len(servers) != 1 {
		t.Fatalf("%d processes serve the mount", len(servers))
	}
	must(t, unix.PidfdSendSignal(servers[0], unix.SIGKILL, nil, 0))
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(servers[0]), Events: unix.POLLIN}}, 10_000)
	must(t, err)
	must(t, unix.Close(servers[0]))
	if _, err := os.ReadDir(target); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("reading a mount without a server: %v, want ENOTCONN", err)
	}
	must(t, Unmount(t.Context(), target, false))
	must(t, os.WriteFile(filepath.Join(target, "free"), nil, 0o600))
}

func TestInProcess(t *testing.T) {
	testenv.FuseDevice(t)
	testenv.Root(t)
	m, err := Open(t.Context(), MountOptions{})
	must(t, err)
	s, err := Start(m.Device, &empty{RawFileSystem: fuse.NewDefaultRawFileSystem(), Mode: 0o711}, fuse.MountOptions{})
	must(t, err)
	expectMode(t, mountapi.FdPath(m.FD()), 0o711)
	must(t, m.Close())
	<-s.Ended()
}

func TestFusermountSaysWhy(t *testing.T) {
	testenv.Tools(t, fusermount)
	err := FusermountUnmount(t.Context(), t.TempDir(), false)
	if err == nil || !strings.Contains(err.Error(), fusermount+": ") {
		t.Errorf("unmounting what is no mount: %v", err)
	}
}

func TestServesByCommandLine(t *testing.T) {
	for line, want := range map[string]bool{
		"layerfs\x00fuse-server\x00union\x0057\x00": true,
		"layerfs\x00fuse-server\x0057\x00":          true,
		"layerfs\x00fuse-server\x00":                false,
		"layerfs\x00fuse-server\x00union\x005\x00":  false,
		"sh\x00-c\x00fuse-server\x0057\x00":         false,
		"":                                          false,
	} {
		if got := serves([]byte(line), "57"); got != want {
			t.Errorf("serves(%q) = %v", line, got)
		}
	}
}
