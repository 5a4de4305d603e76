package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/tree"
)

// Image reads an EROFS image from memory. Nothing in it is trusted: every offset and
// length is checked where it is used, and what breaks the format gives an error that
// wraps [ErrCorrupt]. Images of other writers can be read as long as they are not
// compressed; what is gives errors.ErrUnsupported.
//
// An Image holds no mutable state, so its methods may be called at once from any
// number of goroutines, but not after Close.
type Image struct {
	b      []byte
	mapped bool

	meta   int64 // offset from which inodes are counted
	shared int64 // offset of the shared attributes
	root   NID
	inodes uint64
	uuid   [16]byte
	filter bool // inodes carry a name filter
	ns     Namespace
	layer  bool
}

// Open maps the image in a file. The file must not be truncated while it is mapped:
// the process would be killed by SIGBUS. Trees of a store are never changed in place.
func Open(path string) (im *Image, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return OpenFile(f)
}

// OpenFile is [Open] for a file that is open already. The caller keeps the file and may
// close it at once.
func OpenFile(f *os.File) (*Image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() < superOffset+superSize || info.Size() != int64(int(info.Size())) {
		return nil, fmt.Errorf("open image %q: not a file of a size that an image can have: %w", f.Name(), ErrCorrupt)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map image %q: %w", f.Name(), err)
	}
	im, err := New(b)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open image %q: %w", f.Name(), err), unix.Munmap(b))
	}
	im.mapped = true
	return im, nil
}

// New reads the image in b, which the caller must not change while it is in use.
func New(b []byte) (*Image, error) {
	if len(b) < BlockSize {
		return nil, corrupt("%d bytes are too few", len(b))
	}
	le := binary.LittleEndian
	s := b[superOffset : superOffset+superSize]
	if magic := le.Uint32(s); magic != superMagic {
		return nil, corrupt("magic number %#x", magic)
	}
	if s[12] != blockBits {
		return nil, fmt.Errorf("EROFS image with blocks of 2^%d bytes: %w", s[12], errors.ErrUnsupported)
	}
	incompat := le.Uint32(s[80:])
	if unknown := incompat &^ (incompatChunked | incompatZeroPadding); unknown != 0 {
		return nil, fmt.Errorf("EROFS image with features %#x: %w", unknown, errors.ErrUnsupported)
	}
	compat := le.Uint32(s[8:])
	if compat&compatChecksum != 0 {
		first := append([]byte(nil), b[superOffset:BlockSize]...)
		clear(first[4:8])
		if have, want := superChecksum(first), le.Uint32(s[4:]); have != want {
			return nil, corrupt("checksum %#08x, superblock says %#08x", have, want)
		}
	}
	if n := int64(le.Uint32(s[36:])) << blockBits; n > int64(len(b)) {
		return nil, corrupt("%d bytes, superblock says %d", len(b), n)
	}
	im := &Image{
		b:      b,
		root:   NID(le.Uint16(s[14:])),
		inodes: le.Uint64(s[16:]),
		meta:   int64(le.Uint32(s[40:])) << blockBits,
		shared: int64(le.Uint32(s[44:])) << blockBits,
		filter: compat&compatXattrFilter != 0 && s[104] == 0,
	}
	copy(im.uuid[:], s[48:64])
	volume, _, _ := strings.Cut(string(s[64:80]), "\x00")
	switch volume {
	case volumeStackUser:
		im.ns = User
	case volumeLayer:
		im.layer = true
	case volumeLayerUser:
		im.ns, im.layer = User, true
	}
	r, err := im.inode(im.root)
	if err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	}
	if r.mode&modeType != modeDir {
		return nil, corrupt("root is not a directory")
	}
	return im, nil
}

// Close unmaps the image. Everything that aliases it is invalid from then on.
func (im *Image) Close() error {
	b := im.b
	im.b = nil
	if !im.mapped {
		return nil
	}
	im.mapped = false
	if err := unix.Munmap(b); err != nil {
		return fmt.Errorf("unmap image: %w", err)
	}
	return nil
}

// DropPages gives back the memory through which the file is mapped. The content stays in
// the page cache of the system, and is mapped again where it is read.
func (im *Image) DropPages() {
	if im.mapped {
		// A failure would leave things as they are.
		_ = unix.Madvise(im.b, unix.MADV_DONTNEED)
	}
}

// Root returns the root directory.
func (im *Image) Root() NID { return im.root }

// Layer reports whether the image was written with [Options.Layer].
func (im *Image) Layer() bool { return im.layer }

// Namespace returns where the image has its attributes for overlayfs.
func (im *Image) Namespace() Namespace { return im.ns }

