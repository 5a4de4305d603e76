package runtime_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/runtime"
)

func TestNamespacesAreItsOwn(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	names := []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"}
	out := strings.Fields(output(t, root, "for n in "+strings.Join(names, " ")+" user; do readlink /proc/self/ns/$n; done"))
	if len(out) != len(names)+1 {
		t.Fatalf("namespaces: %q", out)
	}
	for i, name := range names {
		host, err := os.Readlink("/proc/self/ns/" + name)
		must(t, err)
		if out[i] == host || !strings.HasPrefix(out[i], name+":[") {
			t.Errorf("%s namespace %s, the host's %s", name, out[i], host)
		}
	}
}

func TestNamespaceIsSharedOrJoined(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	host, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	for name, path := range map[string]string{"shared": "", "joined": "/proc/self/ns/net"} {
		out := output(t, root, "readlink /proc/self/ns/net", func(c *runtime.Config) {
			c.Spec.Linux.Sysctl = nil // they would be the host's
			var kept []specs.LinuxNamespace
			for _, n := range c.Spec.Linux.Namespaces {
				if n.Type == specs.NetworkNamespace {
					if n.Path = path; path == "" {
						continue
					}
				}
				kept = append(kept, n)
			}
			c.Spec.Linux.Namespaces = kept
		})
		if out != host {
			t.Errorf("%s: network namespace %s, the host's %s", name, out, host)
		}
	}
}

// A host name is set in a namespace that is joined, and refused where it is the host's.
func TestHostNameOfAJoinedNamespace(t *testing.T) {
	testenv.Root(t)
	other := exec.CommandContext(t.Context(), "unshare", "--uts", "sleep", "1000")
	must(t, other.Start())
	defer func() {
		_ = other.Process.Kill() // it may have ended
		_ = other.Wait()
	}()
	host, err := os.Readlink("/proc/self/ns/uts")
	must(t, err)
	path := fmt.Sprintf("/proc/%d/ns/uts", other.Process.Pid)
	for own := host; own == host; {
		own, err = os.Readlink(path)
		must(t, err)
	}
	root := runtime.RootPath(newRoot(t))
	join := func(path string) func(*runtime.Config) {
		return func(c *runtime.Config) {
			c.Spec.Hostname = "joined"
			for i, n := range c.Spec.Linux.Namespaces {
				if n.Type == specs.UTSNamespace {
					c.Spec.Linux.Namespaces[i].Path = path
				}
			}
		}
	}
	if out := output(t, root, "hostname", join(path)); out != "joined" {
		t.Errorf("host name %q", out)
	}
	if _, _, err := run(t, root, script("hostname"), join("/proc/self/ns/uts")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("set the machine's host name: %v", err)
	}
}

