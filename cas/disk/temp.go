package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// tempFile is a file that is being written in the ingest directory.
type tempFile struct {
	in   *Ingest
	name string
	f    *os.File
}

// newTemp creates the file for a blob, a large object or a record. The caller holds
// gate. It must be finished or discarded.
func (in *Ingest) newTemp(perm fs.FileMode) (*tempFile, error) {
	in.mu.Lock()
	t := &tempFile{in: in, name: "f" + strconv.Itoa(in.next)}
	in.next++
	in.mu.Unlock()
	f, err := in.s.root.OpenFile(in.path(t.name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	t.f = f
	if err := f.Chmod(perm); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	in.mu.Lock()
	in.open[t] = struct{}{}
	in.mu.Unlock()
	return t, nil
}

// release takes the handle away from the ingest, which would close it. It returns false
// when Close of the ingest has done so before.
func (t *tempFile) release() bool {
	t.in.mu.Lock()
	defer t.in.mu.Unlock()
	_, ok := t.in.open[t]
	delete(t.in.open, t)
	return ok
}

// finish closes a complete file. It is not in the batch yet.
func (t *tempFile) finish() error {
	if !t.release() {
		return fmt.Errorf("ingest %s: %w", t.in.id, fs.ErrClosed)
	}
	return t.f.Close()
}

// discard closes and removes the file, if finish or Close of the ingest did not before.
func (t *tempFile) discard() error {
	if !t.release() {
		return nil
	}
	return errors.Join(t.f.Close(), t.in.discard(t.name))
}

// discard removes a file of the ingest directory by name.
func (in *Ingest) discard(name string) error {
	err := unix.Unlinkat(int(in.dir.Fd()), name, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "remove", Path: in.path(name), Err: err}
	}
	return nil
}

// addObject puts a finished file into the batch as an object, or discards it where
// the object is known.
func (in *Ingest) addObject(ref objectRef, name string) error {
	if !in.claim(ref.id) {
		in.known(ref.size)
		return in.discard(name)
	}
	ok, err := in.present(ref)
	if err != nil {
		in.poison(err)
		return err
	}
	if ok {
		in.known(ref.size)
		return in.discard(name)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.files = append(in.files, file{temp: name, rel: objectsDir + "/" + ref.id.Path(), size: ref.size, id: ref.id})
	in.stats.Objects.Count++
	in.stats.Objects.Bytes += ref.size
	return nil
}

// addBlob is addObject for a blob.
func (in *Ingest) addBlob(rel string, size int64, name string) error {
	in.mu.Lock()
	known := in.blobs[rel]
	in.blobs[rel] = true
	in.mu.Unlock()
	if known {
		return in.discard(name)
	}
	if in.s.holds(rel, size) {
		in.mu.Lock()
		in.found = append(in.found, rel)
		in.mu.Unlock()
		return in.discard(name)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.files = append(in.files, file{temp: name, rel: rel, size: size})
	in.stats.Blobs.Count++
	in.stats.Blobs.Bytes += size
	return nil
}

// holds reports whether there is a regular file of that size; size -1 is any.
func (s *Store) holds(rel string, size int64) bool {
	fi, err := s.root.Lstat(rel)
	return err == nil && fi.Mode().IsRegular() && (size < 0 || fi.Size() == size)
}

// PutRecord stores a record, a file at a path as [Store.WriteRecord] takes it, in the
// batch; write is called at once, and fills it. Publish renames it into place after all
// contents are durable, in the order in which records were put, replacing what is there.
func (in *Ingest) PutRecord(ctx context.Context, rel string, write func(w io.Writer) error) (err error) {
	if err := checkRecord(rel); err != nil {
		return fmt.Errorf("put record: %w", err)
	}
	t, err := in.begin(ctx, 0o600)
	if err != nil {
		return fmt.Errorf("put record %s: %w", rel, err)
	}
	defer func() { err = errors.Join(err, t.discard()) }()
	if err := write(t.f); err != nil {
		return fmt.Errorf("put record %s: %w", rel, err)
	}
	fi, err := t.f.Stat()
	if err != nil {
		return fmt.Errorf("put record %s: %w", rel, err)
	}
	in.gate.RLock()
	defer in.gate.RUnlock()
	if err := t.finish(); err != nil {
		return fmt.Errorf("put record %s: %w", rel, err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.files = append(in.files, file{temp: t.name, rel: rel, size: fi.Size(), record: true})
	return nil
}

// begin is newTemp for a caller that does not hold gate.
func (in *Ingest) begin(ctx context.Context, perm fs.FileMode) (*tempFile, error) {
	in.gate.RLock()
	defer in.gate.RUnlock()
	if err := in.usable(ctx); err != nil {
		return nil, err
	}
	return in.newTemp(perm)
}
