package union

import (
	"cmp"
	"hash/maphash"
	"slices"
	"sync"
)

// Offsets in a directory that is read from a list: firstHash and more, in the order of
// 29-bit hashes with a place between two of them. They fit into 31 bits, which is what
// programs with 32-bit offsets can take, and are above any offset in a tree.
const (
	firstHash  = 1 << 30
	hashBits   = 29
	hashPlaces = 2
)

// maxLists is how many lists are kept of directories that are being read. One that was
// dropped is made again.
const maxLists = 32

// lists keeps the lists of directories from one request to the next, the ones made last.
// It is safe for concurrent use.
type lists struct {
	seed maphash.Seed // so that nobody can make names of equal hashes

	mu   sync.Mutex
	m    map[*node][]dirent
	made []*node // the last made at the end
}

func newLists() lists { return lists{seed: maphash.MakeSeed(), m: map[*node][]dirent{}} }

// order sorts the names of a directory and gives them their offsets.
func (l *lists) order(all []dirent) {
	for i := range all {
		all[i].next = firstHash + maphash.String(l.seed, all[i].name)>>(64-hashBits)*hashPlaces
	}
	slices.SortFunc(all, func(a, b dirent) int {
		return cmp.Or(cmp.Compare(a.next, b.next), cmp.Compare(a.name, b.name))
	})
	for i := 1; i < len(all); i++ {
		all[i].next = max(all[i].next, all[i-1].next+1)
	}
}

func (l *lists) find(dir *node) ([]dirent, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, ok := l.m[dir]
	return list, ok
}

func (l *lists) put(dir *node, list []dirent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(dir)
	l.m[dir] = list
	l.made = append(l.made, dir)
	if len(l.made) > maxLists {
		l.remove(l.made[0])
	}
}

func (l *lists) drop(dir *node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(dir)
}

// remove is drop for who holds the mutex.
func (l *lists) remove(dir *node) {
	if _, ok := l.m[dir]; !ok {
		return
	}
	delete(l.m, dir)
	l.made = slices.DeleteFunc(l.made, func(n *node) bool { return n == dir })
}

// listFrom returns the list of a directory to be read at an offset: a new one at its
// start, else one that may miss what was made since. The caller holds f.names.
func (f *FS) listFrom(dir *node, from uint64) ([]dirent, error) {
	if from > dots {
		if list, ok := f.lists.find(dir); ok {
			return list, nil
		}
	}
	list, err := f.list(dir)
	if err != nil {
		return nil, err
	}
	f.lists.order(list)
	f.lists.put(dir, list)
	return list, nil
}
