package tree

import (
	"fmt"
	"io/fs"
	"strings"
)

// MaxHops is how many symbolic links one path may lead through. GNU tar and
// containerd meet the kernel's limit of 40 or their own of 255.
const MaxHops = 255

// Following symbolic links must not let a small archive cause much work. The
// components that links contribute are paid from a credit that grows with the
// number of entries, so the whole stays linear.
const (
	initialCredit  = 1 << 20
	creditPerEntry = 64
)

// frame is one directory on the way from the root.
type frame struct {
	own  *Node // in the layer
	base *Node // in the tree below where there is one and it shows through, else nil
	size int   // bytes of the path so far, with a leading slash
}

// segment is a piece of a path that is still to be walked.
type segment struct {
	text string
	link bool // the text is a symbolic link's
	// The link lies in the base, or was reached through one that does: it must lead
	// to what there is, whereas nothing is known of the base of a layer by itself.
	strict bool
}

// directory returns the layer's node of the directory p, following symbolic links
// on the way and at the end. With create, directories that are missing are implied;
// without, the result is nil where something is missing or no directory. The way is
// kept in b.stack, and whether a link was followed in b.hopped.
func (b *Builder) directory(p Path, create bool) (*Node, error) {
	if b.valid && p == b.cached {
		return b.stack[len(b.stack)-1].own, nil
	}
	b.valid, b.hopped = false, false
	b.stack = append(b.stack[:0], frame{own: b.root})
	if b.base != nil && !b.root.Opaque {
		b.stack[0].base = b.base
	}
	b.todo = append(b.todo[:0], segment{text: string(p)})
	for hops := 0; len(b.todo) > 0; {
		name, from := b.next()
		if from.link {
			if b.credit--; b.credit < 0 {
				return nil, errTooFar()
			}
		}
		switch {
		case name == "" || from.link && name == ".":
			continue
		case from.link && name == "..":
			if len(b.stack) > 1 {
				b.stack = b.stack[:len(b.stack)-1]
			}
			continue
		}
		target, strict, ok, err := b.step(name, from.strict, create)
		switch {
		case err != nil:
			return nil, err
		case target != "":
			if hops++; hops > MaxHops {
				return nil, fmt.Errorf("more than %d symbolic links at %s: %w", MaxHops, quote(b.where().Join(name)), fs.ErrInvalid)
			}
			b.hopped = true
			if target[0] == '/' {
				b.stack = b.stack[:1]
			}
			b.todo = append(b.todo, segment{text: target, link: true, strict: strict})
		case !ok && create:
			return nil, fmt.Errorf("%s is not a directory: %w", quote(b.where().Join(name)), fs.ErrInvalid)
		case !ok:
			b.todo = append(b.todo, segment{text: name, link: from.link, strict: from.strict})
			return nil, nil
		}
	}
	b.cached, b.valid = p, true
	return b.stack[len(b.stack)-1].own, nil
}

// next takes one component from what is still to be walked.
func (b *Builder) next() (name string, from segment) {
	top := &b.todo[len(b.todo)-1]
	from = *top
	name, rest, more := strings.Cut(top.text, "/")
	if more {
		top.text = rest
	} else {
		b.todo = b.todo[:len(b.todo)-1]
	}
	return name, from
}

