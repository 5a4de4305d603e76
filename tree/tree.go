// Package tree is the vocabulary of layerfs: what a file system tree consists of,
// what a layer says about it, and how layers add up. It does no I/O.
//
// A [Node] is a name in a directory; an [Inode] is what the name stands for. Hard
// links are nodes that share one *Inode. The same two types carry
//
//   - a layer: the net effect of one layer's tar, where a node may also be a
//     whiteout, a directory may be opaque or implied by its children only, and a
//     hard link may name a file of a layer below (see [Node.LinkTo]);
//   - a stack: layers merged bottom to top by [Merge], where none of these remain.
//
// Children are sorted bytewise by name, so every walk, dump, index and image made
// from a tree is deterministic.
package tree

import (
	"encoding/hex"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Type is the type of an inode, a closed set.
type Type uint8

// The inode types of Linux.
const (
	Regular Type = iota + 1
	Directory
	Symlink
	CharDevice
	BlockDevice
	Fifo
	Socket
)

// String returns the name used in dumps and messages.
func (t Type) String() string {
	switch t {
	case Regular:
		return "file"
	case Directory:
		return "dir"
	case Symlink:
		return "symlink"
	case CharDevice:
		return "char"
	case BlockDevice:
		return "block"
	case Fifo:
		return "fifo"
	case Socket:
		return "socket"
	default:
		return fmt.Sprintf("Type(%d)", uint8(t))
	}
}

// ObjectID is the SHA-256 of the contents of one regular file: all its bytes,
// holes read as zeros. The zero ObjectID stands for "no object".
type ObjectID [32]byte

// Digest returns the id in the field's usual notation, "sha256:<hex>".
func (o ObjectID) Digest() digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(o[:]))
}

// IsZero reports whether o stands for no object.
func (o ObjectID) IsZero() bool { return o == ObjectID{} }

// Path returns where an object lies below the objects directory, "ab/cdef…": two
// hexadecimal digits, a slash, and the other 62. It is also, with a leading slash,
// the overlay redirect of a file whose data is the object.
func (o ObjectID) Path() string {
	var b [65]byte
	hex.Encode(b[:2], o[:1])
	b[2] = '/'
	hex.Encode(b[3:], o[1:])
	return string(b[:])
}

// ParseObjectPath is the inverse of [ObjectID.Path].
func ParseObjectPath(s string) (ObjectID, bool) {
	var o ObjectID
	if len(s) != 65 || s[2] != '/' {
		return o, false
	}
	if _, err := hex.Decode(o[:1], []byte(s[:2])); err != nil {
		return o, false
	}
	if _, err := hex.Decode(o[1:], []byte(s[3:])); err != nil {
		return o, false
	}
	return o, o.Path() == s
}

// Time is a time stamp of a file: seconds since the epoch, may be negative, and
// nanoseconds in [0, 1e9).
type Time struct {
	Sec  int64
	Nsec uint32
}

// Device is the number of a character or block device.
type Device struct{ Major, Minor uint32 }

// Xattr is one extended attribute, its name with the namespace ("user.x",
// "security.capability", "system.posix_acl_access"); the value is raw bytes.
type Xattr struct{ Name, Value string }

// Inode is everything about a file but its names. Inodes are immutable once a tree
// is complete, and shared between trees.
type Inode struct {
	Type   Type
	Mode   uint16 // permission bits with setuid, setgid and sticky: 07777
	UID    uint32
	GID    uint32
	MTime  Time
	Rdev   Device  // CharDevice, BlockDevice
	Size   int64   // Regular: bytes of content; Symlink: length of Link; else 0
	Link   string  // Symlink: the target, raw bytes
	Xattrs []Xattr // sorted by name, names unique

	// A Regular inode of Size > 0 has its content either inline or as an object.
	// Len(Inline) == Size when Object is zero.
	Inline string
	Object ObjectID
}

// Node is one name in a tree.
type Node struct {
	Name     string  // one component; "" for the root
	Inode    *Inode  // nil for a whiteout and for an unresolved LinkTo
	Children []*Node // of a directory, sorted by Name

	// The rest is meaningful in layers only.

	// Whiteout: the name is removed from the layers below. Such a node has no Inode.
	Whiteout bool
	// Opaque: nothing of the directory of the same path below shows through.
	Opaque bool
	// Implicit: the layer did not mention the directory itself, only things in it;
	// the directory below keeps its metadata, and one that is missing gets Implied.
	Implicit bool
	// LinkTo: a hard link whose target the layer had not defined when it was met.
	// Merge resolves it in the layers below, else in this layer, else it is an error.
	// A LinkTo node has no Inode.
	LinkTo Path
	// IsLink is true for a node whose LinkTo is meaningful.
	IsLink bool
}

// Implied is the metadata of a directory that no layer described: what Docker and
// containerd create, with the epoch as its time so that results are reproducible.
func Implied() *Inode { return &Inode{Type: Directory, Mode: 0o755} }

// IsDir reports whether the node is a directory.
func (n *Node) IsDir() bool { return n.Inode != nil && n.Inode.Type == Directory }

// Child returns the child of that name, or nil.
func (n *Node) Child(name string) *Node {
	if i, ok := n.search(name); ok {
		return n.Children[i]
	}
	return nil
}

// Lookup returns the node at p below n without following symbolic links, or nil.
func (n *Node) Lookup(p Path) *Node {
	for n != nil && p != "" {
		var first string
		first, p = p.Cut()
		n = n.Child(first)
	}
	return n
}

func (n *Node) search(name string) (int, bool) {
	lo, hi := 0, len(n.Children)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if n.Children[mid].Name < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(n.Children) && n.Children[lo].Name == name
}

// Kind says what a change did to a path, a closed set.
type Kind uint8

// The kinds of change, in the order in which they are listed for one path.
const (
	Add Kind = iota + 1
	Modify
	Delete
)

// Letter returns the one-letter form that `docker diff` prints.
func (k Kind) Letter() string {
	switch k {
	case Add:
		return "A"
	case Modify:
		return "C"
	case Delete:
		return "D"
	default:
		return "?"
	}
}

// String returns "add", "modify" or "delete".
func (k Kind) String() string {
	switch k {
	case Add:
		return "add"
	case Modify:
		return "modify"
	case Delete:
		return "delete"
	default:
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
}

// Change is one difference between two trees.
type Change struct {
	Kind     Kind
	Path     Path
	Old, New *Inode // nil where there is none
}
