package mountapi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tmpfs attaches an empty file system to a new directory, until the test ends.
func tmpfs(t *testing.T) string {
	t.Helper()
	needRoot(t)
	target := t.TempDir()
	c, err := Open("tmpfs")
	must(t, err)
	must(t, c.SetString("source", "mountapi test"))
	must(t, c.SetString("size", "1m"))
	must(t, c.Create())
	m, err := c.Mount(unix.MOUNT_ATTR_NOSUID)
	must(t, err)
	must(t, c.Close())
	must(t, m.Attach(target))
	must(t, m.Close())
	t.Cleanup(func() {
		if mounted, err := Mounted(target); err == nil && mounted {
			must(t, Unmount(t.Context(), target, true))
		}
	})
	return target
}

func TestMountAndUnmount(t *testing.T) {
	target := tmpfs(t)
	mounted, err := Mounted(target)
	must(t, err)
	infos, err := List(target)
	must(t, err)
	if !mounted || len(infos) != 1 || infos[0].Target != target || infos[0].Type != "tmpfs" || infos[0].Source != "mountapi test" || infos[0].ReadOnly {
		t.Errorf("mounted %v, mountinfo %+v", mounted, infos)
	}
	m, err := OpenTree(target, false)
	must(t, err)
	must(t, m.SetAttr(unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
	must(t, m.Close())
	if err := os.WriteFile(filepath.Join(target, "f"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a mount made read-only: %v, want EROFS", err)
	}
	infos, err = List(target)
	must(t, err)
	if len(infos) != 1 || !infos[0].ReadOnly {
		t.Errorf("a mount made read-only shows as %+v", infos)
	}
	must(t, Unmount(t.Context(), target, false))
	if mounted, err := Mounted(target); err != nil || mounted {
		t.Errorf("after unmounting: mounted %v, %v", mounted, err)
	}
	if err := Unmount(t.Context(), target, false); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("unmounting what is not mounted: %v, want fs.ErrInvalid", err)
	}
	if err := Unmount(t.Context(), filepath.Join(target, "none"), false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unmounting a missing directory: %v, want fs.ErrNotExist", err)
	}
}

func TestDetachedCopy(t *testing.T) {
	target := tmpfs(t)
	must(t, os.WriteFile(filepath.Join(target, "f"), []byte("x"), 0o644))
	m, err := OpenTree(target, true)
	must(t, err)
	must(t, Unmount(t.Context(), target, false))
	if got, err := os.ReadFile(filepath.Join(FdPath(m.FD()), "f")); err != nil || string(got) != "x" {
		t.Errorf("through a detached copy: %q, %v", got, err)
	}
	must(t, m.Close())
	if err := m.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closing twice: %v, want fs.ErrClosed", err)
	}
}

func TestErrorsCarryTheKernelsWords(t *testing.T) {
	needRoot(t)
	if _, err := Open("no such type"); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "no such type") {
		t.Errorf("unknown file system: %v, want ENODEV and its name", err)
	}
	c, err := Open("tmpfs")
	must(t, err)
	defer func() { must(t, c.Close()) }()
	err = c.SetString("size", "nonsense")
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, unix.EINVAL) || e.Op != "fsconfig size" || len(e.Log) == 0 || !strings.Contains(err.Error(), e.Log[0]) {
		t.Errorf("wrong value: %#v, want EINVAL with the kernel's message", err)
	}
	if err := c.SetFlag("unknown"); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("unknown parameter: %v", err)
	}
	if err := c.SetString("source", strings.Repeat("s", MaxString+1)); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("value of %d bytes: %v, want ENAMETOOLONG", MaxString+1, err)
	}
	if err := c.SetString("source", strings.Repeat("s", MaxString)); err != nil {
		t.Errorf("value of %d bytes: %v", MaxString, err)
	}
}

func TestBusyNamesHolders(t *testing.T) {
	program, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("there is no program sleep to hold a mount")
	}
	target := tmpfs(t)
	command := exec.Command(program, "60")
	command.Dir = target
	must(t, command.Start())
	end := func() {
		_ = command.Process.Kill()
		_ = command.Wait() // ends with the signal
	}
	defer end()
	err = Unmount(t.Context(), target, false)
	var busy *BusyError
	want := fmt.Sprintf("process %d (sleep): working directory", command.Process.Pid)
	if !errors.As(err, &busy) || !errors.Is(err, unix.EBUSY) || len(busy.Holders) != 1 || busy.Holders[0] != want {
		t.Errorf("unmounting a busy mount: %v, want %q", err, want)
	}
	must(t, Unmount(t.Context(), target, true))
	if mounted, err := Mounted(target); err != nil || mounted {
		t.Errorf("after a forced unmount: mounted %v, %v", mounted, err)
	}
	end()
}

func TestBusyNamesMounts(t *testing.T) {
	target := tmpfs(t)
	must(t, os.Mkdir(filepath.Join(target, "below"), 0o755))
	below := filepath.Join(target, "below")
	must(t, unix.Mount("inner", below, "tmpfs", 0, ""))
	err := Unmount(t.Context(), target, false)
	if err == nil || !strings.Contains(err.Error(), "the mount "+below) {
		t.Errorf("unmounting below another mount: %v, want one that names %s", err, below)
	}
	must(t, Unmount(t.Context(), below, false))
}

func TestLoop(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "image")
	content := strings.Repeat("0123456789abcdef", 512)
	must(t, os.WriteFile(path, []byte(content), 0o644))
	f, err := os.Open(path)
	must(t, err)
	device, err := AttachLoop(f)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip(err)
	}
	must(t, err)
	must(t, f.Close())
	got, err := os.ReadFile(device.Name())
	if err != nil || string(got) != content {
		t.Errorf("the device gives %d bytes, %v, want %d", len(got), err, len(content))
	}
	if err := os.WriteFile(device.Name(), []byte("x"), 0); err == nil {
		t.Error("the device can be written")
	}
	info, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
	must(t, err)
	if info.Flags&unix.LO_FLAGS_AUTOCLEAR == 0 || info.Flags&unix.LO_FLAGS_READ_ONLY == 0 {
		t.Errorf("the device has flags %#x", info.Flags)
	}
	must(t, device.Close())
}

func FuzzKernelLine(f *testing.F) {
	f.Add("6,339,5140900,-;overlayfs: conflicting lowerdir path\n SUBSYSTEM=x\n")
	f.Add("3,1,2,-;erofs (device erofs): mounted with root inode @ nid 36.")
	f.Add(";")
	f.Fuzz(func(t *testing.T, record string) {
		line, ok := kernelLine(record)
		if ok && (strings.Contains(line, "\n") || !strings.Contains(record, ";"+line)) {
			t.Errorf("%q gives %q", record, line)
		}
	})
}

func TestKernelLine(t *testing.T) {
	for record, want := range map[string]string{
		"6,339,5140900,-;overlayfs: conflicting lowerdir path\n": "overlayfs: conflicting lowerdir path",
		"3,1,2,-;erofs (device erofs): bad magic\n KEY=value\n":  "erofs (device erofs): bad magic",
		"3,1,2,-;erofs (device x): mounted with root inode @ 3":  "",
		"3,1,2,-;usb: another matter":                            "",
		"no record":                                              "",
	} {
		if got, ok := kernelLine(record); got != want || ok != (want != "") {
			t.Errorf("%q gives %q, %v, want %q", record, got, ok, want)
		}
	}
}
