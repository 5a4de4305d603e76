package runtime

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Permissions of what is made to mount on, as Docker has them.
const (
	mountPointFile = 0o644
	mountPointDir  = 0o755
)

// MountPoint is a file or directory that was made in a root to mount on: empty, and the
// property of root.
type MountPoint struct {
	Path string // absolute in the root, without symbolic links
	Dir  bool
	Made time.Time // when it was, which is its time of modification
}

// MakeMountPoints makes what is missing in a root to mount on, for a runtime that would
// make it without a word. What lies below another mount is left to that runtime.
func MakeMountPoints(root Root, mounts []specs.Mount, made func(MountPoint)) (err error) {
	handle, err := root.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, handle.Close()) }()
	var earlier []string
	for _, m := range mounts {
		to := strings.TrimPrefix(path.Clean("/"+m.Destination), "/")
		covered := slices.ContainsFunc(earlier, func(e string) bool { return below(to, e) })
		earlier = append(earlier, to)
		if covered {
			continue
		}
		dir := true
		if IsBind(m) {
			st, err := os.Stat(m.Source)
			if err != nil {
				return fmt.Errorf("look at source of mount on %s: %w", m.Destination, err)
			}
			dir = st.IsDir()
		}
		if err := makeIn(int(handle.Fd()), to, dir, made); err != nil {
			return &Error{Step: "make mount point", Object: m.Destination, Err: err}
		}
	}
	return nil
}

// makeIn makes the directory, or the empty file, that a path in the root leads to, and
// directories on the way, if they are not there. Symbolic links are followed inside the
// root, also where they lead to nothing yet: images link /etc/resolv.conf into /run.
// made is called for each that was made, unless it is nil.
func makeIn(root int, to string, dir bool, made func(MountPoint)) error {
	fd, err := openIn(root, to, unix.O_PATH, 0)
	if err == nil {
		return unix.Close(fd)
	}
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	todo := strings.Split(to, "/")
	var done []string
	for hops := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = done[:max(0, len(done)-1)]
			continue
		}
		if len(done) >= maxDepth || len(todo) > maxDepth {
			return unix.ENAMETOOLONG
		}
		link, err := makeOne(root, strings.Join(done, "/"), name, dir || len(todo) > 0, made)
		if err != nil {
			return err
		}
		if link == "" {
			done = append(done, name)
			continue
		}
		if hops++; hops > maxHops {
			return unix.ELOOP
		}
		if link[0] == '/' {
			done = nil
		}
		todo = append(strings.Split(link, "/"), todo...)
	}
	return nil
}

// makeOne makes name in parent, a path without symbolic links, unless it is there. If it
// is a symbolic link, its target is returned.
func makeOne(root int, parent, name string, dir bool, made func(MountPoint)) (string, error) {
	at, err := openIn(root, parent, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return "", err
	}
	defer unix.Close(at) //nolint:errcheck // a handle without content
	var before unix.Stat_t
	if err := unix.Fstat(at, &before); err != nil {
		return "", err
	}
	mode := uint32(mountPointFile)
	if dir {
		mode = mountPointDir
		err = unix.Mkdirat(at, name, mode)
	} else {
		err = unix.Mknodat(at, name, unix.S_IFREG|mode, 0)
	}
	if err == nil {
		// The process's umask took part.
		fd, err := openIn(at, name, unix.O_RDONLY|unix.O_NONBLOCK, unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			return "", err
		}
		var st unix.Stat_t
		err = errors.Join(unix.Fchmod(fd, mode), unix.Fstat(fd, &st), unix.Close(fd))
		if err == nil && made != nil {
			made(MountPoint{Path: path.Join("/", parent, name), Dir: dir, Made: time.Unix(st.Mtim.Unix())})
			// The directory that it lies in shall look as if nothing had been put there.
			omit := unix.Timespec{Nsec: unix.UTIME_OMIT}
			err = unix.UtimesNanoAt(at, ".", []unix.Timespec{omit, before.Mtim}, 0)
		}
		return "", err
	}
	if !errors.Is(err, unix.EEXIST) {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(at, name, buf)
	if errors.Is(err, unix.EINVAL) {
		return "", nil // there, and no link
	}
	if err == nil && n == 0 {
		err = unix.ENOENT
	}
	return string(buf[:max(n, 0)]), err
}
