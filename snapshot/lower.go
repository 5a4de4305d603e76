package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
)

// A union is what a mount of the same sources would show, read without mounting:
// trees by their memory-mapped images, sealed and active uppers by what readUpper
// found. A lookup costs what the path is deep, so commit and diff of a few files on
// an image of any size stay cheap.
type union struct {
	sources []source // top first
	last    lastDir
}

// source is one layer of a union: a tree image, or an upper in memory.
type source struct {
	image  *erofs.Image
	inodes map[erofs.NID]*tree.Inode // decoded, so that hard links share one

	upper *upperNode
	open  contentOpener // contents of upper's files
}

// place is one directory entry's target within one source.
type place struct {
	src  int
	nid  erofs.NID  // in an image
	node *upperNode // in an upper
	path tree.Path  // in an upper: where the node lies
}

// found is a name that a union shows: one place for a file, and for a directory all
// that merge into it, top first. The zero value is "nothing there".
type found struct {
	dir    bool
	places []place
	below  []place // file: the directories below the one it was found in
}

func (f found) exists() bool { return len(f.places) > 0 }

// treeOpaque marks an opaque directory in a tree, see treeOptions.
const treeOpaque = string(unionfs.Trusted) + unionfs.Opaque

// maxRedirects bounds the redirects followed for one lookup; each goes one layer down.
const maxRedirects = 512

func (u *union) root(from int) found {
	f := found{dir: true}
	for i := from; i < len(u.sources); i++ {
		s := &u.sources[i]
		if s.image != nil {
			f.places = append(f.places, place{src: i, nid: s.image.Root()})
		} else {
			f.places = append(f.places, place{src: i, node: s.upper})
		}
	}
	return f
}

// kindOf tells what a place is to a lookup from above.
func (u *union) kindOf(p place) (dir, whiteout, opaque bool, redirect string, err error) {
	if p.node != nil {
		n := p.node
		return n.inode != nil && n.inode.Type == tree.Directory, n.whiteout, n.opaque, n.redirect, nil
	}
	im := u.sources[p.src].image
	st, err := im.Stat(p.nid)
	if err != nil {
		return false, false, false, "", err
	}
	switch st.Type {
	case tree.Directory:
		v, ok, err := im.Xattr(p.nid, treeOpaque)
		return true, false, ok && string(v) == unionfs.OpaqueYes, "", err
	case tree.CharDevice:
		return false, st.Rdev == tree.Device{}, false, "", nil
	default:
		return false, false, false, "", nil
	}
}

func (u *union) childIn(p place, name string) (place, bool, error) {
	if p.node != nil {
		c := p.node.child(name)
		return place{src: p.src, node: c, path: p.path.Join(name)}, c != nil, nil
	}
	nid, ok, err := u.sources[p.src].image.Lookup(p.nid, name)
	return place{src: p.src, nid: nid}, ok, err
}

// child looks up name in the directory dir, as overlayfs does: the first source that
// has the name decides, and directories merge until one is opaque or redirected.
func (u *union) child(dir found, name string) (found, error) {
	return u.childN(dir, name, 0)
}

func (u *union) childN(dir found, name string, redirects int) (found, error) {
	var out found
	for i, p := range dir.places {
		c, ok, err := u.childIn(p, name)
		if err != nil {
			return found{}, err
		}
		if !ok {
			continue
		}
		isDir, whiteout, opaque, redirect, err := u.kindOf(c)
		if err != nil {
			return found{}, err
		}
		if whiteout {
			break
		}
		if !isDir {
			if !out.exists() {
				out = found{places: []place{c}, below: dir.places[i+1:]}
			}
			break
		}
		out.dir = true
		out.places = append(out.places, c)
		if opaque {
			break
		}
		if redirect != "" {
			rest, err := u.redirected(c.src, found{dir: true, places: dir.places[i+1:]}, redirect, redirects)
			if err != nil {
				return found{}, err
			}
			if rest.dir {
				out.places = append(out.places, rest.places...)
			}
			break
		}
	}
	return out, nil
}

// redirected resolves an overlay redirect met in source src: absolute from the root of
// the sources below, or a sibling's name in the same directory of those.
func (u *union) redirected(src int, siblings found, redirect string, redirects int) (found, error) {
	if redirects++; redirects > maxRedirects {
		return found{}, fmt.Errorf("more than %d redirects: %w", maxRedirects, fs.ErrInvalid)
	}
	if abs, ok := strings.CutPrefix(redirect, "/"); ok {
		p, err := tree.ParsePath(abs)
		if err != nil {
			return found{}, fmt.Errorf("redirect %q: %w", redirect, err)
		}
		return u.lookupN(src+1, p, redirects)
	}
	if strings.Contains(redirect, "/") {
		return found{}, fmt.Errorf("redirect %q: %w", redirect, fs.ErrInvalid)
	}
	return u.childN(siblings, redirect, redirects)
}

// lookupN finds p in the sources from index from downwards, following no symbolic
// links. A missing path is a found that does not exist, not an error.
func (u *union) lookupN(from int, p tree.Path, redirects int) (found, error) {
	f := u.root(from)
	for p != "" {
		if !f.dir {
			return found{}, nil
		}
		var first string
		first, p = p.Cut()
		var err error
		if f, err = u.childN(f, first, redirects); err != nil || !f.exists() {
			return found{}, err
		}
	}
	return f, nil
}

