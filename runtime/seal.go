package runtime

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Between its making and its program, a process of a container has the launcher's file as
// /proc/PID/exe. Who gets hold of that, and a script of the container does whose
// interpreter is /proc/self/exe, could write to the file as soon as nobody executes it
// (CVE-2019-5736). So the launcher is to be executed from a mount that cannot be written
// through and that nobody can change, because it is attached nowhere.

// ownProgram is this program's file, as it was executed.
const ownProgram = "/proc/self/exe"

// SealedProgram returns this program's file on a read-only mount of its own, to be
// executed by the path /proc/self/fd/N. It is nil when this process was executed from a
// read-only mount already: then /proc/self/exe is as good. The caller closes it. It takes
// the right to mount.
func SealedProgram() (_ *os.File, err error) {
	var where unix.Statfs_t
	if err := unix.Statfs(ownProgram, &where); err != nil {
		return nil, &Error{Step: "look at this program's file", Object: ownProgram, Err: err}
	}
	if where.Flags&unix.ST_RDONLY != 0 {
		return nil, nil //nolint:nilnil // nothing is to be done
	}
	fd, err := cloneProgram()
	if err != nil {
		return nil, &Error{Step: "take this program's file", Object: ownProgram, Err: err}
	}
	f := os.NewFile(uintptr(fd), ownProgram)
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}); err != nil {
		_ = f.Close() // a handle without content
		return nil, &Error{Step: "make this program's file read-only", Object: ownProgram, Err: err}
	}
	return f, nil
}

// cloneProgram takes this program's file on a mount of its own.
func cloneProgram() (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, ownProgram, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if !errors.Is(err, unix.EINVAL) {
		return fd, err
	}
	// It was executed in another mount namespace than this process is in by now, of which
	// nothing can be taken. By its path it is here too, if that is the same file.
	name, err := os.Readlink(ownProgram)
	if err != nil {
		return -1, err
	}
	fd, err = unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	var own, here unix.Stat_t
	if err = unix.Stat(ownProgram, &own); err == nil {
		err = unix.Fstat(fd, &here)
	}
	if err == nil && (own.Dev != here.Dev || own.Ino != here.Ino) {
		err = unix.ESTALE
	}
	if err != nil {
		_ = unix.Close(fd) // a handle without content
		return -1, err
	}
	return fd, nil
}

// Seal executes this program anew from a read-only mount, unless it was executed from one:
// who starts processes in containers calls it before anything is done. It returns only if
// there is nothing to do, or with an error.
func Seal(args, env []string) error {
	f, err := SealedProgram()
	if f == nil || err != nil {
		return err
	}
	err = syscall.Exec("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), args, env)
	_ = f.Close() // a handle without content
	return fmt.Errorf("execute this program from a read-only mount: %w", err)
}
