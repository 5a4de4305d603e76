package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/layerfs/layerfs/tree"
)

// xattr is one attribute on disk. Name and value alias the image.
type xattr struct {
	index  uint8
	name   []byte
	value  []byte
	shared bool
	id     uint32 // of a shared one
	at     int64  // where it starts
}

func (x *xattr) size() int64 { return int64(entrySize(len(x.name), len(x.value))) }

// xattrAt decodes the attribute at an offset; it must end at limit at the latest.
func (im *Image) xattrAt(n NID, at, limit int64) (xattr, error) {
	if at < 0 || at > limit-xattrEntry {
		return xattr{}, corrupt("an extended attribute of inode %d lies outside", n)
	}
	b := im.b[at:limit]
	x := xattr{index: b[1], at: at}
	name := xattrEntry + int64(b[0])
	end := name + int64(binary.LittleEndian.Uint16(b[2:]))
	if end > int64(len(b)) {
		return xattr{}, corrupt("an extended attribute of inode %d lies outside", n)
	}
	if x.index&indexLongPrefix != 0 || int(x.index) >= len(xattrPrefixes) {
		return xattr{}, fmt.Errorf("inode %d of EROFS image has an extended attribute of namespace %d: %w", n, x.index, errors.ErrUnsupported)
	}
	x.name, x.value = b[xattrEntry:name:name], b[name:end:end]
	return x, nil
}

// xattrs goes through the attributes of an inode, the ones kept with it first.
func (im *Image) xattrs(n NID, r *inode) iter.Seq2[xattr, error] {
	return func(yield func(xattr, error) bool) { im.eachXattr(n, r, yield) }
}

func (im *Image) eachXattr(n NID, r *inode, yield func(xattr, error) bool) {
	if r.data == r.attrs {
		return
	}
	ids := r.attrs + xattrHeader
	count := int64(im.b[r.attrs+4])
	at := ids + 4*count
	if at > r.data {
		yield(xattr{}, corrupt("inode %d has %d shared extended attributes in %d bytes", n, count, r.data-ids))
		return
	}
	for at < r.data {
		x, err := im.xattrAt(n, at, r.data)
		if err != nil {
			yield(xattr{}, err)
			return
		}
		if !yield(x, nil) {
			return
		}
		at += x.size()
	}
	for i := range count {
		id := binary.LittleEndian.Uint32(im.b[ids+4*i:])
		x, err := im.xattrAt(n, im.shared+4*int64(id), int64(len(im.b)))
		x.shared, x.id = true, id
		if !yield(x, err) || err != nil {
			return
		}
	}
}

// find returns the value of an attribute.
func (im *Image) find(n NID, r *inode, index uint8, name string) (value []byte, ok bool, err error) {
	if r.data == r.attrs {
		return nil, false, nil
	}
	if im.filter {
		// A bit that is set says that no name of this hash is there.
		if filter := binary.LittleEndian.Uint32(im.b[r.attrs:]); filter != 0 && filter&filterBit(index, name) != 0 {
			return nil, false, nil
		}
	}
	for x, err := range im.xattrs(n, r) {
		if err != nil {
			return nil, false, err
		}
		if x.index == index && string(x.name) == name {
			return x.value, true, nil
		}
	}
	return nil, false, nil
}

// Xattr returns the value of one extended attribute as it is on disk; ok is false
// where there is none. The value aliases the image: it is valid until Close and not to
// be changed. Nothing is allocated.
func (im *Image) Xattr(n NID, name string) (value []byte, ok bool, err error) {
	r, err := im.inode(n)
	if err != nil {
		return nil, false, err
	}
	index, stored := splitXattr(name)
	return im.find(n, &r, index, stored)
}

// Xattrs returns all extended attributes as they are on disk, those for overlayfs
// included, sorted by name.
func (im *Image) Xattrs(n NID) ([]tree.Xattr, error) {
	r, err := im.inode(n)
	if err != nil {
		return nil, err
	}
	var all []tree.Xattr
	for x, err := range im.xattrs(n, &r) {
		if err != nil {
			return nil, err
		}
		all = append(all, tree.Xattr{Name: xattrPrefixes[x.index] + string(x.name), Value: string(x.value)})
	}
	return all, sortXattrs(n, all)
}

// sortXattrs sorts by name and refuses a name that is there twice or that no tree has.
func sortXattrs(n NID, all []tree.Xattr) error {
	slices.SortFunc(all, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for i, x := range all {
		if i > 0 && all[i-1].Name == x.Name || x.Name == "" || strings.IndexByte(x.Name, 0) >= 0 {
			return corrupt("inode %d has the extended attribute %q, twice or as no name can be", n, x.Name)
		}
	}
	return nil
}

// Object returns the object that holds the content of a regular file; ok is false
// where the content is in the image. Nothing is allocated.
func (im *Image) Object(n NID) (id tree.ObjectID, ok bool, err error) {
	r, err := im.inode(n)
	if err != nil {
		return tree.ObjectID{}, false, err
	}
	return im.object(n, &r)
}

func (im *Image) object(n NID, r *inode) (id tree.ObjectID, ok bool, err error) {
	if r.mode&modeType != modeRegular || r.layout != chunkBased {
		return tree.ObjectID{}, false, nil
	}
	redirect, ok, err := im.find(n, r, im.ns.index(), overlayRedirect)
	if err != nil || !ok {
		return tree.ObjectID{}, false, err
	}
	if _, ok, err := im.find(n, r, im.ns.index(), overlayMetacopy); err != nil || !ok {
		return tree.ObjectID{}, false, err
	}
	id, err = parseRedirect(n, redirect)
	return id, err == nil, err
}

// parseRedirect decodes "/ab/cdef…".
func parseRedirect(n NID, b []byte) (id tree.ObjectID, err error) {
	if len(b) != redirectLen || b[0] != '/' || b[3] != '/' {
		return id, corrupt("inode %d has the redirect %q", n, b)
	}
	for i := range id {
		at := 1 + 2*i
		if i > 0 {
			at++
		}
		hi, lo := hexDigit(b[at]), hexDigit(b[at+1])
		if hi|lo > 0xf {
			return tree.ObjectID{}, corrupt("inode %d has the redirect %q", n, b)
		}
		id[i] = hi<<4 | lo
	}
	if id.IsZero() {
		return id, corrupt("inode %d has the redirect %q", n, b)
	}
	return id, nil
}

// hexDigit returns the value of a lower-case digit, or 0xff.
func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	default:
		return 0xff
	}
}
