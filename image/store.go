package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/image/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Records is where small named files are kept; names are slash-separated and relative
// to the root of the store. A record that is not there wraps fs.ErrNotExist.
type Records interface {
	ReadRecord(rel string) ([]byte, error)
	// OpenRecord opens a record of any size. The caller closes it.
	OpenRecord(rel string) (cas.Reader, error)
	// WriteRecord puts a record durably in place, whole or not at all.
	WriteRecord(ctx context.Context, rel string, data []byte) error
	RemoveRecord(ctx context.Context, rel string) error
	// PatchRecord lets fn change a record in place; what it has written is durable then,
	// but a power cut in the middle can leave anything: for what can be made again.
	PatchRecord(ctx context.Context, rel string, fn func(f *os.File) error) error
	// WalkRecords visits the records below a directory in no order, by their full
	// names; a directory that is not there holds none.
	WalkRecords(ctx context.Context, dir string, fn func(rel string, size int64, modified time.Time) error) error
	// ListRecords returns the names of the files and directories in a directory; one that
	// is not there has none.
	ListRecords(dir string) ([]string, error)
	// Lock takes a lock by name that excludes other processes.
	Lock(ctx context.Context, name string) (unlock func() error, err error)
}

// Blobs is where manifests, configs and layers as received are kept.
type Blobs interface {
	cas.Provider
	Begin(ctx context.Context) (cas.Batch, error)
}

// Options of a Store. The zero Options is ready for use.
type Options struct {
	Now    func() time.Time // for records of names; time.Now when nil
	Logger *slog.Logger     // discards when nil
	// Shared are the records of stores that this one stands on, where names are looked
	// for that it does not have. They are only read. The blobs of these stores are among
	// those that the Store is given.
	Shared []Records
}

// Store is the images of one layerfs store: their documents and their names. It is
// safe for concurrent use by several goroutines and processes. A caller that adds
// layers and documents before it names them holds off garbage collection meanwhile.
//
// The one lock taken is the one named "refs" of [Records]: only to change names, and
// never while data moves.
type Store struct {
	records Records
	shared  []Records
	blobs   Blobs
	now     func() time.Time
	log     *slog.Logger
}

