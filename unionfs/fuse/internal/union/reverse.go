package union

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// reverse tells under which names the inodes of a tree are found: EROFS leads from
// names to inodes only. It is made at the first change of a file of the tree, in one
// walk, and takes 12 bytes per name.
type reverse struct {
	once  sync.Once
	err   error
	names []reverseName // sorted by inode
}

type reverseName struct {
	nid, dir uint32
	at       uint32 // what ReadDir starts at to find the name
}

// place is one name of an inode.
type place struct {
	dir  erofs.NID
	name string
}

// load reads all names of the tree.
func (v *reverse) load(im *erofs.Image) error {
	v.once.Do(func() {
		v.err = v.walk(im)
		slices.SortFunc(v.names, func(a, b reverseName) int {
			return cmp.Or(cmp.Compare(a.nid, b.nid), cmp.Compare(a.dir, b.dir), cmp.Compare(a.at, b.at))
		})
	})
	return v.err
}

func (v *reverse) walk(im *erofs.Image) error {
	v.names = make([]reverseName, 0, min(im.Inodes(), uint64(im.Size())/32))
	seen := map[erofs.NID]bool{im.Root(): true}
	dirs := []erofs.NID{im.Root()}
	for len(dirs) > 0 {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		at := uint64(0)
		for e, err := range im.ReadDir(dir, 0) {
			if err != nil {
				return err
			}
			if e.NID > math.MaxUint32 || dir > math.MaxUint32 || e.Next > math.MaxUint32 {
				return fmt.Errorf("tree of more than 128 GiB: %w", erofs.ErrCorrupt)
			}
			v.names = append(v.names, reverseName{uint32(e.NID), uint32(dir), uint32(at)})
			at = e.Next
			if e.Type == tree.Directory {
				if seen[e.NID] {
					return fmt.Errorf("directory %d has two names: %w", e.NID, erofs.ErrCorrupt)
				}
				seen[e.NID] = true
				dirs = append(dirs, e.NID)
			}
		}
	}
	return nil
}

// of returns all names of an inode.
func (v *reverse) of(im *erofs.Image, nid erofs.NID) ([]place, error) {
	if err := v.load(im); err != nil {
		return nil, err
	}
	i, _ := slices.BinarySearchFunc(v.names, nid, func(n reverseName, nid erofs.NID) int { return cmp.Compare(erofs.NID(n.nid), nid) })
	var out []place
	for ; i < len(v.names) && erofs.NID(v.names[i].nid) == nid; i++ {
		n := v.names[i]
		for e, err := range im.ReadDir(erofs.NID(n.dir), uint64(n.at)) {
			if err != nil {
				return nil, err
			}
			out = append(out, place{erofs.NID(n.dir), string(e.Name)})
			break
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("inode %d has no name: %w", nid, erofs.ErrCorrupt)
	}
	return out, nil
}

// first returns one name of an inode, which is all that a directory has.
func (v *reverse) first(im *erofs.Image, nid erofs.NID) (place, error) {
	all, err := v.of(im, nid)
	if err != nil {
		return place{}, err
	}
	return all[0], nil
}
