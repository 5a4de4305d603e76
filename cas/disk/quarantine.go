package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/internal/durable"
	"golang.org/x/sys/unix"
)

// Sweep is the moment in which things are taken away. It is valid only inside the
// function given to [Store.Sweep].
type Sweep struct {
	s       *Store
	epoch   uint64
	change  usageRecord // what is to be added to the sums
	touched map[string]bool
	taken   Sum

	// Directories are reached once and not once a file: most of what is taken away lies
	// in the same directory as what was before it.
	from, to *os.File
	fromName string // of from, below the root
}

// Sweep calls fn while nobody publishes or sweeps. What fn takes away is durably gone
// when Sweep returns. fn must be short, and must not share or take the store lock, nor
// publish or remove; it may read and write records. It needs no free space.
func (s *Store) Sweep(ctx context.Context, fn func(*Sweep) error) (err error) {
	unlock, err := s.Exclusive(ctx)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	// An interrupted sweep leaves the sums marked as not exact. Ingests that see the
	// number of sweeps change look whether what they found is still there.
	sw := &Sweep{s: s, touched: map[string]bool{}}
	err = s.changeUsage(ctx, true, func(r *usageRecord) error {
		sw.epoch = r.Epoch
		r.beginTaking()
		return nil
	})
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return errors.Join(fn(sw), sw.close(), sw.end(context.WithoutCancel(ctx)))
}

// dirs returns the open directory of that name below the root, and that of quarantine.
func (sw *Sweep) dirs(name string) (from, to *os.File, err error) {
	if sw.to == nil {
		if sw.to, err = sw.s.openDir(quarantineDir); err != nil {
			return nil, nil, err
		}
	}
	if sw.from != nil && sw.fromName == name {
		return sw.from, sw.to, nil
	}
	from, err = sw.s.openDir(name)
	if err != nil {
		return nil, nil, err
	}
	if sw.from != nil {
		err = sw.from.Close()
	}
	sw.from, sw.fromName = from, name
	return from, sw.to, err
}

func (sw *Sweep) close() error {
	var errs []error
	for _, f := range []*os.File{sw.from, sw.to} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func (sw *Sweep) end(ctx context.Context) error {
	err := sw.s.flush(ctx, slices.Sorted(maps.Keys(sw.touched)))
	if err != nil {
		return err // the sums stay marked as not exact
	}
	return sw.s.changeUsage(ctx, true, func(r *usageRecord) error {
		r.addAll(&sw.change)
		r.endTaking()
		return nil
	})
}

// flush makes directories durable outside a batch.
func (s *Store) flush(ctx context.Context, names []string) error {
	f, err := durable.NewFlusher(s.root, s.opts.NoSync)
	if err != nil {
		return err
	}
	return errors.Join(f.Flush(ctx, names), f.Close())
}

// Epoch returns what [Store.Epoch] returned last before the sweep began: if it is what
// it was before marking, nothing was published or named since.
func (sw *Sweep) Epoch() uint64 { return sw.epoch }

// Taken returns what was taken away so far.
func (sw *Sweep) Taken() Sum { return sw.taken }

// Quarantine moves the blob, object or record at that path below the root out of sight,
// until [Store.Expire] deletes it or a batch that relies on it brings it back. Where
// the disk has no room even for that, it is deleted at once. The error wraps
// fs.ErrNotExist when there is nothing.
func (sw *Sweep) Quarantine(rel string) error { return sw.take(rel, quarantineName(rel)) }

// Discard is Quarantine for what is damaged: nobody brings it back, so that there is room
// for what is sound.
func (sw *Sweep) Discard(rel string) error { return sw.take(rel, quarantineName(rel)+damagedSuffix) }

// damagedSuffix cannot come from escaping a path.
const damagedSuffix = "%damaged"

// take moves the file at rel below the root to a name in quarantine.
func (sw *Sweep) take(rel, to string) error {
	if err := checkSweepable(rel); err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	from, quarantine, err := sw.dirs(path.Dir(rel))
	if err != nil {
		return fmt.Errorf("quarantine %s: %w", rel, err)
	}
	name := path.Base(rel)
	st, err := statAt(from, name)
	if err != nil {
		return fmt.Errorf("quarantine %s: %w", rel, err)
	}
	err = unix.Renameat2(int(from.Fd()), name, int(quarantine.Fd()), to, unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// The same was quarantined before, or the file system cannot tell.
		replaced, rerr := statAt(quarantine, to)
		if err = unix.Renameat(int(from.Fd()), name, int(quarantine.Fd()), to); err == nil && rerr == nil {
			sw.change.Quarantine.count(-1, -replaced.size)
		}
	}
	switch {
	case err == nil:
		sw.change.Quarantine.count(1, st.size)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.ENAMETOOLONG):
		if err = unix.Unlinkat(int(from.Fd()), name, 0); err == nil {
			sw.s.log.Warn("deleted without quarantine for lack of room", "path", rel)
		}
	}
	if err != nil {
		return fmt.Errorf("quarantine %s: %w", rel, err)
	}
	sw.change.of(rel).count(-1, -st.size)
	sw.taken.count(1, st.size)
	sw.touched[path.Dir(rel)] = true
	return nil
}

