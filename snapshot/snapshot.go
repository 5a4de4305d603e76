package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

// Kind is what a snapshot may be used for, a closed set.
type Kind string

// The kinds of snapshot.
const (
	// Active is writable: it has an upper directory.
	Active Kind = "active"
	// View is read-only.
	View Kind = "view"
	// Sealed was active and is now a lower of others; it is mounted by none itself.
	Sealed Kind = "sealed"
)

// Record describes a snapshot. It is kept as snapshots/<key>/snapshot.json.
type Record struct {
	Version int               `json:"version"`
	Key     Key               `json:"key"`
	Kind    Kind              `json:"kind"`
	Layers  []DiffID          `json:"layers"`          // the stack, bottom first
	Below   []Key             `json:"below,omitempty"` // sealed snapshots above the stack, bottom first
	Image   string            `json:"image,omitempty"` // digest of the manifest it was made from
	Ref     string            `json:"ref,omitempty"`   // the name by which that was given
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
}

const recordVersion = 1

// Limits on a snapshot.
const (
	MaxLayers      = 1000    // in a stack
	maxBelow       = 200     // sealed snapshots under one
	maxRecordBytes = 1 << 20 // of snapshot.json
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
	rec, err := s.createLocked(ctx, key, kind, o)
	if err != nil {
		return nil, fmt.Errorf("create snapshot %s: %w", key, err)
	}
	return rec, nil
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
		Image: o.Image, Ref: o.Ref, Labels: o.Labels, Created: s.now().UTC().Truncate(time.Millisecond)}
	dir := s.dir(key)
	// Without its record the directory is the leftover of a killed command.
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if kind == Active {
		root := o.root
		if root == nil {
			if root, err = s.rootInode(ctx, rec); err != nil {
				return nil, err
			}
		}
		if err := s.makeUpper(dir, root); err != nil {
			return nil, err
		}
	}
	return rec, s.writeRecord(ctx, rec)
}

