package erofs

import (
	"encoding/binary"
	"math/bits"
	"strings"

	"github.com/layerfs/layerfs/tree"
)

// Numbers of attribute namespaces on disk. Number 0 is not used by EROFS.
const (
	indexNone       = 0
	indexUser       = 1
	indexACLAccess  = 2
	indexACLDefault = 3
	indexTrusted    = 4
	indexLustre     = 5
	indexSecurity   = 6

	indexLongPrefix = 0x80 // set in the numbers of prefixes that an image defines itself
)

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// xattrPrefixes maps a number on disk to what precedes the stored name.
var xattrPrefixes = [...]string{
	indexNone:       "",
	indexUser:       "user.",
	indexACLAccess:  aclAccess,
	indexACLDefault: aclDefault,
	indexTrusted:    "trusted.",
	indexLustre:     "lustre.",
	indexSecurity:   "security.",
}

// splitXattr returns the number of a name's namespace and the name as it is stored.
func splitXattr(name string) (index uint8, stored string) {
	switch {
	case strings.HasPrefix(name, "user."):
		return indexUser, name[len("user."):]
	case strings.HasPrefix(name, "security."):
		return indexSecurity, name[len("security."):]
	case strings.HasPrefix(name, "trusted."):
		return indexTrusted, name[len("trusted."):]
	case name == aclAccess:
		return indexACLAccess, ""
	case name == aclDefault:
		return indexACLDefault, ""
	default:
		return indexNone, name
	}
}

// Names of overlayfs attributes behind "trusted." or "user.".
const (
	overlayPrefix   = "overlay."
	overlayMetacopy = "overlay.metacopy"
	overlayRedirect = "overlay.redirect"
	overlayOpaque   = "overlay.opaque"
	overlayNote     = "overlay.layerfs"
	escapedPrefix   = "overlay.overlay."
	escapedOpaque   = "overlay.overlay.opaque"
	escapedWhiteout = "overlay.overlay.whiteout"
)

// Letters in the value of overlayNote.
const (
	noteChar     = 'c'
	noteWhiteout = 'w'
	noteOpaque   = 'o'
	noteImplicit = 'i'
)

// index returns the number of the namespace on disk.
func (n Namespace) index() uint8 {
	if n == User {
		return indexUser
	}
	return indexTrusted
}

// Parameters of the name filter (EROFS_XATTR_FILTER_SEED of Linux).
const filterSeed = 0x25BBE08F

// filterBit is the bit that a name clears in the filter of an inode that has it.
func filterBit(index uint8, stored string) uint32 {
	return 1 << (xxh32(stored, filterSeed+uint32(index)) & 31)
}

// xxh32 is XXH32 of Yann Collet's xxHash, which Linux filters attribute names by.
func xxh32(s string, seed uint32) uint32 {
	const (
		prime1 = 2654435761
		prime2 = 2246822519
		prime3 = 3266489917
		prime4 = 668265263
		prime5 = 374761393
	)
	word := func(s string) uint32 {
		return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
	}
	h := seed + prime5
	length := uint32(len(s))
	if len(s) >= 16 {
		lanes := [4]uint32{seed, seed, seed, seed}
		lanes[0] += prime1 & (1<<32 - 1)
		lanes[0] += prime2
		lanes[1] += prime2
		lanes[3] -= prime1
		for ; len(s) >= 16; s = s[16:] {
			for i := range lanes {
				lanes[i] = bits.RotateLeft32(lanes[i]+word(s[4*i:])*prime2, 13) * prime1
			}
		}
		h = bits.RotateLeft32(lanes[0], 1) + bits.RotateLeft32(lanes[1], 7) +
			bits.RotateLeft32(lanes[2], 12) + bits.RotateLeft32(lanes[3], 18)
	}
	h += length
	for ; len(s) >= 4; s = s[4:] {
		h = bits.RotateLeft32(h+word(s)*prime3, 17) * prime4
	}
	for i := range len(s) {
		h = bits.RotateLeft32(h+uint32(s[i])*prime5, 11) * prime1
	}
	h = (h ^ h>>15) * prime2
	h = (h ^ h>>13) * prime3
	return h ^ h>>16
}

// validACL reports whether v is a POSIX ACL as Linux accepts it for setxattr: version
// 2, entries of 8 bytes in their order, none twice, a mask where there are named ones
// (include/uapi/linux/posix_acl_xattr.h, posix_acl_valid). A file whose ACL is
// malformed could not even be looked up on a mount.
func validACL(v string) bool {
	const (
		userObj  = 0x01
		user     = 0x02
		groupObj = 0x04
		group    = 0x08
		mask     = 0x10
		other    = 0x20
	)
	b := []byte(v)
	if len(b) < 4 || (len(b)-4)%8 != 0 || binary.LittleEndian.Uint32(b) != 2 {
		return false
	}
	if len(b) == 4 {
		return true
	}
	var last uint16
	named := false
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag, perm, id := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
		if perm > 7 {
			return false
		}
		ok := false
		switch tag {
		case userObj:
			ok = last == 0
		case user:
			ok = (last == userObj || last == user) && id != 1<<32-1
			named = true
		case groupObj:
			ok = last == userObj || last == user
		case group:
			ok = (last == groupObj || last == group) && id != 1<<32-1
			named = true
		case mask:
			ok = last == groupObj || last == group
		case other:
			ok = last == mask || (last == groupObj && !named)
		}
		if !ok {
			return false
		}
		last = tag
	}
	return last == other
}

// isWhiteoutDevice reports whether overlayfs would take the inode for a whiteout.
func isWhiteoutDevice(ino *tree.Inode) bool {
	return ino.Type == tree.CharDevice && ino.Rdev == tree.Device{}
}
