// Package erofs writes and reads trees as EROFS images, the read-only file system
// of Linux: [Write] makes an image of a [tree.Node] tree, and [Image] reads one back
// from memory-mapped bytes that it never trusts.
//
// # What is in an image
//
// Every inode has the 64-byte extended form, for 64-bit sizes, 32-bit owners and
// times in nanoseconds. Contents that the tree holds inline, link targets and
// directories lie in whole blocks, and their last partial block behind the inode
// itself. A regular file whose content is an object has its size, no data (one
// chunk that is a hole) and two attributes for overlayfs:
//
//	trusted.overlay.metacopy = ""
//	trusted.overlay.redirect = "/ab/cdef…"
//
// so that an overlay mount with the image as a lower and the objects directory as a
// data-only lower serves the object's bytes. With [User] the names are user.overlay.*,
// for an overlay mounted with userxattr.
//
// # What belongs to overlayfs and what to the image
//
// An image may itself hold what overlayfs would take for its own. It is escaped so
// that an overlay mount shows it again:
//
//   - an attribute trusted.overlay.X is stored as trusted.overlay.overlay.X;
//   - a character device 0:0 is stored as an empty regular file with the attribute
//     trusted.overlay.overlay.whiteout, and its directory gets
//     trusted.overlay.overlay.opaque=x, each unless the image has such an attribute
//     there: to an overlay mounted on top, from inside the image, that is a whiteout.
//
// The reader undoes both in [Image.Inode] and [Image.Tree]; [Image.Stat] and
// [Image.Xattrs] tell what is on disk. What cannot be told from the above is noted in
// an attribute that overlayfs keeps to itself, trusted.overlay.layerfs, a string of
// the letters c (was a character device 0:0), w and o (the escaped whiteout or
// opaque=x is ours) and i (an implicit directory).
//
// An attribute outside the namespaces that EROFS numbers (user, trusted, security and
// the two POSIX ACLs) is stored under number 0 with its whole name: the kernel does
// not show it and the reader does.
//
// # Source of the format
//
// Documentation/filesystems/erofs.rst and the structures of fs/erofs/erofs_fs.h of
// Linux 6.18. Only features that Linux 5.15 knows are required of a kernel; the name
// filter of attributes (6.6) is used by those that know it.
package erofs

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/layerfs/layerfs/tree"
)

// Limits of the format, and of what is accepted. Those of package tree on names,
// paths and link targets hold as well.
const (
	MaxXattrName  = 255                   // bytes in the name of an attribute, with its namespace
	MaxXattrValue = 1<<16 - 1             // bytes in the value of an attribute: 16 bits on disk
	MaxXattrBody  = 12 + 4*(1<<16-2)      // bytes of attributes kept with one inode
	MaxShared     = 1<<8 - 1              // shared attributes of one inode
	MaxBlocks     = 1<<32 - 1             // blocks in an image
	MaxMajor      = 1<<12 - 1             // device number, major part
	MaxMinor      = 1<<20 - 1             // device number, minor part
	BlockSize     = 1 << blockBits        // bytes in a block
	MaxImage      = MaxBlocks * BlockSize // bytes in an image
)

const (
	blockBits = 12

	superOffset = 1024
	superSize   = 128
	superMagic  = 0xE0F5E1E2

	inodeUnit    = 32 // a NID counts these
	compactSize  = 32
	extendedSize = 64

	xattrHeader    = 12 // struct erofs_xattr_ibody_header
	xattrEntry     = 4  // struct erofs_xattr_entry
	direntSize     = 12 // struct erofs_dirent
	chunkEntry     = 4  // a block address in a chunk map
	chunkIndex     = 8  // struct erofs_inode_chunk_index
	nullAddr       = 1<<32 - 1
	maxChunkBits   = 31 // log2 of blocks in a chunk
	chunkIndexFlag = 0x20
)

// feature_compat and feature_incompat of the superblock.
const (
	compatChecksum    = 1 << 0
	compatMTime       = 1 << 1
	compatXattrFilter = 1 << 2

	incompatZeroPadding = 1 << 0 // concerns compressed data only
	incompatChunked     = 1 << 2
)

// Data layouts of an inode.
const (
	flatPlain  = 0
	flatInline = 2
	chunkBased = 4
)