func TestFirstProcess(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	text := `echo $$; echo /proc/[0-9]*; hostname; umask; pwd; cat /proc/self/oom_score_adj; ` +
		`grep -E 'NoNewPrivs|Groups' /proc/self/status; echo $HOME $HOSTNAME $PATH $X`
	out := output(t, root, text, func(c *runtime.Config) {
		c.Spec.Hostname = "box"
		c.Spec.Process.Cwd = "/made/for/this"
		score := 77
		c.Spec.Process.OOMScoreAdj = &score
		c.Spec.Process.Env = append(c.Spec.Process.Env, "X=y")
	})
	want := "1\n/proc/1\nbox\n0022\n/made/for/this\n77\nGroups:\t0 \nNoNewPrivs:\t1\n" +
		"/root container /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin y"
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestSessionIsItsOwn(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	// Fields 5 to 7 of stat: process group, session, terminal (proc_pid_stat(5)).
	out := strings.Fields(output(t, root, "cat /proc/1/stat"))
	if len(out) < 7 || out[4] != "1" || out[5] != "1" || out[6] != "0" {
		t.Errorf("stat of the first process: %q", out)
	}
}

func TestOnlyLoopback(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	out := output(t, root, "ls /sys/class/net; cat /sys/class/net/lo/flags; cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
	if out != "lo\n0x9\n0" {
		t.Errorf("interfaces, flags of lo and first free port: %q", out)
	}
}

func TestMounts(t *testing.T) {
	for _, kind := range []string{"path", "detached"} {
		t.Run(kind, func(t *testing.T) {
			dir := newRoot(t)
			root := runtime.RootPath(dir)
			if kind == "detached" {
				root = runtime.RootFD(detached(t, dir))
			}
			out := output(t, root, "cat /proc/self/mountinfo")
			got := map[string]string{}
			for line := range strings.SplitSeq(out, "\n") {
				f := strings.Fields(line)
				if f[6] != "-" {
					t.Errorf("a mount has ties to another: %s", line)
					continue
				}
				got[f[4]] = f[7] + " " + f[5]
			}
			for at, want := range map[string]string{
				"/proc":            "proc rw,nosuid,nodev,noexec,relatime",
				"/dev":             "tmpfs rw,nosuid",
				"/dev/pts":         "devpts rw,nosuid,noexec,relatime",
				"/dev/shm":         "tmpfs rw,nosuid,nodev,noexec,relatime",
				"/dev/mqueue":      "mqueue rw,nosuid,nodev,noexec,relatime",
				"/sys":             "sysfs ro,nosuid,nodev,noexec,relatime",
				"/proc/sys":        "proc ro,nosuid,nodev,noexec,relatime",
				"/proc/timer_list": "tmpfs ro,nosuid,noexec",
				"/sys/firmware":    "tmpfs ro,nosuid,nodev,noexec,relatime",
			} {
				if got[at] != want {
					t.Errorf("%s is %q, want %q", at, got[at], want)
				}
			}
			for at := range got {
				if at != "/" && !strings.HasPrefix(at, "/proc") && !strings.HasPrefix(at, "/dev") && !strings.HasPrefix(at, "/sys") {
					t.Errorf("a mount of the host is in the container: %s", at)
				}
			}
			if strings.Contains(out, " / / ") {
				t.Errorf("the host's root is in the container:\n%s", out)
			}
		})
	}
}

func TestDev(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	out := output(t, root, `cd /dev; for d in *; do echo $d $(stat -c '%F %a %t:%T' $d) $(readlink $d); done
		echo x >/dev/null && head -c 3 /dev/zero | od -An -tx1; echo x >/dev/full || echo full; head -c 5 /dev/urandom | wc -c
		echo a >/dev/shm/f && ls -l /dev/pts/ptmx /dev/ptmx >/dev/null; stat -L -c %a /dev/ptmx`)
	want := `fd symbolic link 777 0:0 /proc/self/fd
full character special file 666 1:7
mqueue directory 1777 0:0
null character special file 666 1:3
ptmx symbolic link 777 0:0 pts/ptmx
pts directory 755 0:0
random character special file 666 1:8
shm directory 1777 0:0
stderr symbolic link 777 0:0 /proc/self/fd/2
stdin symbolic link 777 0:0 /proc/self/fd/0
stdout symbolic link 777 0:0 /proc/self/fd/1
tty character special file 666 5:0
urandom character special file 666 1:9
zero character special file 666 1:5
 00 00 00
sh: write error: No space left on device
full
5
666`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestDeviceIsAdded(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	mode, id := os.FileMode(0o640), uint32(1000)
	out := output(t, root, "stat -c '%F %a %t:%T %u:%g' /dev/fuse", func(c *runtime.Config) {
		c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: &id, GID: &id}}
	})
	if out != "character special file 640 a:e5 1000:1000" {
		t.Errorf("device: %s", out)
	}
}

func TestMaskedAndReadOnlyPaths(t *testing.T) {
	dir := newRoot(t)
	write(t, dir, "secret/file", "hidden")
	write(t, dir, "alone", "hidden")
	write(t, dir, "fixed/file", "readable")
	root := runtime.RootPath(dir)
	out := output(t, root, `wc -c </proc/timer_list; wc -c </proc/keys; ls -A /sys/firmware; ls -A /secret; cat /alone; cat /fixed/file; echo
		touch /fixed/file || echo fixed; echo 1 >/proc/sys/kernel/hostname || echo sysctl; touch /sys/x || echo sys
		touch /secret/new || echo mask; echo 1 >/proc/sysrq-trigger || echo sysrq; chmod 600 /alone || echo null; mount -o remount,rw /proc/sys || echo remount`,
		func(c *runtime.Config) {
			c.Spec.Linux.MaskedPaths = append(c.Spec.Linux.MaskedPaths, "/secret", "/alone", "/not/there")
			c.Spec.Linux.ReadonlyPaths = append(c.Spec.Linux.ReadonlyPaths, "/fixed", "/not/there")
			_, w, err := os.Pipe()
			must(t, err)
			t.Cleanup(func() { must(t, w.Close()) })
			c.Stderr = w
		})
	want := "0\n0\nreadable\nfixed\nsysctl\nsys\nmask\nsysrq\nnull\nremount"
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestRootReadOnly(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	out := output(t, root, "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo shm", func(c *runtime.Config) { c.Spec.Root.Readonly = true })
	if out != "refused\nshm" {
		t.Errorf("got %q", out)
	}
}

const (
	defaultCaps = 0xa80425fb // the fourteen of Docker
	noCaps      = 0
)

func capsOf(out string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.SplitSeq(out, "\n") {
		var name string
		var set uint64
		if n, err := fmt.Sscanf(line, "Cap%3s:\t%x", &name, &set); n == 2 && err == nil {
			m[name] = set
		}
	}
	return m
}

func TestCapabilities(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	for _, c := range []struct {
		name, user string
		change     func(*specs.LinuxCapabilities)
		want       map[string]uint64
	}{
		{"root", "", nil, map[string]uint64{"Inh": noCaps, "Prm": defaultCaps, "Eff": defaultCaps, "Bnd": defaultCaps, "Amb": noCaps}},
		{"user", "alice", nil, map[string]uint64{"Inh": noCaps, "Prm": noCaps, "Eff": noCaps, "Bnd": defaultCaps, "Amb": noCaps}},
		{"none", "", func(c *specs.LinuxCapabilities) { *c = specs.LinuxCapabilities{} },
			map[string]uint64{"Inh": noCaps, "Prm": noCaps, "Eff": noCaps, "Bnd": noCaps, "Amb": noCaps}},
		{"ambient of a user", "alice", func(c *specs.LinuxCapabilities) {
			c.Inheritable, c.Ambient = []string{"CAP_KILL"}, []string{"CAP_KILL"}
		}, map[string]uint64{"Inh": 1 << 5, "Prm": 1 << 5, "Eff": 1 << 5, "Bnd": defaultCaps, "Amb": 1 << 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := script("cat /proc/self/status")
			s.User = c.user
			out, status, err := run(t, root, s, func(cfg *runtime.Config) {
				if c.change != nil {
					c.change(cfg.Spec.Process.Capabilities)
				}
			})
			if err != nil || status.ExitCode != 0 {
				t.Fatalf("status %+v, error %v", status, err)
			}
			got := capsOf(out)
			for set, want := range c.want {
				if got[set] != want {
					t.Errorf("%s is %x, want %x", set, got[set], want)
				}
			}
		})
	}
}

func TestUsers(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	for user, want := range map[string]string{
		"":            "0:0:0 /root",
		"root":        "0:0:0 /root",
		"alice":       "1000:1000:29 44 1000 /home/alice",
		"1000":        "1000:1000:29 44 1000 /home/alice",
		"alice:audio": "1000:29:29 /home/alice",
		"alice:29":    "1000:29:29 /home/alice",
		"4711":        "4711:0:0 /",
		"4711:4712":   "4711:4712:4712 /",
		"7":           "7:0:0 /", // and not the user whose name is 7
	} {
		s := script("echo $(id -u):$(id -g):$(grep Groups /proc/self/status | { read a b; echo $b; }) $HOME")
		s.User = user
		out, status, err := run(t, root, s)
		if err != nil || status.ExitCode != 0 || strings.TrimSpace(out) != want {
			t.Errorf("user %q: %q, want %q (status %+v, error %v)", user, strings.TrimSpace(out), want, status, err)
		}
	}
}

func TestLimits(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	out := output(t, root, "ulimit -n; ulimit -Hc; ulimit -c", func(c *runtime.Config) {
		c.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE"}}
	})
	if out != "100\n0\n0" {
		t.Errorf("limits %q", out)
	}
	// What the Go runtime did to its own limit is not handed on.
	var own unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &own))
	if out := output(t, root, "ulimit -n"); own.Cur == own.Max-1 && out != "1024" {
		t.Errorf("limit of open files is %s", out)
	}
}