// step goes from the last directory on the stack to name in it. It returns the
// target of a symbolic link that is to be followed, and whether that is strict, or
// whether the directory was found or made and is now on the stack.
func (b *Builder) step(name string, strict, create bool) (target string, strictly, ok bool, err error) {
	at := b.stack[len(b.stack)-1]
	own := b.find(at.own, name)
	var low *Node
	if at.base != nil {
		low = at.base.Child(name)
	}
	isLowDir := low != nil && low.IsDir()
	isLowLink := low != nil && low.Inode != nil && low.Inode.Type == Symlink
	switch {
	case isLowLink && (own == nil || own.Implicit && !own.Whiteout):
		return low.Inode.Link, true, false, nil
	case own == nil:
		if strict && !isLowDir {
			return "", false, false, fmt.Errorf("symbolic link to %s, which is no directory: %w", quote(b.where().Join(name)), fs.ErrInvalid)
		}
		if !create {
			return "", false, false, nil
		}
		if own, err = b.insert(at.own, name); err != nil {
			return "", false, false, err
		}
		own.Inode, own.Implicit = Implied(), true
	case own.Whiteout && own.Inode == nil:
		if strict {
			return "", false, false, fmt.Errorf("symbolic link to %s, which the layer removes: %w", quote(b.where().Join(name)), fs.ErrInvalid)
		}
		if !create {
			return "", false, false, nil
		}
		own.Inode, own.Implicit, own.Opaque = Implied(), true, true
	case own.IsDir():
	case own.Inode != nil && own.Inode.Type == Symlink:
		return own.Inode.Link, strict, false, nil
	default:
		return "", false, false, nil
	}

	f := frame{own: own, size: at.size + 1 + len(name)}
	if isLowDir && !own.Opaque {
		f.base = low
	}
	if len(b.stack) > MaxDepth || f.size > MaxPath+1 {
		return "", false, false, errTooDeep()
	}
	b.stack = append(b.stack, f)
	return "", false, true, nil
}

// where is the path of the last directory on the stack.
func (b *Builder) where() Path {
	var s strings.Builder
	for i, f := range b.stack[1:] {
		if i > 0 {
			s.WriteByte('/')
		}
		s.WriteString(f.own.Name)
	}
	return Path(s.String())
}

// unresolved is the path of name in a directory that was not found: as far as the
// walk came, then what was left of it. Where that cannot be said without "..", the
// path remains as it was written, and Merge follows the links in the merged tree.
func (b *Builder) unresolved(written Path, name string) Path {
	p := b.where()
	for _, s := range b.todo {
		for part := range strings.SplitSeq(s.text, "/") {
			if part == ".." {
				return written
			}
		}
	}
	for i := len(b.todo) - 1; i >= 0; i-- {
		for part := range strings.SplitSeq(b.todo[i].text, "/") {
			if part != "" && part != "." {
				p = p.Join(part)
			}
		}
	}
	p = p.Join(name)
	if clean, err := ParsePath(string(p)); err != nil || clean != p {
		return written
	}
	return p
}

// follow looks p up below root, following symbolic links in its directories but not
// at its end. It returns nil where there is nothing.
func follow(root *Node, p Path, credit *int) (*Node, error) {
	dirs := []*Node{root}
	todo := []segment{{text: string(p)}}
	for hops := 0; ; {
		top := &todo[len(todo)-1]
		name, rest, more := strings.Cut(top.text, "/")
		top.text = rest
		if !more {
			todo = todo[:len(todo)-1]
		}
		if *credit--; *credit < 0 {
			return nil, errTooFar()
		}
		dir := dirs[len(dirs)-1]
		var n *Node
		switch name {
		case "", ".":
			n = dir
			if len(todo) == 0 {
				return n, nil
			}
			continue
		case "..":
			if len(dirs) > 1 {
				dirs = dirs[:len(dirs)-1]
			}
			if len(todo) == 0 {
				return dirs[len(dirs)-1], nil
			}
			continue
		}
		n = dir.Child(name)
		switch {
		case n == nil || len(todo) == 0:
			return n, nil
		case n.IsDir():
			dirs = append(dirs, n)
		case n.Inode != nil && n.Inode.Type == Symlink:
			if hops++; hops > MaxHops {
				return nil, fmt.Errorf("more than %d symbolic links: %w", MaxHops, fs.ErrInvalid)
			}
			if strings.HasPrefix(n.Inode.Link, "/") {
				dirs = dirs[:1]
			}
			todo = append(todo, segment{text: n.Inode.Link})
		default:
			return nil, nil
		}
	}
}

func errTooFar() error {
	return fmt.Errorf("symbolic links lead too far: %w", fs.ErrInvalid)
}

func errTooDeep() error {
	return fmt.Errorf("path deeper than %d components or longer than %d bytes: %w", MaxDepth, MaxPath, fs.ErrInvalid)
}
