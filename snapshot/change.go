package snapshot

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/layerfs/layerfs/tree"
)

// This file turns an upper directory into a layer and into changes, resolving what
// overlayfs left as references to what is below: metadata-only copies, renamed
// directories, whiteouts and opaque directories.

// layer returns the topmost n sources, which are uppers, as one layer tree over the
// rest: what a tar of the change has to say. Content that is known below stays a
// reference to its object; a renamed directory is written out at its new place, again
// by reference.
func (u *union) layer(n int) (*tree.Node, error) {
	var layer *tree.Node
	for src := n - 1; src >= 0; src-- {
		r := resolver{union: u, src: src}
		l, err := r.layer()
		if err != nil {
			return nil, err
		}
		if layer == nil {
			layer = l
		} else {
			layer = compose(layer, l)
		}
	}
	if n > 1 {
		// A file that one upper made and the next removed leaves a whiteout of nothing.
		return u.prune(layer, u.root(n))
	}
	return layer, nil
}

// resolver turns the upper in one source into a layer over the sources below it.
type resolver struct {
	*union
	src int
}

func (u resolver) layer() (*tree.Node, error) {
	upper := u.sources[u.src].upper
	base := u.root(u.src + 1)
	root := &tree.Node{Inode: upper.inode}
	if base.exists() {
		below, err := u.inode(base)
		if err != nil {
			return nil, err
		}
		root.Implicit = sameMetadata(upper.inode, below)
	}
	if err := u.layerChildren(root, upper, "", base); err != nil {
		return nil, err
	}
	return root, nil
}

// layerChildren fills n, the layer's directory at p, from the upper directory dir,
// which merges with base below.
func (u resolver) layerChildren(n *tree.Node, dir *upperNode, p tree.Path, base found) error {
	n.Children = make([]*tree.Node, 0, len(dir.children))
	for _, c := range dir.children {
		cp := p.Join(c.name)
		below, err := u.child(base, c.name)
		if err != nil {
			return atPath("look up below", cp, err)
		}
		cn, err := u.layerNode(c, cp, base, below)
		if err != nil {
			return atPath("resolve", cp, err)
		}
		if cn != nil {
			n.Children = append(n.Children, cn)
		}
	}
	return nil
}

// atPath names the path in an error, once: errors come up through every directory above,
// of which there may be thousands.
func atPath(op string, p tree.Path, err error) error {
	if named := (*fs.PathError)(nil); errors.As(err, &named) {
		return err
	}
	return &fs.PathError{Op: op, Path: p.Abs(), Err: err}
}

// layerNode resolves one name of the upper. siblings is the directory below that its
// parent merges with, below what that has under the same name.
func (u resolver) layerNode(c *upperNode, p tree.Path, siblings, below found) (*tree.Node, error) {
	if c.whiteout {
		if !below.exists() {
			return nil, nil // of a file that was never there to whoever sees the layer
		}
		return &tree.Node{Name: c.name, Whiteout: true}, nil
	}
	if c.inode.Type != tree.Directory {
		ino, err := u.inode(found{places: []place{{src: u.src, node: c, path: p}}, below: siblings.places})
		if err != nil {
			return nil, err
		}
		return &tree.Node{Name: c.name, Inode: ino}, nil
	}
	n := &tree.Node{Name: c.name, Inode: c.inode}
	switch {
	case c.opaque:
		n.Opaque = below.dir
		return n, u.layerChildren(n, c, p, found{})
	case c.redirect != "":
		return u.renamed(n, c, p, siblings, below)
	case below.dir:
		ino, err := u.inode(below)
		if err != nil {
			return nil, err
		}
		n.Implicit = sameMetadata(c.inode, ino)
		return n, u.layerChildren(n, c, p, below)
	default:
		return n, u.layerChildren(n, c, p, found{})
	}
}

// renamed writes out a directory that overlayfs renamed by reference: all of the
// directory it came from, with the upper's own changes on top.
func (u resolver) renamed(n *tree.Node, c *upperNode, p tree.Path, siblings, below found) (*tree.Node, error) {
	from, err := u.redirected(u.src, siblings, c.redirect, 0)
	if err != nil {
		return nil, err
	}
	if !from.dir {
		n.Opaque = below.dir
		return n, u.layerChildren(n, c, p, found{})
	}
	old, err := u.subtree(c.name, from)
	if err != nil {
		return nil, err
	}
	if err := u.layerChildren(n, c, p, from); err != nil {
		return nil, err
	}
	merged, err := tree.Merge(old, n)
	if err != nil {
		return nil, err
	}
	whole := *merged
	whole.Name, whole.Opaque, whole.Implicit = c.name, below.dir, false
	return &whole, nil
}

