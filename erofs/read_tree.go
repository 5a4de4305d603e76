package erofs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/layerfs/layerfs/tree"
)

// notes is what a node of a layer is besides its inode.
type notes struct {
	whiteout bool
	opaque   bool
	implicit bool
}

// Inode returns an inode in the vocabulary of package tree: content inline or as an
// object, attributes of overlayfs removed and those of the image unescaped, an escaped
// character device 0:0 as such. For a whiteout of a layer it is the character device.
func (im *Image) Inode(n NID) (*tree.Inode, error) {
	d := decoder{im: im, budget: int64(len(im.b))}
	ino, _, err := d.inode(n)
	return ino, err
}

// decoder copies inodes out of an image. The parts of an image that was written
// properly do not overlap, so no more bytes can be asked for than the image has: that
// bounds time and memory for one in which everything refers to the same bytes.
type decoder struct {
	im     *Image
	budget int64
	shared map[uint32]sharedXattr
	slab   []tree.Inode
}

// sharedXattr is a shared attribute that was decoded before.
type sharedXattr struct {
	index uint8
	name  string // as stored
	full  string
	value string
}

// spend takes from the budget.
func (d *decoder) spend(n NID, bytes int64) error {
	d.budget -= bytes
	if d.budget < 0 {
		return corrupt("inode %d uses bytes that others use too", n)
	}
	return nil
}

func (d *decoder) inode(n NID) (*tree.Inode, notes, error) {
	im := d.im
	r, err := im.inode(n)
	if err != nil {
		return nil, notes{}, err
	}
	if err := d.spend(n, r.data-r.off); err != nil {
		return nil, notes{}, err
	}
	s := r.stat(n)
	ino := d.newInode()
	*ino = tree.Inode{Type: s.Type, Mode: s.Mode, UID: s.UID, GID: s.GID, MTime: s.MTime, Rdev: s.Rdev}
	x, err := d.xattrs(n, &r)
	if err != nil {
		return nil, notes{}, err
	}
	ino.Xattrs = x.own
	switch s.Type {
	case tree.Regular:
		err = d.content(n, &r, ino, &x)
	case tree.Symlink:
		ino.Size = s.Size
		if err = d.spend(n, s.Size); err == nil {
			ino.Link, err = im.readlink(n, &r)
		}
	case tree.Directory:
	default:
		if s.Size != 0 {
			err = corrupt("inode %d has a size of %d", n, s.Size)
		}
	}
	if err != nil {
		return nil, notes{}, err
	}
	whiteout := im.layer && isWhiteoutDevice(ino)
	if x.char {
		if s.Type != tree.Regular || s.Size != 0 {
			return nil, notes{}, corrupt("inode %d is noted as a character device", n)
		}
		ino.Type = tree.CharDevice
	}
	return ino, notes{whiteout: whiteout, opaque: x.opaque, implicit: x.implicit}, nil
}

// newInode allocates by the slab: a tree keeps all of its inodes for as long as it
// lives.
func (d *decoder) newInode() *tree.Inode {
	if len(d.slab) == cap(d.slab) {
		d.slab = make([]tree.Inode, 0, min(max(2*cap(d.slab), 1), 256))
	}
	d.slab = append(d.slab, tree.Inode{})
	return &d.slab[len(d.slab)-1]
}

// content fills in the content of a regular file.
func (d *decoder) content(n NID, r *inode, ino *tree.Inode, x *decoded) error {
	ino.Size = r.size
	if x.hasRedirect && x.metacopy {
		if r.layout != chunkBased || r.size == 0 {
			return corrupt("inode %d has a redirect and content", n)
		}
		ino.Object = x.redirect
		return nil
	}
	if r.layout == chunkBased {
		return fmt.Errorf("inode %d of EROFS image has its content in chunks: %w", n, errors.ErrUnsupported)
	}
	if err := d.spend(n, r.size); err != nil {
		return err
	}
	var err error
	ino.Inline, err = d.im.flat(n, r)
	return err
}

// decoded is what the attributes of an inode say.
type decoded struct {
	own         []tree.Xattr
	redirect    tree.ObjectID
	hasRedirect bool
	metacopy    bool
	opaque      bool
	implicit    bool
	char        bool
}

// xattrs sorts out which attributes belong to overlayfs and which to the image.
func (d *decoder) xattrs(n NID, r *inode) (decoded, error) {
	var out decoded
	var ourWhiteout, ourOpaque bool
	ns := d.im.ns.index()
	for raw, err := range d.im.xattrs(n, r) {
		if err != nil {
			return decoded{}, err
		}
		if raw.index == ns && string(raw.name) == overlayRedirect {
			// The commonest of all, and different for each: not copied.
			if out.redirect, err = parseRedirect(n, raw.value); err != nil {
				return decoded{}, err
			}
			out.hasRedirect = true
			continue
		}
		x, err := d.copy(n, raw)
		if err != nil {
			return decoded{}, err
		}
		name := x.full
		if x.index == ns && strings.HasPrefix(x.name, overlayPrefix) {
			switch {
			case strings.HasPrefix(x.name, escapedPrefix):
				name = xattrPrefixes[ns] + x.name[len(overlayPrefix):]
			case x.name == overlayMetacopy:
				out.metacopy = true
				continue
			case x.name == overlayOpaque:
				out.opaque = d.im.layer && x.value == "y"
				continue
			case x.name == overlayNote:
				out.char = strings.IndexByte(x.value, noteChar) >= 0
				out.implicit = d.im.layer && strings.IndexByte(x.value, noteImplicit) >= 0
				ourWhiteout = strings.IndexByte(x.value, noteWhiteout) >= 0
				ourOpaque = strings.IndexByte(x.value, noteOpaque) >= 0
				continue
			default:
				continue
			}
		}
		out.own = append(out.own, tree.Xattr{Name: name, Value: x.value})
	}
	if ourWhiteout || ourOpaque {
		kept := out.own[:0]
		for _, x := range out.own {
			_, name := splitXattr(x.Name)
			index, _ := splitXattr(x.Name)
			ours := index == ns && (ourWhiteout && overlayPrefix+name == escapedWhiteout || ourOpaque && overlayPrefix+name == escapedOpaque)
			if !ours {
				kept = append(kept, x)
			}
		}
		out.own = kept
	}
	if len(out.own) == 0 {
		out.own = nil
	}
	return out, sortXattrs(n, out.own)
}