func TestNoDescriptorLeaks(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	// One that is not even marked to be closed.
	fd, err := unix.Open("/etc", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer func() { must(t, unix.Close(fd)) }()
	// The shell expands the pattern itself, by one descriptor that is gone afterwards.
	out := output(t, root, "for f in /proc/1/fd/*; do test -e $f && echo ${f##*/}; done; true")
	if strings.Join(strings.Fields(out), " ") != "0 1 2" {
		t.Errorf("open descriptors: %q", out)
	}
}

func TestBindMounts(t *testing.T) {
	dir := newRoot(t)
	outside := t.TempDir()
	write(t, outside, "file", "shared")
	write(t, outside, "sub/inner", "inner")
	// Images have this link, and nothing where it leads.
	must(t, os.Symlink("../run/resolve/stub", filepath.Join(dir, "etc/resolv.conf")))
	out := output(t, runtime.RootPath(dir),
		`cat /etc/resolv.conf; cat /data/deep/inner; touch /data/x 2>/dev/null || echo ro; touch /tmp/scratch/x && cat /tmp/scratch/one/file; echo new >/rw/written`,
		func(c *runtime.Config) {
			c.Spec.Mounts = append(c.Spec.Mounts,
				specs.Mount{Destination: "/etc/resolv.conf", Source: outside + "/file", Options: []string{"bind", "ro"}},
				specs.Mount{Destination: "/data/deep", Type: "bind", Source: outside + "/sub", Options: []string{"rbind", "ro", "nosuid"}},
				specs.Mount{Destination: "/data", Type: "bind", Source: outside, Options: []string{"rbind", "ro"}},
				specs.Mount{Destination: "/tmp/scratch", Type: "tmpfs", Source: "tmpfs"},
				specs.Mount{Destination: "/tmp/scratch/one/file", Type: "bind", Source: outside + "/file", Options: []string{"bind"}},
				specs.Mount{Destination: "/rw", Type: "bind", Source: outside, Options: []string{"rbind"}})
			// The second of /data hides the first, so mount the deep one after it.
			m := c.Spec.Mounts
			n := len(m)
			m[n-5], m[n-4] = m[n-4], m[n-5]
			must(t, os.Mkdir(outside+"/deep", 0o755))
		})
	if out != "sharedinnerro\nshared" {
		t.Errorf("got %q", out)
	}
	if b, err := os.ReadFile(outside + "/written"); err != nil || string(b) != "new\n" {
		t.Errorf("what the container wrote: %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "run/resolve/stub")); err != nil || len(b) != 0 {
		t.Errorf("the place of the mount in the root: %q, %v", b, err)
	}
}

func TestHostSeesNoMounts(t *testing.T) {
	dir := newRoot(t)
	must(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	// As systemd has it for all the host: what is mounted in one namespace appears in
	// those that have a copy of the mount.
	must(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	signals := make(chan os.Signal)
	var seen []string
	_, _, err := run(t, runtime.RootPath(dir), runtime.Settings{Args: []string{"sleep", "1000"}}, func(c *runtime.Config) {
		c.Signals = signals
		c.Started = func(int) {
			b, err := os.ReadFile("/proc/self/mountinfo")
			must(t, err)
			for line := range strings.SplitSeq(string(b), "\n") {
				if strings.Contains(line, dir+"/") {
					seen = append(seen, line)
				}
			}
			go func() { signals <- unix.SIGKILL }()
		}
	})
	must(t, err)
	if len(seen) != 0 {
		t.Errorf("on the host:\n%s", strings.Join(seen, "\n"))
	}
}
