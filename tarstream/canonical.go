package tarstream

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// maxXattrSum keeps a PAX header within what Import and Go's archive/tar read, even
// with values in base64 and a long name and link target.
const maxXattrSum = (MaxHeader - 2*tree.MaxPath - 1<<12) * 3 / 4

// canonical walks a tree in the order of a canonical tar.
type canonical struct {
	// emit writes a member. For a file the first time its contents are to follow, p
	// and ino say which; otherwise ino is nil.
	emit func(m *member, p tree.Path, ino *tree.Inode) error

	names   map[*tree.Inode]tree.Path // first names of files that have several
	several map[*tree.Inode]int
	written map[*tree.Node]bool // directories that came before their turn
	entries int
}

func newCanonical(root *tree.Node, emit func(*member, tree.Path, *tree.Inode) error) *canonical {
	return &canonical{
		emit:    emit,
		names:   make(map[*tree.Inode]tree.Path),
		several: tree.Links(root),
		written: make(map[*tree.Node]bool),
	}
}

// links writes the hard links whose targets lie in the layers below. They come before
// everything else, because the same layer may replace or remove the target's name.
// The directories on the way, as far as the layer describes them, come before each.
func (c *canonical) links(root *tree.Node) error {
	var trail []*tree.Node
	var visit func(n *tree.Node, p tree.Path) error
	visit = func(n *tree.Node, p tree.Path) error {
		trail = append(trail, n)
		defer func() { trail = trail[:len(trail)-1] }()
		for _, child := range n.Children {
			at := p.Join(child.Name)
			if child.IsDir() {
				if err := visit(child, at); err != nil {
					return err
				}
			}
			if !child.IsLink {
				continue
			}
			if err := c.ancestors(trail, at); err != nil {
				return err
			}
			if err := c.write(&member{name: string(at), typ: typeLink, link: string(child.LinkTo)}, at, nil); err != nil {
				return err
			}
		}
		return nil
	}
	return visit(root, "")
}

func (c *canonical) ancestors(trail []*tree.Node, p tree.Path) error {
	end := 0
	for i, dir := range trail {
		if i > 0 {
			end += len(dir.Name) + 1
		}
		if dir.Implicit || c.written[dir] {
			continue
		}
		c.written[dir] = true
		if err := c.directory(dir, p[:max(end-1, 0)]); err != nil {
			return err
		}
	}
	return nil
}

// visit writes n and all below it.
func (c *canonical) visit(n *tree.Node, p tree.Path) error {
	switch {
	case n.IsLink:
		return nil
	case n.Inode == nil:
		return fmt.Errorf("write %s: it has no inode: %w", p.Abs(), fs.ErrInvalid)
	case !n.IsDir():
		return c.file(n, p)
	}
	if !n.Implicit && !c.written[n] {
		if err := c.directory(n, p); err != nil {
			return err
		}
	}
	if n.Opaque {
		if err := c.marker(p.Join(opaqueMarker)); err != nil {
			return err
		}
	}
	for _, child := range n.Children {
		if child.Whiteout {
			if err := c.marker(p.Join(whiteoutPrefix + child.Name)); err != nil {
				return err
			}
		}
	}
	for _, child := range n.Children {
		if child.Whiteout {
			continue
		}
		if err := c.visit(child, p.Join(child.Name)); err != nil {
			return err
		}
	}
	return nil
}

func (c *canonical) write(m *member, p tree.Path, ino *tree.Inode) error {
	if c.entries++; c.entries > MaxEntries {
		return invalid("more than %d entries", MaxEntries)
	}
	sum := 0
	for _, x := range m.xattrs {
		sum += len(x.Name) + len(x.Value) + 32
	}
	if sum > maxXattrSum {
		return &EntryError{Name: m.name, Err: invalid("extended attributes of %d bytes, limit %d", sum, maxXattrSum)}
	}
	return c.emit(m, p, ino)
}

