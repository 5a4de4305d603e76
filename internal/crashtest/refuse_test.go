package crashtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// place returns the file in which a system call of a process reads, writes or changes
// something; for a name it is the name's path. "" is for calls about something else.
func place(pid int, c *syscallInfo) string {
	link := func(name string) string {
		p, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			return ""
		}
		return p
	}
	below := func(dirfd, path uint64) string {
		name := stringAt(pid, path)
		switch {
		case name == "" || filepath.IsAbs(name):
			return name
		case int32(dirfd) == unix.AT_FDCWD: //nolint:gosec // an int of C
			return filepath.Join(link("cwd"), name)
		default:
			return filepath.Join(link(fmt.Sprintf("fd/%d", dirfd)), name)
		}
	}
	switch c.nr {
	case unix.SYS_OPENAT:
		if c.args[2]&unix.O_CREAT == 0 {
			return ""
		}
		return below(c.args[0], c.args[1])
	case unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT, unix.SYS_FCHMODAT:
		return below(c.args[0], c.args[1])
	case unix.SYS_SYMLINKAT:
		return below(c.args[1], c.args[2])
	case unix.SYS_COPY_FILE_RANGE:
		return link(fmt.Sprintf("fd/%d", c.args[2]))
	case unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE,
		unix.SYS_FCHMOD, unix.SYS_FSETXATTR, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS, unix.SYS_GETDENTS64:
		return link(fmt.Sprintf("fd/%d", c.args[0]))
	default:
		return ""
	}
}

// stringAt reads a path in the memory of a process.
func stringAt(pid int, at uint64) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, unix.PathMax)
	n, _ := f.ReadAt(b, int64(at)) //nolint:gosec // shorter at the end of a mapping
	text, _, _ := bytes.Cut(b[:n], []byte{0})
	return string(text)
}

// inStore counts the system calls on the files of a store.
func (w *world) inStore(pid int, c *syscallInfo) bool {
	return strings.HasPrefix(place(pid, c)+"/", w.root+"/")
}

// refusals are the errors of a disk and of the kernel, one after the other.
func refusal(n int, c *syscallInfo) syscall.Errno {
	switch c.nr {
	case unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_UNLINKAT, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_GETDENTS64:
		return []syscall.Errno{unix.EIO, unix.ENOMEM}[n%2]
	default:
		return []syscall.Errno{unix.EIO, unix.EDQUOT, unix.ENOMEM, unix.ENOSPC}[n%4]
	}
}

// Whichever system call on the store fails, with an error of the disk, of a quota or for
// lack of memory: a command that says that it has failed has left nothing half done, one
// that says that it has not has done all, it can be repeated, and gc leaves a store that
// is, byte for byte, that of a command that met no error.
func TestFaultErrors(t *testing.T) {
	testenv.Long(t)
	if !canRefuse {
		t.Skip("system calls cannot be made to fail on this architecture")
	}
	dir := tmpfs(t)
	stock := stocked(t, dir+"/stock")
	failures := 0
	for _, op := range operations() {
		if op.name == "init" || op.name == "run" {
			continue // nothing to lose; and its processes outlive what is traced
		}
		t.Run(op.name, func(t *testing.T) {
			failures += disturb(t, stock, dir, op, 1, failed, func(w *world, n int) disturbance {
				return disturbance{among: w.inStore, at: n, do: func(tid int, c *syscallInfo) (syscall.Errno, error) {
					return refusal(n, c), skipCall(tid)
				}}
			})
		})
	}
	t.Logf("%d failed system calls", failures)
}

// A write that takes a part of what it was given is continued.
func TestFaultShortWrites(t *testing.T) {
	testenv.Long(t)
	if !canRefuse {
		t.Skip("system calls cannot be changed on this architecture")
	}
	dir := tmpfs(t)
	stock := stocked(t, dir+"/stock")
	for _, op := range operations() {
		if op.name != "load" && op.name != "import" && op.name != "commit" && op.name != "save" {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			disturb(t, stock, dir, op, 1, cutShort, func(w *world, n int) disturbance {
				writes := func(pid int, c *syscallInfo) bool {
					return (c.nr == unix.SYS_WRITE || c.nr == unix.SYS_PWRITE64) && c.args[2] > 1 && w.inStore(pid, c)
				}
				return disturbance{among: writes, at: n, on: true, do: func(tid int, c *syscallInfo) (syscall.Errno, error) {
					return 0, setLength(tid, c.args[2]/2)
				}}
			})
		})
	}
}

// What takes away works where a quota lets nothing be made or written.
func TestFaultQuota(t *testing.T) {
	testenv.Long(t)
	if !canRefuse {
		t.Skip("system calls cannot be made to fail on this architecture")
	}
	dir := tmpfs(t)
	stock := stocked(t, dir+"/stock")
	for _, op := range operations() {
		if !slices.Contains([]string{"rmi", "umount", "umount --rm", "snapshots rm", "gc"}, op.name) {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			w := stock.copyOf(t, dir+"/quota")
			defer w.discard()
			if op.prepare != nil {
				op.prepare(w)
			}
			growing := func(pid int, c *syscallInfo) bool {
				switch c.nr {
				case unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT:
					_, err := os.Lstat(place(pid, c))
					return err != nil && w.inStore(pid, c)
				case unix.SYS_WRITE:
					return w.inStore(pid, c)
				default:
					return false
				}
			}
			r := trace(t, w.command(op.args...), disturbance{among: growing, at: 1, on: true, do: func(tid int, _ *syscallInfo) (syscall.Errno, error) {
				return unix.EDQUOT, skipCall(tid)
			}})
			if r.code != 0 {
				t.Errorf("layerfs %s beyond a quota, %d calls refused: exit code %d\n%s", strings.Join(op.args, " "), r.counted, r.code, r.output)
			}
			w.sound()
			w.unmountAll()
			w.must("gc")
			w.sound()
		})
	}
}

// With little memory a command works or fails as a whole, like one that is killed.
func TestFaultLittleMemory(t *testing.T) {
	testenv.Long(t)
	testenv.Tools(t, "prlimit")
	dir := tmpfs(t)
	stock := stocked(t, dir+"/stock")
	want := stock.observe()
	for _, i := range sample(t, 12, 3) {
		w := stock.copyOf(t, fmt.Sprintf("%s/m%d", dir, i))
		limit := int64(60+60*i) << 20
		for _, args := range [][]string{{"load", "-q", "-i", "three.tar"}, {"commit", "w", "c:1"}, {"gc"}} {
			cmd := w.command(args...)
			cmd.Args = append([]string{"prlimit", fmt.Sprintf("--as=%d", limit), w.bin}, args...)
			path, err := exec.LookPath("prlimit")
			w.ok(err)
			cmd.Path = path
			out, err := cmd.CombinedOutput()
			if strings.Contains(string(out), "nil pointer") {
				t.Errorf("layerfs %s with %d MiB: %v\n%s", strings.Join(args, " "), limit>>20, err, out)
			}
			w.sound()
			seen := w.observe()
			for name, what := range want {
				if seen[name] != what {
					t.Errorf("layerfs %s with %d MiB: %s is %q, was %q", strings.Join(args, " "), limit>>20, name, seen[name], what)
				}
			}
		}
		w.discard()
	}
}
