package snapshot

import (
	"slices"
	"strings"

	"github.com/layerfs/layerfs/tree"
)

// MountPoint is a file or directory that was put into a mounted snapshot only so that
// something could be mounted on it. It is no change as long as it is as it was made:
// empty, root's, with the permissions 0644 or 0755, without extended attributes, and a
// file with the time of modification that it had then.
type MountPoint struct {
	Path  tree.Path
	Dir   bool
	MTime tree.Time // of a file
}

// Permissions of mount points.
const (
	mountPointFile = 0o644
	mountPointDir  = 0o755
)

// untouched reports whether n is as it was made. The mount points in it are gone by now.
func (m MountPoint) untouched(n *tree.Node) bool {
	if n.Whiteout {
		return false
	}
	i := n.Inode
	if i.UID != 0 || i.GID != 0 || len(i.Xattrs) > 0 {
		return false
	}
	if m.Dir {
		return i.Type == tree.Directory && i.Mode == mountPointDir && len(n.Children) == 0
	}
	return i.Type == tree.Regular && i.Mode == mountPointFile && i.Size == 0 && i.MTime == m.MTime
}

// without returns the layer of the topmost n sources without mount points that are as
// they were made.
func (u *union) without(layer *tree.Node, n int, points []MountPoint) (*tree.Node, error) {
	points = slices.Clone(points)
	slices.SortFunc(points, func(a, b MountPoint) int { // what lies in a directory comes before it
		return strings.Count(string(b.Path), "/") - strings.Count(string(a.Path), "/")
	})
	for _, m := range points {
		if m.Path == "" {
			continue
		}
		var err error
		if layer, err = u.drop(layer, u.root(n), strings.Split(string(m.Path), "/"), m); err != nil {
			return nil, atPath("look up below", m.Path, err)
		}
	}
	return layer, nil
}

// drop returns the directory dir of a layer, which merges with base below, without a
// mount point in it.
func (u *union) drop(dir *tree.Node, base found, names []string, m MountPoint) (*tree.Node, error) {
	at := slices.IndexFunc(dir.Children, func(c *tree.Node) bool { return c.Name == names[0] })
	if at < 0 {
		return dir, nil
	}
	if dir.Opaque {
		base = found{}
	}
	below, err := u.child(base, names[0])
	if err != nil {
		return nil, err
	}
	was := dir.Children[at]
	var now *tree.Node // nil: it goes
	switch {
	case len(names) == 1 && !m.untouched(was):
		return dir, nil
	case len(names) == 1 && below.exists(): // it had been removed, and was made anew
		if was.IsDir() && below.dir && !was.Opaque {
			return dir, nil
		}
		now = &tree.Node{Name: was.Name, Whiteout: true}
	case len(names) > 1:
		if !was.IsDir() {
			return dir, nil
		}
		if !below.dir {
			below = found{}
		}
		if now, err = u.drop(was, below, names[1:], m); err != nil || now == was {
			return dir, err
		}
		if now.Implicit && !now.Opaque && len(now.Children) == 0 {
			now = nil // copied up on the way to it alone
		}
	}
	out := *dir
	out.Children = slices.Clone(dir.Children)
	if now == nil {
		out.Children = slices.Delete(out.Children, at, at+1)
	} else {
		out.Children[at] = now
	}
	return &out, nil
}
