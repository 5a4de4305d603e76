package snapshot

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// maxDeltas is how many deltas a stack may have above its merged tree when it is
// mounted; a deeper one is merged first. It keeps mount times flat: each delta is one
// more EROFS mount of about 0.1 ms. A commit never merges.
const maxDeltas = 4

// deltaShare is the largest part of a merged tree, as one in so many inodes, that the
// deltas above it may hold together before an import merges instead.
const deltaShare = 4

// treeVersion is part of a tree's file name: trees of another version are not read but
// made anew, being caches.
const treeVersion = "v1"

func treeName(c ChainID) string { return "stacks/sha256/" + c.hex() + "." + treeVersion + ".erofs" }
func deltaName(c ChainID) string {
	return "stacks/sha256/" + c.hex() + ".delta." + treeVersion + ".erofs"
}

// Stack is the trees of a stack of layers, top first.
type Stack struct {
	Chain  ChainID
	Trees  []string // paths of EROFS images
	Merged bool     // Trees is one complete tree
}

// StackOptions says which shape of a stack is wanted.
type StackOptions struct {
	// Single asks for one merged tree, for drivers that follow redirects from the last
	// lower only.
	Single bool
	// AnyDepth allows any number of deltas: for reading, not for mounting.
	AnyDepth bool
}

// Stack returns the trees of the stack of layers, which are given bottom first, making
// those that are missing. An empty stack has no trees.
func (s *Store) Stack(ctx context.Context, layers []DiffID, o StackOptions) (Stack, error) {
	if len(layers) == 0 {
		return Stack{}, nil
	}
	chain := Chain(layers)
	top := chain[len(chain)-1]
	for range stackAttempts {
		st, ok, err := s.haveStack(chain, o)
		if err != nil || ok {
			return st, err
		}
		if err := s.buildStack(ctx, layers, chain, o); err != nil {
			return Stack{}, fmt.Errorf("build the tree of stack %s: %w", top, err)
		}
	}
	st, ok, err := s.haveStack(chain, o)
	if err == nil && !ok {
		err = fmt.Errorf("stack %s: its tree was collected each time it was made; try again: %w", top, fs.ErrNotExist)
	}
	return st, err
}

// stackAttempts is how often trees are made that are gone again when they are needed. A
// collector keeps those of names and takes those of stacks that are only being looked
// at, or whose name is not written yet.
const stackAttempts = 10

// haveStack finds the trees that serve a stack if they are all there.
func (s *Store) haveStack(chain []ChainID, o StackOptions) (Stack, bool, error) {
	st := Stack{Chain: chain[len(chain)-1]}
	for i := len(chain) - 1; i >= 0; i-- {
		name := s.disk.RecordPath(treeName(chain[i]))
		if ok, err := haveTree(name); err != nil {
			return st, false, err
		} else if ok {
			st.Trees = append(st.Trees, name)
			st.Merged = len(st.Trees) == 1
			return st, st.Merged || !o.Single && (o.AnyDepth || len(st.Trees) <= maxDeltas+1), nil
		}
		name = s.disk.RecordPath(deltaName(chain[i]))
		if ok, err := haveTree(name); err != nil || !ok {
			return st, false, err
		}
		st.Trees = append(st.Trees, name)
	}
	return st, false, nil
}

// haveTree reports whether there is a tree that can be used: one whose size or superblock
// shows that it is damaged is made anew.
func haveTree(path string) (bool, error) {
	im, err := erofs.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid), errors.Is(err, errors.ErrUnsupported):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, im.Close()
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// buildStack makes what a stack lacks: deltas for a few small layers above a tree that
// is there, else the merged tree of the whole.
func (s *Store) buildStack(ctx context.Context, layers []DiffID, chain []ChainID, o StackOptions) error {
	if !o.Single {
		from, err := s.deltaBase(ctx, layers, chain, o)
		if err != nil {
			return err
		}
		for i := from; i > 0 && i < len(layers); i++ {
			err := s.buildDelta(ctx, layers[:i+1], chain[:i+1])
			if errors.Is(err, erofs.ErrNeedsMerge) {
				from = 0
				break
			}
			if err != nil {
				return err
			}
		}
		if from > 0 {
			return nil
		}
	}
	return s.buildMerged(ctx, layers, chain)
}

