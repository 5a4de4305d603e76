package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// UnpackOptions say how files are made.
type UnpackOptions struct {
	// Owner, if not nil, is who all files are to belong to; nil keeps the owners of the
	// stream.
	Owner *Owner
	// Rename, if not nil, changes the names of the stream; "" leaves one out.
	Rename func(name string) string
	// Self gives the directory itself the owner and permissions that the stream has for
	// it, which are else left as they are.
	Self bool
}

// Owner is a user and a group.
type Owner struct{ UID, GID int }

// Unpack makes the files of a tar stream below a directory of the root, which must be
// there. Files replace files, and directories take over others' place only where a
// directory is; nothing leads out of the root. Device files need privileges.
func (r *Root) Unpack(ctx context.Context, tr *tar.Reader, dir string, o UnpackOptions) error {
	u := &unpacker{root: r, dir: dir, opts: o, buf: make([]byte, 64<<10)}
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read tar: %w: %w", err, fs.ErrInvalid)
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("unpack %.200s: %w", h.Name, err)
		}
	}
	// What was made in a directory changed its time.
	for i := len(u.times) - 1; i >= 0; i-- {
		t := u.times[i]
		f, err := r.open(t.name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		err = setTime(int(f.Fd()), "", unix.AT_EMPTY_PATH, t.at)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

type unpacker struct {
	root  *Root
	dir   string
	opts  UnpackOptions
	buf   []byte
	times []dirTime
}

type dirTime struct {
	name string
	at   time.Time
}

// in is a path of the stream as one of the root; ".." leads no further than to dir.
func (u *unpacker) in(name string) string {
	return path.Join("/", u.dir, path.Clean("/"+name))
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) (err error) {
	name := h.Name
	if u.opts.Rename != nil {
		if name = u.opts.Rename(name); name == "" {
			return nil
		}
	}
	to := u.in(name)
	if o := u.opts.Owner; o != nil {
		h.Uid, h.Gid = o.UID, o.GID
	}
	if h.Typeflag == tar.TypeDir && to == path.Clean("/"+u.dir) {
		if !u.opts.Self {
			return nil
		}
		f, err := u.root.open(to, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		u.times = append(u.times, dirTime{to, h.ModTime})
		return errors.Join(apply(int(f.Fd()), h), f.Close())
	}
	if err := u.makeParents(path.Dir(to)); err != nil {
		return err
	}
	parent, base, err := u.root.parent(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parent.Close()) }()
	at := int(parent.Fd())
	if h.Typeflag == tar.TypeDir {
		return u.directory(at, base, to, h)
	}
	if err := unix.Unlinkat(at, base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	mode := uint32(h.Mode) & 0o7777
	switch h.Typeflag {
	case tar.TypeReg:
		return u.regular(at, base, h, content)
	case tar.TypeLink:
		return u.link(at, base, h)
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, at, base)
	case tar.TypeChar:
		err = unix.Mknodat(at, base, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeBlock:
		err = unix.Mknodat(at, base, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeFifo:
		err = unix.Mknodat(at, base, unix.S_IFIFO|0o600, 0)
	default:
		return fmt.Errorf("entry of type %q: %w", h.Typeflag, errors.ErrUnsupported)
	}
	if err == nil {
		err = unix.Fchownat(at, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil && h.Typeflag != tar.TypeSymlink {
		err = chmodNode(at, base, mode)
	}
	if err != nil {
		return err
	}
	return setTime(at, base, unix.AT_SYMLINK_NOFOLLOW, h.ModTime)
}

// chmodNode changes the permissions of a device or a FIFO, which must not be opened, and
// in whose place there may be a link by now.
func chmodNode(at int, base string, mode uint32) error {
	fd, err := unix.Openat(at, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		err = unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
	}
	return errors.Join(err, unix.Close(fd))
}

func (u *unpacker) directory(at int, base, to string, h *tar.Header) (err error) {
	made := true
	if err := unix.Mkdirat(at, base, 0o700); err != nil {
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		made = false
	}
	fd, err := unix.Openat(at, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if !made && (errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)) {
		// A link to a directory stays one, as in Docker.
		if dir, derr := u.root.IsDir(to); derr == nil && dir {
			return nil
		}
		return fmt.Errorf("a file is in the place of a directory: %w", fs.ErrExist)
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), to)
	u.times = append(u.times, dirTime{to, h.ModTime})
	return errors.Join(apply(fd, h), f.Close())
}

func (u *unpacker) regular(at int, base string, h *tar.Header, content io.Reader) error {
	fd, err := unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), h.Name)
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, content, u.buf)
	if err == nil {
		err = apply(fd, h)
	}
	if err == nil {
		err = setTime(fd, "", unix.AT_EMPTY_PATH, h.ModTime)
	}
	return errors.Join(err, f.Close())
}

// apply sets owner, permissions and extended attributes of an open file, in this order: a
// change of owner takes away the others.
func apply(fd int, h *tar.Header) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
		return err
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || !kept(name) {
			continue
		}
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

func (u *unpacker) link(at int, base string, h *tar.Header) (err error) {
	target := h.Linkname
	if u.opts.Rename != nil {
		target = u.opts.Rename(target)
	}
	dir, name, err := u.root.parent(u.in(target))
	if err != nil {
		return err
	}
	return errors.Join(unix.Linkat(int(dir.Fd()), name, at, base, 0), dir.Close())
}

// makeParents makes the directories on the way to an entry.
func (u *unpacker) makeParents(name string) error {
	if dir, err := u.root.IsDir(name); err == nil && dir {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if name == "/" || strings.Count(name, "/") > maxDepth {
		return fmt.Errorf("directory %.200s: %w", name, fs.ErrInvalid)
	}
	if err := u.makeParents(path.Dir(name)); err != nil {
		return err
	}
	parent, base, err := u.root.parent(name)
	if err != nil {
		return err
	}
	err = unix.Mkdirat(int(parent.Fd()), base, 0o755)
	if errors.Is(err, unix.EEXIST) {
		err = nil
	}
	return errors.Join(err, parent.Close())
}

func setTime(at int, name string, flags int, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(at, name, []unix.Timespec{ts, ts}, flags)
}
