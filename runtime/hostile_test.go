package runtime_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime"
)

// hostDir is a directory that no container may reach; it fails the test if one did.
func hostDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "sentinel", "untouched")
	t.Cleanup(func() {
		entries, err := os.ReadDir(dir)
		must(t, err)
		b, err := os.ReadFile(filepath.Join(dir, "sentinel"))
		must(t, err)
		if len(entries) != 1 || string(b) != "untouched" {
			t.Errorf("a container reached the host: %v, %q", entries, b)
		}
	})
	return dir
}

// escapes are targets of links that would lead to the directory, were they followed on
// the host.
func escapes(dir string) map[string]string {
	return map[string]string{
		"absolute": dir,
		"upwards":  strings.Repeat("../", 20) + dir[1:],
		"magic":    "/proc/1/root" + dir,
	}
}

func TestMountPointsAreLinks(t *testing.T) {
	for kind := range escapes("/") {
		for _, name := range []string{"proc", "sys", "dev", "data"} {
			t.Run(kind+" "+name, func(t *testing.T) {
				dir, host := newRoot(t), hostDir(t)
				must(t, os.Symlink(escapes(host)[kind], filepath.Join(dir, name)))
				_, status, err := run(t, runtime.RootPath(dir), script("echo x >/dev/made; echo x >/data/made; true"), func(c *runtime.Config) {
					c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs"})
				})
				protected := name == "proc" || name == "sys"
				switch {
				case protected && (!errors.Is(err, unix.ELOOP) || status.ExitCode != runtime.ExitFailed):
					t.Errorf("status %+v, error %v; want a refusal", status, err)
				case !protected && err != nil && status.ExitCode != runtime.ExitFailed:
					t.Errorf("status %+v, error %v", status, err)
				}
			})
		}
	}
}

func TestMountPointBelowALink(t *testing.T) {
	for kind := range escapes("/") {
		dir, host := newRoot(t), hostDir(t)
		must(t, os.Symlink(escapes(host)[kind], filepath.Join(dir, "link")))
		volume := t.TempDir()
		must(t, os.Symlink(escapes(host)[kind], filepath.Join(volume, "link")))
		for _, at := range []string{"/link/below/file", "/volume/link/below/file"} {
			// Whether it fails or lands in the root is the same: the host is untouched.
			_, status, err := run(t, runtime.RootPath(dir), script("true"), func(c *runtime.Config) {
				c.Spec.Mounts = append(c.Spec.Mounts,
					specs.Mount{Destination: "/volume", Source: volume, Options: []string{"bind"}},
					specs.Mount{Destination: at, Source: "/etc/hostname", Options: []string{"bind", "ro"}})
			})
			if err == nil && status.ExitCode != 0 {
				t.Errorf("%s %s: status %+v", kind, at, status)
			}
		}
	}
}

func TestMaskedPathIsALink(t *testing.T) {
	for kind := range escapes("/") {
		dir, host := newRoot(t), hostDir(t)
		must(t, os.Symlink(escapes(host)[kind], filepath.Join(dir, "masked")))
		must(t, os.Symlink(escapes(host)[kind], filepath.Join(dir, "fixed")))
		out, status, err := run(t, runtime.RootPath(dir), script("cat /proc/self/mountinfo"), func(c *runtime.Config) {
			c.Spec.Linux.MaskedPaths = append(c.Spec.Linux.MaskedPaths, "/masked", "/masked/sentinel")
			c.Spec.Linux.ReadonlyPaths = append(c.Spec.Linux.ReadonlyPaths, "/fixed")
		})
		if strings.Contains(out, host) || err == nil && status.ExitCode != 0 {
			t.Errorf("%s: status %+v, error %v, mounts\n%s", kind, status, err, out)
		}
	}
}

func TestWorkingDirectoryStaysInside(t *testing.T) {
	dir, host := newRoot(t), hostDir(t)
	// A handle on the host's root, left open by a careless caller.
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer func() { must(t, unix.Close(fd)) }()
	for kind, to := range escapes(host) {
		must(t, os.Symlink(to, filepath.Join(dir, kind)))
	}
	for _, cwd := range []string{
		"/absolute", "/upwards", "/magic", "/../../..", "/proc/self/cwd", "/proc/self/root",
		"/proc/self/fd/3", "/proc/self/fd/5", "/proc/self/fd/7", "/proc/self/fd/9/tmp", "/proc/1/cwd",
	} {
		s := script("pwd -P; test -e sentinel && echo escaped; test -e /proc/self/cwd/etc/debian_version && echo escaped; true")
		s.Cwd = cwd
		out, status, err := run(t, runtime.RootPath(dir), s)
		if strings.Contains(out, "escaped") || strings.Contains(out, "unreachable") {
			t.Errorf("working directory %s leads out: %s", cwd, out)
		}
		if strings.HasPrefix(cwd, "/proc") && (err == nil || status.ExitCode != runtime.ExitFailed) {
			t.Errorf("working directory %s: status %+v, error %v; want a refusal", cwd, status, err)
		}
	}
	for _, fds := range []string{"/proc/self/fd/3/bin/sh", "/proc/self/fd/5/bin/sh", "/proc/self/fd/7/bin/sh", "/proc/self/fd/3"} {
		_, status, err := run(t, runtime.RootPath(dir), runtime.Settings{Args: []string{fds, "-c", "true"}})
		if err == nil || status.ExitCode != 126 && status.ExitCode != 127 {
			t.Errorf("program %s: status %+v, error %v", fds, status, err)
		}
	}
}

