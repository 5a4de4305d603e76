package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/layerfs/layerfs/image/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Damage is what is wrong with one name.
type Damage struct {
	Record string // the file of the name, below the root of the store
	Ref    Ref    // zero when the record itself is damaged
	Err    error
}

// Inspect visits everything that every name keeps, as Roots does, and every name of which
// something is missing or damaged.
func (s *Store) Inspect(ctx context.Context, fn func(Root) error, damaged func(Damage)) error {
	refs, bad, err := s.readRefs(ctx)
	if err != nil {
		return err
	}
	for _, d := range bad {
		damaged(d)
	}
	type needs struct {
		roots []Root
		err   error
	}
	known := make(map[digest.Digest]needs) // by target: many names lead to one image
	for _, r := range refs {
		n, ok := known[r.Target.Digest]
		if !ok {
			n.roots, n.err = s.rootsOf(ctx, r.Target)
			if err := ctx.Err(); err != nil {
				return err
			}
			known[r.Target.Digest] = n
		}
		if n.err != nil {
			damaged(Damage{Record: r.record(), Ref: r, Err: n.err})
		}
		for _, root := range n.roots {
			root.Ref = r
			if err := fn(root); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckLayout returns an error that wraps fs.ErrInvalid for each of the files oci-layout
// and index.json that is damaged, by its name. That index.json is not up to date is no
// damage: a command that is killed leaves it so, until the next changes a name.
func (s *Store) CheckLayout(ctx context.Context) (damaged map[string]error, err error) {
	damaged = map[string]error{}
	data, err := s.records.ReadRecord(ocispec.ImageLayoutFile)
	if err == nil {
		err = CheckLayout(data)
	}
	if err != nil {
		damaged[ocispec.ImageLayoutFile] = err
	}
	if data, err = s.records.ReadRecord(ocispec.ImageIndexFile); err == nil {
		err = checkLayoutIndex(data)
	}
	if err != nil {
		damaged[ocispec.ImageIndexFile] = err
	}
	return damaged, ctx.Err()
}

func checkLayoutIndex(data []byte) error {
	var x ocispec.Index
	if err := json.Unmarshal(data, &x); err != nil {
		return fmt.Errorf("parse %s: %w: %w", ocispec.ImageIndexFile, err, fs.ErrInvalid)
	}
	if x.SchemaVersion != 2 {
		return fmt.Errorf("%s of version %d: %w", ocispec.ImageIndexFile, x.SchemaVersion, fs.ErrInvalid)
	}
	for _, m := range x.Manifests {
		if err := CheckDescriptor(m); err != nil {
			return fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
		}
	}
	return nil
}

// RestoreNames writes the records of names anew that are damaged and that index.json
// still has. It returns the restored ones by their records.
func (s *Store) RestoreNames(ctx context.Context) (restored map[string]Ref, err error) {
	unlock, err := s.records.Lock(ctx, "refs")
	if err != nil {
		return nil, fmt.Errorf("lock names: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	_, bad, err := s.readRefs(ctx)
	if err != nil || len(bad) == 0 {
		return nil, err
	}
	data, err := s.records.ReadRecord(ocispec.ImageIndexFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
		return nil, err
	}
	named := layoutNames(data)
	restored = map[string]Ref{}
	for _, d := range bad {
		r, ok := named[d.Record]
		if !ok {
			continue
		}
		r.Created = s.now()
		data, err := r.encode()
		if err != nil {
			return restored, err
		}
		if err := s.records.WriteRecord(ctx, d.Record, data); err != nil {
			return restored, fmt.Errorf("restore name %s: %w", r, err)
		}
		restored[d.Record] = r
	}
	return restored, nil
}

// layoutNames returns what an index.json says of names, by their records; nothing where
// it cannot be read.
func layoutNames(data []byte) map[string]Ref {
	out := map[string]Ref{}
	var x ocispec.Index
	if json.Unmarshal(data, &x) != nil {
		return out
	}
	for _, m := range x.Manifests {
		r := Ref{Target: ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}, Source: "index.json"}
		if CheckDescriptor(r.Target) != nil || !IsIndex(m.MediaType) && !IsManifest(m.MediaType) {
			continue
		}
		if name := m.Annotations[AnnotationImageName]; name != "" {
			parsed, err := reference.Parse(name)
			if err != nil {
				continue
			}
			r.Name = parsed
		}
		out[r.record()] = r
	}
	return out
}
