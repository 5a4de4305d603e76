package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
)

// Mark collects what must be kept.
type Mark struct {
	blobs   map[digest.Digest]bool
	layers  map[DiffID]bool
	chains  map[ChainID]bool
	objects map[tree.ObjectID]bool // of those asked for, see collector.asked
	records map[string]bool        // by name
}

// Blob keeps a manifest, a config, or a layer as received.
func (m *Mark) Blob(d digest.Digest) { m.blobs[d] = true }

// Stack keeps layers, bottom first, and the trees made from them.
func (m *Mark) Stack(layers []DiffID) {
	for _, d := range layers {
		m.layers[d] = true
	}
	for _, c := range Chain(layers) {
		m.chains[c] = true
	}
}

// Roots visits everything that images and the like keep. It is called more than once.
type Roots func(ctx context.Context, m *Mark) error

// markAgain marks what has come to be reachable since the first mark. Every layer that is
// there and is not about to be taken keeps its objects, even if nothing reaches it any
// more: somebody who has found it may still come to it. What the first mark has read is
// not read again, for nobody publishes meanwhile.
func (c *collector) markAgain(ctx context.Context, first *Mark, found []candidate) (*Mark, error) {
	taken := map[DiffID]bool{}
	for _, f := range found {
		if d, ok := layerOfRecord(f.rel); ok {
			taken[d] = true
		}
	}
	err := c.s.walkLayers(ctx, func(d DiffID) error {
		if !first.layers[d] && !taken[d] {
			first.layers[d] = true
			return c.markObjects(d, first)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m, err := c.mark(ctx)
	if err != nil {
		return nil, err
	}
	done := first.layers
	m.objects = first.objects
	err = c.markLayers(ctx, m, done)
	maps.Copy(m.layers, done)
	return m, err
}

// mark finds everything that is reachable but objects.
func (c *collector) mark(ctx context.Context) (*Mark, error) {
	m := &Mark{blobs: map[digest.Digest]bool{}, layers: map[DiffID]bool{}, chains: map[ChainID]bool{},
		objects: map[tree.ObjectID]bool{}, records: map[string]bool{}}
	// Sessions come before names: a session is closed only after its names are there.
	if err := c.s.markSessions(ctx, m); err != nil {
		return nil, err
	}
	if err := c.roots(ctx, m); err != nil {
		return nil, err
	}
	damaged := func(_ string, err error) error {
		return fmt.Errorf("what it needs is not known, so nothing can be swept; repair its record or remove it: %w", err)
	}
	err := c.s.walk(ctx, damaged, func(r *Record) error {
		m.Stack(r.Layers)
		if r.Image != "" {
			m.Blob(digest.Digest(r.Image))
		}
		return nil
	})
	return m, err
}

// markSessions marks what live sessions and ingests keep. While there are any, documents
// that they wrote may not be named yet, so then all blobs are kept.
func (s *Store) markSessions(ctx context.Context, m *Mark) error {
	infos, err := s.disk.Ingests(ctx)
	if err != nil {
		return err
	}
	live := false
	for _, in := range infos {
		if !in.Live {
			continue
		}
		live = true
		for _, rel := range in.Kept {
			m.records[rel] = true
			if d, ok := layerOfRecord(rel); ok {
				m.layers[d] = true
			}
		}
	}
	if !live {
		return nil
	}
	return s.disk.Blobs().Walk(ctx, func(i cas.Info) error {
		m.blobs[i.Digest] = true
		return nil
	})
}

// markLayers marks the objects of the layers that are marked and not done.
func (c *collector) markLayers(ctx context.Context, m *Mark, done map[DiffID]bool) error {
	left := len(m.layers)
	for d := range m.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if left--; left%progressEach == 0 {
			c.o.Progress("layers to look at", left)
		}
		if done[d] {
			continue
		}
		if err := c.markObjects(d, m); err != nil {
			return err
		}
	}
	return nil
}

// markObjects marks the objects of a layer.
func (c *collector) markObjects(d DiffID, m *Mark) error {
	l, err := c.objectsOf(d)
	l.each(func(id tree.ObjectID) {
		if c.asked == nil || c.asked[id] {
			m.objects[id] = true
		}
	})
	return err
}

// objectsOf returns the objects of a layer, from the memo if that knows them.
func (c *collector) objectsOf(d DiffID) (memoLayer, error) {
	st, there := c.there[d]
	if l, ok := c.known[d]; ok && there && l.stamp == st {
		return l, nil
	}
	l, err := c.s.readObjects(d)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil // damage that fsck reports; there is nothing to keep
	}
	if err != nil {
		// Its objects are not known, so nothing may be swept.
		return l, err
	}
	if there {
		l.stamp = st
		c.known[d] = l
	}
	return l, nil
}

// readObjects reads the recipe of a layer of this store: those of layers in stores that it
// stands on name nothing here.
func (s *Store) readObjects(d DiffID) (l memoLayer, err error) {
	if ok, err := s.has(layerName(d)); err != nil || !ok {
		return l, errors.Join(err, fs.ErrNotExist)
	}
	rec, closer, err := s.OpenLayer(context.Background(), d)
	if err != nil {
		return l, err
	}
	objects, err := rec.Objects()
	l.objects = make([]byte, 0, len(objects)*idSize)
	for _, o := range objects {
		l.objects = append(l.objects, o.ID[:]...)
	}
	return l, errors.Join(err, closer.Close())
}

// ask restricts what is marked to the objects of layers that the mark does not reach.
// With a memo those are the only ones that can be garbage. Where one of these layers cannot
// be read the collection is full: its objects are not known.
func (c *collector) ask(ctx context.Context, m *Mark) error {
	c.asked = map[tree.ObjectID]bool{}
	add := func(id tree.ObjectID) { c.asked[id] = true }
	for d, l := range c.known {
		if st, there := c.there[d]; !there || st != l.stamp {
			l.each(add)
			delete(c.known, d)
		}
	}
	for d := range c.there {
		if err := ctx.Err(); err != nil {
			return err
		}
		if m.layers[d] {
			continue
		}
		l, err := c.objectsOf(d)
		if errors.Is(err, fs.ErrInvalid) {
			c.asked, c.r.Full = nil, true
			return nil
		}
		if err != nil {
			return err
		}
		l.each(add)
	}
	return nil
}
