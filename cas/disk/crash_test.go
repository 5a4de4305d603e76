package disk_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/layerfs/layerfs/cas/disk"
	"golang.org/x/sys/unix"
)

// journaled are the file systems that crash tests run on: the program that makes one, and
// the size of the image in bytes, for xfs the least that mkfs.xfs makes.
var journaled = []struct {
	name string
	mkfs []string
	size int64
}{
	{"ext4", []string{"mkfs.ext4", "-q", "-F", "-m", "0"}, 64 << 20},
	{"xfs", []string{"mkfs.xfs", "-q"}, 300 << 20},
}

// makeImage makes a file system in a file.
func makeImage(t *testing.T, size int64, mkfs ...string) string {
	t.Helper()
	needRoot(t)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath(mkfs[0]); err != nil {
		t.Skipf("%s is not installed", mkfs[0])
	}
	run(t, append(mkfs, image)...)
	return image
}

func run(t *testing.T, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", command, err, out)
	}
}

// mountImage mounts an image through a loop device, which goes with the mount. It is
// unmounted at the end of the test, or before with the function returned.
func mountImage(t *testing.T, image, dir string) (umount func()) {
	t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount through a loop device: %v\n%s", err, out)
	}
	mounted := true
	umount = func() {
		t.Helper()
		if !mounted {
			return
		}
		mounted = false
		if out, err := exec.Command("umount", "-d", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
			_ = exec.Command("umount", "-l", dir).Run() // rather than leave it behind
		}
	}
	t.Cleanup(umount)
	return umount
}

// Values of FS_IOC_SHUTDOWN (linux/fs.h; _IOR('X', 125, __u32)), which ext4 and xfs
// know: stop at once, without writing the journal.
const (
	fsIocShutdown   = 0x8004587d
	shutdownNoFlush = 2
)

// crash stops a file system as a power cut would: what is not on the device is lost.
func crash(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), fsIocShutdown, shutdownNoFlush); err != nil {
		t.Skipf("cannot shut the file system down: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// crashAfter lets a process publish on the mounted image until it has acknowledged that
// many rounds, and then, if mark is not "", until an ingest has that mark; then it crashes
// the file system, and mounts it again. It returns how many rounds were acknowledged in
// the end.
func crashAfter(t *testing.T, part, image, dir string, rounds int, mark string) int {
	t.Helper()
	umount := mountImage(t, image, dir)
	p := start(t, filepath.Join(dir, "store"), part)
	acknowledged := 0
	for acknowledged < rounds && p.out.Scan() {
		acknowledged++
	}
	if mark != "" {
		awaitMark(t, filepath.Join(dir, "store"), mark)
	}
	crash(t, dir)
	for p.out.Scan() { // until it meets the error
		acknowledged++
	}
	p.kill(t)
	if acknowledged < rounds {
		t.Fatalf("the other process ended after %d rounds", acknowledged)
	}
	umount()
	awaitLoop(t, image)
	mountImage(t, image, dir)
	return acknowledged
}

// awaitLoop waits until no loop device has the image. A mount name space that some other
// process made meanwhile has copies of all mounts; as long as it lives, so does the file
// system that crashed, and mounting the image again would give that one.
func awaitLoop(t *testing.T, image string) {
	t.Helper()
	const pause, most = 20 * time.Millisecond, 30 * time.Second
	for began := time.Now(); time.Since(began) < most; time.Sleep(pause) {
		out, err := exec.Command("losetup", "--associated", image).CombinedOutput()
		if err != nil {
			t.Fatalf("losetup: %v: %s", err, out)
		}
		if len(out) == 0 {
			return
		}
	}
	t.Fatalf("%s is still in use after %v", image, most)
}

// What Publish and WriteRecord have acknowledged survives a power cut, what was not
// published is absent, and nothing is torn.
func TestCrash(t *testing.T) {
	for _, jfs := range journaled {
		for i, mark := range []string{"", "publishing", "publishing", "moving", "moving"} {
			rounds := 1 + i
			t.Run(fmt.Sprintf("%s/rounds=%d/%s", jfs.name, rounds, mark), func(t *testing.T) {
				dir := t.TempDir()
				image := makeImage(t, jfs.size, jfs.mkfs...)
				n := crashAfter(t, "publish", image, dir, rounds, mark)
				s, err := disk.Open(t.Context(), filepath.Join(dir, "store"), disk.Options{})
				if err != nil {
					t.Fatal(err)
				}
				wantRounds(t, s, n)
				wantNoObject(t, s, "unpublished")
				checkContents(t, s)
				before, err := s.Usage(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.CleanIngests(t.Context()); err != nil {
					t.Error(err)
				}
				after, err := s.Recount(t.Context())
				if err != nil || before.Exact && before != after {
					t.Errorf("sums said to be exact are %+v, a walk counts %+v (%v)", before, after, err)
				}
				// Work goes on.
				put(t, s, "afterwards")
				check(t, s)
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Without flushing, the same crash loses what was acknowledged: the crash is a real one.
func TestCrashWithoutSync(t *testing.T) {
	for _, jfs := range journaled {
		t.Run(jfs.name, func(t *testing.T) {
			dir := t.TempDir()
			image := makeImage(t, jfs.size, jfs.mkfs...)
			crashAfter(t, "nosync", image, dir, 3, "")
			// The store itself may be gone.
			_, err := os.Stat(filepath.Join(dir, "store", "format.json"))
			if errors.Is(err, fs.ErrNotExist) {
				return
			}
			s, err := disk.Open(t.Context(), filepath.Join(dir, "store"), disk.Options{ReadOnly: true})
			if err != nil {
				return
			}
			content := roundContent(2, 0)
			r, err := s.OpenObject(t.Context(), idOf(content))
			if err == nil {
				if r.Size() == int64(len(content)) {
					t.Skip("the kernel has written everything by itself before the crash, which so proves nothing")
				}
				err = r.Close()
			}
			t.Logf("lost or torn, as was to be expected: %v", err)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
