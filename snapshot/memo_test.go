package snapshot_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/snapshot"
)

// collecting is a store whose session is over, so that nothing but roots keeps layers.
type collecting struct {
	*env
	rooted []snapshot.DiffID
}

func newCollecting(t *testing.T) *collecting { return &collecting{env: newEnv(t)} }

func (c *collecting) collect(o snapshot.CollectOptions) *snapshot.CollectReport {
	c.t.Helper()
	roots := func(_ context.Context, m *snapshot.Mark) error {
		for _, d := range c.rooted {
			m.Stack([]snapshot.DiffID{d})
		}
		return nil
	}
	r, err := c.snaps.Collect(c.ctx, roots, o)
	c.ok(err)
	return r
}

// imported imports a layer in a session of its own.
func (c *collecting) imported(entries ...entry) snapshot.DiffID {
	c.t.Helper()
	return c.importedBy(c.snaps, entries...)
}

func (c *collecting) importedBy(s *snapshot.Store, entries ...entry) snapshot.DiffID {
	c.t.Helper()
	sess, err := s.Begin(c.ctx)
	c.ok(err)
	l, _, err := s.ImportLayer(c.ctx, sess, bytes.NewReader(tarOf(c.t, entries)), snapshot.LayerExpect{BlobSize: -1})
	c.ok(err)
	c.ok(sess.Close())
	return l.DiffID
}

// left returns how many objects the store has.
func (c *collecting) left() (n int) {
	c.t.Helper()
	c.ok(c.disk.Objects().Walk(c.ctx, func(cas.Info) error { n++; return nil }))
	return n
}

func filled(word string) string { return strings.Repeat(word, 3000/len(word)) }

// A collection that relies on the memo of another removes what that would, whatever came
// and went between them.
func TestCollectByMemo(t *testing.T) {
	c := newCollecting(t)
	shared, one, two := entry{name: "s", data: filled("shared")}, entry{name: "o", data: filled("one")}, entry{name: "t", data: filled("two")}
	a, b := c.imported(shared, one), c.imported(shared, two)
	c.rooted = []snapshot.DiffID{a, b}
	if r := c.collect(snapshot.CollectOptions{}); !r.Full || r.Objects.Count != 0 {
		t.Errorf("first collection: %+v, want a full one that finds nothing", r)
	}
	d := c.imported(entry{name: "l", data: filled("later")})
	c.rooted = []snapshot.DiffID{b, d}
	if r := c.collect(snapshot.CollectOptions{DryRun: true}); r.Full || r.Objects.Count != 1 || r.Layers.Count != 1 || c.left() != 4 {
		t.Errorf("dry run: %+v, %d objects left", r, c.left())
	}
	if r := c.collect(snapshot.CollectOptions{}); r.Full || r.Objects.Count != 1 || r.Layers.Count != 1 || c.left() != 3 {
		t.Errorf("collection of a layer that shares an object: %+v, %d objects left", r, c.left())
	}
	// Garbage that was there at no collection before.
	c.imported(shared, entry{name: "n", data: filled("never named")})
	c.rooted = nil
	if r := c.collect(snapshot.CollectOptions{}); r.Full || r.Layers.Count != 3 || c.left() != 0 {
		t.Errorf("collection of everything: %+v, %d objects left", r, c.left())
	}
	if r := c.collect(snapshot.CollectOptions{Full: true}); !r.Full || r.Objects.Count != 0 {
		t.Errorf("full collection after it: %+v, want nothing left", r)
	}
}

// A memo that does not hold, or is damaged, makes the collection a full one.
func TestCollectWithoutMemo(t *testing.T) {
	for name, spoil := range map[string]func(c *collecting, memo string){
		"removed": func(c *collecting, memo string) { c.ok(os.Remove(memo)) },
		"flipped": func(c *collecting, memo string) {
			b, err := os.ReadFile(memo)
			c.ok(err)
			b[len(b)/2] ^= 1
			c.ok(os.WriteFile(memo, b, 0o600))
		},
		"cut":   func(c *collecting, memo string) { c.ok(os.Truncate(memo, 30)) },
		"empty": func(c *collecting, memo string) { c.ok(os.Truncate(memo, 0)) },
		"after another sweep": func(c *collecting, _ string) {
			_, err := c.disk.Quarantine(c.ctx, "layers/sha256/"+strings.Repeat("0", 64))
			c.ok(err)
		},
		"beside a dead ingest": func(c *collecting, _ string) { c.ok(os.Mkdir(filepath.Join(c.disk.Root(), "ingest", "DEAD"), 0o700)) },
		"after a change was cut off": func(c *collecting, _ string) {
			// The sums say so once a torn ingest is settled.
			dir := filepath.Join(c.disk.Root(), "ingest", "TORN")
			c.ok(os.Mkdir(dir, 0o700))
			c.ok(os.WriteFile(filepath.Join(dir, "moving"), nil, 0o600))
			c.ok(c.disk.CleanIngest(c.ctx, "TORN"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCollecting(t)
			c.rooted = []snapshot.DiffID{c.imported(entry{name: "a", data: filled("a")})}
			c.collect(snapshot.CollectOptions{})
			spoil(c, filepath.Join(c.disk.Root(), "gc.memo"))
			// An object of no layer, as a killed command leaves.
			ing, err := c.disk.Begin(c.ctx)
			c.ok(err)
			orphan := []byte(filled("orphan"))
			c.ok(ing.PutObject(c.ctx, sha256.Sum256(orphan), orphan))
			c.ok(ing.Publish(c.ctx))
			c.ok(ing.Close())
			if r := c.collect(snapshot.CollectOptions{}); !r.Full || r.Objects.Count != 1 || c.left() != 1 {
				t.Errorf("%+v, %d objects left, want a full collection of one", r, c.left())
			}
			if r := c.collect(snapshot.CollectOptions{}); r.Full {
				t.Error("the collection after it was full too")
			}
		})
	}
}

// A recipe that is written in the place of a damaged one may name other objects.
func TestCollectReplacedRecipe(t *testing.T) {
	c := newCollecting(t)
	entries := []entry{{name: "a", data: filled("a")}, {name: "b", data: strings.Repeat("b", 20_000)}}
	d := c.imported(entries...)
	c.rooted = []snapshot.DiffID{d}
	c.collect(snapshot.CollectOptions{})
	c.ok(os.Truncate(filepath.Join(c.disk.Root(), "layers/sha256", strings.TrimPrefix(d.String(), "sha256:")), 10))
	inline, err := snapshot.New(c.disk, snapshot.Options{InlineMax: 10_000})
	c.ok(err)
	if again := c.importedBy(inline, entries...); again != d {
		t.Fatalf("layer %s became %s", d, again)
	}
	if r := c.collect(snapshot.CollectOptions{}); r.Full || r.Objects.Count != 1 || c.left() != 1 {
		t.Errorf("%+v, %d objects left, want the one that became inline removed", r, c.left())
	}
	c.ok(c.snaps.WriteTar(c.ctx, d, new(bytes.Buffer)))
}
