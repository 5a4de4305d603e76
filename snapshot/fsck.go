package snapshot

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Fault is one thing that a check found wrong.
type Fault struct {
	Kind   string   `json:"kind"` // object, blob, layer, tree, snapshot, image, record
	Name   string   `json:"name"`
	Err    string   `json:"error"`
	Layers []DiffID `json:"layers,omitempty"` // that have a damaged or missing object
	// Uses says what the fault touches, for people: paths in layers, images.
	Uses []string `json:"uses,omitempty"`
}

// CheckReport is what a check covered and found.
type CheckReport struct {
	Objects   int           `json:"objects"`
	Bytes     int64         `json:"bytes"` // hashed
	Blobs     int           `json:"blobs"`
	Layers    int           `json:"layers"`
	Trees     int           `json:"trees"`
	Snapshots int           `json:"snapshots"`
	Faults    []Fault       `json:"faults"`
	Took      time.Duration `json:"tookNanoseconds"`
}

// CheckOptions says how to check.
type CheckOptions struct {
	// Workers hash in parallel; 0 is one for each processor.
	Workers int
	// Progress is called with the number of further bytes hashed; may be nil.
	Progress func(int64)
	// Images lists what images need, so that a fault can be told by their names; nil
	// for none. It is called once and calls its argument for each name and layer.
	Images func(ctx context.Context, layer func(image string, d DiffID)) error
}

// checker collects the results of goroutines.
type checker struct {
	s  *Store
	o  CheckOptions
	mu sync.Mutex // guards r and the maps
	r  CheckReport

	have   map[tree.ObjectID]int64 // objects that are sound, with their sizes
	broken map[tree.ObjectID]string
	layers map[DiffID]bool // recipes that are sound
}

// Check verifies everything: it hashes all objects and blobs, reads every recipe and
// checks that its objects are there, compares every tree with what its recipes give,
// and reads every record. What it finds is in the report; the error is for a check that
// could not be carried out.
func (s *Store) Check(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	start := time.Now()
	if o.Workers <= 0 {
		o.Workers = s.opts.Workers
	}
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
	c := &checker{s: s, o: o, have: map[tree.ObjectID]int64{}, broken: map[tree.ObjectID]string{}, layers: map[DiffID]bool{}}
	c.r.Faults = []Fault{}
	for _, step := range []func(context.Context) error{c.objects, c.blobs, c.recipes, c.trees, c.snapshots, c.imageNames} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("check store: %w", err)
		}
	}
	sort.SliceStable(c.r.Faults, func(i, j int) bool {
		a, b := c.r.Faults[i], c.r.Faults[j]
		return a.Kind < b.Kind || a.Kind == b.Kind && a.Name < b.Name
	})
	c.r.Took = time.Since(start)
	return &c.r, nil
}

func (c *checker) fault(kind, name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Faults = append(c.r.Faults, Fault{Kind: kind, Name: name, Err: err.Error()})
}

// hashed reads all of r and compares.
func (c *checker) hashed(r cas.Reader, want digest.Digest) error {
	v := want.Algorithm().Hash()
	buf := make([]byte, 256<<10)
	n, err := io.CopyBuffer(struct{ io.Writer }{v}, io.NewSectionReader(r, 0, r.Size()), buf)
	c.o.Progress(n)
	c.mu.Lock()
	c.r.Bytes += n
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if got := digest.NewDigest(want.Algorithm(), v); got != want {
		return fmt.Errorf("its content is %s: %w", got, cas.ErrCorrupt)
	}
	return nil
}

func (c *checker) objects(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Workers)
	err := c.s.disk.Objects().Walk(gctx, func(i cas.Info) error {
		g.Go(func() error { return c.object(gctx, i) })
		return nil
	})
	return errors.Join(g.Wait(), err)
}

func (c *checker) object(ctx context.Context, i cas.Info) error {
	var id tree.ObjectID
	raw, err := hex.DecodeString(i.Digest.Encoded())
	if err != nil || len(raw) != len(id) {
		c.fault("object", i.Digest.String(), fmt.Errorf("not the name of an object: %w", fs.ErrInvalid))
		return nil //nolint:nilerr // it is in the report
	}
	copy(id[:], raw)
	r, err := c.s.disk.OpenObject(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // collected meanwhile
	}
	if err == nil {
		err = errors.Join(c.hashed(r, i.Digest), r.Close())
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.mu.Lock()
	c.r.Objects++
	if err == nil {
		c.have[id] = i.Size
	} else {
		c.broken[id] = err.Error()
	}
	c.mu.Unlock()
	return nil
}

func (c *checker) blobs(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Workers)
	err := c.s.disk.Blobs().Walk(gctx, func(i cas.Info) error {
		g.Go(func() error {
			r, err := c.s.disk.Blobs().Open(gctx, i.Digest)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil {
				err = errors.Join(c.hashed(r, i.Digest), r.Close())
			}
			if gctx.Err() != nil {
				return gctx.Err()
			}
			if err != nil {
				c.fault("blob", i.Digest.String(), err)
			}
			c.mu.Lock()
			c.r.Blobs++
			c.mu.Unlock()
			return nil
		})
		return nil
	})
	return errors.Join(g.Wait(), err)
}

