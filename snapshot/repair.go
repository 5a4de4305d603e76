package snapshot

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
)

// Lack is content that a store should have and has not, or has damaged.
type Lack struct {
	Objects map[tree.ObjectID]int64 // with their sizes in bytes
	Blobs   map[digest.Digest]bool
	Layers  map[DiffID]bool // whose recipes are lacking
}

func (l *Lack) empty() bool { return len(l.Objects)+len(l.Blobs)+len(l.Layers) == 0 }

func (l *Lack) size() int { return len(l.Objects) + len(l.Blobs) + len(l.Layers) }

// Source is where lacking content is fetched again.
type Source interface {
	// Fetch stores in the store what the source has of what is lacking, verified, and
	// takes it off the list.
	Fetch(ctx context.Context, into *Store, lack *Lack) error
	String() string // for people
}

// RepairOptions says how to repair.
type RepairOptions struct {
	CheckOptions
	Sources []Source // asked in this order
	// Names restores damaged records of names and returns what became of each; may be nil.
	Names func(ctx context.Context) (map[string]string, error)
}

// Repair checks the store as Check does and mends what it finds: damaged contents and
// recipes are taken out of reach and fetched again from the sources, trees are made anew,
// and damaged records of what can be found out otherwise are dropped. What is sound is not
// touched. The report says of each fault what was done about it; a fault without that
// remains: what was damaged is missing now, so that nobody takes it for sound.
func (s *Store) Repair(ctx context.Context, o RepairOptions) (*CheckReport, error) {
	c, err := s.check(ctx, o.CheckOptions)
	if err != nil {
		return nil, fmt.Errorf("check store: %w", err)
	}
	if len(c.r.Faults) == 0 {
		return &c.r, s.recountIfUnsure(ctx)
	}
	m := &mender{checker: c, done: map[string]string{}}
	for _, step := range []func(context.Context, RepairOptions) error{m.discard, m.names, m.fetch, m.rebuild} {
		if err := step(ctx, o); err != nil {
			return nil, fmt.Errorf("repair store: %w", err)
		}
	}
	return m.report(ctx)
}

// mender repairs what a checker has found.
type mender struct {
	*checker
	done map[string]string // what was done, by kind and name of the fault
}

// discard takes away what is damaged and is kept elsewhere or made anew.
func (m *mender) discard(ctx context.Context, _ RepairOptions) error {
	var rels []string
	for id := range m.broken {
		rels = append(rels, "objects/"+id.Path())
	}
	for id, f := range m.faults {
		if _, ok := m.have[id]; ok && f != nil {
			rels = append(rels, "objects/"+id.Path()) // of another size than its recipes say
		}
	}
	for d, sound := range m.blobs {
		if !sound {
			rels = append(rels, blobPath(d))
		}
	}
	for d, sound := range m.layers {
		if !sound {
			rels = append(rels, layerName(d))
		}
	}
	used, err := m.usedLayers(ctx)
	if err != nil {
		return err
	}
	for d, sound := range m.layers {
		if !sound && !used[d] {
			m.done["layer "+d.String()] = "removed; nothing uses it"
		}
	}
	for name := range m.trees {
		rels = append(rels, "stacks/sha256/"+name)
	}
	for _, rel := range m.stale {
		rels = append(rels, rel)
		m.done["record "+rel] = "dropped; the layer's next import writes it again"
	}
	for id := range m.broken {
		if m.sizes[id] == 0 {
			m.done["object "+id.Digest().String()] = "removed; no layer uses it"
		}
	}
	if len(rels) == 0 {
		return nil
	}
	return m.s.disk.Sweep(ctx, func(sw *disk.Sweep) error {
		for _, rel := range rels {
			if err := sw.Discard(rel); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

func (m *mender) names(ctx context.Context, o RepairOptions) error {
	if o.Names == nil {
		return nil
	}
	done, err := o.Names(ctx)
	for record, what := range done {
		m.done["record "+record] = what
	}
	return err
}

// maxPasses is how often it is looked what is lacking: what a manifest or a recipe needs
// is known only once that is there again.
const maxPasses = 5

// fetch asks the sources for what is lacking.
func (m *mender) fetch(ctx context.Context, o RepairOptions) error {
	for range maxPasses {
		lack, err := m.lack(ctx)
		if err != nil || lack.empty() {
			return err
		}
		before := lack.size()
		for _, src := range o.Sources {
			was := Lack{maps.Clone(lack.Objects), maps.Clone(lack.Blobs), maps.Clone(lack.Layers)}
			if err := src.Fetch(ctx, m.s, lack); err != nil {
				return fmt.Errorf("fetch from %s: %w", src, err)
			}
			m.fetched(&was, lack, src.String())
		}
		if lack.size() == before {
			return nil
		}
	}
	return nil
}

// fetched notes what is no more lacking.
func (m *mender) fetched(was, now *Lack, from string) {
	what := "fetched again from " + from
	for id := range was.Objects {
		if _, lacking := now.Objects[id]; !lacking {
			m.done["object "+id.Digest().String()] = what
		}
	}
	for d := range was.Blobs {
		if !now.Blobs[d] {
			m.done["blob "+d.String()] = what
		}
	}
	for d := range was.Layers {
		if !now.Layers[d] {
			m.done["layer "+d.String()] = what
		}
	}
}

// lack looks what images and snapshots need and the store has not.
func (m *mender) lack(ctx context.Context) (*Lack, error) {
	l := &Lack{Objects: map[tree.ObjectID]int64{}, Blobs: map[digest.Digest]bool{}, Layers: map[DiffID]bool{}}
	needs := []Need{}
	if err := m.o.Images(ctx, func(n Need) { needs = append(needs, n) }); err != nil {
		return nil, err
	}
	layers, err := m.usedLayers(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range needs {
		switch {
		case n.Err != nil:
		case n.Layer != "":
			layers[n.Layer] = true
		case !n.MayLack || hasKey(m.blobs, n.Blob):
			if ok, err := m.s.has(blobPath(n.Blob)); err != nil {
				return nil, err
			} else if !ok {
				l.Blobs[n.Blob] = true
			}
		}
	}
	for d := range layers {
		if ok, err := m.s.has(layerName(d)); err != nil {
			return nil, err
		} else if !ok {
			l.Layers[d] = true
		}
	}
	for id, size := range m.sizes {
		if ok, err := m.s.has("objects/" + id.Path()); err != nil {
			return nil, err
		} else if !ok {
			l.Objects[id] = size
		}
	}
	return l, nil
}

// usedLayers returns the layers of images, as the check saw them, and of snapshots.
func (m *mender) usedLayers(ctx context.Context) (map[DiffID]bool, error) {
	layers := map[DiffID]bool{}
	for d := range m.users {
		layers[d] = true
	}
	return layers, m.s.Walk(ctx, func(r *Record) error {
		for _, d := range r.Layers {
			layers[d] = true
		}
		return nil
	})
}

func hasKey[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

// has reports whether there is a file below the root of the store.
func (s *Store) has(rel string) (bool, error) { return exists(s.disk.Root() + "/" + rel) }

// rebuild makes trees anew that were damaged.
func (m *mender) rebuild(ctx context.Context, _ RepairOptions) error {
	for name, layers := range m.trees {
		if len(layers) == 0 {
			m.done["tree "+name] = "removed; nothing uses it"
			continue
		}
		// Whichever trees the stack needs now, not necessarily this one.
		if _, err := m.s.Stack(ctx, layers, StackOptions{}); err == nil {
			m.done["tree "+name] = "made anew from the recipes"
		} else if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// report completes the report of the check.
func (m *mender) report(ctx context.Context) (*CheckReport, error) {
	lack, err := m.lack(ctx)
	if err != nil {
		return nil, err
	}
	still := map[string]bool{}
	err = m.o.Images(ctx, func(n Need) {
		if n.Err != nil || lack.Layers[n.Layer] || n.Blob != "" && !n.MayLack && lack.Blobs[n.Blob] {
			still[n.Image] = true
		}
	})
	if err != nil {
		return nil, err
	}
	for i := range m.r.Faults {
		f := &m.r.Faults[i]
		f.Mended = m.done[f.Kind+" "+f.Name]
		switch {
		case f.Kind == "object" && f.Mended == "" && !hasObject(lack, f.Name):
			f.Mended = "fetched again with its layer"
		case f.Kind == "image" && !still[f.Name]:
			f.Mended = "it has again what it needs"
		case f.Kind == "snapshot" && f.Mended == "" && m.wholeSnapshot(ctx, Key(f.Name), lack):
			f.Mended = "it has again what it needs"
		}
	}
	return &m.r, m.s.recountIfUnsure(ctx)
}

func hasObject(lack *Lack, name string) bool {
	var id tree.ObjectID
	raw, err := hex.DecodeString(digest.Digest(name).Encoded())
	if err != nil || copy(id[:], raw) != len(id) {
		return true
	}
	return hasKey(lack.Objects, id)
}

// wholeSnapshot reports whether a snapshot has all that it stands on.
func (m *mender) wholeSnapshot(ctx context.Context, key Key, lack *Lack) bool {
	probe := &checker{s: m.s, o: m.o, layers: map[DiffID]bool{}}
	rec, err := m.s.Stat(ctx, key)
	if err != nil {
		return false
	}
	for _, d := range rec.Layers {
		probe.layers[d] = !lack.Layers[d]
	}
	probe.checkSnapshot(string(key))
	return len(probe.r.Faults) == 0
}
