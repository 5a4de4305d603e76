package treefs

import (
	"encoding/binary"
	"slices"
	"strings"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/layerfs/layerfs/unionfs"
)

const (
	securityPrefix = "security."
	trustedPrefix  = "trusted."
	capability     = "security.capability"
	aclPrefix      = "system.posix_acl_"
)

// alias returns bytes of the image as a string, which is valid until the image is closed.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// stored returns the name that an attribute of the mount has in the image.
func (f *FS) stored(name string) (string, bool) {
	ns := f.opts.Namespace
	if own, ok := ns.Own(name); ok {
		if f.hides(own) {
			return "", false
		}
		return unionfs.Trusted.Attr(own), true
	}
	if ns == unionfs.Trusted {
		return name, true
	}
	if forbidden(name) {
		return "", false
	}
	return ns.Unescape(name)
}

// shown is the inverse of stored.
func (f *FS) shown(name string) (string, bool) {
	ns := f.opts.Namespace
	if own, ok := unionfs.Trusted.Own(name); ok {
		if f.hides(own) {
			return "", false
		}
		return ns.Attr(own), true
	}
	if ns == unionfs.Trusted {
		return name, true
	}
	if forbidden(name) {
		return "", false
	}
	return ns.Escape(name), true
}

// hides reports whether an attribute of overlayfs is not for the overlay above: one that
// no overlayfs knows, or one that says where content is which is served here.
func (f *FS) hides(own string) bool {
	switch own {
	case unionfs.Opaque, unionfs.Whiteout:
		return false
	case unionfs.Metacopy, unionfs.Redirect:
		return f.data != nil
	default:
		return true
	}
}

// forbidden reports whether an attribute cannot be had in a user namespace.
func forbidden(name string) bool {
	return strings.HasPrefix(name, trustedPrefix) || strings.HasPrefix(name, securityPrefix) && name != capability
}

// GetXAttr returns the value of an attribute.
func (f *FS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	f.trim.count()
	stored, ok := f.stored(name)
	if !ok {
		return 0, fuse.ENOATTR
	}
	value, ok, err := f.image.Xattr(f.nid(h.NodeId), stored)
	switch {
	case err != nil:
		return 0, status(err)
	case !ok:
		return 0, fuse.ENOATTR
	case len(dest) < len(value):
		return uint32(len(value)), fuse.ERANGE
	}
	n := copy(dest, value)
	if strings.HasPrefix(name, aclPrefix) {
		f.opts.Owners.mapACL(dest[:n])
	}
	return uint32(n), fuse.OK
}

// ListXAttr returns the names of attributes.
func (f *FS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	f.trim.count()
	attrs, err := f.image.Xattrs(f.nid(h.NodeId))
	if err != nil {
		return 0, status(err)
	}
	size := 0
	for _, x := range attrs {
		name, ok := f.shown(x.Name)
		if !ok {
			continue
		}
		if end := size + len(name) + 1; end <= len(dest) {
			copy(dest[size:], name)
			dest[end-1] = 0
		}
		size += len(name) + 1
	}
	if size > len(dest) {
		return uint32(size), fuse.ERANGE
	}
	return uint32(size), fuse.OK
}

// The form of an ACL as an attribute (include/uapi/linux/posix_acl_xattr.h): a version,
// then entries of a tag, permissions and an id, which only named users and groups have.
const (
	aclHeader = 4
	aclEntry  = 8
	aclUser   = 0x02
	aclGroup  = 0x08
)

// mapACL replaces the ids in an ACL that files here cannot have.
func (o *Owners) mapACL(acl []byte) {
	if len(acl) < aclHeader {
		return
	}
	le := binary.LittleEndian
	for e := range slices.Chunk(acl[aclHeader:], aclEntry) {
		if len(e) < aclEntry {
			return
		}
		switch id := le.Uint32(e[4:]); le.Uint16(e) {
		case aclUser:
			le.PutUint32(e[4:], o.uid(id))
		case aclGroup:
			le.PutUint32(e[4:], o.gid(id))
		}
	}
}
