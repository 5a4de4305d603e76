package runtime_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime"
)

const shiftedBy = 200000

// shifted gives a container a user namespace.
func shifted(c *runtime.Config) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: shiftedBy, Size: 65536}}
	l := c.Spec.Linux
	l.UIDMappings, l.GIDMappings = ids, ids
	l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
}

// own gives what is in a root to the root of the shifted ids.
func own(t *testing.T, dir string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, shiftedBy, shiftedBy)
	}))
	for ; dir != "/"; dir = filepath.Dir(dir) { // the ids of the container have to get there
		if st, err := os.Stat(dir); err == nil && st.Mode().Perm()&1 == 0 {
			must(t, os.Chmod(dir, st.Mode().Perm()|0o11))
		}
	}
}

func TestUserNamespace(t *testing.T) {
	dir := newRoot(t)
	own(t, dir)
	root := runtime.RootPath(dir)
	volume := t.TempDir()
	must(t, os.WriteFile(filepath.Join(volume, "file"), nil, 0o600))
	out := output(t, root, `id -u; id -g; cat /proc/self/uid_map; echo x >/made; stat -c %u:%a /made /dev/null /dev/pts /v/file; echo y >/v/new; echo z >/dev/null; hostname; ls /sys/class/net; cat /proc/self/oom_score_adj`,
		shifted, func(c *runtime.Config) {
			c.Spec.Hostname = "box"
			score := 55
			c.Spec.Process.OOMScoreAdj = &score
			c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/v", Source: volume, Options: []string{"bind", "idmap"}})
		})
	want := "0\n0\n         0     200000      65536\n0:644\n65534:666\n0:755\n0:600\nbox\nlo\n55"
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	for file, uid := range map[string]uint32{filepath.Join(dir, "made"): shiftedBy, filepath.Join(volume, "new"): 0} {
		var st unix.Stat_t
		must(t, unix.Stat(file, &st))
		if st.Uid != uid {
			t.Errorf("%s belongs to %d, want %d", file, st.Uid, uid)
		}
	}
}

func TestExecInAUserNamespace(t *testing.T) {
	dir := newRoot(t)
	own(t, dir)
	p := up(t, dir, shifted)
	out, status, err := inside(t, p, "id -u; test $(readlink /proc/self/ns/user) = $(readlink /proc/1/ns/user) && echo same; echo >/exec; stat -c %u /exec")
	if err != nil || status.ExitCode != 0 || out != "0\nsame\n0" {
		t.Errorf("got %q, status %+v, error %v", out, status, err)
	}
	process := runtime.DefaultSpec().Process
	process.Args = []string{"tty"}
	process.Terminal = true
	e, err := runtime.Exec(t.Context(), runtime.ExecConfig{Pid: p.Pid(), Process: process})
	must(t, err)
	if status, err := e.Wait(); err != nil || status.ExitCode != 0 {
		t.Errorf("terminal: status %+v, error %v", status, err)
	}
	must(t, e.Close())
}

// A namespace that is there already belongs to another user namespace.
func TestUserNamespaceJoinsANetwork(t *testing.T) {
	dir := newRoot(t)
	own(t, dir)
	other := up(t, newRoot(t))
	path := fmt.Sprintf("/proc/%d/ns/net", other.Pid())
	want, err := os.Readlink(path)
	must(t, err)
	out := output(t, runtime.RootPath(dir), "readlink /proc/self/ns/net; test -d /sys/class && echo sys", shifted, func(c *runtime.Config) {
		c.Spec.Linux.Sysctl = nil
		for i, n := range c.Spec.Linux.Namespaces {
			if n.Type == specs.NetworkNamespace {
				c.Spec.Linux.Namespaces[i].Path = path
			}
		}
	})
	if out != want+"\nsys" {
		t.Errorf("got %q, want %q and sys", out, want)
	}
	own, err := os.Readlink("/proc/thread-self/ns/net")
	must(t, err)
	if own == want {
		t.Error("the thread stayed in the container's network")
	}
}

