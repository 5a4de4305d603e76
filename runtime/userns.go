package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	goruntime "runtime"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxMappings is how many ranges the kernel takes (UID_GID_MAP_MAX_EXTENTS).
const maxMappings = 340

// mapping is how the ids of a user namespace are those of the caller's.
type mapping struct{ users, groups []specs.LinuxIDMapping }

func checkMapping(m mapping) error {
	for _, ids := range [][]specs.LinuxIDMapping{m.users, m.groups} {
		if len(ids) == 0 || len(ids) > maxMappings {
			return fmt.Errorf("map ids of a user namespace: %d ranges, 1 to %d: %w", len(ids), maxMappings, fs.ErrInvalid)
		}
	}
	return nil
}

// has tells whether an id of the namespace is mapped.
func has(ids []specs.LinuxIDMapping, id uint32) bool {
	for _, r := range ids {
		if id >= r.ContainerID && id-r.ContainerID < r.Size {
			return true
		}
	}
	return false
}

func mapText(ids []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, r := range ids {
		fmt.Fprintf(&b, "%d %d %d\n", r.ContainerID, r.HostID, r.Size)
	}
	return b.String()
}

// write maps the ids of the user namespace of a process (user_namespaces(7)): as far as
// the caller may by itself, else by newuidmap(1) and newgidmap(1), which let users map the
// ids that /etc/subuid and /etc/subgid give them.
func (m mapping) write(pid int) error {
	for _, one := range []struct {
		file, program string
		ids           []specs.LinuxIDMapping
	}{{"gid_map", "newgidmap", m.groups}, {"uid_map", "newuidmap", m.users}} {
		path := "/proc/" + strconv.Itoa(pid) + "/" + one.file
		err := os.WriteFile(path, []byte(mapText(one.ids)), 0)
		if errors.Is(err, fs.ErrPermission) && one.file == "gid_map" && len(one.ids) == 1 && one.ids[0].Size == 1 {
			// One group may be mapped by anybody who gives up to change the others.
			err = errors.Join(os.WriteFile("/proc/"+strconv.Itoa(pid)+"/setgroups", []byte("deny"), 0),
				os.WriteFile(path, []byte(mapText(one.ids)), 0))
		}
		if errors.Is(err, fs.ErrPermission) {
			err = runMapper(one.program, pid, one.ids)
		}
		if err != nil {
			return fmt.Errorf("map ids of the container: %w", err)
		}
	}
	return nil
}

func runMapper(program string, pid int, ids []specs.LinuxIDMapping) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return fmt.Errorf("%w (the caller may map only its own id by itself)", err)
	}
	args := []string{strconv.Itoa(pid)}
	for _, r := range ids {
		for _, n := range []uint32{r.ContainerID, r.HostID, r.Size} {
			args = append(args, strconv.FormatUint(uint64(n), 10))
		}
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil { //nolint:noctx // it only writes a file of proc
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// newUserNamespace makes a user namespace with a mapping, for mounts to be shifted by. The
// caller closes it.
func newUserNamespace(m mapping) (_ *os.File, err error) {
	if err := checkMapping(m); err != nil {
		return nil, err
	}
	p := newPlan(nil, nil, nil)
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.needSync(); err != nil {
		return nil, err
	}
	// It waits until the pipe is closed, which is the failure that ends it.
	p.table.await("the end", p.syncFrom)
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	pid, pidfd, err := fork(unix.CLONE_NEWUSER, -1, p.table, p.syncFrom)
	if err != nil {
		return nil, err
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
	if err == nil {
		err = m.write(pid)
	}
	err = errors.Join(err, unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0), unix.Close(pidfd))
	if _, waitErr := reap(pid); err != nil || waitErr != nil {
		if ns != nil {
			err = errors.Join(err, ns.Close())
		}
		return nil, errors.Join(err, waitErr)
	}
	return ns, nil
}

// becomeRoot adds the rows that make the process the root of a user namespace: it has all
// capabilities there, but files that it makes need an owner that is mapped. A change of
// user makes the process's files in proc root's, which the last row undoes.
func (t *table) becomeRoot() {
	t.call(step{"become root of the user namespace: group", ""}, unix.SYS_SETRESGID, 0, 0, 0)
	t.call(step{"become root of the user namespace: user", ""}, unix.SYS_SETRESUID, 0, 0, 0)
	t.call(step{"own the process's files in proc", ""}, unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
}
