package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/layerfs/layerfs/internal/durable"
	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

// Names of the mark in an ingest directory while it is being published. While contents
// and records are renamed it has the second name: others may then see what a power cut
// would take back.
const (
	publishingFile = "publishing"
	movingFile     = "moving"
)

// Publish flushes all that was put since the last Publish, moves it into place and
// flushes the directories. When it returns nil, all of it is visible and durable, and all
// that was found present, and therefore not stored, is still there: what a sweep has
// quarantined meanwhile is brought back, and what it has deleted is an error that
// wraps fs.ErrNotExist, whereupon the import is to be repeated in a new batch. Puts that
// run at the same time wait. Publish may be repeated after it failed for lack of space.
func (in *Ingest) Publish(ctx context.Context) error {
	in.gate.Lock()
	defer in.gate.Unlock()
	err := in.usable(ctx)
	if err == nil {
		in.early.wait()
		in.mu.Lock()
		defer in.mu.Unlock()
		err = in.publish(ctx)
	}
	if err != nil {
		return fmt.Errorf("publish ingest %s: %w", in.id, err)
	}
	return nil
}

func (in *Ingest) publish(ctx context.Context) (err error) {
	if in.fail != nil {
		return fmt.Errorf("something failed before: %w", in.fail)
	}
	fresh := in.unpublished()
	hits := in.takeHits()
	if len(fresh) == 0 && len(in.touched) == 0 && !hits {
		return in.unlockBlobs()
	}
	if len(fresh) > 0 {
		if err := in.mark(); err != nil {
			return err
		}
		// Not interrupted, so that an error means that something is not durable.
		if err := in.flusher.Flush(context.WithoutCancel(ctx), append(fresh, in.path(""))); err != nil {
			in.fail = err
			return err
		}
	}
	unlock, err := in.s.Share(ctx)
	if err != nil {
		// Interrupted before anything was moved: there is nothing to settle.
		return errors.Join(err, in.remark(publishingFile, ""))
	}
	// From here on the work is short, and is finished whatever becomes of ctx.
	err = in.move(context.WithoutCancel(ctx), len(fresh) > 0)
	if err == nil {
		err = in.unlockBlobs()
	}
	return errors.Join(err, unlock())
}

// unpublished returns the paths of the files to be flushed, or if they are many at least
// so many of them that it does not matter which.
func (in *Ingest) unpublished() []string {
	var names []string
	for _, f := range in.files {
		names = append(names, in.path(f.temp))
	}
	for _, sl := range slices.Concat(in.idle, in.full) {
		for i, ref := range sl.objects {
			if len(names) > durable.FewFiles {
				return names
			}
			if !ref.id.IsZero() {
				names = append(names, in.path(sl.name)+"/"+strconv.Itoa(i))
			}
		}
	}
	return names
}

// takeHits adds the objects found since the last time to those promised, and reports
// whether anything is promised.
func (in *Ingest) takeHits() bool {
	for i := range in.shards {
		sh := &in.shards[i]
		sh.mu.Lock()
		in.promised = append(in.promised, sh.hits...)
		sh.hits = nil
		sh.mu.Unlock()
	}
	return len(in.promised) > 0 || len(in.found) > 0
}

// mark makes the mark of an ingest that is being published.
func (in *Ingest) mark() error {
	fd, err := unix.Openat(int(in.dir.Fd()), publishingFile, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create", Path: in.path(publishingFile), Err: err}
	}
	return unix.Close(fd)
}

// remark renames the mark, or removes it when to is "". It may be missing.
func (in *Ingest) remark(from, to string) error {
	fd := int(in.dir.Fd())
	var err error
	if to == "" {
		err = unix.Unlinkat(fd, from, 0)
	} else {
		err = unix.Renameat(fd, from, fd, to)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "rename", Path: in.path(from), Err: err}
	}
	return nil
}

// move renames all that is flushed into place, under the shared store lock. fresh says
// that there is something.
func (in *Ingest) move(ctx context.Context, fresh bool) (err error) {
	var came usageRecord // what is to be added to the sums
	if err := in.keepPromises(ctx, &came); err != nil {
		// Nothing was moved but what came back from quarantine, and that is counted. It
		// has no record: a collector must not rely on its memo to find it.
		return errors.Join(err, in.s.changeUsage(ctx, true, func(r *usageRecord) error {
			r.Epoch++
			r.Sweeps++
			r.addAll(&came)
			return nil
		}), in.remark(publishingFile, ""))
	}
	if err := in.remark(publishingFile, movingFile); err != nil {
		return err
	}
	err = in.moveContents(&came)
	if err == nil {
		err = in.flushTouched(ctx)
	}
	if err == nil {
		err = in.moveRecords(ctx, &came)
	}
	if fresh || came != (usageRecord{}) {
		err = errors.Join(err, in.count(ctx, &came))
	}
	if err != nil {
		return err
	}
	return errors.Join(in.remark(movingFile, ""), in.removeSlabs())
}

// keepPromises looks whether all that was found in the store, or published by this
// batch before, is still there, and brings back what is in quarantine. It has to look
// only if anything was taken away since the batch began.
func (in *Ingest) keepPromises(ctx context.Context, came *usageRecord) error {
	usage, err := in.s.readUsage(ctx)
	if err != nil {
		return err
	}
	if usage.Sweeps == in.sweeps {
		return nil
	}
	for _, ref := range in.promised {
		if _, err := in.s.statObject(ref.id); err == nil {
			continue
		}
		if err := in.bringBack(objectsDir+"/"+ref.id.Path(), came); err != nil {
			return err
		}
	}
	for _, rel := range in.found {
		if in.s.holds(rel, -1) {
			continue
		}
		if err := in.bringBack(rel, came); err != nil {
			return err
		}
	}
	// Everything holds as of now; later sweeps have higher numbers.
	in.sweeps = usage.Sweeps
	return nil
}