func TestSharedProcesses(t *testing.T) {
	g := newCgroup(t)
	p := up(t, newRoot(t))
	for path, want := range map[string]string{
		fmt.Sprintf("/proc/%d/ns/pid", p.Pid()): fmt.Sprintf("/proc/%d/ns/pid", p.Pid()), "": "/proc/self/ns/pid",
	} {
		out := output(t, runtime.RootPath(newRoot(t)), "readlink /proc/self/ns/pid", func(c *runtime.Config) {
			c.Cgroup = g
			var kept []specs.LinuxNamespace
			for _, n := range c.Spec.Linux.Namespaces {
				if n.Type == specs.PIDNamespace {
					if n.Path = path; path == "" {
						continue
					}
				}
				kept = append(kept, n)
			}
			c.Spec.Linux.Namespaces = kept
		})
		if ns, err := os.Readlink(want); err != nil || out != ns {
			t.Errorf("pid namespace %s, want %s (%v)", out, ns, err)
		}
	}
}

func TestTimeNamespace(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	out := output(t, root, "cut -d. -f1 /proc/uptime", func(c *runtime.Config) {
		c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		c.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1_000_000}, "monotonic": {Secs: 5}}
	})
	var up int
	if _, err := fmt.Sscan(out, &up); err != nil || up < 1_000_000 {
		t.Errorf("uptime %q", out)
	}
}

func TestScheduling(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	out := output(t, root, "cut -d' ' -f19,41 /proc/self/stat; uname -m", func(c *runtime.Config) {
		c.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}
		c.Spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}
		c.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		c.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
		c.Spec.Process.Args = []string{"/bin/sh", "-c", "cut -d' ' -f19,41 /proc/self/stat; busybox uname -m"}
	})
	if out != "7 3\ni686" {
		t.Errorf("nice value, policy and machine: %q", out)
	}
	p := up(t, newRoot(t))
	got, _, err := inside(t, p, "grep Cpus_allowed_list /proc/self/status", func(c *runtime.ExecConfig) {
		c.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "0"}
	})
	if err != nil || !strings.HasSuffix(got, "\t0") {
		t.Errorf("affinity %q, error %v", got, err)
	}
}

func TestRootPropagation(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	for how, want := range map[string]string{"shared": "shared:", "rslave": "", "private": "", "unbindable": "unbindable"} {
		out := output(t, root, "grep ' / / ' /proc/self/mountinfo || grep -m1 ' / ' /proc/self/mountinfo", func(c *runtime.Config) { c.Spec.Linux.RootfsPropagation = how })
		optional, _, _ := strings.Cut(out, " - ")
		if want != "" && !strings.Contains(optional, want) || want == "" && strings.Contains(optional, ":") && strings.Contains(optional, "shared:") {
			t.Errorf("%s: %s", how, out)
		}
	}
}

func TestCgroupMount(t *testing.T) {
	g := newCgroup(t)
	mount := specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}}
	const look = `cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; cat /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | head -1
		mkdir /sys/fs/cgroup/x 2>&1 | grep -o 'Read-only'; for f in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do (echo 0 >$f) 2>/dev/null && echo "$f can be written"; done; true`
	limit := int64(33)
	for _, err := range g.Apply(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}) {
		t.Error(err)
	}
	for _, namespace := range []bool{true, false} {
		out := output(t, runtime.RootPath(newRoot(t)), look, func(c *runtime.Config) {
			c.Cgroup = g
			c.Spec.Mounts = append(c.Spec.Mounts, mount)
			if !namespace {
				var kept []specs.LinuxNamespace
				for _, n := range c.Spec.Linux.Namespaces {
					if n.Type != specs.CgroupNamespace {
						kept = append(kept, n)
					}
				}
				c.Spec.Linux.Namespaces = kept
			}
		})
		if out != "33\n1\nRead-only" {
			t.Errorf("namespace %v: %q", namespace, out)
		}
	}
}

func TestLabelsNeedTheirModule(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	if _, err := os.Stat("/sys/module/apparmor"); err == nil {
		t.Skip("this kernel has AppArmor")
	}
	for name, change := range map[string]func(*runtime.Config){
		"AppArmor": func(c *runtime.Config) { c.Spec.Process.ApparmorProfile = "x" },
		"SELinux":  func(c *runtime.Config) { c.Spec.Process.SelinuxLabel = "x" },
		"mounts":   func(c *runtime.Config) { c.Spec.Linux.MountLabel = "x" },
	} {
		if _, _, err := run(t, root, script("true"), change); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
