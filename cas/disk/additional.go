package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
)

// A store can stand on others, which it only reads: what it lacks of blobs, objects,
// recipes and trees is read from the first of them that has it, and what one of them has
// is not stored again. Walks, sweeps, sums and locks are about the store itself. Nothing
// keeps an additional store from losing what others rely on; it is for those that only
// ever grow, or are not written to at all.

// openAdditional opens the stores that s stands on.
func (s *Store) openAdditional(ctx context.Context, dirs []string) error {
	own, err := s.root.Stat(".")
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		below, err := Open(ctx, dir, Options{ReadOnly: true, Logger: s.opts.Logger})
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w; its owner lets others read it with chmod -R a+rX", err)
		}
		if err != nil {
			return fmt.Errorf("additional store: %w", err)
		}
		s.additional = append(s.additional, below)
		fi, err := below.root.Stat(".")
		if err == nil && os.SameFile(own, fi) {
			err = fmt.Errorf("additional store %s: it is the store itself: %w", dir, fs.ErrInvalid)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Additional returns the stores that this one stands on. They are closed with it.
func (s *Store) Additional() []*Store { return s.additional }

// ObjectsDirs returns the paths of all directories in which objects may lie, the store's
// own first; see ObjectsDir.
func (s *Store) ObjectsDirs() []string {
	dirs := []string{s.ObjectsDir()}
	for _, below := range s.additional {
		dirs = append(dirs, below.ObjectsDir())
	}
	return dirs
}

// shared reports whether a record is one that says the same in every store.
func shared(rel string) bool {
	return strings.HasPrefix(rel, "layers/") || strings.HasPrefix(rel, "stacks/")
}

// Elsewhere returns the first additional store that has a recipe, a record of a blob or a
// tree, nil when none has.
func (s *Store) Elsewhere(rel string) *Store {
	if !shared(rel) {
		return nil
	}
	for _, below := range s.additional {
		if _, err := below.root.Lstat(rel); err == nil {
			return below
		}
	}
	return nil
}

// RecordPath returns the absolute path of a recipe or a tree: that of the store's own
// when there is one, or when there is none anywhere.
func (s *Store) RecordPath(rel string) string {
	if len(s.additional) > 0 {
		if _, err := s.root.Lstat(rel); errors.Is(err, fs.ErrNotExist) {
			if below := s.Elsewhere(rel); below != nil {
				return below.RecordPath(rel)
			}
		}
	}
	return filepath.Join(s.dir, rel)
}

// holdsElsewhere reports whether an additional store has an object, and it has that size
// in bytes; any size when that is negative.
func (s *Store) holdsElsewhere(id tree.ObjectID, size int64) bool {
	for _, below := range s.additional {
		if got, err := below.statObject(id); err == nil && (size < 0 || got == size) {
			return true
		}
	}
	return false
}

// openElsewhere calls open for the additional stores until one has it; err, which says
// that the store itself has not, is returned when none does.
func (s *Store) openElsewhere(err error, open func(*Store) (cas.Reader, error)) (cas.Reader, error) {
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, below := range s.additional {
		r, berr := open(below)
		if berr == nil || !errors.Is(berr, fs.ErrNotExist) {
			return r, berr
		}
	}
	return nil, err
}