func (in *Ingest) bringBack(rel string, came *usageRecord) error {
	if err := in.s.restore(rel, came); err != nil {
		return fmt.Errorf("%s was found in the store and has been deleted meanwhile: %w", rel, err)
	}
	in.touched[path.Dir(rel)] = true
	return nil
}

// moveContents renames objects and blobs. What is moved is taken off the lists, so that
// a repeated call goes on where this one stopped.
func (in *Ingest) moveContents(came *usageRecord) error {
	var shards [256]bool
	defer func() {
		for i, touched := range shards {
			if touched {
				in.touched[fmt.Sprintf("%s/%02x", objectsDir, i)] = true
			}
		}
	}()
	for _, sl := range slices.Concat(in.full, in.idle) {
		if err := in.moveSlab(sl, &shards, came); err != nil {
			return err
		}
	}
	for i, f := range in.files {
		if f.record || f.rel == "" {
			continue
		}
		count, size, err := in.s.moveNew(in.dir, f.temp, in.s.rootDir, f.rel, f.size)
		if err != nil {
			return err
		}
		came.of(f.rel).count(count, size)
		in.touched[path.Dir(f.rel)] = true
		if !f.id.IsZero() {
			in.promised = append(in.promised, objectRef{f.id, f.size})
		} else {
			in.found = append(in.found, f.rel)
		}
		in.files[i].rel = "" // done
	}
	in.files = slices.DeleteFunc(in.files, func(f file) bool { return f.rel == "" })
	return nil
}

func (in *Ingest) moveSlab(sl *slab, shards *[256]bool, came *usageRecord) (err error) {
	dir, err := in.s.root.Open(in.path(sl.name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	for i, ref := range sl.objects {
		if ref.id.IsZero() {
			continue
		}
		count, size, err := in.s.moveNew(dir, strconv.Itoa(i), in.s.objects, ref.id.Path(), ref.size)
		if err != nil {
			return err
		}
		came.Objects.count(count, size)
		shards[ref.id[0]] = true
		in.promised = append(in.promised, ref)
		sl.objects[i].id = tree.ObjectID{} // done
	}
	return nil
}

// moveNew renames a file unless the same content is there already; then it removes it.
// Content of another size is damaged, and is replaced. It returns what that adds to the
// sums.
func (s *Store) moveNew(from *os.File, name string, to *os.File, rel string, size int64) (count, added int64, err error) {
	fromFD, toFD := int(from.Fd()), int(to.Fd())
	err = unix.Renameat2(fromFD, name, toFD, rel, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system without this flag: a link does not replace either.
		if err = unix.Linkat(fromFD, name, toFD, rel, 0); err == nil {
			err = unix.Unlinkat(fromFD, name, 0)
		}
	}
	if err == nil {
		return 1, size, nil
	}
	if errors.Is(err, fs.ErrExist) {
		var st fileStat
		st, err = statAt(to, rel)
		switch {
		case err == nil && st.size == size:
			err = unix.Unlinkat(fromFD, name, 0)
		case err == nil:
			added = size - st.size
			err = unix.Renameat(fromFD, name, toFD, rel)
		}
	}
	if err != nil {
		return 0, 0, &fs.PathError{Op: "move into place", Path: to.Name() + "/" + rel, Err: err}
	}
	return 0, added, nil
}

// flushTouched makes the names of contents durable. What this batch merely found, or
// what another was faster to store, may have been moved into place by one that has not
// flushed yet, or that died before: then everything is flushed.
func (in *Ingest) flushTouched(ctx context.Context) error {
	unsettled, err := in.s.unsettled(in.id)
	if err != nil {
		return err
	}
	if unsettled {
		err = in.flusher.FlushAll(ctx)
	} else {
		err = in.flusher.Flush(ctx, slices.Sorted(maps.Keys(in.touched)))
	}
	if err != nil {
		in.fail = err // flushing again would not tell the truth
		return err
	}
	clear(in.touched)
	return nil
}

// moveRecords renames the records into place, in order, and flushes their directories.
func (in *Ingest) moveRecords(ctx context.Context, came *usageRecord) error {
	if len(in.files) == 0 {
		return nil
	}
	for _, f := range in.files {
		if err := in.note(f.rel); err != nil {
			return err
		}
	}
	for i, f := range in.files {
		if err := in.s.moveRecord(in.path(f.temp), f.rel, f.size, came); err != nil {
			in.files = in.files[i:]
			return err
		}
		in.touched[path.Dir(f.rel)] = true
	}
	in.files = nil
	if err := in.flusher.Flush(ctx, slices.Sorted(maps.Keys(in.touched))); err != nil {
		in.fail = err
		return err
	}
	clear(in.touched)
	return nil
}

// count adds to the kept sums, and advances the epoch.
func (in *Ingest) count(ctx context.Context, came *usageRecord) error {
	return in.s.changeUsage(ctx, true, func(r *usageRecord) error {
		r.Epoch++
		r.addAll(came)
		return nil
	})
}

// removeSlabs removes the emptied directories. Later puts begin with new ones.
func (in *Ingest) removeSlabs() error {
	var errs []error
	for _, sl := range in.idle {
		errs = append(errs, sl.dir.Close())
	}
	for _, sl := range slices.Concat(in.idle, in.full) {
		errs = append(errs, in.s.root.RemoveAll(in.path(sl.name)))
	}
	in.idle, in.full = nil, nil
	return errors.Join(errs...)
}
