package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
)

// Errors that callers tell apart.
var (
	// ErrHasChildren is wrapped when a sealed snapshot is still below others.
	ErrHasChildren = fmt.Errorf("snapshot has children: %w", fs.ErrInvalid)
	// ErrInUse is wrapped when a mounted snapshot cannot be changed.
	ErrInUse = fmt.Errorf("snapshot is mounted: %w", fs.ErrInvalid)
)

// PrepareOptions says what a new snapshot is made of.
type PrepareOptions struct {
	Layers []DiffID // bottom first; may be empty
	Below  []Key    // sealed snapshots, bottom first
	Image  string
	Ref    string
	Labels map[string]string
	// Ephemeral makes a snapshot that is to be removed by this process: should it end
	// without doing so, a collector does, once nothing is mounted of it.
	Ephemeral bool

	root *tree.Inode // of a fork: the root directory as it is now
}

// Prepare makes a writable snapshot named key. An existing one wraps fs.ErrExist.
func (s *Store) Prepare(ctx context.Context, key Key, o PrepareOptions) (*Record, error) {
	return s.create(ctx, key, Active, o)
}

// View makes a read-only snapshot named key.
func (s *Store) View(ctx context.Context, key Key, o PrepareOptions) (*Record, error) {
	return s.create(ctx, key, View, o)
}

func (s *Store) create(ctx context.Context, key Key, kind Kind, o PrepareOptions) (*Record, error) {
	if _, err := ParseKey(string(key)); err != nil {
		return nil, err
	}
	unlock, err := s.lockSnapshot(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if o.Ephemeral {
		if err := s.own(ctx, key); err != nil {
			return nil, fmt.Errorf("create snapshot %s: %w", key, err)
		}
	}
	rec, err := s.createLocked(ctx, key, kind, o)
	if err != nil {
		return nil, fmt.Errorf("create snapshot %s: %w", key, err)
	}
	return rec, nil
}

// ownerLock is the name of the lock that the process of an ephemeral snapshot holds.
func ownerLock(key Key) string { return "owner-" + string(key) }

// own takes the owner's lock, which is held until the process ends: who finds it free
// knows that the owner is dead.
func (s *Store) own(ctx context.Context, key Key) error {
	s.ownedMu.Lock()
	defer s.ownedMu.Unlock()
	if s.owned[key] != nil {
		return nil
	}
	unlock, ok, err := s.disk.TryLock(ctx, ownerLock(key))
	if err != nil {
		return err
	}
	if !ok {
		return fs.ErrExist
	}
	s.owned[key] = unlock
	return nil
}

// owns tells whether this process has the owner's lock.
func (s *Store) owns(key Key) bool {
	s.ownedMu.Lock()
	defer s.ownedMu.Unlock()
	return s.owned[key] != nil
}

// disown gives the owner's lock up, where this process has it.
func (s *Store) disown(key Key) error {
	s.ownedMu.Lock()
	defer s.ownedMu.Unlock()
	unlock := s.owned[key]
	if unlock == nil {
		return nil
	}
	delete(s.owned, key)
	return unlock()
}

func (s *Store) createLocked(ctx context.Context, key Key, kind Kind, o PrepareOptions) (_ *Record, err error) {
	if len(o.Layers) > MaxLayers {
		return nil, fmt.Errorf("%d layers, limit %d: %w", len(o.Layers), MaxLayers, errors.ErrUnsupported)
	}
	if len(o.Below) > maxBelow {
		return nil, fmt.Errorf("%d forks deep, limit %d; commit it to an image first: %w", len(o.Below), maxBelow, errors.ErrUnsupported)
	}
	if _, err := s.readRecord(key); err == nil {
		return nil, fs.ErrExist
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	rec := &Record{Version: recordVersion, Key: key, Kind: kind, Layers: o.Layers, Below: o.Below,
		Image: o.Image, Ref: o.Ref, Labels: o.Labels, Ephemeral: o.Ephemeral, Created: s.now().UTC().Truncate(time.Millisecond)}
	if s.opts.Namespace != unionfs.Trusted {
		rec.Namespace = s.opts.Namespace
	}
	data, err := encodeRecord(rec)
	if err != nil {
		return nil, err
	}
	root := o.root
	if kind == Active && root == nil {
		if root, err = s.rootInode(ctx, rec); err != nil {
			return nil, err
		}
	}
	// Without its record the directory is the leftover of a killed command.
	if err := s.removeHome(key); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.removeHome(key))
		}
	}()
	if err := s.makeHome(key, root, o.Ephemeral); err != nil {
		return nil, err
	}
	return rec, s.nameNew(ctx, rec, data)
}

