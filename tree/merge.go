package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Merge puts a layer on top of a merged tree and returns the tree that results. A
// nil base is an empty root directory with the metadata of [Implied]. What neither
// input's part of the result changes is shared with it by pointer, so that [Diff]
// can skip it; the inputs themselves stay as they are. The time taken grows with
// the layer and with the directories that it names, not with the base.
//
// The rules are those of the OCI image specification, and where it is silent, those
// of what extracts such layers in practice:
//
//   - A whiteout removes its name from the base; an opaque directory shows nothing
//     of the base. Neither touches what the same layer adds.
//   - A directory over a directory keeps what is in it and takes the new metadata,
//     extended attributes included. Over anything else it replaces it.
//   - Anything but a directory replaces what the base has at its name, a directory
//     with all below.
//   - An implicit directory over a directory keeps the base's metadata. Over a
//     symbolic link, what it holds goes to where the link leads, never leaving the
//     root, after everything else in the layer; a link that leads to nothing or to
//     no directory is an error. Over any other file it replaces it, as overlayfs
//     lets a layer extracted by itself do. Over nothing it is made.
//   - A hard link that waits for its target takes what the base has there, else what
//     this layer has, symbolic links in the target's directories followed. A target
//     that is missing or a directory, and links that wait for each other, are
//     errors that name both paths.
//
// Errors wrap fs.ErrInvalid, or fs.ErrNotExist for a missing target of a hard link.
func Merge(base, layer *Node) (*Node, error) {
	if layer == nil || !layer.IsDir() {
		return nil, fmt.Errorf("layer without a root directory: %w", fs.ErrInvalid)
	}
	if base != nil && !base.IsDir() {
		return nil, fmt.Errorf("tree without a root directory: %w", fs.ErrInvalid)
	}
	m := merger{base: base}
	root, err := m.root(layer)
	if errors.Is(err, errFollow) {
		if layer, err = redirect(base, layer); err != nil {
			return nil, err
		}
		m = merger{base: base}
		root, err = m.root(layer)
	}
	if err != nil {
		return nil, err
	}
	if err := m.resolveLinks(root); err != nil {
		return nil, err
	}
	return root, nil
}

