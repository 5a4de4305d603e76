package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// dropLeftovers removes directories of snapshots that have no record, of commands that
// were killed, ephemeral snapshots whose process has ended, and sealed snapshots that
// nothing stands on.
func (s *Store) dropLeftovers(ctx context.Context, dryRun bool, r *CollectReport) error {
	err := s.walkNames(ctx, "snapshots", func(name string) error {
		key, err := ParseKey(name)
		if err != nil {
			return nil //nolint:nilerr // not one of ours
		}
		left, err := s.leftover(key)
		if err == nil && left != "" {
			err = s.dropLeftover(ctx, key, dryRun, r)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("leftover stays", "key", key, "error", err)
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	damaged := func(string, error) error { return nil } // mark will say so
	err = s.walk(ctx, damaged, func(rec *Record) error { return s.dropAbandoned(ctx, rec, dryRun, r) })
	if err != nil {
		return err
	}
	var sealed []Key
	used := map[Key]bool{}
	err = s.walk(ctx, damaged, func(rec *Record) error {
		if rec.Kind == Sealed {
			sealed = append(sealed, rec.Key)
		}
		for _, k := range rec.Below {
			used[k] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range sealed {
		if used[k] {
			if !dryRun {
				if err := s.tidySealed(ctx, k); err != nil {
					return err
				}
			}
			continue
		}
		r.Snapshots++
		if dryRun {
			continue
		}
		if err := s.dropUnusedSealed(ctx, []Key{k}); err != nil {
			return err
		}
	}
	return nil
}

// abandoned reports whether a snapshot was to go with a process that has ended without
// removing it. It returns the lock of the snapshot's owner, for the caller to release.
func (s *Store) abandoned(ctx context.Context, rec *Record) (unlock func() error, err error) {
	if !rec.Ephemeral {
		return nil, nil
	}
	if err := s.mustBeIdle(rec.Key); err != nil {
		if errors.Is(err, ErrInUse) {
			err = nil
		}
		return nil, err
	}
	unlock, ok, err := s.disk.TryLock(ctx, ownerLock(rec.Key))
	if err != nil || !ok {
		return nil, err
	}
	return unlock, nil
}

// dropAbandoned removes an ephemeral snapshot that its process left.
func (s *Store) dropAbandoned(ctx context.Context, rec *Record, dryRun bool, r *CollectReport) (err error) {
	unlock, err := s.abandoned(ctx, rec)
	if err != nil || unlock == nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	r.Snapshots++
	if dryRun {
		return nil
	}
	return ignoreMissing(s.Remove(ctx, rec.Key))
}

// tidySealed ends a fork that was cut after its exchange, see seal.
func (s *Store) tidySealed(ctx context.Context, key Key) error {
	unlock, err := s.lockSnapshot(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	data, err := s.disk.ReadRecord(recordName(key))
	if err != nil {
		return ignoreMissing(err)
	}
	stored, err := parseRecord(data)
	if err != nil || stored.Key == key {
		return err
	}
	rec, err := s.readRecord(key)
	if err != nil {
		return err
	}
	return s.writeRecord(ctx, rec)
}

// leftover returns what a command that was killed left of or in the home of a snapshot,
// "" for nothing.
func (s *Store) leftover(key Key) (dir string, err error) {
	_, err = s.readRecord(key)
	if errors.Is(err, fs.ErrNotExist) {
		return s.dir(key), nil
	}
	if err != nil {
		return "", nil //nolint:nilerr // a damaged record is for fsck to report, and is kept
	}
	fresh := filepath.Join(s.dir(key), freshDir)
	if ok, err := exists(fresh); err != nil || !ok {
		return "", err
	}
	return fresh, nil
}

func (s *Store) dropLeftover(ctx context.Context, key Key, dryRun bool, r *CollectReport) error {
	unlock, err := s.lockSnapshot(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	// Whoever was making it held the lock until now.
	dir, err := s.leftover(key)
	if err != nil || dir == "" {
		return err
	}
	r.Snapshots++
	switch {
	case dryRun:
		return nil
	case dir == s.dir(key):
		return s.removeHome(key)
	default:
		return os.RemoveAll(dir)
	}
}
