// Package volume keeps volumes: directories with a name that outlive the containers that
// use them, and that several can share.
//
//	volumes/
//	    <name>/
//	        volume.json    a [Volume]
//	        _data/         what containers see
//
// The record is written after the directory and removed before it, so a directory
// without one is a leftover.
package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/layerfs/layerfs/internal/durable"
)

// ErrInUse is wrapped when a container needs a volume that is to be removed.
var ErrInUse = fmt.Errorf("volume is in use: %w", fs.ErrInvalid)

// Volume is the record of a volume.
type Volume struct {
	Version   int               `json:"version"`
	Name      string            `json:"name"`
	Created   time.Time         `json:"created"`
	Labels    map[string]string `json:"labels,omitempty"`
	Anonymous bool              `json:"anonymous,omitempty"` // made for one container that named none
	// Container is the id of the container that an anonymous volume goes with, until it is
	// released: Sweep removes it when there is no such container.
	Container string `json:"container,omitempty"`
}

const (
	recordVersion = 1
	recordFile    = "volume.json"
	dataDir       = "_data"
	maxRecord     = 1 << 20 // bytes of volume.json
	maxName       = 128     // bytes
)

// Options of a Store. Dir and Lock are required.
type Options struct {
	Dir string // the directory of the volumes; made when the first one is
	// Lock takes the lock of that name, across processes, and waits for it.
	Lock func(ctx context.Context, name string) (unlock func() error, err error)
	Now  func() time.Time // nil is time.Now
}

// Store holds the volumes of one store. Several processes may use one at once.
type Store struct{ opts Options }

// New returns the volumes kept in a directory.
func New(o Options) (*Store, error) {
	if o.Lock == nil || o.Dir == "" {
		return nil, fmt.Errorf("open volumes: directory or lock not given: %w", fs.ErrInvalid)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{o}, nil
}

// ParseName checks a name from outside: as Docker has it, 2 or more of letters, digits,
// '_', '.' and '-', beginning with a letter or a digit.
func ParseName(s string) (string, error) {
	ok := len(s) > 1 && len(s) <= maxName
	for i := 0; ok && i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '_', c == '.', c == '-':
			ok = i > 0
		default:
			ok = false
		}
	}
	if !ok {
		return "", fmt.Errorf("volume name %.140q: want a letter or digit, then 1 to %d of letters, digits, '_', '.', '-'; the path of a directory begins with '/': %w", s, maxName-1, fs.ErrInvalid)
	}
	return s, nil
}

// Hold keeps volumes from being removed until it is released: for who makes one and
// then writes down what uses it.
func (s *Store) Hold(ctx context.Context) (release func() error, err error) {
	release, err = s.opts.Lock(ctx, "volumes")
	if err != nil {
		return nil, fmt.Errorf("lock volumes: %w", err)
	}
	return release, nil
}

// Dir is where the data of a volume lie.
func (s *Store) Dir(name string) string { return filepath.Join(s.opts.Dir, name, dataDir) }

// Ensure makes a volume unless it is there, and tells whether it did. The caller holds
// them.
func (s *Store) Ensure(v Volume) (made bool, err error) {
	if _, err := s.Stat(v.Name); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	v.Version, v.Created = recordVersion, s.opts.Now().UTC()
	record, err := v.record()
	if err == nil {
		err = s.make(v.Name)
	}
	if err == nil {
		err = s.write(v.Name, record)
	}
	if err != nil {
		return false, fmt.Errorf("create volume %s: %w", v.Name, err)
	}
	return true, nil
}

// record is what is written of a volume.
func (v *Volume) record() ([]byte, error) {
	data, err := json.Marshal(v)
	if err == nil && len(data) >= maxRecord {
		err = fmt.Errorf("record of %d bytes, limit %d: %w", len(data), maxRecord, fs.ErrInvalid)
	}
	return append(data, '\n'), err
}