// deltaBase returns the index of the first layer to become a delta, or 0 when the
// stack is better merged as a whole.
func (s *Store) deltaBase(ctx context.Context, layers []DiffID, chain []ChainID, o StackOptions) (int, error) {
	depth, merged := 0, -1
	for i := len(chain) - 2; i >= 0; i-- {
		depth++
		ok, err := haveTree(s.disk.RecordPath(treeName(chain[i])))
		if err != nil {
			return 0, err
		}
		if ok {
			merged = i
			break
		}
	}
	if merged < 0 || depth > maxDeltas && !o.AnyDepth {
		return 0, nil
	}
	im, err := erofs.Open(s.disk.RecordPath(treeName(chain[merged])))
	if err != nil {
		return 0, nil //nolint:nilerr // damaged: merging replaces it
	}
	inodes := im.Inodes()
	if err := im.Close(); err != nil {
		return 0, err
	}
	var entries uint64
	for _, d := range layers[merged+1:] {
		l, closer, err := s.OpenLayer(ctx, d)
		if err != nil {
			return 0, err
		}
		entries += uint64(l.Entries())
		if err := closer.Close(); err != nil {
			return 0, err
		}
	}
	if entries*deltaShare > inodes && !o.AnyDepth {
		return 0, nil
	}
	return merged + 1, nil
}

// buildMerged makes the merged tree of a stack.
func (s *Store) buildMerged(ctx context.Context, layers []DiffID, chain []ChainID) error {
	top := chain[len(chain)-1]
	opts, err := treeOptions(top)
	if err != nil {
		return err
	}
	return s.buildTree(ctx, top, treeName(top), opts, func() (*tree.Node, error) { return s.Tree(ctx, layers) })
}

// buildDelta makes the delta tree of the topmost layer. It wraps erofs.ErrNeedsMerge
// when the layer cannot stand alone: it links to a file below, or puts files below a
// directory that is a symbolic link there.
func (s *Store) buildDelta(ctx context.Context, layers []DiffID, chain []ChainID) error {
	top := chain[len(chain)-1]
	opts, err := treeOptions(top)
	if err != nil {
		return err
	}
	opts.Layer = true
	return s.buildTree(ctx, top, deltaName(top), opts, func() (*tree.Node, error) {
		root, err := s.layerTree(ctx, layers[len(layers)-1])
		if err != nil {
			return nil, err
		}
		below, err := s.openStack(ctx, layers[:len(layers)-1])
		if err != nil {
			return nil, err
		}
		root, err = below.standalone(root, below.root(0))
		return root, errors.Join(err, below.close())
	})
}

// treeOptions are those of the merged tree of a stack. Overlayfs tells its lowers apart
// by their UUIDs, so each stack has its own.
func treeOptions(c ChainID) (erofs.Options, error) {
	o := erofs.Options{Namespace: erofs.Trusted}
	id := c.hex()
	if len(id) < 2*len(o.UUID) {
		return o, fmt.Errorf("chain id %q: %w", c, fs.ErrInvalid)
	}
	_, err := hex.Decode(o.UUID[:], []byte(id[:2*len(o.UUID)]))
	return o, err
}

func (s *Store) buildTree(ctx context.Context, top ChainID, name string, opts erofs.Options, root func() (*tree.Node, error)) error {
	path := s.disk.RecordPath(name)
	return s.once(ctx, "stack-"+top.hex(), func() (bool, error) { return haveTree(path) }, func() (err error) {
		n, err := root()
		if err != nil {
			return err
		}
		ing, err := s.disk.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, ing.Close()) }()
		err = ing.PutRecord(ctx, name, func(w io.Writer) error {
			_, err := erofs.Write(w, n, opts)
			return err
		})
		if err != nil {
			return err
		}
		return ing.Publish(ctx)
	})
}

