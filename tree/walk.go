package tree

import (
	"errors"
	"io/fs"
)

// Walk calls fn for root and all below it in order: a directory before what it
// holds, names bytewise. When fn returns fs.SkipDir for a directory, what it holds
// is skipped, and for anything else, the rest of its directory; fs.SkipAll ends the
// walk. Any other error ends it too and is returned as it is.
func Walk(root *Node, fn func(p Path, n *Node) error) error {
	err := walk("", root, fn)
	if errors.Is(err, fs.SkipDir) || errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

func walk(p Path, n *Node, fn func(Path, *Node) error) error {
	if err := fn(p, n); err != nil {
		if errors.Is(err, fs.SkipDir) && n.IsDir() {
			return nil
		}
		return err
	}
	for _, c := range n.Children {
		if err := walk(p.Join(c.Name), c, fn); err != nil {
			if errors.Is(err, fs.SkipDir) {
				return nil
			}
			return err
		}
	}
	return nil
}

// Links returns how many names each inode has that has more than one. Directories
// never have: what the kernel counts for them are their subdirectories.
func Links(root *Node) map[*Inode]int {
	count := make(map[*Inode]int)
	var visit func(n *Node)
	visit = func(n *Node) {
		for _, c := range n.Children {
			switch {
			case c.Inode == nil:
			case c.Inode.Type == Directory:
				visit(c)
			default:
				count[c.Inode]++
			}
		}
	}
	visit(root)
	for ino, names := range count {
		if names == 1 {
			delete(count, ino)
		}
	}
	return count
}
