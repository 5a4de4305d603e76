// Package treeview says how a tree appears to an overlay that lies on it, whoever shows
// the tree: which names its attributes have and which owners its files.
//
// Trees are written for trusted.overlay.*. For the namespace [unionfs.User] the marks of
// overlayfs appear as user.overlay.*, and a file's own attribute of that prefix escaped.
// Attributes that a user namespace cannot have (trusted.*, and security.* but for
// capabilities) do not appear, because copying them up would fail.
package treeview

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/layerfs/layerfs/unionfs"
)

// View is how a tree appears.
type View struct {
	Namespace unionfs.Namespace // of the overlay above
	Contents  bool              // whoever shows the tree has all contents: no mark says where they are
	Owners    Owners
}

// Range is a run of ids.
type Range struct{ First, Count uint32 }

// Owners are the ids that files can have. The zero value is that they can have all.
type Owners struct {
	UIDs, GIDs []Range
	// OtherUID and OtherGID own files whose owners are not among them.
	OtherUID, OtherGID uint32
}

// UID returns the owner that appears instead of id.
func (o *Owners) UID(id uint32) uint32 { return among(o.UIDs, id, o.OtherUID) }

// GID returns the group that appears instead of id.
func (o *Owners) GID(id uint32) uint32 { return among(o.GIDs, id, o.OtherGID) }

// among returns id if ranges have it, else other.
func among(ranges []Range, id, other uint32) uint32 {
	for _, r := range ranges {
		if id-r.First < r.Count {
			return id
		}
	}
	if len(ranges) == 0 {
		return id
	}
	return other
}

const (
	securityPrefix = "security."
	trustedPrefix  = "trusted."
	capability     = "security.capability"
	aclPrefix      = "system.posix_acl_"
)

// Stored returns the name in the image of an attribute that appears as name, if any does.
func (v *View) Stored(name string) (string, bool) {
	if own, ok := v.Namespace.Own(name); ok {
		if v.hides(own) {
			return "", false
		}
		return unionfs.Trusted.Attr(own), true
	}
	if v.Namespace == unionfs.Trusted {
		return name, true
	}
	if forbidden(name) {
		return "", false
	}
	return v.Namespace.Unescape(name)
}

// Shown returns the name under which an attribute of the image appears, if it does.
func (v *View) Shown(stored string) (string, bool) {
	if own, ok := unionfs.Trusted.Own(stored); ok {
		if v.hides(own) {
			return "", false
		}
		return v.Namespace.Attr(own), true
	}
	if v.Namespace == unionfs.Trusted {
		return stored, true
	}
	if forbidden(stored) {
		return "", false
	}
	return v.Namespace.Escape(stored), true
}

// hides reports whether an attribute of overlayfs is not for the overlay above: one that
// no overlayfs knows, or one that says where content is that is at hand.
func (v *View) hides(own string) bool {
	switch own {
	case unionfs.Opaque, unionfs.Whiteout:
		return false
	case unionfs.Metacopy, unionfs.Redirect:
		return v.Contents
	default:
		return true
	}
}

// forbidden reports whether an attribute cannot be had in a user namespace.
func forbidden(name string) bool {
	return strings.HasPrefix(name, trustedPrefix) || strings.HasPrefix(name, securityPrefix) && name != capability
}

// The form of an ACL as an attribute (include/uapi/linux/posix_acl_xattr.h): a version,
// then entries of a tag, permissions and an id, which only named users and groups have.
const (
	aclHeader = 4
	aclEntry  = 8
	aclUser   = 0x02
	aclGroup  = 0x08
)

// MapValue replaces ids in the value of an attribute that files cannot have here.
func (o *Owners) MapValue(name string, value []byte) {
	if !strings.HasPrefix(name, aclPrefix) || len(value) < aclHeader {
		return
	}
	le := binary.LittleEndian
	for e := range slices.Chunk(value[aclHeader:], aclEntry) {
		if len(e) < aclEntry {
			return
		}
		switch id := le.Uint32(e[4:]); le.Uint16(e) {
		case aclUser:
			le.PutUint32(e[4:], o.UID(id))
		case aclGroup:
			le.PutUint32(e[4:], o.GID(id))
		}
	}
}
