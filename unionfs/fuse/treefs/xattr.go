package treefs

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// alias returns bytes of the image as a string, which is valid until the image is closed.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// GetXAttr returns the value of an attribute.
func (f *FS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	stored, ok := f.view.Stored(name)
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
	f.view.Owners.MapValue(name, dest[:n])
	return uint32(n), fuse.OK
}

// ListXAttr returns the names of attributes.
func (f *FS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	attrs, err := f.image.Xattrs(f.nid(h.NodeId))
	if err != nil {
		return 0, status(err)
	}
	size := 0
	for _, x := range attrs {
		name, ok := f.view.Shown(x.Name)
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
