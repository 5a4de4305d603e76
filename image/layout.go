package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// AnnotationImageName is the annotation under which containerd and Docker keep the
// whole name of an image in the index.json of a layout
// (https://github.com/containerd/containerd, core/images/annotations.go).
const AnnotationImageName = "io.containerd.image.name"

// RefreshLayout makes index.json say what the names say where it does not, which a
// command that was killed between the two leaves, and mends oci-layout.
func (s *Store) RefreshLayout(ctx context.Context) (err error) {
	unlock, err := s.records.Lock(ctx, "refs")
	if err != nil {
		return fmt.Errorf("lock names: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	want, err := s.layout(ctx)
	if err != nil {
		return err
	}
	data, err := s.records.ReadRecord(ocispec.ImageLayoutFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
		return err // that it cannot be read does not mean that it is damaged
	}
	if err != nil || CheckLayout(data) != nil {
		if err := s.records.WriteRecord(ctx, ocispec.ImageLayoutFile, EncodeLayout()); err != nil {
			return fmt.Errorf("write %s: %w", ocispec.ImageLayoutFile, err)
		}
	}
	if got, err := s.records.ReadRecord(ocispec.ImageIndexFile); err == nil && bytes.Equal(got, want) {
		return nil
	}
	if err = s.writeLayoutFile(ctx, want); noRoom(err) {
		s.log.Warn("index.json is out of date", "error", err)
		err = nil
	}
	return err
}

// editLayout makes index.json say what the names say, of which only the given ones have
// changed. The caller holds the lock of names.
func (s *Store) editLayout(ctx context.Context, edits []layoutEdit) error {
	err := s.patchLayout(ctx, edits)
	if !errors.Is(err, errNotPatched) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, err := s.layout(ctx)
	if err != nil {
		return err
	}
	return s.writeLayoutFile(ctx, data)
}

func (s *Store) writeLayoutFile(ctx context.Context, data []byte) error {
	if err := s.records.WriteRecord(ctx, ocispec.ImageIndexFile, data); err != nil {
		return fmt.Errorf("write %s: %w", ocispec.ImageIndexFile, err)
	}
	return nil
}

// layout returns what index.json is to hold.
func (s *Store) layout(ctx context.Context) ([]byte, error) {
	refs, err := s.ownRefs(ctx)
	if err != nil {
		return nil, err
	}
	return encodeLayout(refs)
}

// EncodeLayoutIndex returns an index.json with these entries.
func EncodeLayoutIndex(entries []ocispec.Descriptor) ([]byte, error) {
	if entries == nil {
		entries = []ocispec.Descriptor{}
	}
	return encodeJSON(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
	})
}

// EncodeLayout returns the contents of the file oci-layout.
func EncodeLayout() []byte {
	return []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)
}

// CheckLayout verifies the contents of the file oci-layout: version 1 of the format.
func CheckLayout(data []byte) error {
	if err := CheckJSON(data, MaxRecord); err != nil {
		return fmt.Errorf("parse %s: %w", ocispec.ImageLayoutFile, err)
	}
	var l ocispec.ImageLayout
	if err := json.Unmarshal(data, &l); err != nil {
		return fmt.Errorf("parse %s: %w: %w", ocispec.ImageLayoutFile, err, fs.ErrInvalid)
	}
	if !strings.HasPrefix(l.Version, "1.") {
		return fmt.Errorf("image layout of version %.20q, only 1.x is known: %w", l.Version, errors.Join(fs.ErrInvalid, errors.ErrUnsupported))
	}
	return nil
}
