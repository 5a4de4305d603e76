package snapshot_test

import (
	"fmt"
	"strings"
	"testing"
)

// This file is a model of what keeps a collector from taking what somebody needs, small
// enough to try every order in which the steps of several processes can happen. The store
// has one layer, which has one object; an image's name and a snapshot need the layer. What
// a step of the model is, is one step of the program as others see it: between two of them
// anything can happen. See the package comments of cas/disk and of this package.

// place is where a file is.
type place uint8

const (
	absent place = iota
	here
	away // in quarantine
)

// kind is what a process does.
type kind uint8

const (
	importer  kind = iota // imports the layer and names it
	mounter               // makes a snapshot of the named image
	remover               // removes the name
	collector             // gc --full
	quick                 // gc that looks only at objects of layers that nothing reaches
)

// world is the state of the store and of all processes.
type world struct {
	layer, object place
	// Which processes had begun when it was quarantined: while one of these lives it is not
	// deleted.
	layerSeen, objectSeen uint8
	name, snapshot        bool
	epoch, sweeps         uint8
	sharers               uint8 // of the store lock
	alone                 bool  // somebody has the store lock exclusively
	procs                 [maxProcs]proc
}

const maxProcs = 4

// proc is a process between two of its steps.
type proc struct {
	kind  kind
	step  uint8
	ended bool

	live, kept bool  // its session is open; it keeps the layer
	found      bool  // the object was there when it was put
	sweeps     uint8 // how many there had been when the ingest began
	epoch      uint8 // before the mark
	marked     mark
	sweepLayer bool // what the collector found unreached
	sweepObj   bool
	tries      uint8
}

type mark struct{ layer, object bool }

// flaw is a fault that is built into the model, to show that it would be found.
type flaw uint8

const (
	none            flaw = iota
	noEpoch              // the collector does not mark again after a change
	noSessions           // it does not mark what sessions keep
	namesFirst           // it reads names before sessions
	noPromises           // Publish does not look whether what was found is still there
	keepRestores         // keeping a record brings it back from quarantine alone
	snapshotNoShare      // a snapshot is named without sharing the store lock
	oneCount             // sweeps are counted when they begin only
	freshMark            // the second mark forgets the first
)

func (w *world) share() bool {
	if w.alone {
		return false
	}
	w.sharers++
	return true
}

// next returns the world after a step of process i; false when it waits or has ended.
func (w world) next(i int, f flaw) (world, bool) {
	p := &w.procs[i]
	if p.ended {
		return w, false
	}
	p.step++
	moved := true
	switch p.kind {
	case importer:
		moved = w.importStep(p, f)
	case mounter:
		moved = w.mountStep(p, f)
	case remover:
		if w.name {
			w.name = false
			w.epoch++
		}
		p.ended = true
	default:
		moved = w.collectStep(p, f)
	}
	return w, moved
}

// importStep is load: a session, the import of a layer in an ingest, the name.
func (w *world) importStep(p *proc, f flaw) bool {
	switch p.step {
	case 1: // begin the session
		p.live = true
	case 2: // is the layer known? keep it, under the shared lock
		if !w.share() {
			return false
		}
	case 3:
		w.sharers--
		if f == keepRestores && w.layer == away {
			w.layer = here
		}
		if w.layer == here {
			p.kept = true
			w.epoch++
			p.step = 20 // on to the name
		}
	case 4: // begin the ingest
		p.sweeps = w.sweeps
	case 5: // put the object
		p.found = w.object == here
	case 6: // Publish
		if !w.share() {
			return false
		}
	case 7: // look whether what was found is still there
		if f == noPromises || !p.found || w.sweeps == p.sweeps || w.object == here {
			return true
		}
		if w.object == away {
			w.object = here
			return true
		}
		w.sharers--
		p.step = 3 // the import is repeated
		if p.tries++; p.tries > 2 {
			p.ended, p.live, p.kept = true, false, false // given up; nothing is named
		}
	case 8: // move contents into place
		if !p.found {
			w.object = here
		}
	case 9: // note the record in the owner file
		p.kept = true
	case 10: // move the record
		w.layer = here
		w.epoch++
	case 11:
		w.sharers--
		p.step = 20
	case 21: // write the name
		w.name = true
		w.epoch++
	case 22:
		p.live, p.kept, p.ended = false, false, true
	}
	return true
}

// mountStep is the making of a snapshot.
func (w *world) mountStep(p *proc, f flaw) bool {
	switch p.step {
	case 1: // find the image
		if !w.name {
			p.ended = true // there is none
		}
	case 2:
		if f != snapshotNoShare && !w.share() {
			return false
		}
	case 3: // are its layers there?
		p.found = w.layer == here
	case 4: // write the record
		if p.found {
			w.snapshot = true
			w.epoch++
		}
	case 5:
		if f != snapshotNoShare {
			w.sharers--
		}
		p.ended = true
	}
	return true
}

// sessions marks what live sessions keep.
func (w *world) sessions(p *proc, f flaw) {
	for _, other := range w.procs {
		if f != noSessions && other.live && other.kept {
			p.marked.layer = true
		}
	}
}