// make makes the directories, in the place of a leftover.
func (s *Store) make(name string) (err error) {
	// 0711 would let others reach the data, whose owners are the containers' business.
	if err := os.MkdirAll(s.opts.Dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.opts.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := root.RemoveAll(name); err != nil { // without its record: a leftover
		return err
	}
	if err := durable.MkdirAll(root, name, 0o700); err != nil {
		return err
	}
	return durable.MkdirAll(root, name+"/"+dataDir, 0o755)
}

func (s *Store) write(name string, record []byte) (err error) {
	root, err := os.OpenRoot(s.opts.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return durable.WriteFile(root, name+"/.new", name+"/"+recordFile, 0o600, record)
}

// Stat returns the record of a volume. The error wraps fs.ErrNotExist when there is none.
func (s *Store) Stat(name string) (_ *Volume, err error) {
	if _, err := ParseName(name); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(s.opts.Dir, name, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no volume named %s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, fmt.Errorf("read volume %s: %w", name, err)
	}
	v, err := parse(data)
	if err == nil && v.Name != name {
		err = fmt.Errorf("the record is of volume %.140q: %w", v.Name, fs.ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("read volume %s: %w", name, err)
	}
	return v, nil
}

func parse(data []byte) (*Volume, error) {
	if len(data) > maxRecord {
		return nil, fmt.Errorf("record of more than %d bytes: %w", maxRecord, fs.ErrInvalid)
	}
	var v Volume
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("parse record: %w: %w", err, fs.ErrInvalid)
	}
	if v.Version != recordVersion {
		return nil, fmt.Errorf("record of version %d, this program knows %d: %w", v.Version, recordVersion, errors.ErrUnsupported)
	}
	if _, err := ParseName(v.Name); err != nil {
		return nil, err
	}
	return &v, nil
}

// Walk calls fn for every volume, in the order of their names. A damaged one is passed to
// damaged.
func (s *Store) Walk(ctx context.Context, damaged func(name string, err error), fn func(*Volume) error) error {
	entries, err := os.ReadDir(s.opts.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list volumes: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := ParseName(e.Name()); err != nil {
			continue // not one of ours
		}
		v, err := s.Stat(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			damaged(e.Name(), err)
			continue
		}
		if err := fn(v); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes a volume with its data, unless one of users needs it. The caller holds
// them.
func (s *Store) Remove(name string, users []string) error {
	if _, err := s.Stat(name); err != nil {
		return err
	}
	if len(users) > 0 {
		slices.Sort(users)
		return fmt.Errorf("remove volume %s: container %s needs it: %w", name, users[0], ErrInUse)
	}
	if err := os.Remove(filepath.Join(s.opts.Dir, name, recordFile)); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	if err := os.RemoveAll(filepath.Join(s.opts.Dir, name)); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}

// Release lets a volume outlive the container that it was made for. The caller holds
// them.
func (s *Store) Release(name string) error {
	v, err := s.Stat(name)
	if err != nil || v.Container == "" {
		return err
	}
	v.Container = ""
	record, err := v.record()
	if err == nil {
		err = s.write(name, record)
	}
	if err != nil {
		return fmt.Errorf("release volume %s: %w", name, err)
	}
	return nil
}

// Sweep removes what killed commands left: directories without a record, and volumes of
// containers that needed tells nothing of. The caller holds them. With dry they are only
// counted.
func (s *Store) Sweep(dry bool, needed func(*Volume) bool) (n int, err error) {
	entries, err := os.ReadDir(s.opts.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("list volumes: %w", err)
	}
	for _, e := range entries {
		if _, err := ParseName(e.Name()); err != nil {
			continue
		}
		v, err := s.Stat(e.Name())
		if err == nil && (v.Container == "" || needed(v)) || err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue // a damaged one is for people to look at
		}
		n++
		if dry {
			continue
		}
		if err == nil {
			err = s.Remove(v.Name, nil)
		} else {
			err = os.RemoveAll(filepath.Join(s.opts.Dir, e.Name()))
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Empty tells whether nothing is in a volume.
func (s *Store) Empty(name string) (_ bool, err error) {
	f, err := os.Open(s.Dir(name))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}
