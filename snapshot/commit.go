package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/layerfs/layerfs/tarstream"
	"github.com/layerfs/layerfs/tree"
)

// Commit makes a layer of what was written to a snapshot and returns it with the stack
// that it belongs on, the new layer last. It reads the upper directory and, to compute
// the DiffID, the contents of what is in the layer; never the rest of the stack.
// The snapshot stays as it is. A snapshot on sealed ones gives one layer with the
// changes of all of them. An unmounted snapshot gives what it holds; of a mounted one,
// files that are being written meanwhile are as consistent as a copy of them would be.
// Mount points that are as they were made are left out.
// The layer is safe from a collector as long as the session is open.
func (s *Store) Commit(ctx context.Context, sess *Session, key Key, made ...MountPoint) (_ Layer, _ []DiffID, err error) {
	fail := func(err error) (Layer, []DiffID, error) {
		return Layer{}, nil, fmt.Errorf("commit snapshot %s: %w", key, err)
	}
	unlock, err := s.lockSnapshot(ctx, key)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	rec, err := s.Stat(ctx, key)
	if err != nil {
		return fail(err)
	}
	if rec.Kind == View {
		return fail(fmt.Errorf("it is read-only: %w", errors.ErrUnsupported))
	}
	u, err := s.openUnion(ctx, rec, true)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, u.close()) }()
	uppers := len(rec.Below) + 1
	layer, err := u.layer(uppers)
	if err != nil {
		return fail(err)
	}
	if layer, err = u.without(layer, uppers, made); err != nil {
		return fail(err)
	}
	ing, err := s.disk.Begin(ctx)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, ing.Close()) }()
	built, err := tarstream.Pack(ctx, layer, u, ing, tarstream.PackOptions{InlineMax: s.opts.InlineMax, Source: s.disk})
	if err != nil {
		return fail(err)
	}
	l, err := s.publishLayer(ctx, sess, ing, built)
	if err != nil {
		return fail(err)
	}
	return l, append(rec.Layers[:len(rec.Layers):len(rec.Layers)], l.DiffID), nil
}

// Changes lists what was changed in a snapshot against its image, sorted by path. It
// reads the upper directory and looks up the same paths below. Mount points that are as
// they were made are left out.
func (s *Store) Changes(ctx context.Context, key Key, made ...MountPoint) (_ []tree.Change, err error) {
	rec, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if rec.Kind == View {
		return nil, nil
	}
	u, err := s.openUnion(ctx, rec, true)
	if err != nil {
		return nil, fmt.Errorf("diff snapshot %s: %w", key, err)
	}
	defer func() { err = errors.Join(err, u.close()) }()
	uppers := len(rec.Below) + 1
	layer, err := u.layer(uppers)
	if err != nil {
		return nil, fmt.Errorf("diff snapshot %s: %w", key, err)
	}
	if layer, err = u.without(layer, uppers, made); err != nil {
		return nil, fmt.Errorf("diff snapshot %s: %w", key, err)
	}
	ch, err := u.changes(layer, uppers)
	if err != nil {
		return nil, fmt.Errorf("diff snapshot %s: %w", key, err)
	}
	return ch, nil
}

// Diff lists the changes that lead from one merged tree to the other, sorted by path, by
// the rules of [Store.Changes]: a directory in which something changed counts as
// modified. Contents are compared by digest and never read.
func Diff(from, to *tree.Node) []tree.Change {
	var out []tree.Change
	var above []tree.Path // directories on the way to the last change that are listed
	for c := range tree.Diff(from, to) {
		if c.Path == "" {
			if rootChanged(c.Old, c.New) {
				out = append(out, c)
			}
			continue
		}
		for len(above) > 0 && !inside(c.Path, above[len(above)-1]) {
			above = above[:len(above)-1]
		}
		out = addParents(out, &above, c.Path, from, to)
		out = append(out, c)
		above = append(above, c.Path)
	}
	return out
}

// addParents lists the directories above p that are not listed yet as modified.
func addParents(out []tree.Change, above *[]tree.Path, p tree.Path, from, to *tree.Node) []tree.Change {
	var done tree.Path
	if n := len(*above); n > 0 {
		done = (*above)[n-1]
	}
	dir, _ := p.Split()
	if len(dir) <= len(done) {
		return out
	}
	out = addParents(out, above, dir, from, to)
	old, new := from.Lookup(dir), to.Lookup(dir)
	if old == nil || new == nil {
		return out
	}
	*above = append(*above, dir)
	return append(out, tree.Change{Kind: tree.Modify, Path: dir, Old: old.Inode, New: new.Inode})
}

func inside(p, dir tree.Path) bool {
	return len(p) > len(dir) && p[:len(dir)] == dir && p[len(dir)] == '/'
}

// rootChanged reports whether the root directory itself changed. Its time does whenever
// something is put into it, which is not worth a line.
func rootChanged(old, new *tree.Inode) bool {
	o, n := *old, *new
	o.MTime, n.MTime = tree.Time{}, tree.Time{}
	return !sameMetadata(&o, &n)
}

// DiffStacks lists the changes between two stacks of layers, bottom first. Layers that
// both have at the bottom are merged once and skipped in the comparison.
func (s *Store) DiffStacks(ctx context.Context, from, to []DiffID) ([]tree.Change, error) {
	common := 0
	for common < len(from) && common < len(to) && from[common] == to[common] {
		common++
	}
	base, err := s.Tree(ctx, from[:common])
	if err != nil {
		return nil, err
	}
	var roots [2]*tree.Node
	for i, rest := range [][]DiffID{from[common:], to[common:]} {
		if roots[i], err = s.mergeOnto(ctx, base, rest); err != nil {
			return nil, err
		}
		if roots[i] == nil {
			roots[i] = &tree.Node{Inode: tree.Implied()}
		}
	}
	return Diff(roots[0], roots[1]), nil
}
