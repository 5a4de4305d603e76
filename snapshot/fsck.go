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
	"github.com/layerfs/layerfs/tarstream/recipe"
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
	// Mended says what a repair did about it; "" for nothing, or nothing that helps.
	Mended string `json:"mended,omitempty"`
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

// Need is something that an image needs, or what is wrong with its documents.
type Need struct {
	Image   string        // a name of it, for people
	Layer   DiffID        // a layer; those of an image follow each other, bottom first; or ""
	Blob    digest.Digest // a blob, or ""
	MayLack bool          // the blob need not be there
	Err     error         // instead of both: the image cannot be read
	Record  string        // with Err: the record that is damaged, or ""
}

// CheckOptions says how to check.
type CheckOptions struct {
	// Workers hash in parallel; 0 is one for each processor.
	Workers int
	// Progress is called with the number of further bytes hashed; may be nil.
	Progress func(int64)
	// Images lists what images need, so that what they lack is found and a fault can be
	// told by their names; nil for none. It may be called several times.
	Images func(ctx context.Context, need func(Need)) error
}

// checker collects the results of goroutines.
type checker struct {
	s     *Store
	o     CheckOptions
	needs []Need
	users map[DiffID][]string // images by layer

	mu sync.Mutex // guards what follows
	r  CheckReport

	have   map[tree.ObjectID]int64  // objects that are sound, with their sizes
	broken map[tree.ObjectID]string // the others, and why
	faults map[tree.ObjectID]*Fault // of objects that recipes name
	sizes  map[tree.ObjectID]int64  // of those objects, as recipes say
	layers map[DiffID]bool          // recipes that are sound, false for others
	blobs  map[digest.Digest]bool   // likewise
	trees  map[string][]DiffID      // damaged, by name, with their layers when known
	stale  []string                 // records of blobs that are damaged
}

// Check verifies everything: it hashes all objects and blobs, reads every recipe and
// checks that its objects are there, compares every tree with what its recipes give,
// and reads every record. What it finds is in the report; the error is for a check that
// could not be carried out.
func (s *Store) Check(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	c, err := s.check(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("check store: %w", err)
	}
	return &c.r, nil
}

func (s *Store) check(ctx context.Context, o CheckOptions) (*checker, error) {
	start := time.Now()
	if o.Workers <= 0 {
		o.Workers = s.opts.Workers
	}
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
	if o.Images == nil {
		o.Images = func(context.Context, func(Need)) error { return nil }
	}
	c := &checker{s: s, o: o, users: map[DiffID][]string{},
		have: map[tree.ObjectID]int64{}, broken: map[tree.ObjectID]string{},
		faults: map[tree.ObjectID]*Fault{}, sizes: map[tree.ObjectID]int64{},
		layers: map[DiffID]bool{}, blobs: map[digest.Digest]bool{}, trees: map[string][]DiffID{}}
	c.r.Faults = []Fault{}
	// What images need is read before what is there, so that an image that is being
	// removed meanwhile is not found lacking more than another look can tell.
	steps := []func(context.Context) error{c.listNeeds, c.checkObjects, c.checkBlobs, c.checkLayers, c.objectFaults,
		c.checkTrees, c.checkBlobRecords, c.checkSnapshots, c.checkImages}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	sort.SliceStable(c.r.Faults, func(i, j int) bool {
		a, b := c.r.Faults[i], c.r.Faults[j]
		return a.Kind < b.Kind || a.Kind == b.Kind && a.Name < b.Name
	})
	c.r.Took = time.Since(start)
	return c, nil
}

func (c *checker) listNeeds(ctx context.Context) error {
	last := map[DiffID]string{}
	return c.o.Images(ctx, func(n Need) {
		c.needs = append(c.needs, n)
		if n.Layer != "" && last[n.Layer] != n.Image {
			last[n.Layer] = n.Image
			c.users[n.Layer] = append(c.users[n.Layer], n.Image)
		}
	})
}

