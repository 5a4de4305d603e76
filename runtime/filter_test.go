package runtime_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/layerfs/layerfs/runtime"
)

func TestCallsAreFiltered(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	// unshare is not among what the standard profile allows.
	const try = "grep Seccomp: /proc/self/status; unshare -m true 2>&1"
	for _, allow := range []bool{false, true} {
		out := output(t, root, try+"; mount -t tmpfs x /mnt 2>&1; true", func(c *runtime.Config) { c.Spec.Process.NoNewPrivileges = !allow })
		if !strings.Contains(out, "Seccomp:\t2") || strings.Count(out, "Operation not permitted")+strings.Count(out, "permission denied") != 2 {
			t.Errorf("new privileges %v: %s", allow, out)
		}
	}
	out := output(t, root, try+"; true", func(c *runtime.Config) { c.Spec.Linux.Seccomp = nil })
	if !strings.Contains(out, "Seccomp:\t0") {
		t.Errorf("without a filter: %s", out)
	}
	p := up(t, newRoot(t))
	out, _, err := inside(t, p, try, func(c *runtime.ExecConfig) {
		s := runtime.DefaultSpec()
		must(t, runtime.FilterCalls(s, nil))
		c.Seccomp = s.Linux.Seccomp
	})
	if err != nil || !strings.Contains(out, "Seccomp:\t2") || !strings.Contains(out, "not permitted") {
		t.Errorf("joined: %q, error %v", out, err)
	}
}

func TestOwnProfile(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	// A filter that lets a program start need allow nothing that comes before.
	only := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
		{"names":["openat2","setresuid","capset","ppoll","dup3","close_range"],"action":"SCMP_ACT_KILL_PROCESS"},
		{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":71}]}`
	out, status, err := run(t, root, script("mkdir /new"), func(c *runtime.Config) { must(t, runtime.FilterCalls(c.Spec, []byte(only))) })
	if err != nil || status.ExitCode != 1 || !strings.Contains(out, "Protocol error") {
		t.Errorf("status %+v, error %v, output %q", status, err, out)
	}
	kill := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"uname"}, Action: specs.ActKillProcess}}}
	_, status, err = run(t, root, runtime.Settings{Args: []string{"busybox", "uname"}}, func(c *runtime.Config) { c.Spec.Linux.Seccomp = kill })
	if err != nil || status.Signal != syscall.SIGSYS {
		t.Errorf("status %+v, error %v", status, err)
	}
	if err := runtime.FilterCalls(runtime.DefaultSpec(), []byte("{")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("broken profile: %v", err)
	}
}

// Profiles that are older than openat2 are used without no_new_privs too, where the filter
// comes before the program is found.
func TestProfileWithoutOpenat2(t *testing.T) {
	root := runtime.RootPath(newRoot(t))
	start := func(args ...string) (string, error) {
		out, _, err := run(t, root, runtime.Settings{Args: args}, func(c *runtime.Config) {
			c.Spec.Process.NoNewPrivileges = false
			c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
				Syscalls: []specs.LinuxSyscall{{Names: []string{"openat2"}, Action: specs.ActErrno}}}
		})
		return out, err
	}
	if out, err := start("busybox", "grep", "Seccomp:", "/proc/self/status"); err != nil || !strings.Contains(out, "\t2") {
		t.Errorf("output %q, error %v", out, err)
	}
	for _, test := range []struct {
		program string
		code    int
		says    string
	}{
		{"absent", runtime.ExitNotFound, "find program absent in the directories of PATH"},
		{"/bin/absent", runtime.ExitNotFound, "find program /bin/absent"},
		{"/etc", runtime.ExitNotExecutable, "execute /etc"},
		{"/proc/self/exe", runtime.ExitNotExecutable, "magic links of /proc are not executed"},
	} {
		_, err := start(test.program)
		if runtime.StartCode(err) != test.code || !strings.Contains(fmt.Sprint(err), test.says) {
			t.Errorf("%s: code %d, %v", test.program, runtime.StartCode(err), err)
		}
	}
}
