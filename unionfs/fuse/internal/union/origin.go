package union

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/unionfs"
)

// The attribute "origin" keeps the inode number of a copied-up file. It is a file
// handle as overlayfs writes it (struct ovl_fb in fs/overlayfs/overlayfs.h):
//
//	u8 version = 0, u8 magic = 0xfb, u8 length of all, u8 flags, u8 handle type,
//	u8[16] UUID of the file system, handle
//
// For a tree the handle is that of EROFS (erofs_encode_fh): type 0x81, the upper and
// the lower half of the NID, and a generation, which is 0, each of 32 bits in the
// machine's order. For a directory layer it is what the file system gives; of those
// only the type of ext4 and others (FILEID_INO32_GEN, 1) can be read back to a number.
const (
	originMagic  = 0xfb
	originHeader = 21
	handleErofs  = 0x81
	handleIno32  = 1
)

// maxHandle is the largest file handle that goes into an origin (MAX_HANDLE_SZ).
const maxHandle = 128

// setOrigin notes on the file at path, the copy of the lower file n, where it is from.
func (f *FS) setOrigin(n *node, path string) error {
	r := n.lowers[0]
	var uuid [16]byte
	kind := int32(handleErofs)
	var handle []byte
	if im := f.lower[r.layer].image; im != nil {
		uuid = im.UUID()
		handle = binary.NativeEndian.AppendUint32(handle, uint32(r.nid>>32))
		handle = binary.NativeEndian.AppendUint32(handle, uint32(r.nid))
		handle = binary.NativeEndian.AppendUint32(handle, 0)
	} else {
		fd, err := f.openRef(r, unix.O_PATH)
		if err != nil {
			return err
		}
		defer closeFD(fd)
		h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
		if err != nil {
			return nil // a file system without handles: numbers last as long as the mount
		}
		kind, handle = h.Type(), h.Bytes()
	}
	if len(handle) > maxHandle || kind < 0 || kind > 0xff {
		return nil
	}
	b := make([]byte, 0, originHeader+len(handle))
	b = append(b, 0, originMagic, byte(originHeader+len(handle)), 0, byte(kind))
	b = append(append(b, uuid[:]...), handle...)
	err := setXattr(path, f.ns.Attr(unionfs.Origin), string(b), 0)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		return nil // a symbolic link has no user attributes
	}
	return err
}

// originIno returns the inode number of the file that an origin names.
func (f *FS) originIno(origin string) (ino uint64, ok bool) {
	b := []byte(origin)
	if len(b) < originHeader || b[0] != 0 || b[1] != originMagic || int(b[2]) != len(b) {
		return 0, false
	}
	uuid, handle := [16]byte(b[5:originHeader]), b[originHeader:]
	switch {
	case b[4] == handleErofs && len(handle) >= 8:
		nid := uint64(binary.NativeEndian.Uint32(handle))<<32 | uint64(binary.NativeEndian.Uint32(handle[4:]))
		for i := range f.lower {
			if im := f.lower[i].image; im != nil && im.UUID() == uuid && nid <= nidMask {
				return treeID(int32(i), erofs.NID(nid)), true
			}
		}
	case b[4] == handleIno32 && len(handle) >= 4:
		for i := range f.lower {
			if f.lower[i].near {
				return f.dirIno(int32(i), uint64(binary.NativeEndian.Uint32(handle))), true
			}
		}
	}
	return 0, false
}
