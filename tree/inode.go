package tree

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// MaxXattrName is the kernel's limit on the name of an extended attribute, in
// bytes with the namespace (XATTR_NAME_MAX of linux/limits.h).
const MaxXattrName = 255

// Equal reports whether two inodes stand for the same file: type, mode, owner,
// time, device, link target, extended attributes, size and content. Content is
// compared by identity and never read: two objects by their ids, inline content by
// its bytes, and inline content against an object by hashing the former. The
// number of names an inode has does not count.
func (i *Inode) Equal(o *Inode) bool {
	if i == o {
		return true
	}
	if i == nil || o == nil {
		return false
	}
	return i.Type == o.Type && i.Mode == o.Mode && i.UID == o.UID && i.GID == o.GID &&
		i.MTime == o.MTime && i.Rdev == o.Rdev && i.Size == o.Size && i.Link == o.Link &&
		slices.Equal(i.Xattrs, o.Xattrs) && i.sameContent(o)
}

func (i *Inode) sameContent(o *Inode) bool {
	if i.Object.IsZero() == o.Object.IsZero() {
		return i.Object == o.Object && i.Inline == o.Inline
	}
	if i.Object.IsZero() {
		i, o = o, i
	}
	// A file whose content nobody has looked at yet has neither an object nor its
	// bytes inline, and equals nothing.
	return int64(len(o.Inline)) == o.Size && ObjectID(sha256.Sum256([]byte(o.Inline))) == i.Object
}

// check reports what makes an inode unfit for a tree, wrapping fs.ErrInvalid.
func (i *Inode) check() error {
	if i == nil {
		return fmt.Errorf("no inode: %w", fs.ErrInvalid)
	}
	if i.Type < Regular || i.Type > Socket {
		return fmt.Errorf("unknown type %d: %w", i.Type, fs.ErrInvalid)
	}
	if i.Mode > 0o7777 {
		return fmt.Errorf("mode %#o holds more than permission bits: %w", i.Mode, fs.ErrInvalid)
	}
	if i.MTime.Nsec >= 1e9 {
		return fmt.Errorf("time stamp with %d nanoseconds: %w", i.MTime.Nsec, fs.ErrInvalid)
	}
	if i.Rdev != (Device{}) && i.Type != CharDevice && i.Type != BlockDevice {
		return fmt.Errorf("%s with a device number: %w", i.Type, fs.ErrInvalid)
	}
	if err := i.checkContent(); err != nil {
		return err
	}
	return checkXattrs(i.Xattrs)
}

func (i *Inode) checkContent() error {
	if i.Type != Regular && (i.Inline != "" || !i.Object.IsZero()) {
		return fmt.Errorf("%s with content: %w", i.Type, fs.ErrInvalid)
	}
	if i.Type != Symlink && i.Link != "" {
		return fmt.Errorf("%s with a symbolic link's target: %w", i.Type, fs.ErrInvalid)
	}
	switch i.Type {
	case Regular:
		if i.Size < 0 {
			return fmt.Errorf("size %d: %w", i.Size, fs.ErrInvalid)
		}
		if i.Inline != "" && (!i.Object.IsZero() || int64(len(i.Inline)) != i.Size) {
			return fmt.Errorf("file of size %d with %d bytes inline: %w", i.Size, len(i.Inline), fs.ErrInvalid)
		}
	case Symlink:
		if len(i.Link) == 0 || len(i.Link) > MaxLink {
			return fmt.Errorf("symbolic link with a target of %d bytes, limit %d: %w", len(i.Link), MaxLink, fs.ErrInvalid)
		}
		if strings.IndexByte(i.Link, 0) >= 0 {
			return fmt.Errorf("symbolic link's target %s holds a NUL byte: %w", shorten(i.Link), fs.ErrInvalid)
		}
		if i.Size != int64(len(i.Link)) {
			return fmt.Errorf("symbolic link of size %d with a target of %d bytes: %w", i.Size, len(i.Link), fs.ErrInvalid)
		}
	default:
		if i.Size != 0 {
			return fmt.Errorf("%s of size %d: %w", i.Type, i.Size, fs.ErrInvalid)
		}
	}
	return nil
}

func checkXattrs(xattrs []Xattr) error {
	for k, x := range xattrs {
		if x.Name == "" || len(x.Name) > MaxXattrName || strings.IndexByte(x.Name, 0) >= 0 {
			return fmt.Errorf("extended attribute name %s of %d bytes, limit %d: %w", shorten(x.Name), len(x.Name), MaxXattrName, fs.ErrInvalid)
		}
		if len(x.Value) > MaxXattr {
			return fmt.Errorf("extended attribute %q of %d bytes, limit %d: %w", x.Name, len(x.Value), MaxXattr, fs.ErrInvalid)
		}
		if k > 0 && xattrs[k-1].Name >= x.Name {
			return fmt.Errorf("extended attributes %q and %q out of order: %w", xattrs[k-1].Name, x.Name, fs.ErrInvalid)
		}
	}
	return nil
}
