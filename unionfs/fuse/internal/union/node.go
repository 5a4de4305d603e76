package union

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// node is a file that is more than an untouched file of a tree: one in the upper or in
// a directory layer, or a directory that several layers have.
type node struct {
	id   uint64
	ino  uint64
	mode uint32 // type bits

	// The members of a directory in the lower layers, top first; of another file, the
	// lower file itself. Never changed.
	lowers []ref

	// upper says that the file is in the upper. It becomes true under the lock of the
	// node's id and never false.
	upper atomic.Bool
	// data is where the content of a regular file in the upper is, as long as that has
	// metadata only; else nil. It becomes nil under the lock of the id.
	data atomic.Pointer[ref]

	// Guarded by tables.mu.
	uino    uint64 // number in the upper, if there
	lookups int64  // how often the kernel has been given the id and not given it back
	counted bool   // lookups is exact, so that at zero nobody knows the id
	kids    int    // nodes that have this one as their parent
	path    string // key in tables.byPath, of a file of a directory layer
	layer   int32

	mu     sync.Mutex // guards what follows
	parent *node      // a name by which the file is in the union, nil for the root
	name   string
	gone   bool // there is no name any more
	pin    int  // O_PATH descriptor of a file in the upper without this name, or -1

	// Of a directory in the upper.
	impure atomic.Bool  // marked to have files with an origin
	xwhite atomic.Bool  // whiteouts are attributes
	acl    atomic.Int32 // whether there is a default ACL: 0 not known, 1 no, 2 yes
}

func (n *node) isDir() bool { return n.mode == unix.S_IFDIR }

// where returns the parent and name, or gone.
func (n *node) where() (parent *node, name string, gone bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.parent, n.name, n.gone
}

// tables find nodes. No I/O is done while mu is held.
type tables struct {
	mu     sync.RWMutex
	byID   map[uint64]*node // also by the ids of all members of a directory in trees
	byIno  map[uint64]*node // by number in the upper
	byPath map[pathKey]*node
	gone   map[uint64]struct{} // files of trees without nodes whose only name was removed
	nextID uint64
}

type pathKey struct {
	layer int32
	path  string
}

func newTables() tables {
	return tables{
		byID: map[uint64]*node{}, byIno: map[uint64]*node{}, byPath: map[pathKey]*node{}, gone: map[uint64]struct{}{},
		nextID: rootID + 1,
	}
}

// get returns the node of an id; if there is none the id is that of a file of a tree.
func (t *tables) get(id uint64) *node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// add enters a new node, which must be in no table. parent and name are set already.
// A zero id is replaced by one from the counter.
func (t *tables) add(n *node) {
	if n.id == 0 || t.byID[n.id] != nil {
		n.id = t.nextID
		t.nextID++
	}
	t.byID[n.id] = n
	for _, r := range n.lowers {
		if id := treeID(r.layer, r.nid); n.isDir() && r.nid != 0 && t.byID[id] == nil {
			t.byID[id] = n
		}
	}
	if n.uino != 0 {
		t.byIno[n.uino] = n
	}
	if n.path != "" {
		t.byPath[pathKey{n.layer, n.path}] = n
	}
	if n.parent != nil {
		n.parent.kids++
	}
}

// drop takes a node out of all tables and returns the descriptors to be closed. The
// parent may follow.
func (t *tables) drop(n *node, pins []int) []int {
	for n != nil && n.id != rootID {
		if t.byID[n.id] == n {
			delete(t.byID, n.id)
		}
		for _, r := range n.lowers {
			if id := treeID(r.layer, r.nid); n.isDir() && t.byID[id] == n {
				delete(t.byID, id)
			}
		}
		if n.uino != 0 && t.byIno[n.uino] == n {
			delete(t.byIno, n.uino)
		}
		if n.path != "" && t.byPath[pathKey{n.layer, n.path}] == n {
			delete(t.byPath, pathKey{n.layer, n.path})
		}
		n.mu.Lock()
		if n.pin >= 0 {
			pins = append(pins, n.pin)
			n.pin = -1
		}
		parent := n.parent
		n.parent = nil
		n.mu.Unlock()
		if parent == nil {
			break
		}
		parent.kids--
		if parent.lookups > 0 || parent.kids > 0 || !parent.counted {
			break
		}
		n = parent
	}
	return pins
}

// move gives a node another place. The caller keeps everybody else from using the old
// one.
func (t *tables) move(n, parent *node, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.parent != nil {
		n.parent.kids--
	}
	parent.kids++
	n.parent, n.name = parent, name
}
