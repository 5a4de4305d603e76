package tree

import "iter"

// Diff lists what turns the merged tree old into the merged tree new, in the order
// of [ComparePath]. A nil tree holds nothing, not even a root.
//
//   - A name that only new has is an Add, and so is all below it.
//   - A name that only old has is one Delete; what was below a directory goes
//     without saying.
//   - A name that both have is a Modify where the inodes differ as [Inode.Equal]
//     tells. Where the type changes, what the old directory held goes without
//     saying, and what the new one holds is added.
//
// A directory is not modified by a change below it unless its own metadata differs.
// Which names share an inode is not compared: a name does not differ because it
// gained or lost a sibling elsewhere, just as a directory entry does not. Callers
// that need the grouping find it in the pointers Old and New.
//
// Subtrees that both trees share by pointer, as [Merge] leaves them, are skipped at
// once, so the time grows with the directories on the way to what differs.
func Diff(old, new *Node) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		switch {
		case old == nil && new == nil:
		case old == nil:
			yieldAdded("", new, yield)
		case new == nil:
			yield(Change{Kind: Delete, Old: old.Inode})
		default:
			diffNodes("", old, new, yield)
		}
	}
}

func diffNodes(p Path, a, b *Node, yield func(Change) bool) bool {
	if a == b {
		return true
	}
	if !a.Inode.Equal(b.Inode) {
		if !yield(Change{Kind: Modify, Path: p, Old: a.Inode, New: b.Inode}) {
			return false
		}
	}
	if !b.IsDir() {
		return true
	}
	if a.IsDir() {
		return diffChildren(p, a.Children, b.Children, yield)
	}
	return diffChildren(p, nil, b.Children, yield)
}

func diffChildren(p Path, as, bs []*Node, yield func(Change) bool) bool {
	if len(as) == len(bs) && len(as) > 0 && &as[0] == &bs[0] {
		return true
	}
	for len(as) > 0 || len(bs) > 0 {
		switch {
		case len(as) > 0 && len(bs) > 0 && as[0] == bs[0]:
			as, bs = as[1:], bs[1:]
		case len(bs) == 0 || len(as) > 0 && as[0].Name < bs[0].Name:
			if !yield(Change{Kind: Delete, Path: p.Join(as[0].Name), Old: as[0].Inode}) {
				return false
			}
			as = as[1:]
		case len(as) == 0 || bs[0].Name < as[0].Name:
			if !yieldAdded(p.Join(bs[0].Name), bs[0], yield) {
				return false
			}
			bs = bs[1:]
		case !as[0].IsDir() && !bs[0].IsDir() && as[0].Inode.Equal(bs[0].Inode):
			as, bs = as[1:], bs[1:]
		default:
			if !diffNodes(p.Join(bs[0].Name), as[0], bs[0], yield) {
				return false
			}
			as, bs = as[1:], bs[1:]
		}
	}
	return true
}

func yieldAdded(p Path, n *Node, yield func(Change) bool) bool {
	if !yield(Change{Kind: Add, Path: p, New: n.Inode}) {
		return false
	}
	for _, c := range n.Children {
		if !yieldAdded(p.Join(c.Name), c, yield) {
			return false
		}
	}
	return true
}