func TestLauncherIsNotExecuted(t *testing.T) {
	dir := newRoot(t)
	must(t, os.Symlink("/proc/self/exe", filepath.Join(dir, "bin/own")))
	for _, program := range []string{"/proc/self/exe", "/proc/1/exe", "/proc/self/map_files/../exe", "own", "/bin/own"} {
		_, status, err := run(t, runtime.RootPath(dir), runtime.Settings{Args: []string{program}})
		if !errors.Is(err, unix.ELOOP) || status.ExitCode != 126 {
			if errors.Is(err, fs.ErrNotExist) && strings.Contains(program, "map_files") {
				continue // without the kernel's checkpoint support there is no such directory
			}
			t.Errorf("program %s: status %+v, error %v; want a refusal", program, status, err)
		}
	}
}

func TestAccountFilesAreUntrusted(t *testing.T) {
	host := hostDir(t)
	write(t, host, "sentinel", "untouched")
	type change = func(t *testing.T, path string)
	for name, c := range map[string]struct {
		make change
		want error // of a user by name
	}{
		"missing":            {func(*testing.T, string) {}, fs.ErrNotExist},
		"FIFO":               {func(t *testing.T, p string) { must(t, unix.Mkfifo(p, 0o644)) }, fs.ErrInvalid},
		"directory":          {func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o755)) }, fs.ErrInvalid},
		"device":             {func(t *testing.T, p string) { must(t, unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))) }, fs.ErrInvalid},
		"huge":               {func(t *testing.T, p string) { must(t, os.WriteFile(p, nil, 0o644)); must(t, os.Truncate(p, 1<<40)) }, fs.ErrInvalid},
		"link to the host's": {func(t *testing.T, p string) { must(t, os.Symlink("/etc/group", p)) }, fs.ErrNotExist},
		"link upwards":       {func(t *testing.T, p string) { must(t, os.Symlink("../../../../../../../../etc/shadow", p)) }, fs.ErrNotExist},
		"link in a circle":   {func(t *testing.T, p string) { must(t, os.Symlink("passwd", p)) }, unix.ELOOP},
		"magic link":         {func(t *testing.T, p string) { must(t, os.Symlink("/proc/self/fd/0", p)) }, fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newRoot(t)
			must(t, os.Remove(filepath.Join(dir, "etc/passwd")))
			must(t, os.Remove(filepath.Join(dir, "etc/group")))
			c.make(t, filepath.Join(dir, "etc/passwd"))
			s := script("true")
			s.User = "daemon" // every host has one
			if _, err := runtime.SpecFor(runtime.RootPath(dir), s); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func TestIDsAreParsedStrictly(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	for _, user := range []string{"4294967296", "4294967295", "2147483648", "-1", "+0", "18446744073709551616", "0:4294967295", "0:-1", "nobody-here", "0:nogroup", " 0"} {
		s := script("true")
		s.User = user
		if spec, err := runtime.SpecFor(root, s); err == nil {
			t.Errorf("user %q is taken for %+v", user, spec.Process.User)
		}
	}
	s := script("true")
	s.User = "2147483647:2147483647"
	if _, err := runtime.SpecFor(root, s); err != nil {
		t.Errorf("the largest ids: %v", err)
	}
}

func TestDevIsFresh(t *testing.T) {
	dir := newRoot(t)
	// What the image has at these names is neither used nor changed.
	for _, name := range []string{"dev/null", "dev/zero", "dev/fd", "dev/pts"} {
		write(t, dir, name, "from the image")
	}
	out := output(t, runtime.RootPath(dir), "echo gone >/dev/null; stat -c %t:%T /dev/null; wc -c </proc/keys")
	if out != "1:3\n0" {
		t.Errorf("got %q", out)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "dev/null")); err != nil || string(b) != "from the image" {
		t.Errorf("the image's file: %q, %v", b, err)
	}
}

func TestSetUserIDGainsNothing(t *testing.T) {
	dir := newRoot(t)
	b, err := os.ReadFile(filepath.Join(dir, "bin/busybox"))
	must(t, err)
	must(t, os.Mkdir(filepath.Join(dir, "suid"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "suid/busybox"), b, 0o755))
	must(t, os.Chmod(filepath.Join(dir, "suid/busybox"), 0o755|os.ModeSetuid))
	// crontab is an applet that busybox starts only with an effective user id of root.
	const refusal = "must be suid"
	for _, allow := range []bool{false, true} {
		s := runtime.Settings{Args: []string{"/suid/busybox", "crontab", "-l"}, User: "alice", AllowNewPrivileges: allow}
		out, _, err := run(t, runtime.RootPath(dir), s)
		if err != nil || strings.Contains(out, refusal) == allow {
			t.Errorf("new privileges %v: error %v, output %q", allow, err, out)
		}
	}
}