// collectStep is gc. While it has the store lock alone nobody publishes or keeps, but names
// are written and removed.
func (w *world) collectStep(p *proc, f flaw) bool {
	switch p.step {
	case 1:
		p.epoch = w.epoch
	case 2, 8: // sessions come before names
		if f == namesFirst {
			p.marked.layer = p.marked.layer || w.name || w.snapshot
		} else {
			w.sessions(p, f)
		}
	case 3, 9:
		if f == namesFirst {
			w.sessions(p, f)
		} else {
			p.marked.layer = p.marked.layer || w.name || w.snapshot
		}
	case 4, 10: // read the recipes
		p.marked.object = p.marked.layer && w.layer == here
	case 5:
		p.sweepLayer = w.layer == here && !p.marked.layer
		p.sweepObj = w.object == here && !p.marked.object && (p.kind != quick || p.sweepLayer)
		if !p.sweepLayer && !p.sweepObj {
			p.step = 13
		}
	case 6:
		if w.sharers > 0 || w.alone {
			return false
		}
		w.alone = true
	case 7:
		changed := w.epoch != p.epoch && f != noEpoch
		w.epoch++
		w.sweeps++
		if changed {
			// A layer that is not taken this time keeps what it needs.
			p.marked = mark{layer: f != freshMark && (p.marked.layer || w.layer == here && !p.sweepLayer)}
		} else {
			p.step = 10
		}
	case 11:
		if p.sweepLayer && !p.marked.layer && w.layer == here {
			w.layer, w.layerSeen = away, w.living()
		}
	case 12:
		if p.sweepObj && !p.marked.object && w.object == here {
			w.object, w.objectSeen = away, w.living()
		}
	case 13:
		if f != oneCount {
			w.sweeps++
		}
		w.alone = false
	case 14: // empty the quarantine
		if !w.share() {
			return false
		}
	case 15:
		if w.layer == away && w.layerSeen&w.living() == 0 {
			w.layer = absent
		}
		if w.object == away && w.objectSeen&w.living() == 0 {
			w.object = absent
		}
		w.sweeps++
	case 16:
		w.sharers--
		p.ended = true
	}
	return true
}

// living returns which processes have a session.
func (w *world) living() (mask uint8) {
	for i, p := range w.procs {
		if p.live {
			mask |= 1 << i
		}
	}
	return mask
}

// wrong says what must never be.
func (w *world) wrong() string {
	for _, p := range w.procs {
		// Between the publication and the name the session keeps both, too.
		if p.kind == importer && p.kept && p.step > 19 && (w.layer != here || w.object != here) {
			return "what a session keeps is gone"
		}
	}
	if (w.name || w.snapshot) && (w.layer != here || w.object != here) {
		return "what is named is gone"
	}
	return ""
}

// explore tries all orders, and returns how many worlds there are, and the steps that lead
// to a wrong one.
func explore(start world, f flaw) (worlds int, trace string) {
	seen := map[world]bool{}
	var path []string
	var visit func(w world) bool
	visit = func(w world) bool {
		if seen[w] {
			return true
		}
		seen[w] = true
		if what := w.wrong(); what != "" {
			trace = what + ": " + strings.Join(path, " ")
			return false
		}
		moved, ended := false, true
		for i := range w.procs {
			ended = ended && w.procs[i].ended
			if n, ok := w.next(i, f); ok {
				moved = true
				path = append(path, fmt.Sprintf("%d.%d", i, n.procs[i].step))
				if !visit(n) {
					return false
				}
				path = path[:len(path)-1]
			}
		}
		if !moved && !ended {
			trace = "all wait: " + strings.Join(path, " ")
			return false
		}
		return true
	}
	visit(start)
	return len(seen), trace
}

// casts are the processes that meet, with what the store holds before.
func casts() map[string]world {
	cast := func(kinds ...kind) (w world) {
		for i := range w.procs {
			w.procs[i].ended = i >= len(kinds)
			if i < len(kinds) {
				w.procs[i].kind = kinds[i]
			}
		}
		return w
	}
	garbage := func(w world) world { w.layer, w.object = here, here; return w }
	object := func(w world) world { w.object = here; return w }
	quarantined := func(w world) world { w.layer, w.object = away, away; return w }
	named := func(w world) world { w.layer, w.object, w.name = here, here, true; return w }
	return map[string]world{
		"import into an empty store":        cast(importer, collector),
		"import of what is garbage":         garbage(cast(importer, collector)),
		"import of what was collected":      quarantined(cast(importer, collector, collector)),
		"import of an unused object":        object(cast(importer, collector, collector)),
		"two imports":                       object(cast(importer, importer, collector)),
		"import of what is removed":         named(cast(importer, remover, collector, collector)),
		"mount of what is removed":          named(cast(mounter, remover, collector, collector)),
		"mount of what is being imported":   garbage(cast(importer, mounter, remover, collector)),
		"mount of an import into nothing":   cast(importer, mounter, remover, collector),
		"import and mount of what is named": named(cast(importer, mounter, remover, collector)),
		"quick collection of garbage":       garbage(cast(importer, quick, quick)),
		"quick collection beside a full":    named(cast(importer, remover, quick, collector)),
		"quick collection of a mount":       named(cast(mounter, remover, quick, quick)),
	}
}

// Whatever the order of their steps, processes that import, mount, remove and collect
// never lose what is named, and never wait for each other for ever.
func TestProtocol(t *testing.T) {
	total := 0
	for name, start := range casts() {
		worlds, trace := explore(start, none)
		total += worlds
		t.Logf("%s: %d states", name, worlds)
		if trace != "" {
			t.Errorf("%s: %s", name, trace)
		}
	}
	t.Logf("%d states", total)
}

// The model is worth something: each rule of the protocol that is left out is missed.
func TestProtocolFindsFlaws(t *testing.T) {
	for f := noEpoch; f <= freshMark; f++ {
		found := ""
		for name, start := range casts() {
			if _, trace := explore(start, f); trace != "" {
				found = name + ": " + trace
				break
			}
		}
		if found == "" {
			t.Errorf("flaw %d is not found", f)
		}
		t.Logf("flaw %d, %s", f, found)
	}
}
