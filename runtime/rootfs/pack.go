package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxDepth limits how deep directories are descended into: each level holds a handle.
const maxDepth = 500

// Pack writes a file, or a directory with all in it, to a tar stream, under the given
// name. With follow a link is followed at the end of the path, too. Sockets are left
// out. It does not close the stream.
func (r *Root) Pack(ctx context.Context, w *tar.Writer, from, as string, follow bool) (err error) {
	p := &packer{w: w, links: map[inode]string{}, buf: make([]byte, 64<<10)}
	if follow {
		f, err := r.open(from, unix.O_PATH)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		// A handle is opened again by its place in /proc, which is ours.
		dir, err := os.Open("/proc/self/fd")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dir.Close()) }()
		return p.add(ctx, int(dir.Fd()), fmt.Sprint(f.Fd()), as, 0, true)
	}
	dir, base, err := r.parent(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return p.add(ctx, int(dir.Fd()), base, as, 0, false)
}

type inode struct{ dev, ino uint64 }

type packer struct {
	w     *tar.Writer
	links map[inode]string // names of files that have several
	buf   []byte
}

// add writes what a name in a directory is. A handle of this process is followed.
func (p *packer) add(ctx context.Context, dir int, name, as string, depth int, handle bool) (err error) {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if depth > maxDepth {
		return fmt.Errorf("pack %s: directories more than %d deep: %w", as, maxDepth, fs.ErrInvalid)
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if handle {
		flags = 0
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, flags); err != nil {
		return &fs.PathError{Op: "stat", Path: as, Err: err}
	}
	h := &tar.Header{Name: as, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), Format: tar.FormatPAX,
		ModTime: time.Unix(st.Mtim.Unix())}
	nofollow := unix.O_NOFOLLOW
	if handle {
		nofollow = 0
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.directory(ctx, dir, name, h, depth, nofollow)
	case unix.S_IFREG:
		return p.regular(dir, name, h, nofollow)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: as, Err: err}
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(buf[:n])
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return nil
	}
	return p.w.WriteHeader(h)
}

func (p *packer) directory(ctx context.Context, dir int, name string, h *tar.Header, depth, nofollow int) (err error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|nofollow, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: h.Name, Err: err}
	}
	f := os.NewFile(uintptr(fd), h.Name)
	defer func() { err = errors.Join(err, f.Close()) }()
	h.Typeflag = tar.TypeDir
	as := strings.TrimSuffix(h.Name, "/")
	h.Name = as + "/"
	if err := attributes(fd, h); err != nil {
		return err
	}
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		err := p.add(ctx, fd, n, as+"/"+n, depth+1, false)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is gone by now
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) regular(dir int, name string, h *tar.Header, nofollow int) (err error) {
	// What it was may be something else by now: opening a FIFO must not wait.
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC|nofollow, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: h.Name, Err: err}
	}
	f := os.NewFile(uintptr(fd), h.Name)
	defer func() { err = errors.Join(err, f.Close()) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: h.Name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("pack %s: it changed its kind: %w", h.Name, fs.ErrInvalid)
	}
	id := inode{st.Dev, st.Ino}
	if first, ok := p.links[id]; ok && st.Nlink > 1 {
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return p.w.WriteHeader(h)
	}
	p.links[id] = h.Name
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if err := attributes(fd, h); err != nil {
		return err
	}
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(p.w, io.LimitReader(f, st.Size), p.buf)
	if err != nil {
		return fmt.Errorf("pack %s: %w", h.Name, err)
	}
	// A file that was cut meanwhile is filled up: its size is written already.
	clear(p.buf)
	for n < st.Size {
		m, err := p.w.Write(p.buf[:min(int64(len(p.buf)), st.Size-n)])
		if n += int64(m); err != nil {
			return err
		}
	}
	return nil
}

const xattrRecord = "SCHILY.xattr." // of GNU tar, bsdtar and Docker

// kept tells whether an extended attribute goes with a file: those of a container's own,
// not those of this machine's policy.
func kept(name string) bool {
	return strings.HasPrefix(name, "user.") || name == "security.capability"
}

// attributes reads the extended attributes of an open file.
func attributes(fd int, h *tar.Header) error {
	const most = 64 << 10 // the kernel's XATTR_LIST_MAX and XATTR_SIZE_MAX
	list := make([]byte, most)
	n, err := unix.Flistxattr(fd, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "listxattr", Path: h.Name, Err: err}
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if !kept(name) {
			continue
		}
		value := make([]byte, most)
		m, err := unix.Fgetxattr(fd, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "getxattr", Path: h.Name, Err: err}
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+name] = string(value[:m])
	}
	return nil
}