// MergeAll merges layers bottom to top, on nothing. An error names the layer by its
// position, 1 being the lowest.
func MergeAll(layers []*Node) (*Node, error) {
	root := &Node{Inode: Implied()}
	for i, layer := range layers {
		base := root
		if i == 0 {
			base = nil
		}
		var err error
		if root, err = Merge(base, layer); err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	return root, nil
}

// errFollow stops a merge that meets an implicit directory over a symbolic link.
// That is rare, so only then is the layer rewritten for the base.
var errFollow = errors.New("directory over a symbolic link")

type merger struct {
	base  *Node
	names []string // of the directory at work
	links []*pendingLink
}

func (m *merger) root(layer *Node) (*Node, error) {
	if m.base == nil {
		return m.fresh(layer)
	}
	return m.over(m.base, layer)
}

func (m *merger) enter(name string) error {
	if len(m.names) >= MaxDepth {
		return errTooDeep()
	}
	m.names = append(m.names, name)
	return nil
}

func (m *merger) leave() { m.names = m.names[:len(m.names)-1] }

func (m *merger) path(name string) Path {
	return Path(strings.Join(m.names, "/")).Join(name)
}

// fresh returns what n comes to where the base shows nothing: n itself unless
// something below is meaningful in layers only; nil for a whiteout.
func (m *merger) fresh(n *Node) (*Node, error) {
	switch {
	case n.Whiteout:
		return nil, nil
	case n.IsLink:
		return m.wait(n), nil
	case n.Inode == nil:
		return nil, fmt.Errorf("%s has no inode: %w", quote(m.path(n.Name)), fs.ErrInvalid)
	case !n.IsDir():
		return n, nil
	}
	children, from, changed := []*Node(nil), 0, false
	for i, c := range n.Children {
		r, err := m.freshChild(c)
		if err != nil {
			return nil, err
		}
		if r == c {
			continue
		}
		if !changed {
			children, changed = make([]*Node, 0, len(n.Children)), true
		}
		children = append(children, n.Children[from:i]...)
		if r != nil {
			children = append(children, r)
		}
		from = i + 1
	}
	if !changed && !n.Implicit && !n.Opaque {
		return n, nil
	}
	if changed {
		children = append(children, n.Children[from:]...)
	} else {
		children = slices.Clip(n.Children)
	}
	inode := n.Inode
	if n.Implicit && !inode.Equal(Implied()) {
		inode = Implied()
	}
	return &Node{Name: n.Name, Inode: inode, Children: children}, nil
}

func (m *merger) freshChild(c *Node) (*Node, error) {
	if len(c.Children) == 0 {
		return m.fresh(c)
	}
	if err := m.enter(c.Name); err != nil {
		return nil, err
	}
	defer m.leave()
	return m.fresh(c)
}

// over merges a layer's directory over the base's of the same path.
func (m *merger) over(base, layer *Node) (*Node, error) {
	inode := layer.Inode
	if layer.Implicit || inode.Equal(base.Inode) {
		inode = base.Inode
	}
	if layer.Opaque {
		hidden := Node{Name: layer.Name, Inode: inode, Children: layer.Children, Opaque: true}
		return m.fresh(&hidden)
	}
	lower := base.Children
	children, from, at, changed := []*Node(nil), 0, 0, false
	for _, c := range layer.Children {
		var found bool
		at, found = seek(lower, at, c.Name)
		var old *Node
		if found {
			old = lower[at]
		}
		r, err := m.child(old, c)
		if err != nil {
			return nil, err
		}
		if r != old {
			if !changed {
				children, changed = make([]*Node, 0, len(lower)+len(layer.Children)), true
			}
			children = append(children, lower[from:at]...)
			if r != nil {
				children = append(children, r)
			}
			from = at
			if found {
				from++
			}
		}
		if found {
			at++
		}
	}
	if !changed {
		if inode == base.Inode {
			return base, nil
		}
		return &Node{Name: base.Name, Inode: inode, Children: slices.Clip(lower)}, nil
	}
	return &Node{Name: base.Name, Inode: inode, Children: append(children, lower[from:]...)}, nil
}

// child merges one name: old from the base, nil when it has none, and c of the layer.
func (m *merger) child(old, c *Node) (*Node, error) {
	if old == nil || !c.IsDir() {
		return m.freshChild(c)
	}
	switch {
	case old.IsDir():
		if err := m.enter(c.Name); err != nil {
			return nil, err
		}
		defer m.leave()
		return m.over(old, c)
	case c.Implicit && old.Inode.Type == Symlink:
		return nil, errFollow
	default:
		return m.freshChild(c)
	}
}

// seek finds name in children from index i on. It gallops, so that few names in a
// large directory are found without a look at most of it, and many at a step each.
func seek(children []*Node, i int, name string) (int, bool) {
	step := 1
	for i+step <= len(children) && children[i+step-1].Name < name {
		i += step
		step *= 2
	}
	lo, hi := i, min(i+step, len(children))
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if children[mid].Name < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(children) && children[lo].Name == name
}

// redirect rewrites a layer so that nothing of it lies in an implicit directory over
// one of base's symbolic links: it is replayed into a Builder that knows the base,
// first all that stays in its place, then what goes through links.
func redirect(base, layer *Node) (*Node, error) {
	b := NewBuilderLimits(Limits{Nodes: int(^uint(0) >> 1)})
	b.base = base
	r := redirector{b: b}
	if err := r.dir("", base, layer); err != nil {
		return nil, err
	}
	for _, d := range r.later {
		if err := r.dir(d.path, nil, d.node); err != nil {
			return nil, err
		}
	}
	return b.Layer()
}

type redirector struct {
	b     *Builder
	later []redirected
}

type redirected struct {
	path Path
	node *Node
}

// dir replays the directory n at p. With the base's directory of that path it leaves
// for later what has to follow links.
func (r *redirector) dir(p Path, base, n *Node) error {
	if err := r.put(p, n); err != nil {
		return err
	}
	for _, c := range n.Children {
		cp := p.Join(c.Name)
		if !c.IsDir() {
			if err := r.put(cp, c); err != nil {
				return err
			}
			continue
		}
		var low *Node
		if base != nil && !n.Opaque {
			low = base.Child(c.Name)
		}
		if low != nil && !low.IsDir() {
			if c.Implicit && low.Inode.Type == Symlink {
				r.later = append(r.later, redirected{cp, c})
				continue
			}
			low = nil
		}
		if err := r.dir(cp, low, c); err != nil {
			return err
		}
	}
	return nil
}

func (r *redirector) put(p Path, n *Node) error {
	switch {
	case n.Whiteout:
		return r.b.Whiteout(p)
	case n.IsLink:
		return r.b.deferLink(p, n.LinkTo)
	case n.Implicit && n.Opaque:
		return r.b.Opaque(p)
	case n.Implicit:
		if _, err := r.b.directory(p, true); err != nil {
			return fmt.Errorf("directory %s: %w", quote(p), err)
		}
		return nil
	}
	if err := r.b.Add(p, n.Inode); err != nil {
		return err
	}
	if n.Opaque {
		return r.b.Opaque(p)
	}
	return nil
}
