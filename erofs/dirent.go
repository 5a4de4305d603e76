package erofs

import (
	"encoding/binary"

	"github.com/layerfs/layerfs/tree"
)

// A directory is a sequence of blocks, each with entries of fixed size first and their
// names behind, sorted bytewise over the whole directory. "." and ".." are entries like
// any other and stand where the order puts them.

var dotNames = [2]string{".", ".."}

// Values of names.next for "." and "..".
const (
	dotSelf   = -1
	dotParent = -2
)

// names goes through the entries of a directory in order.
type names struct {
	children []*tree.Node
	next     int // child
	dots     int // of "." and ".." passed
}

// peek returns the name of the next entry and its child's number, dotSelf or
// dotParent; ok is false at the end.
func (n *names) peek() (name string, child int, ok bool) {
	if n.dots < len(dotNames) && (n.next == len(n.children) || dotNames[n.dots] < n.children[n.next].Name) {
		return dotNames[n.dots], dotSelf - n.dots, true
	}
	if n.next == len(n.children) {
		return "", 0, false
	}
	return n.children[n.next].Name, n.next, true
}

func (n *names) advance(child int) {
	if child < 0 {
		n.dots++
	} else {
		n.next++
	}
}

// dirSize is the length of a directory: whole blocks, then what its last block holds.
func dirSize(node *tree.Node) int64 {
	var full int64
	used := 0
	it := names{children: node.Children}
	for {
		name, child, ok := it.peek()
		if !ok {
			return full + int64(used)
		}
		need := direntSize + len(name)
		if used+need > BlockSize {
			full += BlockSize
			used = 0
		}
		used += need
		it.advance(child)
	}
}

// dirent is an entry that waits for its block to be complete.
type dirent struct {
	name  string
	child int
}

// dirBlock takes the entries of the next block.
func (n *names) dirBlock(into []dirent) []dirent {
	into = into[:0]
	used := 0
	for {
		name, child, ok := n.peek()
		if !ok || used+direntSize+len(name) > BlockSize {
			return into
		}
		used += direntSize + len(name)
		into = append(into, dirent{name, child})
		n.advance(child)
	}
}

// putDirBlock appends a block's entries and names.
func (l *layouter) putDirBlock(b []byte, dir uint32, block []dirent) []byte {
	r := &l.records[dir]
	nameAt := len(block) * direntSize
	for _, e := range block {
		at := dir
		switch e.child {
		case dotSelf:
		case dotParent:
			at = r.parent
		default:
			at = l.entries[int(r.first)+e.child]
		}
		target := &l.records[at]
		b = binary.LittleEndian.AppendUint64(b, uint64(target.off/inodeUnit))
		b = binary.LittleEndian.AppendUint16(b, uint16(nameAt))
		b = append(b, direntType(target.storedType()), 0)
		nameAt += len(e.name)
	}
	for _, e := range block {
		b = append(b, e.name...)
	}
	return b
}
