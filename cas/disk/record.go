package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/internal/durable"
	"golang.org/x/sys/unix"
)

// Limits of records.
const (
	// MaxRecord is the size up to which ReadRecord and WriteRecord take a record whole,
	// in bytes. Larger ones are written with [Ingest.PutRecord] and read with
	// [Store.OpenRecord].
	MaxRecord = 64 << 20
	// MaxRecordPath is the length of a record's path, in bytes.
	MaxRecordPath = 1024
)

// recordDirs are the directories of the root in which records lie.
var recordDirs = [...]string{"layers", "stacks", "refs", "snapshots", "containers"}

// checkRecord refuses a path that is not one of a record: slash-separated, in one of the
// record directories, or a file of the OCI image layout. The error wraps fs.ErrInvalid.
func checkRecord(rel string) error {
	top, rest, _ := strings.Cut(rel, "/")
	ok := rel == indexFile || rel == ociLayoutFile || rest != "" && slices.Contains(recordDirs[:], top)
	if !ok || len(rel) > MaxRecordPath || !fs.ValidPath(rel) || strings.ContainsRune(rel, 0) {
		return fmt.Errorf("record path %.100q: %w", rel, fs.ErrInvalid)
	}
	return nil
}

// ReadRecord returns a record's content. The error wraps fs.ErrNotExist when there is
// none, and fs.ErrInvalid when it is larger than MaxRecord.
func (s *Store) ReadRecord(rel string) ([]byte, error) {
	if err := checkRecord(rel); err != nil {
		return nil, err
	}
	b, err := s.readLimited(rel, MaxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		if below := s.Elsewhere(rel); below != nil {
			return below.ReadRecord(rel)
		}
	}
	return b, err
}

// OpenRecord opens a record of any size. The caller closes it.
func (s *Store) OpenRecord(rel string) (cas.Reader, error) {
	if err := checkRecord(rel); err != nil {
		return nil, err
	}
	f, err := s.root.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open record %s: %w", rel, err)
	}
	r, err := newReader(f)
	if err != nil {
		return nil, fmt.Errorf("open record %s: %w", rel, err)
	}
	return r, nil
}

// StatRecord returns a record's size in bytes and when it was written.
func (s *Store) StatRecord(rel string) (size int64, mod time.Time, err error) {
	if err := checkRecord(rel); err != nil {
		return 0, time.Time{}, err
	}
	fi, err := s.root.Stat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		if below := s.Elsewhere(rel); below != nil {
			return below.StatRecord(rel)
		}
	}
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("stat record %s: %w", rel, err)
	}
	return fi.Size(), fi.ModTime(), nil
}