// checkSweepable refuses a path that is not one of content or of a record.
func checkSweepable(rel string) error {
	top, rest, _ := strings.Cut(rel, "/")
	if (top == blobsDir || top == objectsDir) && rest != "" && fs.ValidPath(rel) && len(rel) <= MaxRecordPath {
		return nil
	}
	return checkRecord(rel)
}

// quarantined returns where a path lies while it is in quarantine: in one directory, so
// that no directory has to be made on a full disk.
func quarantined(rel string) string { return quarantineDir + "/" + quarantineName(rel) }

func quarantineName(rel string) string { return url.PathEscape(rel) }

// Quarantine is a sweep that takes away the given paths. Those that are not there are
// passed over.
func (s *Store) Quarantine(ctx context.Context, rels ...string) (Sum, error) {
	var taken Sum
	err := s.Sweep(ctx, func(sw *Sweep) error {
		for _, rel := range rels {
			if err := sw.Quarantine(rel); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		taken = sw.Taken()
		return nil
	})
	return taken, err
}

// Expire deletes what was quarantined before that time, and returns how much it was.
// The grace that this gives should exceed the time that an import takes. It needs no
// free space.
func (s *Store) Expire(ctx context.Context, before time.Time) (Sum, error) {
	return s.expire(ctx, before, func(visit func(string, fileStat) error) error {
		return s.walk(ctx, quarantineDir, 1, visit)
	})
}

// ExpireOnly deletes, of the given paths, those that were quarantined before that time.
func (s *Store) ExpireOnly(ctx context.Context, before time.Time, rels ...string) (Sum, error) {
	return s.expire(ctx, before, func(visit func(string, fileStat) error) error {
		for _, rel := range rels {
			st, err := statAt(s.rootDir, quarantined(rel))
			if errors.Is(err, fs.ErrNotExist) {
				continue // brought back, or deleted by another process
			}
			if err == nil {
				err = visit(quarantined(rel), st)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// expire deletes what visit is called with, if it is old enough.
func (s *Store) expire(ctx context.Context, before time.Time, each func(visit func(string, fileStat) error) error) (gone Sum, err error) {
	if err := s.writable(); err != nil {
		return gone, err
	}
	// No sweep may run: a file could be brought back and quarantined anew between the
	// look at its time and its removal.
	unlock, err := s.Share(ctx)
	if err != nil {
		return gone, fmt.Errorf("expire: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	err = s.changeUsage(ctx, true, func(r *usageRecord) error {
		r.beginTaking()
		return nil
	})
	if err != nil {
		return gone, fmt.Errorf("expire: %w", err)
	}
	dir, err := s.openDir(quarantineDir)
	if err != nil {
		return gone, fmt.Errorf("expire: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	err = each(func(rel string, st fileStat) error {
		if !st.changed.Before(before) {
			return nil
		}
		err := unix.Unlinkat(int(dir.Fd()), path.Base(rel), 0)
		switch {
		case err == nil:
			gone.count(1, st.size)
		case !errors.Is(err, fs.ErrNotExist): // else another process was faster
			return &fs.PathError{Op: "delete", Path: rel, Err: err}
		}
		return nil
	})
	ctx = context.WithoutCancel(ctx)
	if serr := s.syncDir(quarantineDir); serr != nil {
		return gone, fmt.Errorf("expire: %w", errors.Join(err, serr))
	}
	err = errors.Join(err, s.changeUsage(ctx, true, func(r *usageRecord) error {
		r.add(&r.Quarantine, -gone.Count, -gone.Bytes)
		r.endTaking()
		return nil
	}))
	if err != nil {
		return gone, fmt.Errorf("expire: %w", err)
	}
	return gone, nil
}

// restore brings a path back from quarantine, and adds that to the sums in came. It does
// nothing when another process was faster. The caller shares the store lock.
func (s *Store) restore(rel string, came *usageRecord) error {
	from := quarantined(rel)
	fi, err := s.root.Lstat(from)
	if err == nil {
		var count, added int64
		if count, added, err = s.moveNew(s.rootDir, from, s.rootDir, rel, fi.Size()); err == nil {
			came.of(rel).count(count, added)
			came.Quarantine.count(-1, -fi.Size())
			return nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) && s.holds(rel, -1) {
		return nil
	}
	return err
}