// parallel calls fn in goroutines for everything that walk visits.
func parallel[T any](ctx context.Context, workers int, walk func(context.Context, func(T) error) error, fn func(context.Context, T) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	err := walk(gctx, func(v T) error {
		g.Go(func() error { return fn(gctx, v) })
		return gctx.Err()
	})
	// An error of a goroutine ends the walk, and is the one to tell.
	if gerr := g.Wait(); gerr != nil {
		return gerr
	}
	return err
}

func (c *checker) fault(kind, name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Faults = append(c.r.Faults, Fault{Kind: kind, Name: name, Err: err.Error()})
}

// hashed reads all of r and compares.
func (c *checker) hashed(r cas.Reader, want digest.Digest) error {
	v := want.Algorithm().Hash()
	buf := make([]byte, min(max(r.Size(), 1), 256<<10))
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

func (c *checker) checkObjects(ctx context.Context) error {
	return parallel(ctx, c.o.Workers, c.s.disk.Objects().Walk, c.object)
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

func (c *checker) checkBlobs(ctx context.Context) error {
	return parallel(ctx, c.o.Workers, c.s.disk.Blobs().Walk, func(ctx context.Context, i cas.Info) error {
		r, err := c.s.disk.Blobs().Open(ctx, i.Digest)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = errors.Join(c.hashed(r, i.Digest), r.Close())
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.fault("blob", i.Digest.String(), err)
		}
		c.mu.Lock()
		c.r.Blobs++
		c.blobs[i.Digest] = err == nil
		c.mu.Unlock()
		return nil
	})
}

// checkLayers checks every recipe, and that its objects are there, sound and of the right
// size.
func (c *checker) checkLayers(ctx context.Context) error {
	return parallel(ctx, c.o.Workers, c.s.walkLayers, func(ctx context.Context, d DiffID) error {
		rec, closer, err := c.s.OpenLayer(ctx, d)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // collected meanwhile
		}
		if err == nil {
			err = errors.Join(rec.Verify(ctx), closer.Close())
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.mu.Lock()
		c.r.Layers++
		c.layers[d] = err == nil
		c.mu.Unlock()
		if err != nil {
			c.fault("layer", d.String(), err)
			return nil
		}
		return c.recipeObjects(ctx, d)
	})
}

// objectFaults reports damaged and missing objects, with the files that have them.
func (c *checker) objectFaults(context.Context) error {
	for id, why := range c.broken {
		f := c.faults[id]
		if f == nil {
			f = &Fault{Uses: []string{"no layer uses it"}}
			c.faults[id] = f
		}
		f.Kind, f.Name, f.Err = "object", id.Digest().String(), why
	}
	for _, f := range c.faults {
		c.r.Faults = append(c.r.Faults, *f)
	}
	return nil
}

// maxUses bounds the paths listed for one fault.
const maxUses = 20

func (c *checker) recipeObjects(ctx context.Context, d DiffID) (err error) {
	rec, closer, err := c.s.OpenLayer(ctx, d)
	if err != nil {
		return ignoreMissing(err)
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	objects, err := rec.Objects()
	if err != nil {
		return err
	}
	bad := map[tree.ObjectID]*Fault{}
	c.mu.Lock()
	for _, o := range objects {
		why := c.wrong(o)
		if why == "" {
			continue
		}
		f := c.faults[o.ID]
		if f == nil {
			f = &Fault{Kind: "object", Name: o.ID.Digest().String(), Err: why}
			c.faults[o.ID], c.sizes[o.ID] = f, o.Size
		}
		f.Layers = append(f.Layers, d)
		bad[o.ID] = f
	}
	c.mu.Unlock()
	if len(bad) == 0 {
		return nil
	}
	root, err := rec.Layer()
	if err != nil {
		return err
	}
	return tree.Walk(root, func(p tree.Path, n *tree.Node) error {
		if n.Inode == nil || bad[n.Inode.Object] == nil {
			return nil
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if f := bad[n.Inode.Object]; len(f.Uses) < maxUses {
			f.Uses = append(f.Uses, p.Abs()+" in layer "+d.String())
		}
		return nil
	})
}

// wrong says what is wrong with an object that a recipe names, "" for nothing. The caller
// holds mu.
func (c *checker) wrong(o recipe.ObjectRef) string {
	size, ok := c.have[o.ID]
	switch {
	case ok && size == o.Size:
		return ""
	case ok:
		return fmt.Sprintf("has %d bytes, the layer's recipe says %d", size, o.Size)
	case c.broken[o.ID] != "":
		return c.broken[o.ID]
	case c.s.disk.HoldsObject(o.ID, o.Size):
		return "" // in a store that this one stands on, whose own check is to verify it
	default:
		return "is missing"
	}
}

// sound reports whether a layer is there and sound, as far as this store has it.
func (c *checker) sound(d DiffID) bool {
	sound, here := c.layers[d]
	return sound || !here && c.s.disk.Elsewhere(layerName(d)) != nil
}

// checkBlobRecords reads what is known of compressed layers.
func (c *checker) checkBlobRecords(ctx context.Context) error {
	return c.s.disk.WalkRecords(ctx, "layers/blobs", func(rel string, _ int64, _ time.Time) error {
		d, err := blobOfRecord(rel)
		if err != nil {
			return nil //nolint:nilerr // not one of ours
		}
		if _, err := c.s.BlobOf(ctx, d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.fault("record", rel, err)
			c.stale = append(c.stale, rel)
		}
		return nil
	})
}

func (c *checker) checkSnapshots(ctx context.Context) error {
	return c.s.walkNames(ctx, "snapshots", func(name string) error {
		c.checkSnapshot(name)
		return nil
	})
}

func (c *checker) checkSnapshot(name string) {
	key, err := ParseKey(name)
	if err != nil {
		return // not one of ours
	}
	rec, err := c.s.readRecord(key)
	if errors.Is(err, fs.ErrNotExist) {
		return // a leftover, not a snapshot
	}
	c.r.Snapshots++
	if err != nil {
		c.fault("snapshot", name, err)
		return
	}
	for _, d := range rec.Layers {
		if !c.sound(d) {
			c.fault("snapshot", name, fmt.Errorf("its layer %s is missing or damaged: %w", d, cas.ErrCorrupt))
		}
	}
	for _, k := range rec.Below {
		if _, err := c.s.readRecord(k); err != nil {
			c.fault("snapshot", name, fmt.Errorf("the sealed snapshot %s below it: %w", k, err))
		}
	}
	if rec.Kind == View {
		return
	}
	fi, err := os.Lstat(c.s.Upper(rec.Key))
	if err == nil && !fi.IsDir() {
		err = fmt.Errorf("it is a file: %w", cas.ErrCorrupt)
	}
	if err != nil {
		c.fault("snapshot", name, fmt.Errorf("its upper directory: %w", err))
	}
}

// checkImages reports what images lack, and adds the images to the faults of what they
// need.
func (c *checker) checkImages(context.Context) error {
	byBlob := map[string][]string{}
	for _, n := range c.needs {
		switch {
		case n.Err != nil && n.Record != "":
			c.fault("record", n.Record, n.Err)
		case n.Err != nil:
			c.fault("image", n.Image, n.Err)
		case n.Layer != "":
			if !c.sound(n.Layer) {
				c.fault("image", n.Image, fmt.Errorf("its layer %s is missing or damaged: %w", n.Layer, cas.ErrCorrupt))
			}
		default:
			name := n.Blob.String()
			byBlob[name] = append(byBlob[name], n.Image)
		}
	}
	for i := range c.r.Faults {
		f := &c.r.Faults[i]
		images := byBlob[f.Name]
		for _, d := range f.Layers {
			images = append(images, c.users[d]...)
		}
		if f.Kind == "layer" {
			images = c.users[DiffID(f.Name)]
		}
		seen := map[string]bool{}
		for _, image := range images {
			if !seen[image] {
				seen[image] = true
				f.Uses = append(f.Uses, "image "+image)
			}
		}
	}
	return nil
}
