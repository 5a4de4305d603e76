package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
)

// DefaultGrace is how long what was collected stays in quarantine, from where it is
// brought back if somebody turns out to need it. A process that relies on something it
// found says so in the store, so the grace is a second line of defence only.
const DefaultGrace = 0 * time.Second

// CollectOptions says how to collect.
type CollectOptions struct {
	DryRun bool
	// Full looks at every object. Without it a collection relies on what the last one
	// has noted, and takes a time that grows with what is garbage; where there is no such
	// note, or a command was cut off since, it is full anyhow.
	Full  bool
	Grace time.Duration // what was quarantined less than this ago is not deleted yet
	// Since restricts it to what was stored after that time, without what other commands
	// left behind or quarantined: it takes back what a command stored that failed. Zero
	// for everything.
	Since time.Time
	// Progress is called now and then with what is looked at or taken away, in the plural,
	// and how many of them are left, or for objects have been seen; may be nil.
	Progress func(what string, n int)
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
	Full      bool     `json:"full"`      // every object was looked at
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
	c := &collector{s: s, roots: roots, o: o, r: r, there: map[DiffID]stamp{}}
	if err := c.begin(ctx); err != nil {
		return err
	}
	m, err := c.mark(ctx)
	if err != nil {
		return err
	}
	found, err := c.candidates(ctx, m)
	if err != nil {
		return err
	}
	if !o.DryRun && len(found) > 0 {
		o.Progress("files to remove", len(found))
		if m, err = c.sweep(ctx, m, found); err != nil {
			return err
		}
	}
	for _, f := range found {
		if !f.kept(m) {
			f.sum.Count++
			f.sum.Bytes += f.size
		}
	}
	if o.DryRun {
		return nil
	}
	if err := c.expire(ctx, found, m); err != nil {
		return err
	}
	if err := s.recountIfUnsure(ctx); err != nil {
		return err
	}
	c.remember(ctx, found, m)
	return nil
}

// collector is one collection.
type collector struct {
	s     *Store
	roots Roots
	o     CollectOptions
	r     *CollectReport

	epoch   uint64
	takings uint64           // of the store before, and those of this collection
	there   map[DiffID]stamp // recipes
	// known is what the last collection has noted, and this one has read.
	known memo
	// asked are the objects that are looked at, nil for all of the store.
	asked map[tree.ObjectID]bool
}

// begin reads what tells a later step whether something has changed, and the memo.
func (c *collector) begin(ctx context.Context) (err error) {
	takings, sure, err := c.s.disk.Takings(ctx)
	if err != nil {
		return err
	}
	if c.epoch, err = c.s.disk.Epoch(ctx); err != nil {
		return err
	}
	c.takings = takings
	if sure && !c.o.Full {
		c.known = c.s.readMemo(takings)
	}
	c.r.Full = c.known == nil
	if c.known == nil {
		c.known = memo{}
	}
	return nil
}

// sweep moves what was found to quarantine, and returns the mark by which it did.
func (c *collector) sweep(ctx context.Context, m *Mark, found []candidate) (*Mark, error) {
	c.takings += disk.OneTaking
	err := c.s.disk.Sweep(ctx, func(sw *disk.Sweep) (err error) {
		if sw.Epoch() != c.epoch {
			if m, err = c.markAgain(ctx, m, found); err != nil {
				return err
			}
		}
		return sweep(sw, found, m)
	})
	return m, err
}

// expire deletes from quarantine, and removes what dead ingests left.
func (c *collector) expire(ctx context.Context, found []candidate, m *Mark) (err error) {
	if !c.o.Since.IsZero() {
		return c.expireSwept(ctx, found, m)
	}
	if c.r.Ingests, err = c.s.disk.CleanIngests(ctx); err != nil {
		return err
	}
	before, err := c.s.expiry(ctx, c.o.Grace)
	if err != nil {
		return err
	}
	c.takings += disk.OneTaking
	c.r.Deleted, err = c.s.disk.Expire(ctx, before)
	return err
}

// remember writes the memo, unless there may be objects of no layer: a collection of what
// is new has not looked for them all, and an ingest that died meanwhile may have left some.
func (c *collector) remember(ctx context.Context, found []candidate, m *Mark) {
	takings, sure, err := c.s.disk.Takings(ctx)
	if err != nil || !sure || takings != c.takings || c.r.Full && !c.o.Since.IsZero() || !c.r.Full && c.r.Ingests > 0 {
		return
	}
	for _, f := range found {
		if d, ok := layerOfRecord(f.rel); ok && !f.kept(m) {
			delete(c.known, d)
		}
	}
	c.s.writeMemo(ctx, takings, c.known)
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
func (c *collector) expireSwept(ctx context.Context, found []candidate, m *Mark) error {
	var rels []string
	for _, f := range found {
		if !f.kept(m) {
			rels = append(rels, f.rel)
		}
	}
	before, err := c.s.expiry(ctx, c.o.Grace)
	if err == nil && len(rels) > 0 {
		c.takings += disk.OneTaking
		c.r.Deleted, err = c.s.disk.ExpireOnly(ctx, before, rels...)
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

// candidates lists what the mark does not reach and what was stored since that time. It
// marks objects.
func (c *collector) candidates(ctx context.Context, m *Mark) ([]candidate, error) {
	var out []candidate
	add := func(rel string, size int64, mod time.Time, sum *disk.Sum, kept func(*Mark) bool) {
		if !mod.Before(c.o.Since) && !kept(m) {
			out = append(out, candidate{rel, size, sum, kept})
		}
	}
	s, r := c.s, c.r
	err := s.disk.WalkRecords(ctx, "layers", func(rel string, size int64, mod time.Time) error {
		if d, ok := layerOfRecord(rel); ok {
			c.there[d] = stampOf(size, mod)
			add(rel, size, mod, &r.Layers, func(m *Mark) bool { return m.layers[d] })
			return nil
		}
		if !strings.HasPrefix(rel, "layers/blobs/") {
			return nil
		}
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
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !r.Full {
		if err := c.ask(ctx, m); err != nil {
			return nil, err
		}
	}
	if err := c.markLayers(ctx, m, nil); err != nil {
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
	err = c.objects(ctx, m, func(i cas.Info) error {
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

// progressEach is after how many things progress is told.
const progressEach = 1000

// objects visits the objects that can be garbage.
func (c *collector) objects(ctx context.Context, m *Mark, fn func(cas.Info) error) error {
	objects := c.s.disk.Objects()
	if c.asked == nil {
		seen := 0
		return objects.Walk(ctx, func(i cas.Info) error {
			if seen++; seen%progressEach == 0 {
				c.o.Progress("objects seen", seen)
			}
			return fn(i)
		})
	}
	// Those that lie in one directory follow each other.
	order := func(a, b tree.ObjectID) int { return bytes.Compare(a[:], b[:]) }
	for _, id := range slices.SortedFunc(maps.Keys(c.asked), order) {
		if m.objects[id] {
			continue
		}
		i, err := objects.Stat(ctx, id.Digest())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = fn(i)
		}
		if err != nil {
			return err
		}
	}
	return nil
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