// compose returns the layer that does what lower and then upper do.
func compose(lower, upper *tree.Node) *tree.Node {
	if !upper.IsDir() {
		return upper
	}
	n := *upper
	if !lower.IsDir() {
		// What lower removed or replaced must not show through upper's directory.
		n.Opaque = true
		return &n
	}
	if n.Implicit {
		n.Inode, n.Implicit = lower.Inode, lower.Implicit
	}
	if n.Opaque {
		return &n
	}
	n.Opaque = lower.Opaque
	n.Children = make([]*tree.Node, 0, len(lower.Children)+len(upper.Children))
	i, j := 0, 0
	for i < len(lower.Children) || j < len(upper.Children) {
		switch {
		case j == len(upper.Children) || i < len(lower.Children) && lower.Children[i].Name < upper.Children[j].Name:
			n.Children = append(n.Children, lower.Children[i])
			i++
		case i == len(lower.Children) || upper.Children[j].Name < lower.Children[i].Name:
			n.Children = append(n.Children, upper.Children[j])
			j++
		default:
			n.Children = append(n.Children, compose(lower.Children[i], upper.Children[j]))
			i, j = i+1, j+1
		}
	}
	return &n
}

// prune drops whiteouts and opaque marks that hide nothing of base.
func (u *union) prune(n *tree.Node, base found) (*tree.Node, error) {
	out := *n
	out.Opaque = n.Opaque && base.dir
	if out.Opaque || !base.dir {
		base = found{}
	}
	out.Children = make([]*tree.Node, 0, len(n.Children))
	for _, c := range n.Children {
		below, err := u.child(base, c.Name)
		if err != nil {
			return nil, err
		}
		if c.Whiteout && !below.exists() {
			continue
		}
		if c.IsDir() {
			if c, err = u.prune(c, below); err != nil {
				return nil, err
			}
		}
		out.Children = append(out.Children, c)
	}
	return &out, nil
}

// changes lists what the layer does to the sources from index n down, sorted by path,
// in the way `docker diff` does: a removed directory is one deletion, a directory in
// which something changed counts as modified.
func (u *union) changes(layer *tree.Node, n int) ([]tree.Change, error) {
	var out []tree.Change
	base := u.root(n)
	if base.exists() {
		old, err := u.inode(base)
		if err != nil {
			return nil, err
		}
		if rootChanged(old, layer.Inode) {
			out = append(out, tree.Change{Kind: tree.Modify, Old: old, New: layer.Inode})
		}
	}
	_, err := u.dirChanges(&out, layer, "", base, false)
	return out, err
}

// dirChanges appends the changes in directory n at p and reports whether there are any.
// hidden says that an opaque directory above hides all of base.
func (u *union) dirChanges(out *[]tree.Change, n *tree.Node, p tree.Path, base found, hidden bool) (bool, error) {
	hidden = hidden || n.Opaque
	names := make([]string, 0, len(n.Children))
	for _, c := range n.Children {
		names = append(names, c.Name)
	}
	if hidden && base.exists() {
		gone, err := u.names(base)
		if err != nil {
			return false, err
		}
		names = append(names, gone...)
		slices.Sort(names)
		names = slices.Compact(names)
	}
	start := len(*out)
	for _, name := range names {
		if err := u.nodeChanges(out, n.Child(name), p.Join(name), base, hidden); err != nil {
			return false, err
		}
	}
	return len(*out) > start, nil
}

// nodeChanges appends the change of one name and of all below it. n is nil for a name
// that an opaque directory hides.
func (u *union) nodeChanges(out *[]tree.Change, n *tree.Node, p tree.Path, base found, hidden bool) error {
	_, name := p.Split()
	below, err := u.child(base, name)
	if err != nil {
		return err
	}
	var old *tree.Inode
	if below.exists() {
		if old, err = u.inode(below); err != nil {
			return err
		}
	}
	if n == nil || n.Whiteout {
		if old != nil {
			*out = append(*out, tree.Change{Kind: tree.Delete, Path: p, Old: old})
		}
		return nil
	}
	at := len(*out)
	ch := tree.Change{Kind: tree.Add, Path: p, Old: old, New: n.Inode}
	if old != nil {
		ch.Kind = tree.Modify
	}
	*out = append(*out, ch)
	if !n.IsDir() {
		if old != nil && sameMetadata(old, n.Inode) && sameContent(old, n.Inode) {
			*out = (*out)[:at]
		}
		return nil
	}
	if !below.dir {
		below = found{}
	}
	inside, err := u.dirChanges(out, n, p, below, hidden)
	if err != nil {
		return err
	}
	if below.dir && !inside && sameMetadata(old, n.Inode) {
		*out = (*out)[:at] // copied up on the way to something that came to nothing
	}
	return nil
}

// sameMetadata reports whether two inodes agree in all but content.
func sameMetadata(a, b *tree.Inode) bool {
	return a.Type == b.Type && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID &&
		a.MTime == b.MTime && a.Rdev == b.Rdev && a.Link == b.Link && slices.Equal(a.Xattrs, b.Xattrs)
}

// sameContent reports whether two inodes are known to have the same content. Content
// that exists only as a file in an upper is not known to equal anything.
func sameContent(a, b *tree.Inode) bool {
	if a.Size != b.Size || a.Type != tree.Regular {
		return a.Size == b.Size
	}
	known := a.Size == 0 || (!a.Object.IsZero() || a.Inline != "") && (!b.Object.IsZero() || b.Inline != "")
	return known && a.Object == b.Object && a.Inline == b.Inline
}
