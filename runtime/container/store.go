package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/internal/durable"
)

// Errors that callers tell apart.
var (
	// ErrActive is wrapped when a container would have to be stopped first.
	ErrActive = fmt.Errorf("container is running: %w", fs.ErrInvalid)
	// ErrNotActive is wrapped when a container would have to run.
	ErrNotActive = fmt.Errorf("container is not running: %w", fs.ErrInvalid)
	// ErrAmbiguous is wrapped when several containers are meant by a word.
	ErrAmbiguous = fmt.Errorf("several containers have ids that begin so: %w", fs.ErrInvalid)
)

// Options of a Store. Dir and Lock are required.
type Options struct {
	Dir string // the directory of the containers; made if it is not there
	// Lock takes the lock of that name, across processes, and waits for it.
	Lock   func(ctx context.Context, name string) (unlock func() error, err error)
	Now    func() time.Time // nil is time.Now
	Logger *slog.Logger     // nil discards
}

// Store holds the containers of one store. It is safe for concurrent use, and several
// processes may use one at once. Close it when done.
type Store struct {
	root *os.Root
	opts Options
	log  *slog.Logger
	now  func() time.Time
}

// Container is a container: what was asked for, and what became of it.
type Container struct {
	Record
	State State
}

const (
	namesDir   = "names"
	recordFile = "container.json"
	stateFile  = "state.json"
	specFile   = "config.json"
	pointsFile = "mountpoints.json"
	tempFile   = ".new" // what is being written; the lock of the container is held
)

// Open opens the containers in a directory.
func Open(o Options) (_ *Store, err error) {
	if o.Lock == nil {
		return nil, fmt.Errorf("open containers: no lock given: %w", fs.ErrInvalid)
	}
	// 0700: what is inside is for the owner of the store alone.
	if err := os.MkdirAll(filepath.Join(o.Dir, namesDir), 0o700); err != nil {
		return nil, fmt.Errorf("open containers: %w", err)
	}
	root, err := os.OpenRoot(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open containers: %w", err)
	}
	s := &Store{root: root, opts: o, log: o.Logger, now: o.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s, nil
}

// Close releases the directory.
func (s *Store) Close() error { return s.root.Close() }

// Dir is the directory of one container.
func (s *Store) Dir(id ID) string { return filepath.Join(s.opts.Dir, string(id)) }

func (s *Store) lock(ctx context.Context, id ID) (func() error, error) {
	unlock, err := s.opts.Lock(ctx, "container-"+string(id))
	if err != nil {
		return nil, fmt.Errorf("lock container %s: %w", id.Short(), err)
	}
	return unlock, nil
}

func (s *Store) lockNames(ctx context.Context) (func() error, error) {
	unlock, err := s.opts.Lock(ctx, "containers")
	if err != nil {
		return nil, fmt.Errorf("lock names of containers: %w", err)
	}
	return unlock, nil
}

// Create makes a container with the state Created and this process as its monitor: until
// that is changed, the container is a leftover when this process is killed. A name is
// made up if the record has none; one that is taken wraps fs.ErrExist. The caller's id
// and time are kept if they are set.
func (s *Store) Create(ctx context.Context, rec *Record) (err error) {
	self, err := Identify(os.Getpid())
	if err != nil {
		return err
	}
	rec.Version = recordVersion
	if rec.ID == "" {
		rec.ID = NewID()
	}
	if rec.Created.IsZero() {
		rec.Created = s.now().UTC()
	}
	if rec.Log.Driver == "" {
		rec.Log.Driver = LogJSON
	}
	if rec.Restart.Mode == "" {
		rec.Restart.Mode = RestartNo
	}
	// The name is taken first, so that two who want it do not both make a container, and
	// what is taken for a container that never comes to be is free again: see taken.
	unlock, err := s.lockNames(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := s.name(rec); err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	if err := s.make(rec, self); err != nil {
		return fmt.Errorf("create container %s: %w", rec.Name, errors.Join(err, s.drop(rec.ID, rec.Name)))
	}
	return nil
}

func (s *Store) make(rec *Record, self Proc) error {
	if err := s.root.Mkdir(string(rec.ID), 0o700); err != nil {
		return err
	}
	st, err := encodeState(&State{Version: recordVersion, Status: Created, Monitor: self, Fleeting: rec.Remove})
	if err != nil {
		return err
	}
	if err := s.write(rec.ID, stateFile, st, false); err != nil {
		return err
	}
	data, err := encodeRecord(rec)
	if err != nil {
		return err
	}
	// One that goes when it has ended need not outlast a power cut, as what runs does not.
	if err := s.write(rec.ID, recordFile, data, !rec.Remove); err != nil {
		return err
	}
	if rec.Remove {
		return nil
	}
	return durable.SyncDir(s.root, ".")
}

// Find finds a container by its name, its id, or the beginning of an id that no other
// has. The error wraps fs.ErrNotExist or ErrAmbiguous.
func (s *Store) Find(ctx context.Context, word string) (*Container, error) {
	id, err := s.Lookup(ctx, word)
	if err != nil {
		return nil, err
	}
	return s.Read(id)
}

// Lookup is Find for one who wants the id alone, and works on a container whose record
// is damaged.
func (s *Store) Lookup(ctx context.Context, word string) (ID, error) {
	if name, err := ParseName(word); err == nil {
		if id, err := s.taken(name); err != nil || id != "" {
			return id, err
		}
	}
	if !isHex(word) || word == "" || len(word) > idDigits {
		return "", fmt.Errorf("no container named %.140s: %w", word, fs.ErrNotExist)
	}
	var found []ID
	err := s.walkIDs(ctx, func(id ID) error {
		if strings.HasPrefix(string(id), word) {
			found = append(found, id)
		}
		return nil
	})
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", fmt.Errorf("no container named %s: %w", word, fs.ErrNotExist)
	case len(found) > 1:
		return "", fmt.Errorf("container %s: %w", word, ErrAmbiguous)
	}
	return found[0], nil
}

// Read reads a container. The error wraps fs.ErrNotExist when there is none.
func (s *Store) Read(id ID) (*Container, error) {
	rec, err := s.record(id)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id.Short(), err)
	}
	st, err := s.State(id)
	if err != nil {
		return nil, err
	}
	return &Container{Record: *rec, State: *st}, nil
}

