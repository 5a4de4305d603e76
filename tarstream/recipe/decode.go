package recipe

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/layerfs/layerfs/tree"
)

// indexDecoder reads an index section. All strings of the tree are parts of the one
// string it reads from, and all nodes and inodes come from slabs.
type indexDecoder struct {
	in  string
	pos int
	bad string // what was wrong, or "": checked after every node

	objects []ObjectRef
	inline  []string

	attrs    []tree.Inode // mode, owner and xattrs of each attribute set
	nodes    []tree.Node
	inodes   []tree.Inode
	pointers []*tree.Node
	used     int // inodes

	time       tree.Time
	nextObject int64
	nextInline int64
}

// minNode is the least a node takes: flags, length of the name, one more.
const minNode = 3

func decodeIndex(in string, objects []ObjectRef, inline []string) (*tree.Node, error) {
	d := &indexDecoder{in: in, objects: objects, inline: inline}
	nodes, inodes, xattrs, attrs := d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
	left := uint64(len(in) - d.pos)
	if d.bad != "" || nodes == 0 || nodes > MaxNodes || nodes*minNode > left+minNode || inodes > nodes || xattrs > left || attrs > left/4 {
		return nil, corrupt("index: counts of nodes %d, inodes %d, xattr sets %d, attribute sets %d in %d bytes", nodes, inodes, xattrs, attrs, len(in))
	}
	if err := d.tables(int(xattrs), int(attrs)); err != nil {
		return nil, err
	}
	d.nodes = make([]tree.Node, nodes)
	d.inodes = make([]tree.Inode, inodes)
	d.pointers = make([]*tree.Node, nodes-1)
	root := d.takeNode()
	d.node(root, "", 0, 0)
	if d.bad == "" && (root.Name != "" || !root.IsDir()) {
		d.fail("the root is not a directory")
	}
	if d.bad == "" && (len(d.nodes) > 0 || len(d.pointers) > 0 || d.used != len(d.inodes) || d.pos != len(in)) {
		d.fail("counts do not match the nodes")
	}
	if d.bad != "" {
		return nil, corrupt("index: at byte %d: %s", d.pos, d.bad)
	}
	return root, nil
}

func (d *indexDecoder) tables(xattrs, attrs int) error {
	sets := make([][]tree.Xattr, xattrs)
	for i := range sets {
		n := d.uvarint()
		if n == 0 || n > MaxXattrs {
			return corrupt("index: xattr set %d: %d attributes, limit %d", i, n, MaxXattrs)
		}
		set := make([]tree.Xattr, n)
		for k := range set {
			set[k] = tree.Xattr{Name: d.string(tree.MaxName), Value: d.string(tree.MaxXattr)}
			if set[k].Name == "" || strings.IndexByte(set[k].Name, 0) >= 0 || k > 0 && set[k-1].Name >= set[k].Name {
				d.fail("names of extended attributes")
			}
		}
		if d.bad != "" {
			return corrupt("index: xattr set %d: %s", i, d.bad)
		}
		sets[i] = set
	}
	d.attrs = make([]tree.Inode, attrs)
	for i := range d.attrs {
		mode, uid, gid, x := d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
		if d.bad != "" || mode > 0o7777 || uid > math.MaxUint32 || gid > math.MaxUint32 || x > uint64(len(sets)) {
			return corrupt("index: attribute set %d", i)
		}
		d.attrs[i] = tree.Inode{Mode: uint16(mode), UID: uint32(uid), GID: uint32(gid)}
		if x > 0 {
			d.attrs[i].Xattrs = sets[x-1]
		}
	}
	return nil
}

func (d *indexDecoder) fail(what string) {
	if d.bad == "" {
		d.bad = what
	}
}

func (d *indexDecoder) uvarint() uint64 {
	// One byte is by far the most common.
	if d.pos < len(d.in) {
		if c := d.in[d.pos]; c < 0x80 {
			d.pos++
			return uint64(c)
		}
	}
	var v uint64
	for shift := uint(0); shift < 64; shift += 7 {
		if d.pos >= len(d.in) {
			break
		}
		c := d.in[d.pos]
		d.pos++
		if shift == 63 && c > 1 {
			break
		}
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
	d.fail("malformed number")
	d.pos = len(d.in)
	return 0
}

func (d *indexDecoder) zigzag() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *indexDecoder) string(limit int) string {
	n := d.uvarint()
	if n > uint64(limit) || n > uint64(len(d.in)-d.pos) {
		d.fail("malformed string")
		return ""
	}
	s := d.in[d.pos : d.pos+int(n)]
	d.pos += int(n)
	return s
}

func (d *indexDecoder) takeNode() *tree.Node {
	if len(d.nodes) == 0 {
		d.fail("more nodes than counted")
		return &tree.Node{}
	}
	n := &d.nodes[0]
	d.nodes = d.nodes[1:]
	return n
}

func validName(s string) bool {
	if s == "" || s == "." || s == ".." {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] == '/' || s[i] == 0 {
			return false
		}
	}
	return true
}

