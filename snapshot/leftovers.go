package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// dropLeftovers removes directories of snapshots that have no record, of commands that
// were killed, and sealed snapshots that nothing stands on.
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
	var sealed []Key
	used := map[Key]bool{}
	damaged := func(string, error) error { return nil } // mark will say so
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
