package union

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/layerfs/layerfs/erofs"
)

// The kernel knows a file by a number, its node id. A file of a tree has one that says
// where it is, so that it needs no memory as long as nothing happens to it:
//
//	63      48 47                 0
//	┌─────────┬────────────────────┐
//	│ layer+1 │ NID in the tree    │
//	└─────────┴────────────────────┘
//
// Files of other layers and of the upper have a number from a counter, in which the
// upper bits are zero. Inode numbers (st_ino) are made alike: those of trees as above,
// others are the number on the file system of the upper.
const nidBits = 48

const (
	rootID  = fuse.FUSE_ROOT_ID
	nidMask = 1<<nidBits - 1
)

// treeID returns the node id of a file of a tree.
func treeID(layer int32, nid erofs.NID) uint64 {
	return uint64(layer+1)<<nidBits | uint64(nid)
}

// refOf returns the file that a node id says it is; ok is false for ids from the counter.
func refOf(id uint64) (r ref, ok bool) {
	layer := id >> nidBits
	return ref{layer: int32(layer) - 1, nid: erofs.NID(id & nidMask)}, layer != 0
}

// keyLocks is a set of mutexes by number, of which only those in use exist.
type keyLocks struct {
	mu sync.Mutex
	m  map[uint64]*keyLock
}

type keyLock struct {
	mu    sync.Mutex
	users int
}

func newKeyLocks() keyLocks { return keyLocks{m: map[uint64]*keyLock{}} }

// lock locks a number. The caller calls the result once.
func (k *keyLocks) lock(key uint64) (unlock func()) {
	k.mu.Lock()
	l := k.m[key]
	if l == nil {
		l = &keyLock{}
		k.m[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		k.mu.Lock()
		if l.users--; l.users == 0 {
			delete(k.m, key)
		}
		k.mu.Unlock()
	}
}
