package tree

import (
	"errors"
	"fmt"
	"io/fs"
)

// CheckLayer reports the first thing that makes root no well-formed layer: names out
// of order, malformed or too deep, inodes that contradict themselves, flags where
// they mean nothing. What decodes a layer from bytes that it cannot trust calls it.
// The error names the path and wraps fs.ErrInvalid.
func CheckLayer(root *Node) error { return check(root, true) }

// CheckTree is CheckLayer for a merged tree, which has none of a layer's flags.
func CheckTree(root *Node) error { return check(root, false) }

func check(root *Node, layer bool) error {
	if root == nil || !root.IsDir() || root.Name != "" {
		return fmt.Errorf("tree without a root directory: %w", fs.ErrInvalid)
	}
	c := checker{layer: layer, dirs: make(map[*Inode]bool)}
	return c.node("", root, 0)
}

type checker struct {
	layer bool
	dirs  map[*Inode]bool
}

func (c *checker) node(p Path, n *Node, depth int) error {
	if depth > MaxDepth || len(p) > MaxPath {
		return errTooDeep()
	}
	if err := c.one(n); err != nil {
		return fmt.Errorf("%s: %w", quote(p), err)
	}
	for i, child := range n.Children {
		if child == nil {
			return fmt.Errorf("%s: child without a node: %w", quote(p), fs.ErrInvalid)
		}
		if err := checkName(child.Name); err != nil {
			return fmt.Errorf("%s: %w", quote(p), err)
		}
		if i > 0 && n.Children[i-1].Name >= child.Name {
			return fmt.Errorf("%s: names %q and %q out of order: %w", quote(p), n.Children[i-1].Name, child.Name, fs.ErrInvalid)
		}
		if err := c.node(p.Join(child.Name), child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) one(n *Node) error {
	flagged := n.Whiteout || n.IsLink || n.Opaque || n.Implicit || n.LinkTo != ""
	switch {
	case flagged && !c.layer:
		return fmt.Errorf("flags of a layer in a merged tree: %w", fs.ErrInvalid)
	case n.LinkTo != "" && !n.IsLink, n.Whiteout && n.IsLink:
		return fmt.Errorf("contradicting flags: %w", fs.ErrInvalid)
	case n.Whiteout || n.IsLink:
		if n.Inode != nil || len(n.Children) > 0 || n.Opaque || n.Implicit {
			return fmt.Errorf("whiteout or unresolved link that is something else too: %w", fs.ErrInvalid)
		}
		if !n.IsLink {
			return nil
		}
		if clean, err := ParsePath(string(n.LinkTo)); err != nil || clean != n.LinkTo || clean == "" {
			return errors.Join(fmt.Errorf("link to %s: %w", quote(n.LinkTo), fs.ErrInvalid), err)
		}
		return nil
	}
	if err := n.Inode.check(); err != nil {
		return err
	}
	if n.Inode.Type != Directory {
		if len(n.Children) > 0 || n.Opaque || n.Implicit {
			return fmt.Errorf("%s with what only directories have: %w", n.Inode.Type, fs.ErrInvalid)
		}
		return nil
	}
	if c.dirs[n.Inode] {
		return fmt.Errorf("directory with two names: %w", fs.ErrInvalid)
	}
	c.dirs[n.Inode] = true
	return nil
}

// Same reports the first difference between two trees or layers: names, inodes,
// flags, and which names share an inode. It is nil where got says exactly what want
// says, however the pointers differ. What turns a tree into something else and back
// is tested with it.
func Same(want, got *Node) error {
	s := sameness{there: make(map[*Inode]*Inode), back: make(map[*Inode]*Inode)}
	if want == nil || got == nil {
		if want != got {
			return errors.New("one of the trees is missing")
		}
		return nil
	}
	return s.node("", want, got)
}

type sameness struct{ there, back map[*Inode]*Inode }

func (s *sameness) node(p Path, want, got *Node) error {
	switch {
	case want.Name != got.Name:
		return fmt.Errorf("%s: name %q, want %q", quote(p), got.Name, want.Name)
	case want.Whiteout != got.Whiteout || want.Opaque != got.Opaque || want.Implicit != got.Implicit ||
		want.IsLink != got.IsLink || want.LinkTo != got.LinkTo:
		return fmt.Errorf("%s: flags %s, want %s", quote(p), describe(got), describe(want))
	case !want.Inode.Equal(got.Inode):
		return fmt.Errorf("%s: %s, want %s", quote(p), describe(got), describe(want))
	}
	if want.Inode != nil && !want.IsDir() {
		there, ok := s.there[want.Inode]
		back, ok2 := s.back[got.Inode]
		if ok && there != got.Inode || ok2 && back != want.Inode {
			return fmt.Errorf("%s: hard links are grouped differently", quote(p))
		}
		s.there[want.Inode], s.back[got.Inode] = got.Inode, want.Inode
	}
	ws, gs := want.Children, got.Children
	for len(ws) > 0 || len(gs) > 0 {
		switch {
		case len(gs) == 0 || len(ws) > 0 && ws[0].Name < gs[0].Name:
			return fmt.Errorf("%s: missing", quote(p.Join(ws[0].Name)))
		case len(ws) == 0 || gs[0].Name < ws[0].Name:
			return fmt.Errorf("%s: not wanted", quote(p.Join(gs[0].Name)))
		}
		if err := s.node(p.Join(ws[0].Name), ws[0], gs[0]); err != nil {
			return err
		}
		ws, gs = ws[1:], gs[1:]
	}
	return nil
}

// describe returns a node's line of a dump without its path.
func describe(n *Node) string {
	d := dumper{seen: map[*Inode]Path{}}
	return string(d.fields(nil, "", n))
}
