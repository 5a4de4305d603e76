package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// MaxNodes is how many names one layer may have by default, directories that are
// only implied included.
const MaxNodes = 1 << 22

// Limits bounds what one layer may amount to.
type Limits struct {
	Nodes int // names in the layer, 0 for MaxNodes
}

// Builder simulates the extraction of one layer's tar, entry by entry and in the
// archive's order, and gives the net effect as a layer tree. It knows nothing of
// the layers below; whatever depends on them is left to [Merge] as a flag.
//
//   - An entry replaces an earlier one of the same name. A hard link to the earlier
//     one keeps its inode. A directory over a directory keeps what is in it and takes
//     the new metadata. A directory over anything else of the same layer is opaque,
//     since the earlier entry has removed what the layers below hold there.
//   - A missing parent directory is implied. A parent that this layer made a
//     symbolic link is followed, never leaving the root; one that this layer made
//     something else is an error, as it is for GNU tar and containerd.
//   - Whiteouts and opaque markers apply to the layers below only, wherever in the
//     archive they stand (OCI image-spec, "Whiteouts"): what the same layer adds
//     wins, before and after. So a whiteout and a directory of the same name make
//     an opaque directory, and one that is only implied no longer takes its metadata
//     from below, because nothing is there any more. A directory that is implied
//     by whiteouts only is no addition.
//   - A hard link to something that the layer has not defined yet waits for Merge.
//     A hard link from a name to itself changes nothing, as with GNU tar, which
//     writes such a thing when it is given one linked file twice.
//
// After an error the Builder is of no further use. The Inodes given belong to the
// layer afterwards.
type Builder struct {
	// While the layer is being built, a node may be both a whiteout and an implicit
	// directory: one that is opaque and does not take its metadata from below.
	root  *Node
	names map[nameKey]*Node // the names in directories that are not small
	slab  []Node
	small int // up to how many names a directory is searched, not indexed
	left  int // nodes that may still be made
	done  bool

	// base is the tree that lies below, only when Merge has to find out where
	// entries below its symbolic links belong.
	base *Node

	// Where the last resolved directory lies, root first; see directory.
	stack  []frame
	todo   []segment
	cached Path
	valid  bool
	hopped bool
	credit int
}

// smallDirectory is how many names in a directory are searched faster than hashed.
const smallDirectory = 16

type nameKey struct {
	dir  *Node
	name string
}

// NewBuilder returns a Builder for a layer that holds nothing yet, under the
// default limits.
func NewBuilder() *Builder { return NewBuilderLimits(Limits{}) }

// NewBuilderLimits is NewBuilder under other limits.
func NewBuilderLimits(l Limits) *Builder {
	if l.Nodes <= 0 {
		l.Nodes = MaxNodes
	}
	return &Builder{
		root:   &Node{Inode: Implied(), Implicit: true},
		names:  make(map[nameKey]*Node),
		small:  smallDirectory,
		left:   l.Nodes,
		credit: initialCredit,
	}
}

// Add puts a file of any type at p. An error names p and wraps fs.ErrInvalid when
// the inode is malformed, when p leads through something that is not a directory,
// or when a limit is exceeded.
func (b *Builder) Add(p Path, ino *Inode) error {
	if err := b.add(p, ino); err != nil {
		return fmt.Errorf("add %s: %w", quote(p), err)
	}
	return nil
}

func (b *Builder) add(p Path, ino *Inode) error {
	if err := ino.check(); err != nil {
		return err
	}
	if p == "" {
		if ino.Type != Directory {
			return fmt.Errorf("root as a %s: %w", ino.Type, fs.ErrInvalid)
		}
		if err := b.begin(); err != nil {
			return err
		}
		b.root.Inode, b.root.Implicit = ino, false
		return nil
	}
	n, made, err := b.entry(p)
	if err != nil {
		return err
	}
	if ino.Type != Directory {
		b.clear(n)
	} else if !n.IsDir() {
		b.clear(n)
		n.Opaque = !made
	}
	n.Inode, n.Implicit, n.Whiteout = ino, false, false
	return nil
}