// File type bits of i_mode.
const (
	modeFifo    = 0x1000
	modeChar    = 0x2000
	modeDir     = 0x4000
	modeBlock   = 0x6000
	modeRegular = 0x8000
	modeSymlink = 0xa000
	modeSocket  = 0xc000
	modeType    = 0xf000
)

// The volume name says who wrote an image and how its attributes are to be read.
const (
	volumeStack     = "layerfs-stack"
	volumeLayer     = "layerfs-layer"
	volumeStackUser = "layerfs-stack-u"
	volumeLayerUser = "layerfs-layer-u"
)

// ErrCorrupt is wrapped by every error that says an image breaks its format.
var ErrCorrupt = fmt.Errorf("damaged EROFS image: %w", fs.ErrInvalid)

// ErrNeedsMerge is wrapped by the error of [Write] for a tree that holds what only a
// merge with the layers below can resolve: a hard link to a file of a layer below, or,
// when [Options.Layer] is off, a whiteout or an opaque or implicit directory.
var ErrNeedsMerge = errors.New("tree must be merged with the layers below")

// Namespace says which attributes overlayfs takes as its own, a closed set.
type Namespace uint8

// The two namespaces of overlayfs.
const (
	Trusted Namespace = iota // trusted.overlay.*, for mounts by root
	User                     // user.overlay.*, for mounts with the option userxattr
)

// String returns the namespace as attribute names have it.
func (n Namespace) String() string {
	switch n {
	case Trusted:
		return "trusted"
	case User:
		return "user"
	default:
		return fmt.Sprintf("Namespace(%d)", uint8(n))
	}
}

// NID is the number of an inode in its image, and what stat calls st_ino on a mount.
type NID uint64

// TypeBits returns the bits of st_mode that say what a file is (inode(7)), which EROFS
// has in i_mode too; 0 for a type that is unknown, which a reader never returns.
func TypeBits(t tree.Type) uint32 { return uint32(modeOf(t)) }

// modeOf returns the file type bits of a type, 0 for an unknown one.
func modeOf(t tree.Type) uint16 {
	switch t {
	case tree.Regular:
		return modeRegular
	case tree.Directory:
		return modeDir
	case tree.Symlink:
		return modeSymlink
	case tree.CharDevice:
		return modeChar
	case tree.BlockDevice:
		return modeBlock
	case tree.Fifo:
		return modeFifo
	case tree.Socket:
		return modeSocket
	default:
		return 0
	}
}

// typeOf is the inverse of modeOf.
func typeOf(mode uint16) (tree.Type, bool) {
	switch mode & modeType {
	case modeRegular:
		return tree.Regular, true
	case modeDir:
		return tree.Directory, true
	case modeSymlink:
		return tree.Symlink, true
	case modeChar:
		return tree.CharDevice, true
	case modeBlock:
		return tree.BlockDevice, true
	case modeFifo:
		return tree.Fifo, true
	case modeSocket:
		return tree.Socket, true
	default:
		return 0, false
	}
}

// direntTypes are the values of file_type in a directory entry (FT_* of Linux).
var direntTypes = [...]tree.Type{
	1: tree.Regular, 2: tree.Directory, 3: tree.CharDevice, 4: tree.BlockDevice,
	5: tree.Fifo, 6: tree.Socket, 7: tree.Symlink,
}

func direntType(t tree.Type) byte {
	switch t {
	case tree.Regular:
		return 1
	case tree.Directory:
		return 2
	case tree.CharDevice:
		return 3
	case tree.BlockDevice:
		return 4
	case tree.Fifo:
		return 5
	case tree.Socket:
		return 6
	case tree.Symlink:
		return 7
	default:
		return 0
	}
}

// encodeDevice packs a device number as Linux's new_encode_dev does.
func encodeDevice(d tree.Device) uint32 {
	return d.Minor&0xff | d.Major<<8 | (d.Minor&^0xff)<<12
}

func decodeDevice(v uint32) tree.Device {
	return tree.Device{Major: v >> 8 & MaxMajor, Minor: v&0xff | v>>12&^0xff}
}

func alignUp(n, to int64) int64 { return (n + to - 1) &^ (to - 1) }