// node fills n and everything below it. Names must be greater than after.
func (d *indexDecoder) node(n *tree.Node, after string, depth, length int) {
	if d.pos >= len(d.in) {
		d.fail("ends early")
		return
	}
	flags := d.in[d.pos]
	d.pos++
	n.Name = d.string(tree.MaxName)
	if depth > 0 && (!validName(n.Name) || n.Name <= after) {
		d.fail("name of a node")
		return
	}
	length += len(n.Name) + 1
	if depth > tree.MaxDepth || length > tree.MaxPath+2 {
		d.fail("too deep")
		return
	}
	kind := flags & kindMask
	switch kind {
	case kindHardLink, kindWhiteout, kindLinkOut:
		if flags != kind {
			d.fail("flags of a node")
		}
		d.nameOnly(n, kind)
		return
	}
	ino := d.inode(flags)
	if d.bad != "" {
		return
	}
	n.Inode = ino
	switch ino.Type {
	case tree.Directory:
		n.Opaque = flags&flagOpaque != 0
		n.Implicit = flags&flagImplicit != 0
		d.children(n, depth, length)
	case tree.Regular:
		d.content(ino, flags)
	case tree.Symlink:
		ino.Link = d.string(tree.MaxLink)
		ino.Size = int64(len(ino.Link))
		if ino.Link == "" || strings.IndexByte(ino.Link, 0) >= 0 {
			d.fail("target of a symlink")
		}
	case tree.CharDevice, tree.BlockDevice:
		major, minor := d.uvarint(), d.uvarint()
		if major > math.MaxUint32 || minor > math.MaxUint32 {
			d.fail("device number")
		}
		ino.Rdev = tree.Device{Major: uint32(major), Minor: uint32(minor)}
	case tree.Fifo, tree.Socket:
	}
	if flags&(flagOpaque|flagImplicit) != 0 && ino.Type != tree.Directory && ino.Type != tree.Regular {
		d.fail("flags of a node")
	}
}

func (d *indexDecoder) nameOnly(n *tree.Node, kind byte) {
	switch kind {
	case kindHardLink:
		back := d.uvarint()
		if back >= uint64(d.used) {
			d.fail("hard link to an inode that does not exist")
			return
		}
		n.Inode = &d.inodes[d.used-1-int(back)]
		if n.Inode.Type == tree.Directory {
			d.fail("hard link to a directory")
		}
	case kindWhiteout:
		n.Whiteout = true
	case kindLinkOut:
		n.IsLink = true
		target := d.string(tree.MaxPath)
		p, err := tree.ParsePath(target)
		if err != nil || string(p) != target || p == "" {
			d.fail("target of a hard link")
		}
		n.LinkTo = p
	}
}

func (d *indexDecoder) inode(flags byte) *tree.Inode {
	typ := tree.Type(flags & kindMask)
	if typ < tree.Regular || typ > tree.Socket {
		d.fail("type of a node")
		return nil
	}
	set := d.uvarint()
	if set >= uint64(len(d.attrs)) || d.used == len(d.inodes) {
		d.fail("attributes of a node")
		return nil
	}
	ino := &d.inodes[d.used]
	d.used++
	a := &d.attrs[set]
	ino.Type, ino.Mode, ino.UID, ino.GID, ino.Xattrs = typ, a.Mode, a.UID, a.GID, a.Xattrs
	if flags&flagSameTime == 0 {
		d.time.Sec += d.zigzag()
		d.time.Nsec = 0
		if flags&flagNsec != 0 {
			ns := d.uvarint()
			if ns == 0 || ns >= 1e9 {
				d.fail("time of a node")
			}
			d.time.Nsec = uint32(ns)
		}
	} else if flags&flagNsec != 0 {
		d.fail("flags of a node")
	}
	ino.MTime = d.time
	return ino
}

func (d *indexDecoder) children(n *tree.Node, depth, length int) {
	count := d.uvarint()
	if count > uint64(len(d.pointers)) {
		d.fail("more nodes than counted")
		return
	}
	if count == 0 {
		return
	}
	n.Children = d.pointers[:count:count]
	d.pointers = d.pointers[count:]
	after := ""
	for i := range n.Children {
		c := d.takeNode()
		n.Children[i] = c
		d.node(c, after, depth+1, length)
		if d.bad != "" {
			return
		}
		after = c.Name
	}
}

func (d *indexDecoder) content(ino *tree.Inode, flags byte) {
	switch flags & (flagInline | flagObject) {
	case 0:
	case flagInline:
		k := d.nextInline + d.zigzag()
		if k < 0 || k >= int64(len(d.inline)) {
			d.fail("inline contents that do not exist")
			return
		}
		ino.Inline = d.inline[k]
		ino.Size = int64(len(ino.Inline))
		d.nextInline = k + 1
	case flagObject:
		k := d.nextObject + d.zigzag()
		if k < 0 || k >= int64(len(d.objects)) {
			d.fail("object that does not exist")
			return
		}
		ino.Object, ino.Size = d.objects[k].ID, d.objects[k].Size
		d.nextObject = k + 1
	default:
		d.fail("flags of a file")
	}
}

// decodeInline splits one frame of inline contents.
func decodeInline(dst []string, frame string) ([]string, error) {
	for len(frame) > 0 {
		var n uint64
		if c := frame[0]; c < 0x80 {
			n, frame = uint64(c), frame[1:]
		} else {
			var head [binary.MaxVarintLen64]byte
			v, k := binary.Uvarint(head[:copy(head[:], frame)])
			if k <= 0 {
				return nil, corrupt("inline contents: malformed length")
			}
			n, frame = v, frame[k:]
		}
		if n == 0 || n > MaxInline || n > uint64(len(frame)) {
			return nil, corrupt("inline contents of %d bytes, %d are left", n, len(frame))
		}
		dst = append(dst, frame[:n])
		frame = frame[n:]
	}
	return dst, nil
}
