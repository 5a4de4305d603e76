package recipe

import (
	"encoding/binary"
	"fmt"
	"io/fs"

	"github.com/layerfs/layerfs/tree"
)

type attributes struct {
	mode     uint16
	uid, gid uint32
	xattrs   int // number of the set + 1
}

type indexEncoder struct {
	nodes   []byte
	objects map[tree.ObjectID]int
	inline  map[*tree.Inode]int

	count      int
	inodes     map[*tree.Inode]int
	attrs      map[attributes]int
	attrsList  []attributes
	xattrs     map[string]int // by coded form
	xattrsList []string
	scratch    []byte

	time       tree.Time
	nextObject int
	nextInline int
}

// encodeIndex returns the index section of a layer whose files lie in the given
// objects and inline contents.
func encodeIndex(root *tree.Node, objects map[tree.ObjectID]int, inline map[*tree.Inode]int) ([]byte, error) {
	e := &indexEncoder{
		objects: objects,
		inline:  inline,
		inodes:  make(map[*tree.Inode]int),
		attrs:   make(map[attributes]int),
		xattrs:  make(map[string]int),
	}
	if root == nil || root.Name != "" || !root.IsDir() {
		return nil, fmt.Errorf("encode index: the root is not a directory: %w", fs.ErrInvalid)
	}
	if err := e.node(root, 0); err != nil {
		return nil, fmt.Errorf("encode index: %w", err)
	}
	out := make([]byte, 0, len(e.nodes)+len(e.attrsList)*8+64)
	for _, n := range []int{e.count, len(e.inodes), len(e.xattrsList), len(e.attrsList)} {
		out = binary.AppendUvarint(out, uint64(n))
	}
	for _, x := range e.xattrsList {
		out = append(out, x...)
	}
	for _, a := range e.attrsList {
		for _, v := range []uint64{uint64(a.mode), uint64(a.uid), uint64(a.gid), uint64(a.xattrs)} {
			out = binary.AppendUvarint(out, v)
		}
	}
	out = append(out, e.nodes...)
	if len(out) > MaxIndex {
		return nil, fmt.Errorf("encode index: %d bytes, limit %d: %w", len(out), MaxIndex, fs.ErrInvalid)
	}
	return out, nil
}

func (e *indexEncoder) string(s string) {
	e.nodes = binary.AppendUvarint(e.nodes, uint64(len(s)))
	e.nodes = append(e.nodes, s...)
}

func (e *indexEncoder) uvarint(v uint64) { e.nodes = binary.AppendUvarint(e.nodes, v) }

func (e *indexEncoder) zigzag(v int64) { e.uvarint(uint64(v<<1) ^ uint64(v>>63)) }

func (e *indexEncoder) node(n *tree.Node, depth int) error {
	if e.count++; e.count > MaxNodes {
		return fmt.Errorf("more than %d nodes: %w", MaxNodes, fs.ErrInvalid)
	}
	if depth > tree.MaxDepth || len(n.Name) > tree.MaxName {
		return fmt.Errorf("node %.64q: too deep or name too long: %w", n.Name, fs.ErrInvalid)
	}
	switch {
	case n.Whiteout:
		e.nodes = append(e.nodes, kindWhiteout)
		e.string(n.Name)
		return nil
	case n.IsLink:
		e.nodes = append(e.nodes, kindLinkOut)
		e.string(n.Name)
		e.string(string(n.LinkTo))
		return nil
	case n.Inode == nil:
		return fmt.Errorf("node %q has no inode: %w", n.Name, fs.ErrInvalid)
	}
	ino := n.Inode
	if before, ok := e.inodes[ino]; ok && ino.Type != tree.Directory {
		e.nodes = append(e.nodes, kindHardLink)
		e.string(n.Name)
		e.uvarint(uint64(len(e.inodes) - 1 - before))
		return nil
	}
	e.inodes[ino] = len(e.inodes)

	flags := byte(ino.Type)
	var content int64
	switch ino.Type {
	case tree.Directory:
		if n.Opaque {
			flags |= flagOpaque
		}
		if n.Implicit {
			flags |= flagImplicit
		}
	case tree.Regular:
		kind, distance, err := e.content(n)
		if err != nil {
			return err
		}
		flags |= kind
		content = distance
	case tree.Symlink, tree.CharDevice, tree.BlockDevice, tree.Fifo, tree.Socket:
	default:
		return fmt.Errorf("node %q has type %v: %w", n.Name, ino.Type, fs.ErrInvalid)
	}
	if ino.MTime == e.time {
		flags |= flagSameTime
	} else if ino.MTime.Nsec != 0 {
		flags |= flagNsec
	}
	e.nodes = append(e.nodes, flags)
	e.string(n.Name)
	e.uvarint(uint64(e.attributes(ino)))
	if flags&flagSameTime == 0 {
		e.zigzag(ino.MTime.Sec - e.time.Sec)
		if flags&flagNsec != 0 {
			e.uvarint(uint64(ino.MTime.Nsec))
		}
		e.time = ino.MTime
	}
	switch ino.Type {
	case tree.Directory:
		e.uvarint(uint64(len(n.Children)))
		for _, c := range n.Children {
			if err := e.node(c, depth+1); err != nil {
				return err
			}
		}
	case tree.Regular:
		if flags&(flagInline|flagObject) != 0 {
			e.zigzag(content)
		}
	case tree.Symlink:
		e.string(ino.Link)
	case tree.CharDevice, tree.BlockDevice:
		e.uvarint(uint64(ino.Rdev.Major))
		e.uvarint(uint64(ino.Rdev.Minor))
	case tree.Fifo, tree.Socket:
	}
	return nil
}

// content finds where the contents of a file are: the flag and the distance from
// where the next contents of that kind would be expected.
func (e *indexEncoder) content(n *tree.Node) (byte, int64, error) {
	ino := n.Inode
	switch {
	case ino.Size == 0:
		return 0, 0, nil
	case !ino.Object.IsZero():
		k, ok := e.objects[ino.Object]
		if !ok {
			return 0, 0, fmt.Errorf("file %q: its object is not in the tar: %w", n.Name, fs.ErrInvalid)
		}
		d := k - e.nextObject
		e.nextObject = k + 1
		return flagObject, int64(d), nil
	default:
		k, ok := e.inline[ino]
		if !ok {
			return 0, 0, fmt.Errorf("file %q: its contents are not in the tar: %w", n.Name, fs.ErrInvalid)
		}
		d := k - e.nextInline
		e.nextInline = k + 1
		return flagInline, int64(d), nil
	}
}

func (e *indexEncoder) attributes(ino *tree.Inode) int {
	a := attributes{mode: ino.Mode, uid: ino.UID, gid: ino.GID}
	if len(ino.Xattrs) > 0 {
		b := binary.AppendUvarint(e.scratch[:0], uint64(len(ino.Xattrs)))
		for _, x := range ino.Xattrs {
			b = binary.AppendUvarint(b, uint64(len(x.Name)))
			b = append(b, x.Name...)
			b = binary.AppendUvarint(b, uint64(len(x.Value)))
			b = append(b, x.Value...)
		}
		e.scratch = b
		k, ok := e.xattrs[string(b)]
		if !ok {
			k = len(e.xattrsList)
			s := string(b)
			e.xattrs[s] = k
			e.xattrsList = append(e.xattrsList, s)
		}
		a.xattrs = k + 1
	}
	k, ok := e.attrs[a]
	if !ok {
		k = len(e.attrsList)
		e.attrs[a] = k
		e.attrsList = append(e.attrsList, a)
	}
	return k
}
