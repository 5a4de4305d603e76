package erofs

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/layerfs/layerfs/tree"
)

// attr is one attribute of one inode.
type attr struct {
	unique int32 // index into attrTable.uniques
	shared bool  // kept in the shared area, once settled
}

// unique is an attribute as it goes to disk. Several inodes may have it.
type unique struct {
	index uint8
	name  string
	value string
	count int   // inodes that have it
	at    int64 // in the shared area, units of 4 bytes; -1 while not there
}

func (u *unique) size() int { return entrySize(len(u.name), len(u.value)) }

// attrSet is the attributes of one inode except those of an object.
type attrSet struct {
	from, to int32 // in attrTable.all
	shared   int32 // how many of them are shared
	filter   uint32
}

// attrTable holds the attributes of all inodes. Metacopy and redirect of objects are
// not in it: one is the same for all, the other is different for nearly all.
type attrTable struct {
	all       []attr
	sets      []attrSet
	uniques   []unique
	index     map[attrKey]int32
	area      []int32 // the shared area: indices into uniques
	sharedLen int64   // bytes of the shared area
	shared    int     // attributes in it

	metacopyAt     int64 // where the shared metacopy lies, units of 4 bytes
	metacopyFilter uint32
	redirectFilter uint32
}

type attrKey struct {
	index       uint8
	name, value string
}

// collectXattrs fills the table and settles what is shared.
func (l *layouter) collectXattrs() error {
	t := &l.attrs
	ns := l.opts.Namespace.index()
	t.metacopyFilter = filterBit(ns, overlayMetacopy)
	t.redirectFilter = filterBit(ns, overlayRedirect)
	if l.stats.Objects > 0 {
		t.metacopyAt = 0
		t.sharedLen = int64(entrySize(len(overlayMetacopy), 0))
		t.shared = 1
	}
	for i := range l.records {
		r := &l.records[i]
		if len(r.ino.Xattrs) > 0 || r.flags&needsXattrs != 0 {
			if err := l.addXattrs(r); err != nil {
				return l.where(uint32(i), err)
			}
		}
	}
	for i := range l.records {
		r := &l.records[i]
		if r.attrs < 0 && r.flags&hasObject == 0 {
			continue
		}
		body := int64(xattrHeader)
		if r.flags&hasObject != 0 {
			body += xattrEntry + int64(l.objectXLn)
		}
		if r.attrs >= 0 {
			body += t.settle(&t.sets[r.attrs], body, r.flags&hasObject != 0)
		}
		if body > MaxXattrBody {
			return l.where(uint32(i), fmt.Errorf("extended attributes of %d bytes, limit %d: %w", body, MaxXattrBody, fs.ErrInvalid))
		}
		r.body = int32(body)
	}
	return nil
}

// where adds the path of a record to an error. It is slow: the tree is searched.
func (l *layouter) where(at uint32, err error) error {
	if l.records[at].node != nil {
		return l.at(at, "", err)
	}
	for i := range l.records {
		r := &l.records[i]
		if r.node == nil {
			continue
		}
		for j, child := range r.node.Children {
			if l.entries[int(r.first)+j] == at {
				return l.at(uint32(i), child.Name, err)
			}
		}
	}
	return err
}

// addXattrs validates and translates the attributes of an inode.
func (l *layouter) addXattrs(r *record) error {
	t := &l.attrs
	ns := l.opts.Namespace.index()
	set := attrSet{from: int32(len(t.all))}
	ownOpaque, ownWhiteout := false, false
	for i, x := range r.ino.Xattrs {
		if i > 0 && x.Name <= r.ino.Xattrs[i-1].Name {
			return fmt.Errorf("extended attributes are not sorted at %q: %w", x.Name, fs.ErrInvalid)
		}
		if err := checkXattr(x); err != nil {
			return err
		}
		index, name := splitXattr(x.Name)
		if index == ns && strings.HasPrefix(name, overlayPrefix) {
			name = overlayPrefix + name
			ownOpaque = ownOpaque || name == escapedOpaque
			ownWhiteout = ownWhiteout || name == escapedWhiteout
		}
		t.add(index, name, x.Value)
	}
	var note []byte
	if r.flags&wasChar != 0 {
		note = append(note, noteChar)
		if !ownWhiteout {
			t.add(ns, escapedWhiteout, "")
			note = append(note, noteWhiteout)
		}
	}
	if r.flags&holdsChar != 0 && !ownOpaque {
		t.add(ns, escapedOpaque, "x")
		note = append(note, noteOpaque)
	}
	if r.flags&isImplicit != 0 {
		note = append(note, noteImplicit)
	}
	if r.flags&isOpaque != 0 {
		t.add(ns, overlayOpaque, "y")
	}
	if len(note) > 0 {
		t.add(ns, overlayNote, string(note))
	}
	set.to = int32(len(t.all))
	if set.from == set.to {
		return nil
	}
	set.filter = ^uint32(0)
	for i := set.from; i < set.to; i++ {
		u := &t.uniques[t.all[i].unique]
		set.filter &^= filterBit(u.index, u.name)
	}
	r.attrs = int32(len(t.sets))
	t.sets = append(doubled(t.sets), set)
	return nil
}

