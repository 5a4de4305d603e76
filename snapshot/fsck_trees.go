package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// checkTrees compares every tree with what the recipes give: trees are deterministic.
func (c *checker) checkTrees(ctx context.Context) error {
	stacks := c.stacks(ctx)
	walk := func(ctx context.Context, fn func(string) error) error { return c.s.walkNames(ctx, "stacks/sha256", fn) }
	return parallel(ctx, c.o.Workers, walk, func(ctx context.Context, name string) error {
		path := filepath.Join(c.s.disk.Root(), "stacks/sha256", name)
		id, _, _ := strings.Cut(name, ".")
		layers, ok := stacks[ChainID("sha256:"+id)]
		var err error
		if ok {
			err = c.sameTree(ctx, path, layers)
		} else {
			// Nothing names its layers any more: it can only be checked by itself.
			err = checkImage(path)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.mu.Lock()
		c.r.Trees++
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.trees[name] = layers
		}
		c.mu.Unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.fault("tree", name, err)
		}
		return nil
	})
}

// stacks returns the layers of every stack that a snapshot or an image has.
func (c *checker) stacks(ctx context.Context) map[ChainID][]DiffID {
	out := map[ChainID][]DiffID{}
	add := func(layers []DiffID) {
		for i, id := range Chain(layers) {
			out[id] = layers[:i+1]
		}
	}
	err := c.s.Walk(ctx, func(r *Record) error { add(r.Layers); return nil })
	if err != nil {
		return out // a damaged record is reported by the step that checks records
	}
	for _, stack := range stacksOf(c.needs) {
		add(stack)
	}
	return out
}

// stacksOf returns the layers of each image.
func stacksOf(needs []Need) (stacks [][]DiffID) {
	var stack []DiffID
	image := ""
	flush := func() {
		if len(stack) > 0 {
			stacks = append(stacks, stack)
		}
		stack = nil
	}
	for _, n := range needs {
		if n.Image != image || n.Layer == "" {
			flush()
		}
		image = n.Image
		if n.Layer != "" {
			stack = append(stack, n.Layer)
		}
	}
	flush()
	return stacks
}

func checkImage(path string) error {
	im, err := erofs.Open(path)
	if err != nil {
		return err
	}
	_, err = im.Tree()
	return errors.Join(err, im.Close())
}

func (c *checker) sameTree(ctx context.Context, path string, layers []DiffID) error {
	for _, d := range layers {
		if !c.sound(d) {
			return checkImage(path) // its layer is reported already
		}
	}
	opts, err := treeOptions(Chain(layers)[len(layers)-1])
	if err != nil {
		return err
	}
	var root *tree.Node
	if strings.HasSuffix(path, ".delta."+treeVersion+".erofs") {
		opts.Layer = true
		root, err = c.delta(ctx, layers)
	} else {
		root, err = c.s.Tree(ctx, layers)
	}
	if err != nil {
		return err
	}
	want := sha256.New()
	if _, err := erofs.Write(want, root, opts); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	got := sha256.New()
	_, err = io.Copy(got, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if string(got.Sum(nil)) != string(want.Sum(nil)) {
		return fmt.Errorf("it differs from what the layers give: %w", cas.ErrCorrupt)
	}
	return nil
}

// delta returns what the delta tree of the topmost layer has, made from the recipes: on
// the merged tree of those below, in memory.
func (c *checker) delta(ctx context.Context, layers []DiffID) (_ *tree.Node, err error) {
	top := len(layers) - 1
	base, err := c.s.Tree(ctx, layers[:top])
	if err != nil {
		return nil, err
	}
	if base == nil {
		return nil, fmt.Errorf("a delta on nothing: %w", cas.ErrCorrupt)
	}
	root, err := c.s.layerTree(ctx, layers[top])
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := erofs.Write(&b, base, erofs.Options{Namespace: erofs.Trusted}); err != nil {
		return nil, err
	}
	im, err := erofs.New(b.Bytes())
	if err != nil {
		return nil, err
	}
	u := union{sources: []source{{image: im}}}
	defer func() { err = errors.Join(err, u.close()) }()
	return u.standalone(root, u.root(0))
}
