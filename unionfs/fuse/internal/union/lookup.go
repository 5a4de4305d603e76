package union

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
)

// file is what a node id stands for: a node, or an untouched file of a tree.
type file struct {
	id uint64
	n  *node
	r  ref // when n is nil
}

// file finds what an id stands for.
func (f *FS) file(id uint64) (file, error) {
	if n := f.tables.get(id); n != nil {
		return file{id: id, n: n}, nil
	}
	if r, ok := refOf(id); ok && int(r.layer) < len(f.lower) && f.lower[r.layer].image != nil {
		return file{id: id, r: r}, nil
	}
	return file{}, unix.ESTALE
}

// Lookup finds a name. A name that is not there is an answer too, which the kernel may
// keep.
func (f *FS) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return f.status(f.lookup(in.NodeId, name, out))
}

func (f *FS) lookup(parent uint64, name string, out *fuse.EntryOut) error {
	if len(name) > unix.NAME_MAX {
		return unix.ENAMETOOLONG
	}
	dir, err := f.file(parent)
	if err != nil {
		return err
	}
	if dir.n == nil {
		e, ok, err := f.lookupIn(dir.r, name)
		if err != nil {
			return err
		}
		if !ok || e.whiteout {
			out.SetEntryTimeout(forever)
			return nil
		}
		return f.found(treeID(e.layer, e.nid), out)
	}
	f.names.RLock()
	defer f.names.RUnlock()
	got, err := f.find(dir.n, name, true)
	if errors.Is(err, unix.ENOENT) {
		out.SetEntryTimeout(forever)
		return nil
	}
	if err != nil {
		return err
	}
	return f.entry(got, out)
}

// found answers with an untouched file of a tree, unless that has a node by now.
func (f *FS) found(id uint64, out *fuse.EntryOut) error {
	file, err := f.file(id)
	if err != nil {
		return err
	}
	if file.n != nil {
		f.know(file.n)
	}
	return f.entry(file, out)
}

// know counts that the kernel is given the id of a node.
func (f *FS) know(n *node) {
	f.tables.mu.Lock()
	n.lookups++
	f.tables.mu.Unlock()
}

// entry fills in the answer for a file.
func (f *FS) entry(file file, out *fuse.EntryOut) error {
	if err := f.attr(file, &out.Attr); err != nil {
		return err
	}
	out.NodeId = file.id
	if file.n != nil {
		out.NodeId = file.n.id
	}
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	return nil
}

// find finds a name in the directory dir; ENOENT when it is not there. With known the
// kernel will be given the id. The caller holds f.names.
func (f *FS) find(dir *node, name string, known bool) (file, error) {
	if dir.upper.Load() {
		got, err := f.findUpper(dir, name, known)
		if !errors.Is(err, errNotUpper) {
			return got, err
		}
	}
	return f.findLower(dir, name, known)
}

// errNotUpper tells that a name is to be looked for in the lower layers.
var errNotUpper = errors.New("not in the upper")

// findUpper is find in the upper alone; errNotUpper when that says nothing of the name.
func (f *FS) findUpper(dir *node, name string, known bool) (file, error) {
	d, err := f.dir(dir)
	if errors.Is(err, unix.ENOENT) {
		return file{}, err // a removed directory
	}
	if err != nil {
		return file{}, err
	}
	defer f.dirs.release(d)
	var st unix.Stat_t
	err = unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return file{}, errNotUpper
	}
	if err != nil {
		return file{}, err
	}
	f.tables.mu.Lock()
	n := f.tables.byIno[st.Ino]
	if n != nil && known {
		n.lookups++
	}
	f.tables.mu.Unlock()
	if n == nil {
		return f.newUpper(d, dir, name, &st, known)
	}
	if !n.isDir() {
		f.renameTo(n, dir, name)
	}
	return file{id: n.id, n: n}, nil
}

// renameTo notes that a file with several names has this one, if the one that was known
// is gone.
func (f *FS) renameTo(n, dir *node, name string) {
	f.tables.mu.Lock()
	defer f.tables.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pin < 0 {
		return
	}
	// The pin stays: somebody may be using it. It costs a descriptor until the kernel
	// forgets the file.
	n.gone = false
	if n.parent != nil {
		n.parent.kids--
	}
	dir.kids++
	n.parent, n.name = dir, name
}

