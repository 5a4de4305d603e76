package tree

import (
	"fmt"
	"io/fs"
)

// pendingLink is a hard link of a layer whose target is looked up when everything
// else is merged.
type pendingLink struct {
	node *Node // in the result, without an inode until resolved
	path Path
	to   Path
	busy bool // on the chain being followed
}

// wait makes the result's node for a link that is still to be resolved.
func (m *merger) wait(n *Node) *Node {
	r := &Node{Name: n.Name}
	m.links = append(m.links, &pendingLink{node: r, path: m.path(n.Name), to: n.LinkTo})
	return r
}

func (m *merger) resolveLinks(root *Node) error {
	if len(m.links) == 0 {
		return nil
	}
	credit := initialCredit
	byNode := make(map[*Node]*pendingLink, len(m.links))
	for _, l := range m.links {
		byNode[l.node] = l
		credit += creditPerEntry + len(l.to)
	}
	var chain []*pendingLink
	for _, l := range m.links {
		chain = chain[:0]
		cur := l
		for cur.node.Inode == nil {
			if cur.busy {
				return fmt.Errorf("link %s to %s: hard links in a circle: %w", quote(cur.path), quote(cur.to), fs.ErrInvalid)
			}
			cur.busy = true
			chain = append(chain, cur)
			t, err := m.target(root, cur.to, &credit)
			if err != nil {
				return fmt.Errorf("link %s to %s: %w", quote(cur.path), quote(cur.to), err)
			}
			if t.Inode == nil {
				cur = byNode[t]
				continue
			}
			cur.node.Inode = t.Inode
		}
		for _, c := range chain {
			c.node.Inode = cur.node.Inode
		}
	}
	return nil
}

// target finds the node that a link names: in the base, else in the result, where it
// may be another link without an inode yet.
func (m *merger) target(root *Node, to Path, credit *int) (*Node, error) {
	if m.base != nil {
		n, err := follow(m.base, to, credit)
		if err != nil {
			return nil, err
		}
		if n != nil && !n.IsDir() {
			return n, nil
		}
	}
	n, err := follow(root, to, credit)
	switch {
	case err != nil:
		return nil, err
	case n == nil:
		return nil, fmt.Errorf("target: %w", fs.ErrNotExist)
	case n.IsDir():
		return nil, fmt.Errorf("target is a directory: %w", fs.ErrInvalid)
	}
	return n, nil
}