// inode returns the metadata and content of what was found. Hard links within one
// source give the same *Inode.
func (u *union) inode(f found) (*tree.Inode, error) {
	p := f.places[0]
	s := &u.sources[p.src]
	if p.node == nil {
		if ino, ok := s.inodes[p.nid]; ok {
			return ino, nil
		}
		ino, err := s.image.Inode(p.nid)
		if err != nil {
			return nil, err
		}
		if s.inodes == nil {
			s.inodes = map[erofs.NID]*tree.Inode{}
		}
		s.inodes[p.nid] = ino
		return ino, nil
	}
	n := p.node
	if f.dir || n.inode.Type != tree.Regular || n.inode.Size == 0 {
		return n.inode, nil
	}
	if !n.metacopy {
		s.open.remember(n.inode, p.path)
		return n.inode, nil
	}
	return u.metacopy(p, f.below)
}

// metacopy completes a file of which only the metadata was copied up with the content
// of the file below it.
func (u *union) metacopy(p place, below []place) (*tree.Inode, error) {
	n := p.node
	if !n.inode.Object.IsZero() || n.inode.Inline != "" {
		return n.inode, nil // completed before, through another link or lookup
	}
	redirect := n.redirect
	if redirect == "" {
		redirect = n.name
	}
	data, err := u.redirected(p.src, found{dir: true, places: below}, redirect, 0)
	if err != nil {
		return nil, err
	}
	if !data.exists() || data.dir {
		return nil, fmt.Errorf("data of metadata-only copy %q is not below it: %w", redirect, fs.ErrNotExist)
	}
	from, err := u.inode(data)
	if err != nil {
		return nil, err
	}
	if from.Type != tree.Regular || from.Size != n.inode.Size {
		return nil, fmt.Errorf("metadata-only copy of %d bytes, the file %q below is %s of %d: %w",
			n.inode.Size, redirect, from.Type, from.Size, fs.ErrInvalid)
	}
	n.inode.Object, n.inode.Inline = from.Object, from.Inline
	if from.Object.IsZero() && from.Inline == "" && from.Size > 0 {
		// The data lies in a sealed upper, not yet an object.
		src := data.places[0].src
		u.sources[p.src].open.alias(n.inode, u.sources[src].open, from)
	}
	return n.inode, nil
}

// names returns the names in a directory, sorted.
func (u *union) names(dir found) ([]string, error) {
	var all []string
	for i, p := range dir.places {
		if p.node != nil {
			for _, c := range p.node.children {
				all = append(all, c.name)
			}
			continue
		}
		for e, err := range u.sources[p.src].image.ReadDir(p.nid, 0) {
			if err != nil {
				return nil, err
			}
			all = append(all, string(e.Name))
		}
		if i == 0 && len(dir.places) == 1 {
			return all, nil // sorted in the image
		}
	}
	sort.Strings(all)
	return slices.Compact(all), nil
}

// subtree returns everything below f as a merged tree.
func (u *union) subtree(name string, f found) (*tree.Node, error) {
	ino, err := u.inode(f)
	if err != nil {
		return nil, err
	}
	n := &tree.Node{Name: name, Inode: ino}
	if !f.dir {
		return n, nil
	}
	names, err := u.names(f)
	if err != nil {
		return nil, err
	}
	n.Children = make([]*tree.Node, 0, len(names))
	for _, c := range names {
		cf, err := u.child(f, c)
		if err != nil {
			return nil, err
		}
		if !cf.exists() {
			continue
		}
		cn, err := u.subtree(c, cf)
		if err != nil {
			return nil, err
		}
		n.Children = append(n.Children, cn)
	}
	return n, nil
}

// followed finds p following symbolic links inside the root, as a process in a
// container would.
func (u *union) followed(p tree.Path) (found, tree.Path, error) {
	const maxLinks = 40 // as Linux limits one path walk
	todo := strings.Split(string(p), "/")
	var at tree.Path
	stack := []found{u.root(0)}
	for links := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
				at, _ = at.Split()
			}
			continue
		}
		cur := stack[len(stack)-1]
		if !cur.dir {
			return found{}, "", fmt.Errorf("%s is not a directory: %w", at.Abs(), fs.ErrInvalid)
		}
		next, err := u.child(cur, c)
		if err != nil {
			return found{}, "", err
		}
		if !next.exists() {
			return found{}, "", fmt.Errorf("%s: %w", at.Join(c).Abs(), fs.ErrNotExist)
		}
		if !next.dir {
			ino, err := u.inode(next)
			if err != nil {
				return found{}, "", err
			}
			if ino.Type == tree.Symlink {
				if links++; links > maxLinks {
					return found{}, "", fmt.Errorf("%s: too many symbolic links: %w", p.Abs(), fs.ErrInvalid)
				}
				if strings.HasPrefix(ino.Link, "/") {
					stack, at = stack[:1], ""
				}
				todo = append(strings.Split(ino.Link, "/"), todo...)
				continue
			}
		}
		stack = append(stack, next)
		at = at.Join(c)
	}
	return stack[len(stack)-1], at, nil
}

// close releases the images and the handles of the uppers.
func (u *union) close() error {
	u.last.close()
	var errs []error
	for i := range u.sources {
		if im := u.sources[i].image; im != nil {
			errs = append(errs, im.Close())
		}
		errs = append(errs, u.sources[i].open.close())
	}
	u.sources = nil
	return errors.Join(errs...)
}
