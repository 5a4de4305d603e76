package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/unionfs"
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
	// Namespace is that of the overlay attributes in the upper directory; "" is
	// unionfs.Trusted.
	Namespace unionfs.Namespace `json:"namespace,omitempty"`
	Created   time.Time         `json:"created"`
	// Ephemeral snapshots go with the process that made them: a collector removes one
	// that is idle and whose process has ended.
	Ephemeral bool `json:"ephemeral,omitempty"`
}

const recordVersion = 1

// Limits on a snapshot.
const (
	MaxLayers      = 1000    // in a stack
	maxBelow       = 200     // sealed snapshots under one
	maxRecordBytes = 1 << 20 // of snapshot.json
)

func recordName(key Key) string { return "snapshots/" + string(key) + "/snapshot.json" }

// Stat returns the record of a snapshot; an unknown one wraps fs.ErrNotExist.
func (s *Store) Stat(_ context.Context, key Key) (*Record, error) {
	rec, err := s.readRecord(key)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", key, err)
	}
	return rec, nil
}

// namespace returns that of the overlay attributes in the snapshot's upper directory.
func (rec *Record) namespace() unionfs.Namespace {
	if rec.Namespace == "" {
		return unionfs.Trusted
	}
	return rec.Namespace
}

// Walk calls fn for every snapshot, sorted by key. One whose record is damaged is passed
// over, so that it keeps nobody from using the others; [Store.Check] reports it, and
// [Store.Collect] refuses to run beside it.
func (s *Store) Walk(ctx context.Context, fn func(*Record) error) error {
	return s.walk(ctx, func(name string, err error) error {
		s.log.Warn("snapshot is passed over", "key", name, "error", err)
		return nil
	}, fn)
}

// walk calls fn for every snapshot that is sound and damaged for every other.
func (s *Store) walk(ctx context.Context, damaged func(name string, err error) error, fn func(*Record) error) error {
	return s.walkNames(ctx, "snapshots", func(name string) error {
		key, err := ParseKey(name)
		if err != nil {
			return nil //nolint:nilerr // not one of ours
		}
		rec, err := s.readRecord(key)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile, or never finished
		}
		if err != nil {
			return damaged(name, fmt.Errorf("snapshot %s: %w", name, err))
		}
		return fn(rec)
	})
}

func (s *Store) readRecord(key Key) (*Record, error) {
	if _, err := ParseKey(string(key)); err != nil {
		return nil, err
	}
	data, err := s.disk.ReadRecord(recordName(key))
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		if ok, err := exists(filepath.Join(s.dir(key), ephemeralFile)); err != nil || ok {
			return nil, errors.Join(err, fmt.Errorf("record of snapshot %s: cut off with its process: %w", key, fs.ErrNotExist))
		}
	}
	rec, err := parseRecord(data)
	if err != nil {
		return nil, err
	}
	if rec.Key == key {
		return rec, nil
	}
	// In the home of a snapshot that is being sealed lies the record of its source, see
	// seal.
	if !isSealedOf(key, rec.Key) {
		return nil, fmt.Errorf("the record is of snapshot %s: %w", rec.Key, fs.ErrInvalid)
	}
	if slices.Contains(rec.Below, key) {
		// Cut before the exchange: this was to become the source.
		return nil, fmt.Errorf("record of snapshot %s: %w", key, fs.ErrNotExist)
	}
	// Cut after the exchange: this is what was sealed.
	rec.Key, rec.Kind, rec.Labels, rec.Ephemeral = key, Sealed, nil, false
	return rec, nil
}

// sealedKey returns a name for what is sealed of a snapshot; it fits into a Key.
func sealedKey(source Key) Key { return Key(sealedPrefix(source) + rand.Text()[:16]) }

func sealedPrefix(source Key) string { return fmt.Sprintf("%.100s.sealed-", source) }

func isSealedOf(key, source Key) bool { return strings.HasPrefix(string(key), sealedPrefix(source)) }

// parseRecord reads and checks the JSON of a record.
func parseRecord(data []byte) (*Record, error) {
	if len(data) > maxRecordBytes {
		return nil, fmt.Errorf("snapshot record of %d bytes, limit %d: %w", len(data), maxRecordBytes, fs.ErrInvalid)
	}
	var rec Record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("parse snapshot record: %w: %w", err, fs.ErrInvalid)
	}
	if err := rec.check(); err != nil {
		return nil, err
	}
	return &rec, nil
}

// check refuses a record with values that are not allowed.
func (rec *Record) check() error {
	if rec.Version != recordVersion {
		return fmt.Errorf("snapshot record of version %d, this program knows %d: %w", rec.Version, recordVersion, errors.ErrUnsupported)
	}
	switch rec.Kind {
	case Active, View, Sealed:
	default:
		return fmt.Errorf("snapshot record of kind %q: %w", rec.Kind, fs.ErrInvalid)
	}
	switch rec.Namespace {
	case "", unionfs.User:
	default:
		return fmt.Errorf("snapshot record with overlay namespace %q: %w", rec.Namespace, fs.ErrInvalid)
	}
	if _, err := ParseKey(string(rec.Key)); err != nil {
		return err
	}
	if len(rec.Layers) > MaxLayers || len(rec.Below) > maxBelow {
		return fmt.Errorf("snapshot record with %d layers and %d below: %w", len(rec.Layers), len(rec.Below), fs.ErrInvalid)
	}
	for _, d := range rec.Layers {
		if _, err := ParseDiffID(string(d)); err != nil {
			return err
		}
	}
	for _, k := range rec.Below {
		if _, err := ParseKey(string(k)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) writeRecord(ctx context.Context, rec *Record) error {
	data, err := encodeRecord(rec)
	if err != nil {
		return err
	}
	return s.disk.WriteRecord(ctx, recordName(rec.Key), data)
}

// encodeRecord refuses what parseRecord would refuse.
func encodeRecord(rec *Record) ([]byte, error) {
	if err := rec.check(); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return nil, err
	}
	if len(data) >= maxRecordBytes {
		return nil, fmt.Errorf("snapshot record of %d bytes, limit %d: %w", len(data), maxRecordBytes, fs.ErrInvalid)
	}
	return append(data, '\n'), nil
}
