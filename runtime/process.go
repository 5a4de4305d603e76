package runtime

import (
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capabilities are the names by number, from include/uapi/linux/capability.h.
var capabilities = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// capSet is a set of capabilities, one bit each.
type capSet uint64

func parseCaps(names []string) (capSet, error) {
	var set capSet
next:
	for _, name := range names {
		for i, known := range capabilities {
			if name == known {
				set |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("capability %q is unknown: %w", name, fs.ErrInvalid)
	}
	return set, nil
}

func (c capSet) String() string {
	var names []string
	for i, name := range capabilities {
		if c&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// capSets are the five sets of a process (capabilities(7)).
type capSets struct{ bounding, effective, permitted, inheritable, ambient capSet }

func planCaps(c *specs.LinuxCapabilities) (capSets, error) {
	var s capSets
	if c == nil {
		return s, nil
	}
	for _, one := range []struct {
		names []string
		set   *capSet
	}{
		{c.Bounding, &s.bounding}, {c.Effective, &s.effective}, {c.Permitted, &s.permitted},
		{c.Inheritable, &s.inheritable}, {c.Ambient, &s.ambient},
	} {
		var err error
		if *one.set, err = parseCaps(one.names); err != nil {
			return s, err
		}
	}
	return s, nil
}

// own returns the capabilities that this process can hand on.
func own() (capSet, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, &Error{Step: "read own capabilities", Err: err}
	}
	return capSet(data[0].Permitted) | capSet(data[1].Permitted)<<32, nil
}

// limit removes what the launcher does not have itself, and returns what that was.
func (s *capSets) limit(have capSet) (missing capSet) {
	for _, set := range []*capSet{&s.bounding, &s.effective, &s.permitted, &s.inheritable, &s.ambient} {
		missing |= *set &^ have
		*set &= have
	}
	return missing
}

// groupsFixed reports whether this is a user namespace in which nobody may set groups
// (user_namespaces(7)), as one is that was made without the help of newgidmap. There the
// groups of the user outside stay, none of which has a number inside.
func groupsFixed() bool {
	b, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(b)) == "deny"
}

// become adds the rows that change user, groups and capabilities. The bounding set needs
// CAP_SETPCAP and goes first; the permitted set is kept across the change of user, and
// then set to what it shall be.
func (t *table) become(u specs.User, caps capSets) {
	for i := range 64 { // also those that this program has no name for
		if caps.bounding&(1<<i) == 0 {
			t.call(step{"drop capability from the bounding set", ""}, unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, i, 0, 0, 0)
			t.allow(0, unix.EINVAL)
		}
	}
	t.call(step{"keep capabilities", ""}, unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	if len(u.AdditionalGids) > 0 {
		groups := append([]uint32(nil), u.AdditionalGids...)
		t.call(step{"set supplementary groups", ""}, unix.SYS_SETGROUPS, len(groups), at(&groups[0]))
	} else {
		t.call(step{"clear supplementary groups", ""}, unix.SYS_SETGROUPS, 0, 0)
		if groupsFixed() {
			t.allow(0, unix.EPERM)
		}
	}
	t.call(step{"set group", fmt.Sprint(u.GID)}, unix.SYS_SETRESGID, int(u.GID), int(u.GID), int(u.GID))
	t.call(step{"set user", fmt.Sprint(u.UID)}, unix.SYS_SETRESUID, int(u.UID), int(u.UID), int(u.UID))
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{
		{Effective: uint32(caps.effective), Permitted: uint32(caps.permitted), Inheritable: uint32(caps.inheritable)},
		{Effective: uint32(caps.effective >> 32), Permitted: uint32(caps.permitted >> 32), Inheritable: uint32(caps.inheritable >> 32)},
	}
	t.call(step{"set capabilities", ""}, unix.SYS_CAPSET, at(header), at(data))
	t.call(step{"clear ambient capabilities", ""}, unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	for i, name := range capabilities {
		if caps.ambient&(1<<i) != 0 {
			t.call(step{"raise ambient capability", name}, unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0)
		}
	}
}

// Names of limits by number, from include/uapi/asm-generic/resource.h.
var rlimits = map[string]int{
	"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4,
	"RLIMIT_RSS": 5, "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9,
	"RLIMIT_LOCKS": 10, "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13,
	"RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}

// usualFiles is the kernel's default of the soft limit of open files (INR_OPEN_CUR in
// include/uapi/linux/fs.h).
const usualFiles = 1024

// limits adds the rows that set resource limits. The Go runtime raises this process's
// soft limit of open files to one below the hard limit when it starts and does not
// tell what it was; programs that use select(2) need a low one, so the usual one is
// given back.
func (t *table) limits(wanted []specs.POSIXRlimit) error {
	files := false
	for _, w := range wanted {
		number, ok := rlimits[w.Type]
		if !ok {
			return fmt.Errorf("resource limit %q is unknown: %w", w.Type, fs.ErrInvalid)
		}
		if w.Soft > w.Hard {
			return fmt.Errorf("resource limit %s: soft limit %d is above hard limit %d: %w", w.Type, w.Soft, w.Hard, fs.ErrInvalid)
		}
		files = files || w.Type == "RLIMIT_NOFILE"
		t.call(step{"set resource limit", fmt.Sprintf("%s to %d:%d", w.Type, w.Soft, w.Hard)},
			unix.SYS_PRLIMIT64, 0, number, at(&unix.Rlimit{Cur: w.Soft, Max: w.Hard}), 0)
	}
	if files {
		return nil
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return &Error{Step: "read limit of open files", Err: err}
	}
	if l.Cur == l.Max-1 {
		l.Cur = min(usualFiles, l.Max)
		t.call(step{"set limit of open files", ""}, unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, at(&l), 0)
	}
	return nil
}

// execute adds the candidates for the program. Each is first opened, which refuses
// magic links: until the program runs, /proc/self/exe is the launcher. A filter that is
// given is installed in between. With looked, [table.refuseMagic] was there before.
func (t *table) execute(args, env []string, last *filter, looked bool) error {
	if len(args) == 0 || args[0] == "" {
		return fmt.Errorf("start container: no program given: %w", fs.ErrInvalid)
	}
	argv, envp := t.strings(args), t.strings(env)
	all := candidates(args[0], env)
	for _, c := range all {
		object := c
		if len(all) > 1 {
			object = args[0] + " in the directories of PATH"
		}
		t.try(c, object, argv, envp, last, looked)
	}
	return nil
}

// refuseMagic adds the rows that refuse a magic link as any of the candidates for the
// program. What else may be wrong with them is found when they are executed.
func (t *table) refuseMagic(args, env []string) {
	if len(args) == 0 || args[0] == "" {
		return // execute says so
	}
	for _, c := range candidates(args[0], env) {
		t.look(c, c)
		t.allow(0, unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ENAMETOOLONG)
	}
}

// candidates returns the paths that a program's name may mean, in order.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	search := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	if search == "" {
		search = defaultPath
	}
	var out []string
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		out = append(out, strings.TrimSuffix(dir, "/")+"/"+name)
	}
	return out
}

// look adds the row that opens a candidate, but no magic link.
func (t *table) look(program, object string) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	t.call(step{stepFind, object}, unix.SYS_OPENAT2, unix.AT_FDCWD, program, at(how), int(sizeofHow))
}

// try adds the rows of one candidate for the program.
func (t *table) try(program, object string, argv, envp address, last *filter, looked bool) {
	if looked {
		t.call(step{stepFind, object}, unix.SYS_FACCESSAT, unix.AT_FDCWD, program, unix.F_OK)
	} else {
		t.look(program, object)
	}
	rows := 1
	if last != nil {
		rows++
	}
	t.allow(rows, unix.ENOENT, unix.ENOTDIR)
	t.last().kind = kindTry
	if last != nil {
		t.install(last)
	}
	t.call(step{stepExecute, program}, unix.SYS_EXECVE, program, argv, envp)
	t.last().kind = kindTry
}

// strings makes an argument or environment vector.
func (t *table) strings(list []string) address {
	vector := make([]uintptr, len(list)+1)
	for i, s := range list {
		vector[i] = t.str(s)
	}
	return address{vector, at(&vector[0]).at}
}