// Link makes p another name of the file at target. What target is may come later
// or lie in a layer below; then the node waits for [Merge]. An error names both.
func (b *Builder) Link(p, target Path) error {
	if err := b.link(p, target); err != nil {
		return fmt.Errorf("link %s to %s: %w", quote(p), quote(target), err)
	}
	return nil
}

func (b *Builder) link(p, target Path) error {
	if p == "" {
		return fmt.Errorf("root as a hard link: %w", fs.ErrInvalid)
	}
	if clean, err := ParsePath(string(target)); err != nil || clean != target {
		return fmt.Errorf("target is no clean path: %w", errors.Join(fs.ErrInvalid, err))
	}
	t, to, err := b.target(target)
	if err != nil {
		return err
	}
	n, _, err := b.entry(p)
	if err != nil {
		return err
	}
	if n == t && !n.Whiteout && !n.IsDir() {
		return nil
	}
	var ino *Inode
	switch {
	case t == nil, t.Whiteout, t.Implicit:
	case t.IsDir():
		return fmt.Errorf("target is a directory: %w", fs.ErrInvalid)
	default:
		if n.IsDir() {
			if err := b.outside(n, target); err != nil {
				return err
			}
		}
		if ino = t.Inode; t.IsLink {
			to = t.LinkTo
		}
	}
	b.clear(n)
	if n.Inode = ino; ino == nil {
		n.IsLink, n.LinkTo = true, to
	}
	return nil
}

// target finds what a hard link names in this layer: the node, or nil and the path
// under which Merge is to look for it, symbolic links of this layer resolved as far
// as a Path can say it.
func (b *Builder) target(target Path) (*Node, Path, error) {
	if err := b.begin(); err != nil {
		return nil, "", err
	}
	dir, name := target.Split()
	if name == "" {
		return nil, "", fmt.Errorf("target is a directory: %w", fs.ErrInvalid)
	}
	at, err := b.directory(dir, false)
	if err != nil {
		return nil, "", err
	}
	if !b.hopped {
		if at == nil {
			return nil, target, nil
		}
		return b.find(at, name), target, nil
	}
	if at == nil {
		return nil, b.unresolved(target, name), nil
	}
	return b.find(at, name), b.where().Join(name), nil
}

// outside makes sure that the directory n, which a link to target is about to
// replace, does not hold the target.
func (b *Builder) outside(n *Node, target Path) error {
	dir, _ := target.Split()
	if _, err := b.directory(dir, false); err != nil {
		return err
	}
	for _, f := range b.stack {
		if f.own == n {
			return fmt.Errorf("target lies in the directory that the link replaces: %w", fs.ErrInvalid)
		}
	}
	return nil
}

// deferLink puts a link at p that Merge is to resolve.
func (b *Builder) deferLink(p, to Path) error {
	n, _, err := b.entry(p)
	if err != nil {
		return fmt.Errorf("link %s to %s: %w", quote(p), quote(to), err)
	}
	b.clear(n)
	n.IsLink, n.LinkTo = true, to
	return nil
}

// Whiteout removes p from the layers below. What this layer itself puts at p, before
// or after, stays.
func (b *Builder) Whiteout(p Path) error {
	if p == "" {
		return fmt.Errorf("whiteout of the root: %w", fs.ErrInvalid)
	}
	n, made, err := b.entry(p)
	switch {
	case err != nil:
		return fmt.Errorf("whiteout %s: %w", quote(p), err)
	case made:
		n.Whiteout = true
	case n.Implicit && !b.prune(n):
		b.clear(n)
		n.Whiteout = true
	case n.IsDir():
		n.Opaque, n.Whiteout = true, n.Implicit
	}
	return nil
}

// prune removes from the implicit directory dir what adds nothing, up to the first
// thing that does, and reports whether there is one. What it has looked at it never
// meets again, but for the way to that thing.
func (b *Builder) prune(dir *Node) bool {
	for len(dir.Children) > 0 {
		c := dir.Children[0]
		if c.Inode != nil && (!c.Implicit || b.prune(c)) || c.IsLink {
			return true
		}
		delete(b.names, nameKey{dir, c.Name})
		dir.Children = dir.Children[1:]
	}
	return false
}