// Tree returns the merged tree of a stack in memory, made from the recipes.
func (s *Store) Tree(ctx context.Context, layers []DiffID) (*tree.Node, error) {
	return s.mergeOnto(ctx, nil, layers)
}

// mergeOnto merges layers, bottom first, onto the tree base, which may be nil, and names
// the layer that cannot be.
func (s *Store) mergeOnto(ctx context.Context, base *tree.Node, layers []DiffID) (*tree.Node, error) {
	for i, d := range layers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := s.layerTree(ctx, d)
		if err != nil {
			return nil, err
		}
		if base, err = tree.Merge(base, n); err != nil {
			return nil, fmt.Errorf("apply layer %d of %d, %s: %w", i+1, len(layers), d, err)
		}
	}
	return base, nil
}

func (s *Store) layerTree(ctx context.Context, d DiffID) (*tree.Node, error) {
	rec, closer, err := s.OpenLayer(ctx, d)
	if err != nil {
		return nil, err
	}
	n, err := rec.Layer()
	if err != nil {
		err = fmt.Errorf("read layer %s: %w", d, err)
	}
	return n, errors.Join(err, closer.Close())
}

// standalone returns layer with every implied directory given the metadata of the
// directory below, so that it can be a delta of its own, and without whiteouts of what is
// not there: overlayfs lists a whiteout that hides nothing. base is what is below.
func (u *union) standalone(layer *tree.Node, base found) (*tree.Node, error) {
	n := *layer
	if n.Implicit {
		switch {
		case base.dir:
			ino, err := u.inode(base)
			if err != nil {
				return nil, err
			}
			n.Inode = ino
		case base.exists():
			return nil, fmt.Errorf("%s is not a directory below: %w", n.Name, erofs.ErrNeedsMerge)
		default:
			n.Inode = tree.Implied()
		}
	}
	if !n.IsDir() || len(n.Children) == 0 {
		return &n, nil
	}
	if !base.dir || layer.Opaque {
		base = found{}
	}
	n.Children = make([]*tree.Node, 0, len(layer.Children))
	for _, c := range layer.Children {
		if c.IsLink {
			return nil, fmt.Errorf("%s links to a file below: %w", c.Name, erofs.ErrNeedsMerge)
		}
		if !c.IsDir() && !c.Whiteout {
			n.Children = append(n.Children, c)
			continue
		}
		below, err := u.child(base, c.Name)
		if err != nil {
			return nil, err
		}
		if c.Whiteout {
			if below.exists() {
				n.Children = append(n.Children, c)
			}
			continue
		}
		cn, err := u.standalone(c, below)
		if err != nil {
			return nil, err
		}
		n.Children = append(n.Children, cn)
	}
	return &n, nil
}

// openStack opens a stack for reading without mounting.
func (s *Store) openStack(ctx context.Context, layers []DiffID) (*union, error) {
	u := &union{}
	return u, s.addStack(ctx, u, layers)
}

// addStack puts a stack below what u has. When it fails, u has nothing more than before.
func (s *Store) addStack(ctx context.Context, u *union, layers []DiffID) error {
	for attempt := 1; ; attempt++ {
		st, err := s.Stack(ctx, layers, StackOptions{AnyDepth: true})
		if err != nil {
			return err
		}
		err = u.addTrees(st.Trees)
		if attempt == stackAttempts || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

func (u *union) addTrees(paths []string) error {
	var added []source
	for _, p := range paths {
		im, err := erofs.Open(p)
		if err != nil {
			partial := union{sources: added}
			return errors.Join(fmt.Errorf("open tree %s: %w", filepath.Base(p), err), partial.close())
		}
		added = append(added, source{image: im})
	}
	u.sources = append(u.sources, added...)
	return nil
}