// UUID returns [Options.UUID].
func (im *Image) UUID() [16]byte { return im.uuid }

// Inodes returns how many inodes the image says it has, which may be wrong.
func (im *Image) Inodes() uint64 { return im.inodes }

// Size returns the bytes of the image.
func (im *Image) Size() int64 { return int64(len(im.b)) }

// Stat is what is on disk of an inode.
type Stat struct {
	Type  tree.Type
	Mode  uint16 // permission bits with setuid, setgid and sticky
	UID   uint32
	GID   uint32
	Nlink uint32
	MTime tree.Time
	Size  int64
	Rdev  tree.Device
	Ino   uint64
}

// Stat returns an inode as it is on disk: an escaped character device 0:0 is a regular
// file, and a whiteout of a layer is a character device 0:0. It does not allocate.
func (im *Image) Stat(n NID) (Stat, error) {
	r, err := im.inode(n)
	if err != nil {
		return Stat{}, err
	}
	return r.stat(n), nil
}

func (r *inode) stat(n NID) Stat {
	t, _ := typeOf(r.mode)
	s := Stat{
		Type: t, Mode: r.mode &^ modeType, UID: r.uid, GID: r.gid, Nlink: r.nlink,
		MTime: r.mtime, Size: r.size, Ino: uint64(n),
	}
	if t == tree.CharDevice || t == tree.BlockDevice {
		s.Rdev = decodeDevice(r.u)
	}
	return s
}

// inode is a decoded inode.
type inode struct {
	off    int64 // of the inode itself
	attrs  int64 // of the attributes behind it
	data   int64 // behind the attributes: tail or chunk map
	size   int64
	u      uint32 // block address, device number or chunk format
	uid    uint32
	gid    uint32
	nlink  uint32
	mtime  tree.Time
	mode   uint16
	layout uint8
}

// inode decodes an inode. The bytes up to data are inside the image.
func (im *Image) inode(n NID) (inode, error) {
	if uint64(n) > uint64(len(im.b))/inodeUnit {
		return inode{}, corrupt("inode %d lies outside", n)
	}
	off := im.meta + int64(n)*inodeUnit
	if off < superOffset || off > int64(len(im.b))-compactSize {
		return inode{}, corrupt("inode %d lies outside", n)
	}
	le := binary.LittleEndian
	raw := im.b[off:]
	format := le.Uint16(raw)
	r := inode{off: off, mode: le.Uint16(raw[4:]), layout: uint8(format >> 1 & 7), u: le.Uint32(raw[16:])}
	head := int64(compactSize)
	if format&1 == 0 {
		r.size = int64(le.Uint32(raw[8:]))
		r.nlink = uint32(le.Uint16(raw[6:]))
		r.uid, r.gid = uint32(le.Uint16(raw[24:])), uint32(le.Uint16(raw[26:]))
		r.mtime = tree.Time{
			Sec:  int64(le.Uint64(im.b[superOffset+24:])),
			Nsec: le.Uint32(im.b[superOffset+32:]),
		}
	} else {
		head = extendedSize
		if len(raw) < extendedSize {
			return inode{}, corrupt("inode %d lies outside", n)
		}
		r.size = int64(le.Uint64(raw[8:]))
		r.uid, r.gid = le.Uint32(raw[24:]), le.Uint32(raw[28:])
		r.mtime = tree.Time{Sec: int64(le.Uint64(raw[32:])), Nsec: le.Uint32(raw[40:])}
		r.nlink = le.Uint32(raw[44:])
	}
	if _, ok := typeOf(r.mode); !ok {
		return inode{}, corrupt("inode %d has mode %#o", n, r.mode)
	}
	if r.size < 0 || r.mtime.Nsec >= 1e9 {
		return inode{}, corrupt("inode %d has size %d and time %d.%09d", n, r.size, r.mtime.Sec, r.mtime.Nsec)
	}
	if format>>4 != 0 || (r.layout != flatPlain && r.layout != flatInline && r.layout != chunkBased) {
		return inode{}, fmt.Errorf("inode %d of EROFS image has format %#x: %w", n, format, errors.ErrUnsupported)
	}
	r.attrs = off + head
	r.data = r.attrs
	if count := int64(le.Uint16(raw[2:])); count > 0 {
		r.data += xattrHeader + 4*(count-1)
		if r.data > int64(len(im.b)) {
			return inode{}, corrupt("extended attributes of inode %d lie outside", n)
		}
	}
	return r, nil
}

// corrupt makes an error that wraps ErrCorrupt.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// notA says that an inode is not of the type that an operation is for.
func notA(n NID, what string) error {
	return fmt.Errorf("inode %d is not a %s: %w", n, what, fs.ErrInvalid)
}