func (c *canonical) marker(p tree.Path) error {
	return c.write(&member{name: string(p), typ: typeFile, mode: 0o644}, p, nil)
}

func (c *canonical) directory(n *tree.Node, p tree.Path) error {
	m := newMember(n.Inode, typeDir)
	if m.name = string(p) + "/"; p == "" {
		m.name = "./"
	}
	return c.write(m, p, nil)
}

func (c *canonical) file(n *tree.Node, p tree.Path) error {
	ino := n.Inode
	if c.several[ino] > 1 {
		if first, ok := c.names[ino]; ok {
			m := newMember(ino, typeLink)
			m.name, m.link, m.xattrs = string(p), string(first), nil
			return c.write(m, p, nil)
		}
		c.names[ino] = p
	}
	var m *member
	switch ino.Type {
	case tree.Regular:
		m = newMember(ino, typeFile)
		m.name, m.size = string(p), ino.Size
		if ino.Size > 0 {
			return c.write(m, p, ino)
		}
	case tree.Symlink:
		m = newMember(ino, typeSymlink)
		m.link = ino.Link
	case tree.CharDevice:
		m = newMember(ino, typeChar)
		m.dev = ino.Rdev
	case tree.BlockDevice:
		m = newMember(ino, typeBlock)
		m.dev = ino.Rdev
	case tree.Fifo:
		m = newMember(ino, typeFifo)
	default:
		return fmt.Errorf("write %s: a tar has no %v: %w", p.Abs(), ino.Type, fs.ErrInvalid)
	}
	m.name = string(p)
	return c.write(m, p, nil)
}

func newMember(ino *tree.Inode, typ byte) *member {
	return &member{typ: typ, mode: ino.Mode, uid: ino.UID, gid: ino.GID, mtime: ino.MTime, xattrs: ino.Xattrs}
}

// normal copies a tree, leaving out what a tar cannot hold. Inodes are copied too, so
// that contents can be filled in.
type normal struct {
	clamp   *tree.Time
	layer   bool
	inodes  map[*tree.Inode]*tree.Inode // copy of
	origin  map[*tree.Inode]*tree.Inode // by copy
	skipped []recipe.Note
}

func newNormal(layer bool, clamp *tree.Time) *normal {
	return &normal{
		clamp: clamp, layer: layer,
		inodes: make(map[*tree.Inode]*tree.Inode),
		origin: make(map[*tree.Inode]*tree.Inode),
	}
}

func (c *normal) node(n *tree.Node, p tree.Path) *tree.Node {
	out := *n
	if n.Inode != nil {
		out.Inode = c.inode(n.Inode)
	}
	out.Children = slices.Clone(n.Children)
	kept := out.Children[:0]
	for _, child := range n.Children {
		at := p.Join(child.Name)
		if why := c.unfit(child); why != "" {
			c.skipped = append(c.skipped, recipe.Note{Path: at, Text: why})
			continue
		}
		made := c.node(child, at)
		if made.IsDir() && made.Implicit && !made.Opaque && len(made.Children) == 0 {
			continue // it says nothing
		}
		kept = append(kept, made)
	}
	if out.Children = kept; len(kept) == 0 {
		out.Children = nil
	}
	return &out
}

func (c *normal) unfit(n *tree.Node) string {
	switch {
	case n.Inode != nil && n.Inode.Type == tree.Socket:
		return "a socket, which a tar cannot hold"
	case c.layer && strings.HasPrefix(n.Name, whiteoutPrefix):
		return "its name would be taken for a whiteout"
	}
	return ""
}

func (c *normal) inode(ino *tree.Inode) *tree.Inode {
	if made, ok := c.inodes[ino]; ok {
		return made
	}
	made := *ino
	if c.clamp != nil && later(made.MTime, *c.clamp) {
		made.MTime = *c.clamp
	}
	if overflows(made.MTime) {
		made.MTime.Nsec = 0
	}
	c.inodes[ino] = &made
	c.origin[&made] = ino
	return &made
}

func later(a, b tree.Time) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }
