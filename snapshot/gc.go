package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
)

// Mark collects what must be kept.
type Mark struct {
	blobs   map[digest.Digest]bool
	layers  map[DiffID]bool
	chains  map[ChainID]bool
	objects map[tree.ObjectID]bool
	records map[string]bool // by name
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

// DefaultGrace is how long what was collected stays in quarantine, from where it is
// brought back if somebody turns out to need it. A process that relies on something it
// found says so in the store, so the grace is a second line of defence only.
const DefaultGrace = 0 * time.Second

// CollectOptions says how to collect.
type CollectOptions struct {
	DryRun bool
	Grace  time.Duration // what was quarantined less than this ago is not deleted yet
	// Since restricts it to what was stored after that time, without what other commands
	// left behind or quarantined: it takes back what a command stored that failed. Zero
	// for everything.
	Since time.Time
	// Progress is called with what is being done and how many things are left; may be
	// nil.
	Progress func(what string, left int)
}

// CollectReport is what was collected, or would be.
type CollectReport struct {
	Blobs     disk.Sum `json:"blobs"`
	Objects   disk.Sum `json:"objects"`
	Layers    disk.Sum `json:"layers"`
	Trees     disk.Sum `json:"trees"`
	Snapshots int      `json:"snapshots"` // sealed ones and leftovers
	Ingests   int      `json:"ingests"`   // of processes that died
	Deleted   disk.Sum `json:"deleted"`   // from quarantine, this time
}

// candidate is something that nothing reached when it was looked at.
type candidate struct {
	rel  string
	size int64
	sum  *disk.Sum
	kept func(*Mark) bool // whether a newer mark reaches it
}

// Collect removes what nothing reaches: it marks from the roots, the snapshots and the
// live sessions, and moves the rest to quarantine in one short moment in which nobody
// publishes; what was published or named since the marking is marked again then. It
// needs no free space, and can run at any time beside anything else.
func (s *Store) Collect(ctx context.Context, roots Roots, o CollectOptions) (*CollectReport, error) {
	if o.Progress == nil {
		o.Progress = func(string, int) {}
	}
	r := &CollectReport{}
	if err := s.collect(ctx, roots, o, r); err != nil {
		return nil, fmt.Errorf("collect garbage: %w", err)
	}
	return r, nil
}

func (s *Store) collect(ctx context.Context, roots Roots, o CollectOptions, r *CollectReport) error {
	if o.Since.IsZero() {
		if err := s.dropLeftovers(ctx, o.DryRun, r); err != nil {
			return err
		}
	}
	epoch, err := s.disk.Epoch(ctx)
	if err != nil {
		return err
	}
	m, err := s.mark(ctx, roots, nil)
	if err != nil {
		return err
	}
	found, err := s.candidates(ctx, m, o.Since, r)
	if err != nil {
		return err
	}
	if !o.DryRun && len(found) > 0 {
		o.Progress("sweep", len(found))
		err := s.disk.Sweep(ctx, func(sw *disk.Sweep) error {
			if sw.Epoch() != epoch {
				if m, err = s.markAgain(ctx, roots, m, found); err != nil {
					return err
				}
			}
			return sweep(sw, found, m)
		})
		if err != nil {
			return err
		}
	}
	for _, c := range found {
		if !c.kept(m) {
			c.sum.Count++
			c.sum.Bytes += c.size
		}
	}
	if o.DryRun {
		return nil
	}
	if !o.Since.IsZero() {
		return s.expireSwept(ctx, o, found, m, r)
	}
	if r.Ingests, err = s.disk.CleanIngests(ctx); err != nil {
		return err
	}
	before, err := s.expiry(ctx, o.Grace)
	if err != nil {
		return err
	}
	if r.Deleted, err = s.disk.Expire(ctx, before); err != nil {
		return err
	}
	return s.recountIfUnsure(ctx)
}

// recountIfUnsure corrects the kept sums where a command was cut off in the middle of a
// change.
func (s *Store) recountIfUnsure(ctx context.Context) error {
	u, err := s.disk.Usage(ctx)
	if err == nil && !u.Exact {
		_, err = s.disk.Recount(ctx)
	}
	return err
}

// expireSwept deletes what this collection has swept and nothing else.
func (s *Store) expireSwept(ctx context.Context, o CollectOptions, found []candidate, m *Mark, r *CollectReport) error {
	var rels []string
	for _, c := range found {
		if !c.kept(m) {
			rels = append(rels, c.rel)
		}
	}
	before, err := s.expiry(ctx, o.Grace)
	if err == nil && len(rels) > 0 {
		r.Deleted, err = s.disk.ExpireOnly(ctx, before, rels...)
	}
	return err
}

// expiry is until when what was quarantined may be deleted. A live ingest may have found
// present, and so not stored, what was swept after it began; its Publish brings that
// back from quarantine, so it stays there.
//
// The clock is that by which the file system dates its files, whatever the Store's says.
// Without a grace it does not matter: one that was set back would keep things for ever.
func (s *Store) expiry(ctx context.Context, grace time.Duration) (time.Time, error) {
	before := time.Unix(math.MaxInt32<<8, 0)
	if grace > 0 {
		before = time.Now().Add(-grace)
	}
	infos, err := s.disk.Ingests(ctx)
	for _, in := range infos {
		if in.Live && in.Started.Before(before) {
			before = in.Started
		}
	}
	return before, err
}

func sweep(sw *disk.Sweep, found []candidate, m *Mark) error {
	for _, c := range found {
		if c.kept(m) {
			continue
		}
		if err := sw.Quarantine(c.rel); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// markAgain marks what has come to be reachable since the first mark. Every layer that is
// there and is not about to be taken keeps its objects, even if nothing reaches it any
// more: somebody who has found it may still come to it. What the first mark has read is
// not read again, for nobody publishes meanwhile.
func (s *Store) markAgain(ctx context.Context, roots Roots, first *Mark, found []candidate) (*Mark, error) {
	taken := map[DiffID]bool{}
	for _, c := range found {
		if hex, ok := strings.CutPrefix(c.rel, layersDir+"/"); ok {
			taken[DiffID("sha256:"+hex)] = true
		}
	}
	err := s.walkLayers(ctx, func(d DiffID) error {
		if !first.layers[d] && !taken[d] {
			first.layers[d] = true
			return s.markObjects(ctx, d, first)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.mark(ctx, roots, first)
}

// mark finds everything that is reachable, and keeps the layers and objects of an earlier
// mark, which may be nil.
func (s *Store) mark(ctx context.Context, roots Roots, first *Mark) (*Mark, error) {
	m := &Mark{blobs: map[digest.Digest]bool{}, layers: map[DiffID]bool{}, chains: map[ChainID]bool{},
		objects: map[tree.ObjectID]bool{}, records: map[string]bool{}}
	done := map[DiffID]bool{}
	if first != nil {
		done, m.objects = first.layers, first.objects
		maps.Copy(m.layers, first.layers)
	}
	// Sessions come before names: a session is closed only after its names are there.
	if err := s.markSessions(ctx, m); err != nil {
		return nil, err
	}
	if err := roots(ctx, m); err != nil {
		return nil, err
	}
	damaged := func(_ string, err error) error {
		return fmt.Errorf("what it needs is not known, so nothing can be swept; repair its record or remove it: %w", err)
	}
	err := s.walk(ctx, damaged, func(r *Record) error {
		m.Stack(r.Layers)
		if r.Image != "" {
			m.Blob(digest.Digest(r.Image))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for d := range m.layers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if done[d] {
			continue
		}
		if err := s.markObjects(ctx, d, m); err != nil {
			return nil, err
		}
	}
	return m, nil
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
			if hex, ok := strings.CutPrefix(rel, "layers/sha256/"); ok {
				m.layers[DiffID("sha256:"+hex)] = true
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

func (s *Store) markObjects(ctx context.Context, d DiffID, m *Mark) error {
	rec, closer, err := s.OpenLayer(ctx, d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // damage that fsck reports; there is nothing to keep
	}
	if err != nil {
		// Its objects are not known, so nothing may be swept.
		return err
	}
	objects, err := rec.Objects()
	for _, o := range objects {
		m.objects[o.ID] = true
	}
	return errors.Join(err, closer.Close())
}

// candidates lists what the mark does not reach and what was stored since that time.
func (s *Store) candidates(ctx context.Context, m *Mark, since time.Time, r *CollectReport) ([]candidate, error) {
	var out []candidate
	add := func(rel string, size int64, mod time.Time, sum *disk.Sum, kept func(*Mark) bool) {
		if !mod.Before(since) && !kept(m) {
			out = append(out, candidate{rel, size, sum, kept})
		}
	}
	err := s.disk.WalkRecords(ctx, "layers", func(rel string, size int64, mod time.Time) error {
		switch {
		case strings.HasPrefix(rel, "layers/sha256/"):
			d := DiffID("sha256:" + strings.TrimPrefix(rel, "layers/sha256/"))
			add(rel, size, mod, &r.Layers, func(m *Mark) bool { return m.layers[d] })
		case strings.HasPrefix(rel, "layers/blobs/"):
			d, err := blobOfRecord(rel)
			if err != nil {
				return nil //nolint:nilerr // not one of ours
			}
			b, err := s.BlobOf(ctx, d)
			if err != nil && !errors.Is(err, fs.ErrInvalid) {
				return ignoreMissing(err)
			}
			damaged := err != nil
			add(rel, size, mod, &r.Layers, func(m *Mark) bool {
				return !damaged && m.blobs[d] && m.layers[b.DiffID] || m.records[rel]
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = s.disk.WalkRecords(ctx, "stacks", func(rel string, size int64, mod time.Time) error {
		id, rest, _ := strings.Cut(filepath.Base(rel), ".")
		c := ChainID("sha256:" + id)
		current := strings.HasPrefix(rest, treeVersion+".") || strings.HasPrefix(rest, "delta."+treeVersion+".")
		add(rel, size, mod, &r.Trees, func(m *Mark) bool { return current && m.chains[c] || m.records[rel] })
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = s.disk.Objects().Walk(ctx, func(i cas.Info) error {
		id, ok := tree.ParseObjectPath(objectRel(i.Digest))
		if ok {
			add("objects/"+id.Path(), i.Size, i.ModTime, &r.Objects, func(m *Mark) bool { return m.objects[id] })
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = s.disk.Blobs().Walk(ctx, func(i cas.Info) error {
		add(blobPath(i.Digest), i.Size, i.ModTime, &r.Blobs, func(m *Mark) bool { return m.blobs[i.Digest] })
		return nil
	})
	return out, err
}

func objectRel(d digest.Digest) string {
	hex := d.Encoded()
	if len(hex) < 3 {
		return ""
	}
	return hex[:2] + "/" + hex[2:]
}

func blobOfRecord(rel string) (digest.Digest, error) {
	alg, hex, _ := strings.Cut(strings.TrimPrefix(rel, "layers/blobs/"), "/")
	d := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
	return d, d.Validate()
}