// Opaque hides what the layers below hold in the directory dir. What this layer
// itself puts there, before or after, stays.
func (b *Builder) Opaque(dir Path) error {
	err := b.begin()
	var n *Node
	if err == nil {
		n, err = b.directory(dir, true)
	}
	if err != nil {
		return fmt.Errorf("opaque %s: %w", quote(dir), err)
	}
	n.Opaque = true
	return nil
}

// Layer ends the simulation and returns the layer: children sorted, directories
// that no entry described flagged Implicit. Where nothing from below shows anyway,
// whiteouts are left out, and so are directories implied by nothing else.
func (b *Builder) Layer() (*Node, error) {
	if err := b.begin(); err != nil {
		return nil, err
	}
	root := b.root
	*b = Builder{done: true}
	finish(root, root.Opaque)
	return root, nil
}

// finish sorts what dir holds and brings it into the form of a layer. It is hidden
// if nothing from below shows in dir.
func finish(dir *Node, hidden bool) {
	if !slices.IsSortedFunc(dir.Children, byName) {
		slices.SortFunc(dir.Children, byName)
	}
	for _, c := range dir.Children {
		if len(c.Children) > 0 {
			finish(c, hidden || c.Opaque)
		}
		if c.Whiteout && c.Implicit {
			c.Implicit = false
			if len(c.Children) == 0 {
				*c = Node{Name: c.Name, Whiteout: true}
			} else {
				c.Whiteout, c.Inode = false, Implied()
			}
		}
	}
	if hidden {
		dir.Children = slices.DeleteFunc(dir.Children, func(n *Node) bool {
			return n.Whiteout || n.Implicit && len(n.Children) == 0
		})
	}
}

func byName(x, y *Node) int { return strings.Compare(x.Name, y.Name) }

// begin is called once per entry.
func (b *Builder) begin() error {
	if b.done {
		return fmt.Errorf("layer is complete already: %w", fs.ErrInvalid)
	}
	b.credit += creditPerEntry
	return nil
}

// entry finds the node of p, making it and the directories above it when they are
// missing. A node just made has neither an Inode nor a flag.
func (b *Builder) entry(p Path) (n *Node, made bool, err error) {
	if err := b.begin(); err != nil {
		return nil, false, err
	}
	dir, name := p.Split()
	at, err := b.directory(dir, true)
	if err != nil {
		return nil, false, err
	}
	if n := b.find(at, name); n != nil {
		return n, false, nil
	}
	if len(b.stack) > MaxDepth || b.stack[len(b.stack)-1].size+len(name) > MaxPath {
		return nil, false, errTooDeep()
	}
	if b.base != nil {
		b.valid = false // the new name may hide a symbolic link on the way
	}
	n, err = b.insert(at, name)
	return n, true, err
}

// insert makes a node in dir, where there is none of that name.
func (b *Builder) insert(dir *Node, name string) (*Node, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if b.left == 0 {
		return nil, fmt.Errorf("too many names in one layer: %w", fs.ErrInvalid)
	}
	b.left--
	if len(b.slab) == 0 {
		b.slab = make([]Node, 128)
	}
	n := &b.slab[0]
	b.slab = b.slab[1:]
	n.Name = name
	dir.Children = append(dir.Children, n)
	switch count := len(dir.Children); {
	case count == b.small+1:
		for _, c := range dir.Children {
			b.names[nameKey{dir, c.Name}] = c
		}
	case count > b.small:
		b.names[nameKey{dir, name}] = n
	}
	return n, nil
}

// find returns the node of that name in dir, or nil.
func (b *Builder) find(dir *Node, name string) *Node {
	if len(dir.Children) > b.small {
		return b.names[nameKey{dir, name}]
	}
	for _, c := range dir.Children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// clear takes from n all but its name.
func (b *Builder) clear(n *Node) {
	if n.Inode != nil && (n.Inode.Type == Directory || n.Inode.Type == Symlink) {
		b.valid = false
	}
	for _, c := range n.Children {
		delete(b.names, nameKey{n, c.Name})
	}
	*n = Node{Name: n.Name}
}

// checkName reports what makes name unfit for one component.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("name %s: %w", shorten(name), fs.ErrInvalid)
	}
	if len(name) > MaxName {
		return fmt.Errorf("name %s of %d bytes, limit %d: %w", shorten(name), len(name), MaxName, fs.ErrInvalid)
	}
	return nil
}