func (s *Store) record(id ID) (*Record, error) {
	data, err := s.read(id, recordFile, maxRecordBytes)
	if err == nil && len(data) == 0 && s.fleeting(id) {
		// Written and not flushed before a power cut, see make.
		err = fmt.Errorf("the machine stopped while it ran: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	rec, err := parseRecord(data)
	if err == nil && rec.ID != id {
		err = fmt.Errorf("the record is of container %s: %w", rec.ID, fs.ErrInvalid)
	}
	return rec, err
}

// fleeting tells whether the state of a container is of one that was to go when it had
// ended, or was cut off as that of such a one can be.
func (s *Store) fleeting(id ID) bool {
	data, err := s.read(id, stateFile, maxStateBytes)
	if err != nil || len(data) == 0 {
		return err == nil || errors.Is(err, fs.ErrNotExist)
	}
	st, err := parseState(data)
	return err == nil && st.Fleeting
}

// State returns what became of a container, corrected where the one who wrote it was
// killed.
func (s *Store) State(id ID) (*State, error) {
	st, err := s.state(id)
	if err != nil {
		return nil, fmt.Errorf("state of container %s: %w", id.Short(), err)
	}
	st.truth()
	return st, nil
}

func (s *Store) state(id ID) (*State, error) {
	data, err := s.read(id, stateFile, maxStateBytes)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		// Written and not flushed before a power cut.
		return &State{Version: recordVersion, Status: Exited, ExitCode: ExitLost, Error: "the machine stopped while it ran"}, nil
	}
	return parseState(data)
}

// Walk calls fn for every container, in the order of their ids. One whose records are
// damaged is passed over with a warning.
func (s *Store) Walk(ctx context.Context, fn func(*Container) error) error {
	return s.walkIDs(ctx, func(id ID) error {
		c, err := s.Read(id)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // never finished, or removed meanwhile
		}
		if err != nil {
			s.log.Warn("container is passed over", "container", id, "error", err)
			return nil
		}
		return fn(c)
	})
}

func (s *Store) walkIDs(ctx context.Context, fn func(ID) error) error {
	names, err := s.entries(".")
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, err := ParseID(name)
		if err != nil {
			continue
		}
		if err := fn(id); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) entries(dir string) (_ []string, err error) {
	f, err := s.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Readdirnames(-1)
}

// Update changes the record of a container.
func (s *Store) Update(ctx context.Context, id ID, change func(*Record) error) (err error) {
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return s.update(id, change)
}

func (s *Store) update(id ID, change func(*Record) error) error {
	rec, err := s.record(id)
	if err != nil {
		return fmt.Errorf("container %s: %w", id.Short(), err)
	}
	if err := change(rec); err != nil {
		return err
	}
	data, err := encodeRecord(rec)
	if err != nil {
		return err
	}
	return s.write(id, recordFile, data, true)
}

// Change changes the state of a container, as it truly is, and returns what it then is.
// It is flushed when it is to outlast a power cut, as how the container ended is.
func (s *Store) Change(ctx context.Context, id ID, change func(*State) error) (_ *State, err error) {
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	st, err := s.State(id)
	if err != nil {
		return nil, err
	}
	fleeting := st.Fleeting
	if err := change(st); err != nil {
		return st, err
	}
	st.Fleeting = fleeting // it is no matter of what becomes of the container
	data, err := encodeState(st)
	if err != nil {
		return st, err
	}
	return st, s.write(id, stateFile, data, st.lasts())
}