// NewStore returns the images kept in records and blobs.
func NewStore(records Records, blobs Blobs, opts Options) *Store {
	s := &Store{records: records, shared: opts.Shared, blobs: blobs, now: opts.Now, log: opts.Logger}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Blobs returns where the documents are kept, and the layer blobs that were.
func (s *Store) Blobs() Blobs { return s.blobs }

// Document reads a manifest, an index or a config and verifies its size and digest.
func (s *Store) Document(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	data, err := s.document(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	return data, nil
}

func (s *Store) document(ctx context.Context, d ocispec.Descriptor) (data []byte, err error) {
	if err := CheckDescriptor(d); err != nil {
		return nil, err
	}
	if d.Size > MaxConfig {
		return nil, fmt.Errorf("document of %d bytes, limit %d: %w", d.Size, MaxConfig, fs.ErrInvalid)
	}
	r, err := s.blobs.Open(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.Size() != d.Size {
		return nil, fmt.Errorf("blob of %d bytes, %d expected: %w", r.Size(), d.Size, cas.ErrCorrupt)
	}
	data = make([]byte, d.Size)
	if n, err := r.ReadAt(data, 0); n != len(data) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if err := CheckBlob(d, data); err != nil {
		return nil, fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	}
	return data, nil
}

// Document is a manifest, an index, a config or any other small blob to keep.
type Document struct {
	Descriptor ocispec.Descriptor
	Data       []byte
}

// NewDocument describes data.
func NewDocument(mediaType string, data []byte) Document {
	return Document{Data: data, Descriptor: descriptorOf(mediaType, data)}
}

// PutDocuments keeps documents, all of them or none, durably.
func (s *Store) PutDocuments(ctx context.Context, docs []Document) (err error) {
	batch, err := s.blobs.Begin(ctx)
	if err != nil {
		return fmt.Errorf("store documents: %w", err)
	}
	defer func() { err = errors.Join(err, batch.Close()) }()
	for _, doc := range docs {
		if err := putDocument(ctx, batch, doc); err != nil {
			return fmt.Errorf("store %s: %w", doc.Descriptor.Digest, err)
		}
	}
	if err := batch.Publish(ctx); err != nil {
		return fmt.Errorf("store documents: %w", err)
	}
	return nil
}

func putDocument(ctx context.Context, batch cas.Batch, doc Document) (err error) {
	w, err := batch.Create(ctx, cas.Expect{Digest: doc.Descriptor.Digest, Size: doc.Descriptor.Size})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if _, err := w.Write(doc.Data); err != nil {
		return err
	}
	_, err = w.Commit(ctx)
	return err
}

// Refs returns all names and unnamed images, in the order of their names, the unnamed
// ones last; after the store's own those of stores that it stands on. Where records are
// damaged the others are returned, and an error that names the damaged ones and wraps
// fs.ErrInvalid.
func (s *Store) Refs(ctx context.Context) ([]Ref, error) {
	refs, damaged, err := s.readRefs(ctx)
	if err != nil {
		return nil, err
	}
	return s.withShared(refs, damaged, func(r Records) (rels []string, err error) { return refRecords(ctx, r) })
}

// withShared adds to the store's own names those that list finds in the stores that it
// stands on and that are not among the former.
func (s *Store) withShared(refs []Ref, damaged []Damage, list func(Records) ([]string, error)) ([]Ref, error) {
	known := map[string]bool{}
	for _, below := range s.shared {
		for _, r := range refs {
			known[r.record()] = true
		}
		rels, err := list(below)
		if err != nil {
			return nil, err
		}
		rels = slices.DeleteFunc(rels, func(rel string) bool { return known[rel] })
		more, bad, err := readEach(below, rels)
		if err != nil {
			return nil, err
		}
		for i := range more {
			more[i].Shared = true
		}
		refs, damaged = append(refs, more...), append(damaged, bad...)
	}
	return refs, joinDamage(damaged)
}

func joinDamage(damaged []Damage) error {
	errs := make([]error, len(damaged))
	for i, d := range damaged {
		errs[i] = d.Err
	}
	return errors.Join(errs...)
}

// RefsOf returns the names of one repository, as Refs does, reading no others.
func (s *Store) RefsOf(ctx context.Context, repository reference.Reference) ([]Ref, error) {
	list := func(r Records) (rels []string, err error) { return recordsOf(r, repository) }
	rels, err := list(s.records)
	if err != nil {
		return nil, err
	}
	refs, damaged, err := readEach(s.records, rels)
	if err != nil {
		return nil, err
	}
	refs, err = s.withShared(refs, damaged, list)
	return refs, errors.Join(err, ctx.Err())
}

// recordsOf lists the records of the names of one repository.
func recordsOf(records Records, repository reference.Reference) (rels []string, err error) {
	list := func(dir, prefix string) error {
		names, err := records.ListRecords(dir)
		for _, name := range names {
			if rest, ok := strings.CutPrefix(name, prefix); ok && rest != "" && (rest[0] == ':' || rest[0] == '@') {
				rels = append(rels, dir+"/"+name)
			}
		}
		return err
	}
	// The record of a long name lies in a directory, see Ref.record.
	own := refsDir + "/" + repository.Repository()
	if err := errors.Join(list(path.Dir(own), path.Base(own)), list(own, "")); err != nil {
		return nil, fmt.Errorf("list names: %w", err)
	}
	return rels, nil
}

// readRefs returns the store's own names, with the damaged records one by one.
func (s *Store) readRefs(ctx context.Context) (refs []Ref, damaged []Damage, err error) {
	rels, err := refRecords(ctx, s.records)
	if err != nil {
		return nil, nil, err
	}
	return readEach(s.records, rels)
}

// refRecords lists the records of names.
func refRecords(ctx context.Context, records Records) (rels []string, err error) {
	err = records.WalkRecords(ctx, refsDir, func(rel string, _ int64, _ time.Time) error {
		rels = append(rels, rel)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list names: %w", err)
	}
	return rels, nil
}

// readEach reads the records of names.
func readEach(records Records, rels []string) (refs []Ref, damaged []Damage, err error) {
	refs = make([]Ref, 0, len(rels))
	for _, rel := range rels {
		r, err := readRef(records, rel)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// Removed since the directory was read.
		case errors.Is(err, fs.ErrInvalid):
			damaged = append(damaged, Damage{Record: rel, Err: err})
		case err != nil:
			return nil, nil, err
		default:
			refs = append(refs, r)
		}
	}
	slices.SortFunc(refs, compareRefs)
	return refs, damaged, nil
}

// soundRefs is Refs for work that one damaged record must not stop.
func (s *Store) soundRefs(ctx context.Context) ([]Ref, error) {
	refs, err := s.Refs(ctx)
	return refs, s.warnDamage(err)
}

// ownRefs is soundRefs without the names of stores that this one stands on.
func (s *Store) ownRefs(ctx context.Context) ([]Ref, error) { return s.soundRefsOf(ctx, s.records) }

func (s *Store) soundRefsOf(ctx context.Context, records Records) ([]Ref, error) {
	rels, err := refRecords(ctx, records)
	if err != nil {
		return nil, err
	}
	refs, damaged, err := readEach(records, rels)
	if err != nil {
		return nil, err
	}
	return refs, s.warnDamage(joinDamage(damaged))
}

func (s *Store) warnDamage(err error) error {
	if err != nil && errors.Is(err, fs.ErrInvalid) {
		s.log.Warn("names are damaged", "error", err)
		err = nil
	}
	return err
}

// Ref returns what exactly this name points to; one that is not there wraps
// fs.ErrNotExist. A name with tag and digest is looked up by its digest.
func (s *Store) Ref(ctx context.Context, name reference.Reference) (Ref, error) {
	if err := ctx.Err(); err != nil {
		return Ref{}, err
	}
	rel := Ref{Name: name}.record()
	r, err := readRef(s.records, rel)
	for i := 0; i < len(s.shared) && errors.Is(err, fs.ErrNotExist); i++ {
		r, err = readRef(s.shared[i], rel)
		r.Shared = true
	}
	return r, err
}

func readRef(records Records, rel string) (Ref, error) {
	name, unnamed, err := parseRecordName(rel)
	if err != nil {
		return Ref{}, err
	}
	data, err := records.ReadRecord(rel)
	if err != nil {
		return Ref{}, fmt.Errorf("read name %s: %w", name.Familiar(), err)
	}
	r, err := parseRef(data)
	if err == nil && unnamed != "" && unnamed != r.Target.Digest {
		err = fmt.Errorf("record is about %s: %w", r.Target.Digest, fs.ErrInvalid)
	}
	if err != nil {
		return Ref{}, fmt.Errorf("read name record %s: %w", rel, err)
	}
	r.Name = name
	return r, nil
}

// SetRefs makes names point to images, replacing what they pointed to: all of them or,
// when it fails, none. What they point to must be stored already. A Ref without a name
// keeps an image that has none; it ends once the image gets one.
func (s *Store) SetRefs(ctx context.Context, refs ...Ref) error {
	for _, r := range refs {
		if r.Name.Tag() == "" && r.Name.Digest() == "" && !r.Name.IsZero() {
			return fmt.Errorf("name %s has neither tag nor digest: %w", r.Name.Familiar(), fs.ErrInvalid)
		}
		info, err := s.blobs.Stat(ctx, r.Target.Digest)
		if err == nil && info.Size != r.Target.Size {
			err = fmt.Errorf("%d bytes are stored, %d were expected: %w", info.Size, r.Target.Size, fs.ErrInvalid)
		}
		if err != nil {
			return fmt.Errorf("name %s: manifest %s: %w", r, r.Target.Digest, err)
		}
	}
	return s.change(ctx, func(c *changes) error {
		var named []Ref
		for _, r := range refs {
			if r.Created.IsZero() {
				r.Created = s.now()
			}
			data, err := r.encode()
			if err != nil {
				return err
			}
			if err := c.write(ctx, r, data); err != nil {
				return fmt.Errorf("name %s: %w", r, err)
			}
			if !r.Name.IsZero() {
				named = append(named, r)
			}
		}
		for _, r := range named {
			r.Name = reference.Reference{}
			if err := c.remove(ctx, r); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// RemoveRefs removes names, all of them or, when it fails, none. What they point to
// stays until garbage is collected.
func (s *Store) RemoveRefs(ctx context.Context, refs ...Ref) error {
	return s.change(ctx, func(c *changes) error {
		for _, r := range refs {
			err := c.remove(ctx, r)
			if errors.Is(err, fs.ErrNotExist) && r.Shared {
				err = fmt.Errorf("it is in an additional store, which is never changed here: %w", fs.ErrPermission)
			}
			if err != nil {
				return fmt.Errorf("remove name %s: %w", r, err)
			}
		}
		return nil
	})
}

// noRoom reports whether an error is for lack of space.
func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// onlyRemoves reports whether names were only removed.
func (c *changes) onlyRemoves() bool {
	return !slices.ContainsFunc(c.edits, func(e layoutEdit) bool { return e.now.Target.Digest != "" })
}

// changes remembers what records held, to put it back, and what index.json is to say.
type changes struct {
	records Records
	undo    []func(context.Context) error
	edits   []layoutEdit
}

func (c *changes) write(ctx context.Context, r Ref, data []byte) error {
	old, err := c.remember(r)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.records.WriteRecord(ctx, r.record(), data); err != nil {
		return err
	}
	c.edits = append(c.edits, layoutEdit{old: old, now: r})
	return nil
}

// remove wraps fs.ErrNotExist when there is no such name.
func (c *changes) remove(ctx context.Context, r Ref) error {
	old, err := c.remember(r)
	if err != nil {
		return err
	}
	if err := c.records.RemoveRecord(ctx, r.record()); err != nil {
		return err
	}
	c.edits = append(c.edits, layoutEdit{old: old})
	return nil
}

// remember notes what the record of a name holds, and returns it; a Ref without a target
// when it is damaged. The error wraps fs.ErrNotExist when there is none.
func (c *changes) remember(r Ref) (Ref, error) {
	rel := r.record()
	data, err := c.records.ReadRecord(rel)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.undo = append(c.undo, func(ctx context.Context) error {
			if err := c.records.RemoveRecord(ctx, rel); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		})
		return Ref{}, err
	case err != nil:
		return Ref{}, err
	}
	c.undo = append(c.undo, func(ctx context.Context) error { return c.records.WriteRecord(ctx, rel, data) })
	old, err := parseRef(data)
	if err != nil {
		return Ref{}, nil //nolint:nilerr // index.json has no line of it
	}
	old.Name = r.Name
	return old, nil
}

// change runs fn under the lock of names and brings index.json up to date; when either
// fails, what fn changed is put back.
func (s *Store) change(ctx context.Context, fn func(*changes) error) (err error) {
	unlock, err := s.records.Lock(ctx, "refs")
	if err != nil {
		return fmt.Errorf("lock names: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	c := &changes{records: s.records}
	err = fn(c)
	if err == nil {
		if err = s.editLayout(ctx, c.edits); noRoom(err) && c.onlyRemoves() {
			// What takes away must work on a full disk; a collection writes it later.
			s.log.Warn("index.json is out of date", "error", err)
			err = nil
		}
	}
	if err == nil {
		return nil
	}
	clean := context.WithoutCancel(ctx)
	for _, undo := range slices.Backward(c.undo) {
		if uerr := undo(clean); uerr != nil {
			s.log.Error("could not put a name back", "error", uerr)
		}
	}
	return err
}
