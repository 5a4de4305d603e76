package union

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The calls by which lsattr, chattr and, for each change, the kernel itself read and set
// the flags of an inode, with what they pass (include/uapi/linux/fs.h). The kernel has
// long declared the type of the first two as long, but means int.
const (
	getFlags = unix.FS_IOC_GETFLAGS
	setFlags = unix.FS_IOC_SETFLAGS
	getXflag = 0x801c581f // FS_IOC_FSGETXATTR
	setXflag = 0x401c5820 // FS_IOC_FSSETXATTR

	flagsSize = 4
	xflagSize = 28 // struct fsxattr
)

// Ioctl reads and sets inode flags. The file system of the upper keeps and enforces
// them. All else fails with ENOTTY.
func (f *FS) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, _ *fuse.IoctlOut, outbuf []byte) fuse.Status {
	var arg [xflagSize]byte
	switch {
	case in.Cmd == getFlags && len(outbuf) >= flagsSize, in.Cmd == getXflag && len(outbuf) >= xflagSize:
		err := f.readFlags(in.NodeId, in.Cmd, &arg)
		copy(outbuf, arg[:])
		return f.status(err)
	case in.Cmd == setFlags && len(inbuf) >= flagsSize, in.Cmd == setXflag && len(inbuf) >= xflagSize:
		copy(arg[:], inbuf)
		return f.status(f.writeFlags(in.NodeId, in.Cmd, &arg))
	default:
		return fuse.Status(unix.ENOTTY)
	}
}

func (f *FS) readFlags(id uint64, cmd uint32, arg *[xflagSize]byte) error {
	file, err := f.file(id)
	if err != nil || file.n == nil || !file.n.upper.Load() {
		return err // lower files have none
	}
	return f.ioctl(file.n, cmd, arg)
}

func (f *FS) writeFlags(id uint64, cmd uint32, arg *[xflagSize]byte) error {
	n, err := f.object(id)
	if err != nil {
		return err
	}
	// A file that must not be written cannot be given its content later.
	if err := f.copyUp(n, copyAll); err != nil {
		return err
	}
	defer f.files.forget(id) // flags count for who opens the file from now on
	return f.ioctl(n, cmd, arg)
}

// ioctl makes a call on a file or directory of the upper.
func (f *FS) ioctl(n *node, cmd uint32, arg *[xflagSize]byte) error {
	fd, _, err := f.openInUpper(n, false)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(arg))); errno != 0 {
		return errno
	}
	return nil
}