// copy copies an attribute out of the image, a shared one only once.
func (d *decoder) copy(n NID, raw xattr) (sharedXattr, error) {
	if raw.shared {
		if x, ok := d.shared[raw.id]; ok {
			return x, nil
		}
		if err := d.spend(n, raw.size()); err != nil {
			return sharedXattr{}, err
		}
	}
	full := xattrPrefixes[raw.index] + string(raw.name)
	x := sharedXattr{index: raw.index, full: full, name: full[len(xattrPrefixes[raw.index]):], value: string(raw.value)}
	if raw.shared {
		if d.shared == nil {
			d.shared = make(map[uint32]sharedXattr)
		}
		d.shared[raw.id] = x
	}
	return x, nil
}

// Tree returns the whole image as the tree from which it was written: hard links share
// their *Inode, and in an image of a layer whiteouts, opaque and implicit directories
// are marked. An image in which a directory is reached twice, or whose parts overlap,
// is refused.
func (im *Image) Tree() (*tree.Node, error) {
	d := treeReader{
		decoder: decoder{im: im, budget: int64(len(im.b))},
		dirs:    make(map[NID]struct{}),
		links:   make(map[NID]*linked),
	}
	root := &tree.Node{}
	if err := d.fill(root, im.root, nil); err != nil {
		return nil, err
	}
	if !root.IsDir() {
		return nil, corrupt("root is not a directory")
	}
	for len(d.todo) > 0 {
		next := d.todo[len(d.todo)-1]
		d.todo = d.todo[:len(d.todo)-1]
		if err := d.children(next); err != nil {
			return nil, err
		}
	}
	return root, nil
}

// treeReader reads a whole tree.
type treeReader struct {
	decoder
	dirs  map[NID]struct{}
	links map[NID]*linked
	todo  []pending
}

// linked is an inode with several names.
type linked struct {
	ino   *tree.Inode
	notes notes
}

// pending is a directory whose children are to be read.
type pending struct {
	node  *tree.Node
	nid   NID
	depth int
}

// fill reads the inode of a node.
func (d *treeReader) fill(node *tree.Node, n NID, parent *pending) error {
	if l, ok := d.links[n]; ok {
		d.mark(node, l.ino, l.notes)
		return nil
	}
	s, err := d.im.Stat(n)
	if err != nil {
		return err
	}
	ino, marks, err := d.inode(n)
	if err != nil {
		return err
	}
	if ino.Type == tree.Directory {
		if _, ok := d.dirs[n]; ok {
			return corrupt("directory %d is reached twice", n)
		}
		d.dirs[n] = struct{}{}
		depth := 0
		if parent != nil {
			depth = parent.depth + 1
		}
		if depth > tree.MaxDepth {
			return corrupt("directory %d is deeper than %d levels", n, tree.MaxDepth)
		}
		d.todo = append(d.todo, pending{node, n, depth})
	} else if s.Nlink > 1 {
		d.links[n] = &linked{ino, marks}
	}
	d.mark(node, ino, marks)
	return nil
}

// mark puts an inode into a node.
func (d *treeReader) mark(node *tree.Node, ino *tree.Inode, marks notes) {
	if marks.whiteout {
		node.Whiteout = true
		return
	}
	node.Inode = ino
	if ino.Type == tree.Directory {
		node.Opaque, node.Implicit = marks.opaque, marks.implicit
	}
}

// children reads a directory.
func (d *treeReader) children(dir pending) error {
	r, err := d.im.dir(dir.nid)
	if err != nil {
		return err
	}
	if err := d.spend(dir.nid, r.size); err != nil {
		return err
	}
	// An entry takes 13 bytes at least, and two of them are "." and "..".
	var nodes []tree.Node
	var entries []DirEntry
	for e, err := range d.im.ReadDir(dir.nid, 0) {
		if err != nil {
			return err
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return nil
	}
	nodes = make([]tree.Node, len(entries))
	dir.node.Children = make([]*tree.Node, len(entries))
	names := joinNames(entries)
	for i := range entries {
		node := &nodes[i]
		node.Name, names = names[:len(entries[i].Name)], names[len(entries[i].Name):]
		if i > 0 && node.Name <= nodes[i-1].Name {
			return corrupt("directory %d is not sorted at %q", dir.nid, node.Name)
		}
		if err := d.fill(node, entries[i].NID, &dir); err != nil {
			return fmt.Errorf("%q: %w", node.Name, err)
		}
		if s, err := d.im.Stat(entries[i].NID); err != nil || s.Type != entries[i].Type {
			return corrupt("directory %d has another type for %q than its inode", dir.nid, node.Name)
		}
		dir.node.Children[i] = node
	}
	return nil
}

// joinNames copies the names of a directory into one string.
func joinNames(entries []DirEntry) string {
	total := 0
	for _, e := range entries {
		total += len(e.Name)
	}
	var s strings.Builder
	s.Grow(total)
	for _, e := range entries {
		s.Write(e.Name)
	}
	return s.String()
}
