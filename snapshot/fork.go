package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

// Fork makes a second writable snapshot with the state that the first has now, without
// copying: the first's upper is sealed under a name of its own and both go on writing
// to new uppers above it. The first must not be mounted.
func (s *Store) Fork(ctx context.Context, from, to Key) (*Record, error) {
	if _, err := ParseKey(string(to)); err != nil {
		return nil, err
	}
	if from == to {
		return nil, fmt.Errorf("fork snapshot %s to itself: %w", from, fs.ErrExist)
	}
	unlock, err := s.lockSnapshots(ctx, from, to)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := s.Stat(ctx, from)
	if err != nil {
		return nil, err
	}
	if rec.Kind != Active {
		return nil, fmt.Errorf("fork snapshot %s: it is %s, want active: %w", from, rec.Kind, errors.ErrUnsupported)
	}
	if err := s.mountable(rec); err != nil {
		return nil, fmt.Errorf("fork snapshot %s: %w", from, err)
	}
	if _, err := s.readRecord(to); err == nil {
		return nil, fmt.Errorf("fork snapshot %s to %s: %w", from, to, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("fork snapshot %s to %s: %w", from, to, err)
	}
	if err := s.mustBeIdle(from); err != nil {
		return nil, fmt.Errorf("fork snapshot %s: %w", from, err)
	}
	root, err := s.upperRoot(from, rec.namespace())
	if err == nil {
		rec, err = s.seal(ctx, rec, root)
	}
	if err != nil {
		return nil, fmt.Errorf("fork snapshot %s: %w", from, err)
	}
	fork, err := s.createLocked(ctx, to, Active, PrepareOptions{Layers: rec.Layers, Below: rec.Below,
		Image: rec.Image, Ref: rec.Ref, Labels: rec.Labels, root: root})
	if err != nil {
		return nil, fmt.Errorf("fork snapshot %s to %s: %w", from, to, err)
	}
	return fork, nil
}

// seal moves what was written to rec's snapshot under a new sealed one and leaves rec's
// as an empty snapshot above it; it returns the new record. An empty upper is not
// sealed: there is nothing to share.
//
// The new state is made complete in the directory of the sealed key, and then the two
// directories are exchanged by one rename, so that a cut leaves the old or the new
// state. After the exchange the sealed directory still carries the record of the
// snapshot it was; readRecord understands that, and the last step only tidies it. All
// the while the sealed key is locked, for a collector to leave its directory alone.
func (s *Store) seal(ctx context.Context, rec *Record, root *tree.Inode) (_ *Record, err error) {
	names, err := os.ReadDir(s.Upper(rec.Key))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return rec, nil
	}
	if len(rec.Below) >= maxBelow {
		return nil, fmt.Errorf("%d forks deep; commit it to an image first: %w", maxBelow, errors.ErrUnsupported)
	}
	sealed := *rec
	sealed.Kind = Sealed
	sealed.Key = sealedKey(rec.Key)
	sealed.Labels = nil
	sealed.Ephemeral = false
	above := *rec
	above.Below = append(slices.Clone(rec.Below), sealed.Key)
	above.Created = s.now().UTC().Truncate(time.Millisecond)

	unlock, err := s.lockSnapshot(ctx, sealed.Key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	data, err := encodeRecord(&above)
	if err == nil {
		err = s.makeHome(sealed.Key, root, false)
	}
	if err == nil {
		err = s.disk.WriteRecord(ctx, recordName(sealed.Key), data)
	}
	if err != nil {
		return nil, errors.Join(err, s.removeHome(sealed.Key))
	}
	if rec.Ephemeral {
		// The home becomes the sealed one's, which is none.
		if err := os.Remove(filepath.Join(s.dir(rec.Key), ephemeralFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, s.removeHome(sealed.Key))
		}
	}
	home := s.dir(sealed.Key)
	err = unix.Renameat2(unix.AT_FDCWD, home, unix.AT_FDCWD, s.dir(rec.Key), unix.RENAME_EXCHANGE)
	if err != nil {
		err = errors.Join(err, s.removeHome(sealed.Key))
	} else {
		err = syncDir(filepath.Dir(home))
	}
	if err != nil {
		return nil, fmt.Errorf("exchange %s and %s: %w", sealed.Key, rec.Key, err)
	}
	return &above, s.writeRecord(ctx, &sealed)
}

// Reset drops all that was written to a snapshot since it was made or last forked. It
// must not be mounted.
func (s *Store) Reset(ctx context.Context, key Key) error {
	unlock, err := s.lockSnapshot(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := s.Stat(ctx, key)
	if err != nil {
		return err
	}
	if rec.Kind != Active {
		return fmt.Errorf("reset snapshot %s: it is %s, want active: %w", key, rec.Kind, errors.ErrUnsupported)
	}
	if err := s.mountable(rec); err != nil {
		return fmt.Errorf("reset snapshot %s: %w", key, err)
	}
	if err := s.mustBeIdle(key); err != nil {
		return fmt.Errorf("reset snapshot %s: %w", key, err)
	}
	root, err := s.rootInode(ctx, rec)
	if err != nil {
		return fmt.Errorf("reset snapshot %s: %w", key, err)
	}
	if err := s.replaceUpper(key, root); err != nil {
		return fmt.Errorf("reset snapshot %s: %w", key, err)
	}
	return nil
}

// freshDir is where the new upper of a snapshot is made, and where the old one goes.
const freshDir = "fresh"

// replaceUpper exchanges the upper and work directories of a snapshot for new ones. The
// old upper leaves by one rename: a cut leaves the old or the new state, and a directory
// that gc removes.
func (s *Store) replaceUpper(key Key, root *tree.Inode) (err error) {
	dir := s.dir(key)
	fresh := filepath.Join(dir, freshDir)
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(fresh)) }()
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	if err := s.makeUpper(fresh, root); err != nil {
		return err
	}
	for _, d := range []string{"work", "upper"} {
		err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(fresh, d), unix.AT_FDCWD, filepath.Join(dir, d), unix.RENAME_EXCHANGE)
		if err != nil {
			return fmt.Errorf("exchange %s: %w", d, err)
		}
	}
	return syncDir(dir)
}
