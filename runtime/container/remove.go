package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// Remove removes what is kept of a container that does not run, and its name. The error
// wraps ErrActive when it runs. What it stands on is the caller's to remove before.
func (s *Store) Remove(ctx context.Context, id ID) (err error) {
	unlockNames, err := s.lockNames(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlockNames()) }()
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	name := ""
	rec, err := s.record(id)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("container %s: %w", id.Short(), err)
	}
	if err == nil {
		name = rec.Name
	}
	if st, err := s.State(id); err == nil && st.Active() {
		return fmt.Errorf("remove container %s: %w", id.Short(), ErrActive)
	}
	return s.drop(id, name)
}

// drop removes the directory of a container, its record first: without that it is a
// leftover, which Sweep removes.
func (s *Store) drop(id ID, name string) error {
	if err := s.root.Remove(string(id) + "/" + recordFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.root.RemoveAll(string(id)); err != nil {
		return err
	}
	if name == "" {
		return nil
	}
	if target, err := s.root.Readlink(namesDir + "/" + name); err != nil || target != string(id) {
		return nil //nolint:nilerr // another container has the name by now
	}
	return s.unname(name)
}

// Sweep removes what killed commands left: directories without a record, and names that
// lead to no container. With dry it only counts them.
func (s *Store) Sweep(ctx context.Context, dry bool) (n int, err error) {
	unlock, err := s.lockNames(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	// Whoever makes a container holds the lock from its directory to its record.
	err = s.walkIDs(ctx, func(id ID) error {
		if _, err := s.record(id); !errors.Is(err, fs.ErrNotExist) {
			return nil // a damaged one is for people to look at
		}
		n++
		if dry {
			return nil
		}
		return s.root.RemoveAll(string(id))
	})
	if err != nil {
		return n, err
	}
	names, err := s.entries(namesDir)
	if err != nil {
		return n, err
	}
	for _, name := range names {
		id, err := s.taken(name)
		if err != nil {
			return n, err
		}
		if id != "" {
			continue
		}
		n++
		if !dry {
			if err := s.unname(name); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}