// newUpper makes the node of a file of the upper that was not known yet.
func (f *FS) newUpper(d *dirHold, dir *node, name string, st *unix.Stat_t, known bool) (file, error) {
	m, err := readMarks(fdPath(d.fd, name), f.ns, st)
	if err != nil {
		return file{}, err
	}
	if m.whiteout {
		return file{}, unix.ENOENT
	}
	n := &node{mode: st.Mode & unix.S_IFMT, pin: -1, parent: dir, name: name, uino: st.Ino, ino: st.Ino & nidMask, counted: true}
	n.upper.Store(true)
	n.impure.Store(m.impure)
	n.xwhite.Store(m.xwhite)
	switch {
	case n.isDir() && !m.opaque:
		below, err := f.below(dir, name, m.redirect)
		if err != nil {
			return file{}, err
		}
		if below.isDir() {
			n.lowers = below.refs
			if n.ino, err = f.lowerIno(below.refs[0]); err != nil {
				return file{}, err
			}
			if f.lower[below.refs[0].layer].image != nil {
				n.id = n.ino
			}
		}
	case m.metacopy:
		e := entry{ref: ref{layer: -1}, redirect: m.redirect}
		data, err := f.content(&e, dir.lowers, name, 0)
		if err != nil {
			return file{}, err
		}
		n.data.Store(&data)
	}
	if len(n.lowers) == 0 && m.origin != "" {
		if ino, ok := f.originIno(m.origin); ok {
			n.ino = ino
		}
	}
	return f.enter(n, known), nil
}

// below finds what lies below a directory of the upper.
func (f *FS) below(dir *node, name, redirect string) (found, error) {
	switch {
	case redirect == "":
		return f.child(dir.lowers, name)
	case redirect[0] == '/':
		return f.resolve(0, redirect, 1)
	default:
		return f.child(dir.lowers, redirect)
	}
}

// enter puts a new node into the tables, or returns the one that somebody else has
// made of the same file meanwhile.
func (f *FS) enter(n *node, known bool) file {
	f.tables.mu.Lock()
	defer f.tables.mu.Unlock()
	var other *node
	switch {
	case n.uino != 0:
		other = f.tables.byIno[n.uino]
	case n.path != "":
		other = f.tables.byPath[pathKey{n.layer, n.path}]
	default:
		other = f.tables.byID[n.id]
	}
	if other != nil {
		n = other
	} else {
		f.tables.add(n)
	}
	if known {
		n.lookups++
	}
	return file{id: n.id, n: n}
}

// findLower is find in the lower layers alone.
func (f *FS) findLower(dir *node, name string, known bool) (file, error) {
	got, err := f.child(dir.lowers, name)
	if err != nil {
		return file{}, err
	}
	if !got.ok() {
		return file{}, unix.ENOENT
	}
	return f.lowerFile(dir, name, got, known)
}

// lowerFile returns the file of a lower layer that dir has under name.
func (f *FS) lowerFile(dir *node, name string, got found, known bool) (file, error) {
	top := got.refs[0]
	im := f.lower[top.layer].image
	if im != nil {
		id := treeID(top.layer, top.nid)
		if n := f.tables.get(id); n != nil {
			if known {
				f.know(n)
			}
			return file{id: n.id, n: n}, nil
		}
		if len(got.refs) == 1 {
			return file{id: id, r: top}, nil
		}
	}
	ino, err := f.lowerIno(top)
	if err != nil {
		return file{}, err
	}
	n := &node{mode: got.mode, ino: ino, lowers: got.refs, pin: -1, parent: dir, name: name, counted: true}
	if im != nil {
		n.id = ino
	} else {
		n.path, n.layer = top.path, top.layer
		if got.data != top {
			n.data.Store(&got.data)
		}
	}
	return f.enter(n, known), nil
}

// Forget is called when the kernel drops ids it was given.
func (f *FS) Forget(id, lookups uint64) {
	f.files.forget(id)
	f.tables.mu.Lock()
	n := f.tables.byID[id]
	if n == nil {
		delete(f.tables.gone, id)
		f.tables.mu.Unlock()
		return
	}
	n.lookups -= int64(lookups)
	n.mu.Lock()
	gone := n.gone
	n.mu.Unlock()
	// A file that had no node when the kernel was first given its id may be known more
	// often than was counted; it stays. Without a name it can be given out no more.
	if n.lookups > 0 && !gone || n.kids > 0 || !n.counted && !gone {
		f.tables.mu.Unlock()
		return
	}
	pins := f.tables.drop(n, nil)
	f.tables.mu.Unlock()
	if n.isDir() {
		f.dirs.forget(n)
		f.lists.drop(n)
	}
	for _, fd := range pins {
		closeFD(fd)
	}
}

// object returns the node of an id, and makes it for an untouched file of a tree.
func (f *FS) object(id uint64) (*node, error) {
	file, err := f.file(id)
	if err != nil {
		return nil, err
	}
	if file.n != nil {
		return file.n, nil
	}
	l := &f.lower[file.r.layer]
	st, err := l.image.Stat(file.r.nid)
	if err != nil {
		return nil, err
	}
	names, err := l.names.of(l.image, file.r.nid)
	if err != nil {
		return nil, err
	}
	n := &node{id: id, ino: id, mode: erofs.TypeBits(st.Type), lowers: []ref{file.r}, pin: -1}
	f.tables.mu.RLock()
	_, n.gone = f.tables.gone[id]
	f.tables.mu.RUnlock()
	if n.parent, err = f.object(treeID(file.r.layer, names[0].dir)); err != nil {
		return nil, err
	}
	n.name = names[0].name
	got := f.enter(n, false)
	return got.n, nil
}