// makeUpper creates the empty upper and work directories of a snapshot. The root of
// an overlay mount shows the metadata of the upper directory, so that begins as the
// image's root directory.
func (s *Store) makeUpper(dir string, root *tree.Inode) error {
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	upper := filepath.Join(dir, "upper")
	for _, x := range root.Xattrs {
		// An image may have attributes that overlayfs would take for its own.
		if err := unix.Lsetxattr(upper, s.opts.Namespace.Escape(x.Name), []byte(x.Value), 0); err != nil {
			return fmt.Errorf("set %s of the root directory: %w", x.Name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(upper, &st); err != nil {
		return err
	}
	if st.Uid != root.UID || st.Gid != root.GID {
		if err := os.Lchown(upper, int(root.UID), int(root.GID)); err != nil {
			return fmt.Errorf("set owner of the root directory: %w", err)
		}
	}
	if err := unix.Chmod(upper, uint32(root.Mode)); err != nil {
		return fmt.Errorf("set mode of the root directory: %w", err)
	}
	ts := unix.Timespec{Sec: root.MTime.Sec, Nsec: int64(root.MTime.Nsec)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, upper, []unix.Timespec{ts, ts}, 0)
}

// rootInode returns the metadata of the root directory below a snapshot.
func (s *Store) rootInode(ctx context.Context, rec *Record) (*tree.Inode, error) {
	if len(rec.Layers) == 0 && len(rec.Below) == 0 {
		return tree.Implied(), nil
	}
	u, err := s.openUnion(ctx, rec, false)
	if err != nil {
		return nil, err
	}
	ino, err := u.inode(u.root(0))
	return ino, errors.Join(err, u.close())
}

// Stat returns the record of a snapshot; an unknown one wraps fs.ErrNotExist.
func (s *Store) Stat(_ context.Context, key Key) (*Record, error) {
	rec, err := s.readRecord(key)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", key, err)
	}
	return rec, nil
}

// Walk calls fn for every snapshot, sorted by key.
func (s *Store) Walk(ctx context.Context, fn func(*Record) error) error {
	entries, err := os.ReadDir(filepath.Join(s.disk.Root(), "snapshots"))
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec, err := s.readRecord(Key(e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile, or never finished
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", e.Name(), err)
		}
		if err := fn(rec); err != nil {
			return err
		}
	}
	return nil
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
// nothing stands on any more go with their last child.
func (s *Store) Remove(ctx context.Context, key Key) error {
	unlock, err := s.lockSnapshot(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := s.Stat(ctx, key)
	if err != nil {
		return err
	}
	if err := s.mustBeIdle(key); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	if err := s.removeLocked(ctx, rec); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	return s.dropUnusedSealed(ctx, rec.Below)
}

func (s *Store) removeLocked(ctx context.Context, rec *Record) error {
	if rec.Kind == Sealed {
		child, err := s.childOf(ctx, rec.Key)
		if err != nil {
			return err
		}
		if child != "" {
			return fmt.Errorf("%s stands on it: %w", child, ErrHasChildren)
		}
	}
	// The record goes first: from then on the rest is a leftover that gc may take.
	if err := s.disk.RemoveRecord(ctx, recordName(rec.Key)); err != nil {
		return err
	}
	return os.RemoveAll(s.dir(rec.Key))
}

func (s *Store) childOf(ctx context.Context, key Key) (child Key, err error) {
	err = s.Walk(ctx, func(r *Record) error {
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

// dropUnusedSealed removes sealed snapshots, topmost first, that have no child.
func (s *Store) dropUnusedSealed(ctx context.Context, keys []Key) error {
	for _, k := range slices.Backward(keys) {
		rec, err := s.Stat(ctx, k)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = s.removeLocked(ctx, rec)
		if errors.Is(err, ErrHasChildren) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("remove sealed snapshot %s: %w", k, err)
		}
	}
	return nil
}

func (s *Store) dir(key Key) string {
	return filepath.Join(s.disk.Root(), "snapshots", string(key))
}

// Upper returns the directory that holds what was written to an active or sealed
// snapshot, in the format described in package unionfs.
func (s *Store) Upper(key Key) string { return filepath.Join(s.dir(key), "upper") }

func recordName(key Key) string { return "snapshots/" + string(key) + "/snapshot.json" }

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

func (s *Store) readRecord(key Key) (*Record, error) {
	if _, err := ParseKey(string(key)); err != nil {
		return nil, err
	}
	data, err := s.disk.ReadRecord(recordName(key))
	if err != nil {
		return nil, err
	}
	rec, err := parseRecord(data)
	if err != nil {
		return nil, err
	}
	if rec.Key != key {
		// A fork was cut after its exchange, see seal: this is what was sealed.
		rec.Key, rec.Kind, rec.Labels = key, Sealed, nil
	}
	return rec, nil
}

// parseRecord reads and checks the JSON of a record.
func parseRecord(data []byte) (*Record, error) {
	if len(data) > maxRecordBytes {
		return nil, fmt.Errorf("snapshot record of %d bytes, limit %d: %w", len(data), maxRecordBytes, fs.ErrInvalid)
	}
	var rec Record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("parse snapshot record: %v: %w", err, fs.ErrInvalid)
	}
	if rec.Version != recordVersion {
		return nil, fmt.Errorf("snapshot record of version %d, this program knows %d: %w", rec.Version, recordVersion, errors.ErrUnsupported)
	}
	switch rec.Kind {
	case Active, View, Sealed:
	default:
		return nil, fmt.Errorf("snapshot record of kind %q: %w", rec.Kind, fs.ErrInvalid)
	}
	if _, err := ParseKey(string(rec.Key)); err != nil {
		return nil, err
	}
	if len(rec.Layers) > MaxLayers || len(rec.Below) > maxBelow {
		return nil, fmt.Errorf("snapshot record with %d layers and %d below: %w", len(rec.Layers), len(rec.Below), fs.ErrInvalid)
	}
	for _, d := range rec.Layers {
		if _, err := ParseDiffID(string(d)); err != nil {
			return nil, err
		}
	}
	for _, k := range rec.Below {
		if _, err := ParseKey(string(k)); err != nil {
			return nil, err
		}
	}
	return &rec, nil
}

func (s *Store) writeRecord(ctx context.Context, rec *Record) error {
	data, err := encodeRecord(rec)
	if err != nil {
		return err
	}
	return s.disk.WriteRecord(ctx, recordName(rec.Key), data)
}

func encodeRecord(rec *Record) ([]byte, error) {
	data, err := json.MarshalIndent(rec, "", "  ")
	return append(data, '\n'), err
}

// NewKey returns an unused-looking name for a snapshot: word is a prefix that tells a
// reader where it came from.
func NewKey(word string, random [4]byte) Key {
	word = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return -1
	}, strings.ToLower(word))
	if len(word) > 40 {
		word = word[:40]
	}
	word = strings.Trim(word, "-_")
	if word == "" {
		word = "snapshot"
	}
	return Key(fmt.Sprintf("%s-%x", word, random))
}