// nameNew writes the record of a new snapshot, encoded as data, for which all else is
// there and durable. No sweep runs from the look at what the snapshot needs until the
// record keeps it.
func (s *Store) nameNew(ctx context.Context, rec *Record, data []byte) (err error) {
	unlock, err := s.disk.Share(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	names := make([]string, len(rec.Layers))
	for i, d := range rec.Layers {
		names[i] = d.hex()
	}
	missing, err := s.disk.MissingRecord(layersDir, names)
	if err != nil {
		return err
	}
	if missing != "" {
		return fmt.Errorf("layer sha256:%s is not in the store; load or pull its image again: %w", missing, fs.ErrNotExist)
	}
	for _, k := range rec.Below {
		below, err := s.readRecord(k)
		if err == nil && below.Kind != Sealed {
			err = fmt.Errorf("it is %s, want sealed: %w", below.Kind, fs.ErrInvalid)
		}
		if err == nil && below.namespace() != rec.namespace() {
			err = fmt.Errorf("it is marked with attributes %s*, this one is to be with %s*: %w", below.namespace(), rec.namespace(), errors.ErrUnsupported)
		}
		if err != nil {
			return fmt.Errorf("stand on snapshot %s: %w", k, err)
		}
	}
	if rec.Ephemeral {
		return s.disk.WriteFleetingRecord(ctx, recordName(rec.Key), data)
	}
	return s.disk.WriteRecord(ctx, recordName(rec.Key), data)
}

// SetLabels changes labels of a snapshot; an empty value removes one.
func (s *Store) SetLabels(ctx context.Context, key Key, labels map[string]string) (*Record, error) {
	unlock, err := s.lockSnapshot(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if rec.Labels == nil {
		rec.Labels = map[string]string{}
	}
	for k, v := range labels {
		if v == "" {
			delete(rec.Labels, k)
		} else {
			rec.Labels[k] = v
		}
	}
	return rec, s.writeRecord(ctx, rec)
}

// Remove removes a snapshot and what was written to it. A mounted one wraps ErrInUse,
// a sealed one that others stand on wraps ErrHasChildren. Sealed snapshots that
// nothing stands on any more go with their last child. A snapshot whose record is
// damaged can be removed too.
func (s *Store) Remove(ctx context.Context, key Key) error {
	if _, err := ParseKey(string(key)); err != nil {
		return err
	}
	unlock, err := s.lockSnapshot(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := s.Stat(ctx, key)
	damaged := errors.Is(err, fs.ErrInvalid)
	if damaged {
		rec, err = &Record{Key: key, Kind: Sealed}, nil // as it may have been
	}
	if err != nil {
		return err
	}
	// Who had it mounted, if anybody, has been this process: nothing of it is left then
	// but what an administrator may look at in the mount namespace that was its container's.
	look := s.mustBeIdle
	if rec.Ephemeral && s.owns(key) {
		look = s.mustBeFree
	}
	if err := look(key); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	if err := s.removeLocked(ctx, rec, damaged); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	if err := s.disown(key); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	return s.dropUnusedSealed(ctx, rec.Below)
}

// removeLocked removes a snapshot that is idle. With guess, snapshots whose records are
// damaged are taken to stand on no other: else two of them could not be removed.
func (s *Store) removeLocked(ctx context.Context, rec *Record, guess bool) error {
	if err := s.removeName(ctx, rec, guess); err != nil {
		return err
	}
	return s.removeHome(rec.Key)
}

// removeName removes the record, which goes first: from then on the rest is a leftover
// that gc may take.
func (s *Store) removeName(ctx context.Context, rec *Record, guess bool) (err error) {
	if rec.Kind == Sealed {
		// Nobody can come to stand on it between the look and the removal: see nameNew.
		unlock, err := s.disk.Exclusive(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		child, err := s.childOf(ctx, rec.Key, guess)
		if err != nil {
			return fmt.Errorf("look for snapshots that stand on it: %w", err)
		}
		if child != "" {
			return fmt.Errorf("%s stands on it: %w", child, ErrHasChildren)
		}
	}
	if rec.Ephemeral {
		return s.disk.RemoveFleetingRecord(ctx, recordName(rec.Key))
	}
	return s.disk.RemoveRecord(ctx, recordName(rec.Key))
}

func (s *Store) childOf(ctx context.Context, key Key, guess bool) (child Key, err error) {
	damaged := func(_ string, err error) error { return err }
	if guess {
		damaged = func(string, error) error { return nil }
	}
	err = s.walk(ctx, damaged, func(r *Record) error {
		if slices.Contains(r.Below, key) {
			child = r.Key
			return fs.SkipAll
		}
		return nil
	})
	if errors.Is(err, fs.SkipAll) {
		err = nil
	}
	return child, err
}

// dropUnusedSealed removes sealed snapshots, topmost first, that have no child. What
// cannot be told to have none stays for gc.
func (s *Store) dropUnusedSealed(ctx context.Context, keys []Key) error {
	for _, k := range slices.Backward(keys) {
		rec, err := s.readRecord(k)
		if err == nil {
			err = s.removeLocked(ctx, rec, false)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// Another process that removes a child was faster.
		case errors.Is(err, ErrHasChildren):
			return nil
		case errors.Is(err, fs.ErrInvalid):
			s.log.Warn("sealed snapshot stays", "key", k, "error", err)
			return nil
		case err != nil:
			return fmt.Errorf("remove sealed snapshot %s: %w", k, err)
		}
	}
	return nil
}

// lockSnapshots locks one or more snapshots, which differ.
func (s *Store) lockSnapshots(ctx context.Context, keys ...Key) (func(), error) {
	var unlocks []func()
	unlock := func() {
		for _, u := range slices.Backward(unlocks) {
			u()
		}
	}
	for _, k := range slices.Sorted(slices.Values(keys)) {
		u, err := s.lockSnapshot(ctx, k)
		if err != nil {
			unlock()
			return nil, err
		}
		unlocks = append(unlocks, u)
	}
	return unlock, nil
}

func (s *Store) lockSnapshot(ctx context.Context, key Key) (func(), error) {
	unlock, err := s.disk.Lock(ctx, "snapshot-"+string(key))
	if err != nil {
		return nil, fmt.Errorf("lock snapshot %s: %w", key, err)
	}
	return func() {
		if err := unlock(); err != nil {
			s.log.Warn("unlock snapshot", "key", key, "error", err)
		}
	}, nil
}