// recipes checks every recipe and that its objects are there, sound and of the right
// size. Damaged objects are reported here, with the files that have them.
func (c *checker) recipes(ctx context.Context) error {
	users := map[tree.ObjectID]*Fault{}
	err := c.s.walkLayers(ctx, func(d DiffID) error {
		c.r.Layers++
		rec, closer, err := c.s.OpenLayer(ctx, d)
		if err == nil {
			err = errors.Join(rec.Verify(ctx), closer.Close())
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.fault("layer", d.String(), err)
			return nil
		}
		c.layers[d] = true
		return c.recipeObjects(ctx, d, users)
	})
	if err != nil {
		return err
	}
	for id, why := range c.broken {
		f := users[id]
		if f == nil {
			f = &Fault{Uses: []string{"no layer uses it"}}
		}
		f.Kind, f.Name, f.Err = "object", id.Digest().String(), why
		users[id] = f
	}
	for _, f := range users {
		c.r.Faults = append(c.r.Faults, *f)
	}
	return nil
}

// maxUses bounds the paths listed for one fault.
const maxUses = 20

func (c *checker) recipeObjects(ctx context.Context, d DiffID, users map[tree.ObjectID]*Fault) error {
	rec, closer, err := c.s.OpenLayer(ctx, d)
	if err != nil {
		return err
	}
	defer func() { _ = closer.Close() }() // opened for reading
	objects, err := rec.Objects()
	if err != nil {
		return err
	}
	bad := map[tree.ObjectID]bool{}
	for _, o := range objects {
		size, ok := c.have[o.ID]
		why := ""
		switch {
		case ok && size == o.Size:
			continue
		case ok:
			why = fmt.Sprintf("has %d bytes, the layer's recipe says %d", size, o.Size)
		case c.broken[o.ID] != "":
			why = c.broken[o.ID]
		default:
			why = "is missing"
		}
		bad[o.ID] = true
		if users[o.ID] == nil {
			users[o.ID] = &Fault{Kind: "object", Name: o.ID.Digest().String(), Err: why}
		}
		users[o.ID].Layers = append(users[o.ID].Layers, d)
	}
	if len(bad) == 0 {
		return nil
	}
	root, err := rec.Layer()
	if err != nil {
		return err
	}
	return tree.Walk(root, func(p tree.Path, n *tree.Node) error {
		if n.Inode != nil && bad[n.Inode.Object] {
			if f := users[n.Inode.Object]; len(f.Uses) < maxUses {
				f.Uses = append(f.Uses, p.Abs()+" in layer "+d.String())
			}
		}
		return nil
	})
}

func (c *checker) snapshots(ctx context.Context) error {
	return c.s.walkNames(ctx, "snapshots", func(name string) error {
		key, err := ParseKey(name)
		if err != nil {
			return nil //nolint:nilerr // not one of ours
		}
		rec, err := c.s.readRecord(key)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a leftover, not a snapshot
		}
		c.r.Snapshots++
		if err != nil {
			c.fault("snapshot", name, err)
			return nil
		}
		for _, d := range rec.Layers {
			if !c.layers[d] {
				c.fault("snapshot", name, fmt.Errorf("its layer %s is missing or damaged: %w", d, cas.ErrCorrupt))
			}
		}
		for _, k := range rec.Below {
			if _, err := c.s.readRecord(k); err != nil {
				c.fault("snapshot", name, fmt.Errorf("the sealed snapshot %s below it: %w", k, err))
			}
		}
		if rec.Kind == View {
			return nil
		}
		if _, err := os.Stat(c.s.Upper(rec.Key)); err != nil {
			c.fault("snapshot", name, fmt.Errorf("its upper directory: %w", err))
		}
		return nil
	})
}

// imageNames reports images with layers that are missing or damaged, and adds the
// images to the faults of objects.
func (c *checker) imageNames(ctx context.Context) error {
	if c.o.Images == nil {
		return nil
	}
	users := map[DiffID][]string{}
	err := c.o.Images(ctx, func(image string, d DiffID) {
		users[d] = append(users[d], image)
		if !c.layers[d] {
			c.fault("image", image, fmt.Errorf("its layer %s is missing or damaged: %w", d, cas.ErrCorrupt))
		}
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.fault("image", "documents", err)
	}
	for i := range c.r.Faults {
		f := &c.r.Faults[i]
		seen := map[string]bool{}
		for _, d := range f.Layers {
			for _, image := range users[d] {
				if !seen[image] {
					seen[image] = true
					f.Uses = append(f.Uses, "image "+image)
				}
			}
		}
	}
	return nil
}
