package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// RootKind says what a digest that must be kept is the digest of, a closed set.
type RootKind uint8

// The kinds of roots.
const (
	RootManifest RootKind = iota + 1 // a manifest or an index: a blob
	RootConfig                       // a config: a blob
	RootBlob                         // a layer or artifact as received: a blob that need not be there
	RootLayer                        // a DiffID: a layer, not a blob
)

// String returns the name of the kind.
func (k RootKind) String() string {
	switch k {
	case RootManifest:
		return "manifest"
	case RootConfig:
		return "config"
	case RootBlob:
		return "blob"
	case RootLayer:
		return "layer"
	default:
		return fmt.Sprintf("RootKind(%d)", uint8(k))
	}
}

// Root is one thing that a name keeps from being garbage.
type Root struct {
	Kind   RootKind
	Digest digest.Digest
	Size   int64 // bytes, -1 for a layer
	Ref    Ref   // the name that keeps it
}

// Roots visits everything that every name keeps. What several names keep is visited
// for each. Where documents are missing or damaged the rest is visited still, and the
// error names all images concerned: a sweep must not go on then, a check may.
func (s *Store) Roots(ctx context.Context, fn func(Root) error) error {
	var damaged []error
	err := s.Inspect(ctx, fn, func(d Damage) {
		if d.Ref.Target.Digest != "" {
			d.Err = fmt.Errorf("image %s: %w", d.Ref, d.Err)
		}
		damaged = append(damaged, d.Err)
	})
	if err != nil {
		return err
	}
	return errors.Join(damaged...)
}

func (s *Store) rootsOf(ctx context.Context, target ocispec.Descriptor) ([]Root, error) {
	// The target itself comes first, so that it is kept even when it cannot be read.
	roots := []Root{{Kind: RootManifest, Digest: target.Digest, Size: target.Size}}
	err := s.walk(ctx, target, func(d ocispec.Descriptor, data []byte) error {
		if d.Digest != target.Digest {
			roots = append(roots, Root{Kind: RootManifest, Digest: d.Digest, Size: d.Size})
		}
		if !IsManifest(d.MediaType) {
			return nil
		}
		m, err := ParseManifest(d.MediaType, data)
		if err != nil {
			return err
		}
		roots = append(roots, Root{Kind: RootConfig, Digest: m.Config.Digest, Size: m.Config.Size})
		for _, l := range m.Layers {
			roots = append(roots, Root{Kind: RootBlob, Digest: l.Digest, Size: l.Size})
		}
		if !IsConfig(m.Config.MediaType) {
			return nil
		}
		raw, err := s.Document(ctx, m.Config)
		if err != nil {
			return fmt.Errorf("config: %w", err)
		}
		if isAttachment(d) {
			return nil // has a config for form's sake, and no layers that are tars
		}
		c, err := ParseConfig(raw)
		if err != nil {
			return err
		}
		for _, diffID := range c.RootFS.DiffIDs {
			roots = append(roots, Root{Kind: RootLayer, Digest: diffID, Size: -1})
		}
		return nil
	})
	return roots, err
}