func checkXattr(x tree.Xattr) error {
	switch {
	case x.Name == "" || len(x.Name) > MaxXattrName:
		return fmt.Errorf("extended attribute with a name of %d bytes, limit %d: %w", len(x.Name), MaxXattrName, fs.ErrInvalid)
	case strings.IndexByte(x.Name, 0) >= 0:
		return fmt.Errorf("extended attribute %q with a NUL byte in its name: %w", x.Name, fs.ErrInvalid)
	case len(x.Value) > MaxXattrValue:
		return fmt.Errorf("extended attribute %q of %d bytes, limit %d: %w", x.Name, len(x.Value), MaxXattrValue, fs.ErrInvalid)
	case (x.Name == aclAccess || x.Name == aclDefault) && !validACL(x.Value):
		return fmt.Errorf("extended attribute %q is not a POSIX ACL: %w", x.Name, fs.ErrInvalid)
	}
	return nil
}

// add appends an attribute and counts how often there is one like it.
func (t *attrTable) add(index uint8, name, value string) {
	if t.index == nil {
		t.index = make(map[attrKey]int32)
	}
	key := attrKey{index, name, value}
	at, ok := t.index[key]
	if !ok {
		at = int32(len(t.uniques))
		t.index[key] = at
		t.uniques = append(t.uniques, unique{index: index, name: name, value: value, at: -1})
	}
	t.uniques[at].count++
	t.all = append(doubled(t.all), attr{unique: at})
}

// settle decides which attributes of a set are shared: those that another inode has
// too, and the largest where the rest would not fit with the inode. It returns the
// bytes that the set takes there, where used bytes are taken already.
func (t *attrTable) settle(s *attrSet, used int64, object bool) int64 {
	set := t.all[s.from:s.to]
	room := MaxShared
	if object {
		room-- // for metacopy
	}
	var total int64
	n := 0
	for i := range set {
		u := &t.uniques[set[i].unique]
		if set[i].shared = u.count > 1 && n < room; set[i].shared {
			n++
			total += xattrEntry
		} else {
			total += int64(u.size())
		}
	}
	if used+total > MaxXattrBody {
		order := make([]int, len(set))
		for i := range order {
			order[i] = i
		}
		size := func(i int) int { return t.uniques[set[i].unique].size() }
		slices.SortStableFunc(order, func(a, b int) int { return size(b) - size(a) })
		total = 0
		for n, i := range order {
			if set[i].shared = n < room; set[i].shared {
				total += xattrEntry
			} else {
				total += int64(size(i))
			}
		}
	}
	for i := range set {
		if set[i].shared {
			t.share(set[i].unique)
			s.shared++
		}
	}
	return total
}

// share puts an attribute into the shared area, once for all inodes that have it.
func (t *attrTable) share(at int32) {
	u := &t.uniques[at]
	if u.at < 0 {
		u.at = t.sharedLen / 4
		t.sharedLen += int64(u.size())
		t.shared++
		t.area = append(t.area, at)
	}
}

// doubled makes room for one more. Append alone grows a large slice by a quarter, and
// would copy all of it many times over.
func doubled[T any](s []T) []T {
	if len(s) == cap(s) {
		return slices.Grow(s, max(len(s), 64))
	}
	return s
}
