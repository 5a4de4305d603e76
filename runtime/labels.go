package runtime

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// label is a text for the security module that is to hold for the program
// (/proc/PID/attr, proc_pid_attr(5)).
type label struct{ what, file, text string }

// labels returns the labels of a process. A kernel without the module is refused: what
// was to be confined would not be.
func labels(p *specs.Process) ([]label, error) {
	var out []label
	if p.ApparmorProfile != "" {
		if on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || !strings.HasPrefix(string(on), "Y") {
			return nil, fmt.Errorf("start process with AppArmor profile %s: this kernel has no AppArmor: %w", p.ApparmorProfile, errors.ErrUnsupported)
		}
		file := "attr/apparmor/exec"
		if _, err := os.Stat("/proc/self/" + file); err != nil {
			file = "attr/exec" // before Linux 5.1
		}
		out = append(out, label{"set AppArmor profile", file, "exec " + p.ApparmorProfile})
	}
	if p.SelinuxLabel != "" {
		if !HaveSELinux() {
			return nil, fmt.Errorf("start process with SELinux label %s: this kernel has no SELinux: %w", p.SelinuxLabel, errors.ErrUnsupported)
		}
		out = append(out, label{"set SELinux label", "attr/exec", p.SelinuxLabel})
	}
	return out, nil
}

// HaveSELinux tells whether this machine labels files and processes by SELinux.
func HaveSELinux() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &st) == nil && uint32(st.Type) == unix.SELINUX_MAGIC
}

// confine adds the rows that set labels, through the host's proc: it is called before
// the process loses sight of it.
func (t *table) confine(p *specs.Process) error {
	all, err := labels(p)
	if err != nil {
		return err
	}
	for _, l := range all {
		s := step{l.what, l.text}
		f := t.call(s, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/"+l.file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		t.call(s, unix.SYS_WRITE, f, l.text, len(l.text))
	}
	return nil
}

// labelled tells whether a file system takes the label of a container's mounts as an
// option.
func labelled(kind string) bool { return kind == "tmpfs" || kind == "mqueue" || kind == "devpts" }