// MissingRecord returns the first of the records, all of one directory, that is not
// there, "" when all are. It costs one system call for each.
func (s *Store) MissingRecord(dir string, names []string) (missing string, err error) {
	for _, name := range names {
		if err := checkRecord(dir + "/" + name); err != nil || strings.ContainsRune(name, '/') {
			return "", errors.Join(fmt.Errorf("record %.100q of %s: %w", name, dir, fs.ErrInvalid), err)
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	f, err := s.root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) && len(s.additional) == 0 {
		return names[0], nil
	}
	if err != nil {
		return "", fmt.Errorf("look for records in %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fd := int(f.Fd())
	for _, name := range names {
		var st unix.Stat_t
		err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, fs.ErrNotExist) {
			if s.Elsewhere(dir+"/"+name) != nil {
				continue
			}
			return name, nil
		}
		if err != nil {
			return "", fmt.Errorf("look for record %s/%s: %w", dir, name, err)
		}
	}
	return "", nil
}

// WriteRecord creates or replaces a record, and missing directories above it. When it
// returns nil the new content is durable; whatever happens, there is the old or the new
// one. To make something reachable that no live ingest keeps, hold [Store.Share]
// from looking at it until WriteRecord has returned.
func (s *Store) WriteRecord(ctx context.Context, rel string, data []byte) error {
	return s.putRecord(ctx, rel, data, !s.opts.NoSync)
}

// WriteFleetingRecord is [Store.WriteRecord] for what has no meaning after a power cut:
// nothing is flushed, and such a cut can leave the new record, an empty one or none.
func (s *Store) WriteFleetingRecord(ctx context.Context, rel string, data []byte) error {
	return s.putRecord(ctx, rel, data, false)
}

func (s *Store) putRecord(ctx context.Context, rel string, data []byte, flush bool) error {
	if err := s.writable(); err != nil {
		return err
	}
	if err := checkRecord(rel); err != nil {
		return err
	}
	if len(data) > MaxRecord {
		return fmt.Errorf("record %s of %d bytes, limit %d: %w", rel, len(data), MaxRecord, fs.ErrInvalid)
	}
	if err := s.writeRecord(ctx, rel, data, flush); err != nil {
		return fmt.Errorf("write record %s: %w", rel, err)
	}
	return nil
}

// PatchRecord lets fn change a record in place, and flushes what it has written. A power
// cut, and a process that is killed, can leave any part of that: it is for records that
// can be made again. The error wraps fs.ErrNotExist when there is none.
func (s *Store) PatchRecord(_ context.Context, rel string, fn func(f *os.File) error) (err error) {
	if err := s.writable(); err != nil {
		return err
	}
	if err := checkRecord(rel); err != nil {
		return err
	}
	f, err := s.root.OpenFile(rel, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("patch record %s: %w", rel, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fn(f); err != nil {
		return err
	}
	if s.opts.NoSync {
		return nil
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return fmt.Errorf("flush record %s: %w", rel, err)
	}
	return nil
}

func (s *Store) writeRecord(ctx context.Context, rel string, data []byte, flush bool) (err error) {
	// Who cleans the ingest directory locks it alone: what is there then is left over.
	unlock, err := s.lockIngests(ctx, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	temp := ingestDir + "/" + rand.Text()
	if err := durable.Create(s.root, temp, 0o600, data, flush); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return // it has its name
		}
		if rerr := s.root.Remove(temp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	// Renaming happens while the epoch is locked: who reads the new epoch sees the
	// new record.
	err = s.changeCounted(ctx, rel, func(r *usageRecord) error {
		return s.moveRecord(temp, rel, int64(len(data)), r)
	})
	if err != nil || !flush {
		return err
	}
	return s.syncDir(path.Dir(rel))
}

// changeCounted is changeUsage for a change to one record; where it is counted, a crash
// in the middle leaves the sums marked as not exact.
func (s *Store) changeCounted(ctx context.Context, rel string, change func(*usageRecord) error) error {
	if new(usageRecord).of(rel) != nil {
		return s.takeAway(ctx, change)
	}
	return s.changeUsage(ctx, false, func(r *usageRecord) error {
		r.Epoch++
		return change(r)
	})
}

// moveAttempts is how often a record's directory is made again when another process
// removes it, being empty, before the record is in it.
const moveAttempts = 10

// moveRecord renames a flushed file to a record's path, and adds it to the sums in r.
func (s *Store) moveRecord(temp, rel string, size int64, r *usageRecord) error {
	count := int64(1)
	added := size
	if fi, err := s.root.Lstat(rel); err == nil {
		count, added = 0, size-fi.Size()
	}
	var err error
	for range moveAttempts {
		if err = s.root.Rename(temp, rel); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if _, serr := s.root.Lstat(temp); serr != nil {
			return serr
		}
		if err := durable.MkdirAll(s.root, path.Dir(rel), 0o700); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err != nil {
		return err
	}
	r.add(r.of(rel), count, added)
	return nil
}

// RemoveRecord removes a record durably, and directories above it that become empty.
// The error wraps fs.ErrNotExist when there is none. It needs no free space.
func (s *Store) RemoveRecord(ctx context.Context, rel string) error {
	return s.removeRecord(ctx, rel, true)
}

// RemoveFleetingRecord is [Store.RemoveRecord] for what [Store.WriteFleetingRecord] wrote:
// after a power cut the record may be there again.
func (s *Store) RemoveFleetingRecord(ctx context.Context, rel string) error {
	return s.removeRecord(ctx, rel, false)
}

func (s *Store) removeRecord(ctx context.Context, rel string, flush bool) error {
	if err := s.writable(); err != nil {
		return err
	}
	if err := checkRecord(rel); err != nil {
		return err
	}
	err := s.changeCounted(ctx, rel, func(r *usageRecord) error {
		fi, err := s.root.Lstat(rel)
		if err != nil {
			return err
		}
		if fi.IsDir() {
			return fmt.Errorf("a directory: %w", fs.ErrInvalid)
		}
		if err := s.root.Remove(rel); err != nil {
			return err
		}
		r.add(r.of(rel), -1, -fi.Size())
		return nil
	})
	if err == nil {
		dir := path.Dir(rel)
		for !slices.Contains(layoutDirs[:], dir) && dir != "." && s.root.Remove(dir) == nil {
			dir = path.Dir(dir)
		}
		if flush {
			err = s.syncNearest(dir)
		}
	}
	if err != nil {
		return fmt.Errorf("remove record %s: %w", rel, err)
	}
	return nil
}

// syncNearest flushes a directory, or the nearest one above it when another process
// has removed it.
func (s *Store) syncNearest(dir string) error {
	err := s.syncDir(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != "." {
		dir = path.Dir(dir)
		err = s.syncDir(dir)
	}
	return err
}

// WalkRecords calls fn for every record below the directory relDir, such as "refs", in
// no order, with its path, size in bytes and time of writing, and returns fn's error as
// it is. A missing directory holds none.
func (s *Store) WalkRecords(ctx context.Context, relDir string, fn func(rel string, size int64, mod time.Time) error) error {
	if err := checkRecord(relDir + "/x"); err != nil {
		return err
	}
	return s.walk(ctx, relDir, MaxRecordPath, func(rel string, st fileStat) error {
		return fn(rel, st.size, st.mod)
	})
}

// ListRecords returns the sorted names of the files and directories in relDir, such
// as "snapshots", without descending. A missing directory holds none.
func (s *Store) ListRecords(relDir string) (_ []string, err error) {
	if err := checkRecord(relDir + "/x"); err != nil {
		return nil, err
	}
	names, err := s.list(relDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list records %s: %w", relDir, err)
	}
	slices.Sort(names)
	return names, nil
}

// list returns the names in a directory.
func (s *Store) list(rel string) (_ []string, err error) {
	f, err := s.root.OpenFile(rel, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	names, err := f.Readdirnames(-1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}
