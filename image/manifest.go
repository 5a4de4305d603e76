package image

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/layerfs/layerfs/image/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// shape is what tells the kinds of documents apart: which fields there are.
type shape struct {
	schemaVersion                       *int
	mediaType                           string
	config, layers, manifests, fsLayers bool
}

// shapeOf reads the outline of a document from the members that it has.
func shapeOf(members []member) (s shape, err error) {
	for _, m := range members {
		switch foldKey(m.key) {
		case "schemaversion":
			err = unmarshal(m.value, &s.schemaVersion)
		case "mediatype":
			err = unmarshal(m.value, &s.mediaType)
		case "config":
			s.config = true
		case "layers":
			s.layers = true
		case "manifests":
			s.manifests = true
		case "fslayers":
			s.fsLayers = true
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", m.key, err)
		}
	}
	return s, nil
}

// DetectMediaType returns the media type of a manifest or an index: what it says of
// itself, else what its fields make it. A document that is both at once, such as one
// with layers and manifests, is refused: two readers would see two images under one
// digest (CVE-2021-41190).
func DetectMediaType(data []byte) (string, error) {
	return documentType("", data, MaxManifest)
}

// documentType checks the outline of a document against the media type under which it
// was referred to, "" when that is unknown, and returns its media type.
func documentType(want string, data []byte, limit int) (string, error) {
	members, err := checkJSON(data, limit)
	if err != nil {
		return "", err
	}
	s, err := shapeOf(members)
	if err != nil {
		return "", err
	}
	if want == dockerSchema1 || want == dockerSchema1Signed || s.fsLayers || (s.schemaVersion != nil && *s.schemaVersion == 1) {
		return "", fmt.Errorf("docker manifest of schema 1, which no longer can be verified; push the image again with a current tool: %w", errors.Join(fs.ErrInvalid, errors.ErrUnsupported))
	}
	if s.schemaVersion == nil || *s.schemaVersion != 2 {
		return "", fmt.Errorf("schemaVersion is not 2: %w", fs.ErrInvalid)
	}
	if s.manifests && (s.layers || s.config) {
		return "", fmt.Errorf("document is a manifest and an index at once: %w", fs.ErrInvalid)
	}
	if want != "" && s.mediaType != "" && s.mediaType != want {
		return "", fmt.Errorf("document says it is %.100q, and %.100q was expected: %w", s.mediaType, want, fs.ErrInvalid)
	}
	got := want
	if got == "" {
		got = s.mediaType
	}
	switch {
	case got == "" && s.manifests:
		got = ocispec.MediaTypeImageIndex
	case got == "" && s.config:
		got = ocispec.MediaTypeImageManifest
	}
	switch {
	case IsIndex(got) && !s.manifests:
		return "", fmt.Errorf("index has no manifests: %w", fs.ErrInvalid)
	case IsManifest(got) && !s.config:
		return "", fmt.Errorf("manifest has no config: %w", fs.ErrInvalid)
	case !IsIndex(got) && !IsManifest(got):
		return "", fmt.Errorf("media type %.100q is neither a manifest nor an index: %w", got, fs.ErrInvalid)
	}
	return got, nil
}

// ParseManifest parses an OCI or Docker manifest. mediaType is the one under which the
// document was referred to, "" when that is unknown; the result always has one. An
// error wraps fs.ErrInvalid.
func ParseManifest(mediaType string, data []byte) (*ocispec.Manifest, error) {
	m, err := parseManifest(mediaType, data)
	if err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	return m, nil
}

func parseManifest(mediaType string, data []byte) (*ocispec.Manifest, error) {
	got, err := documentType(mediaType, data, MaxManifest)
	if err != nil {
		return nil, err
	}
	if !IsManifest(got) {
		return nil, fmt.Errorf("%s is no manifest: %w", got, fs.ErrInvalid)
	}
	var m ocispec.Manifest
	if err := unmarshal(data, &m); err != nil {
		return nil, err
	}
	m.MediaType = got
	if err := CheckDescriptor(m.Config); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if IsConfig(m.Config.MediaType) && m.Config.Size > MaxConfig {
		return nil, fmt.Errorf("config of %d bytes, limit %d: %w", m.Config.Size, MaxConfig, fs.ErrInvalid)
	}
	if len(m.Layers) > MaxLayers {
		return nil, fmt.Errorf("%d layers, limit %d: %w", len(m.Layers), MaxLayers, fs.ErrInvalid)
	}
	for i, l := range m.Layers {
		if err := CheckDescriptor(l); err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", i+1, len(m.Layers), err)
		}
	}
	if m.Subject != nil {
		if err := CheckDescriptor(*m.Subject); err != nil {
			return nil, fmt.Errorf("subject: %w", err)
		}
	}
	return &m, nil
}

// ParseIndex parses an OCI index or a Docker manifest list, as ParseManifest does.
func ParseIndex(mediaType string, data []byte) (*ocispec.Index, error) {
	x, err := parseIndex(mediaType, data, MaxManifest, MaxManifests)
	if err != nil {
		return nil, fmt.Errorf("parse index: %w", err)
	}
	return x, nil
}

// ParseLayoutIndex parses the index.json of an OCI layout, which may be larger than
// the index of one image.
func ParseLayoutIndex(data []byte) (*ocispec.Index, error) {
	x, err := parseIndex("", data, MaxLayoutIndex, MaxLayoutEntries)
	if err != nil {
		return nil, fmt.Errorf("parse index.json: %w", err)
	}
	return x, nil
}

func parseIndex(mediaType string, data []byte, limit, entries int) (*ocispec.Index, error) {
	got, err := documentType(mediaType, data, limit)
	if err != nil {
		return nil, err
	}
	if !IsIndex(got) {
		return nil, fmt.Errorf("%s is no index: %w", got, fs.ErrInvalid)
	}
	var x ocispec.Index
	if err := unmarshal(data, &x); err != nil {
		return nil, err
	}
	x.MediaType = got
	if len(x.Manifests) > entries {
		return nil, fmt.Errorf("%d manifests, limit %d: %w", len(x.Manifests), entries, fs.ErrInvalid)
	}
	for i, m := range x.Manifests {
		if err := CheckDescriptor(m); err != nil {
			return nil, fmt.Errorf("manifest %d of %d: %w", i+1, len(x.Manifests), err)
		}
		if (IsIndex(m.MediaType) || IsManifest(m.MediaType)) && m.Size > MaxManifest {
			return nil, fmt.Errorf("manifest %d of %d of %d bytes, limit %d: %w", i+1, len(x.Manifests), m.Size, MaxManifest, fs.ErrInvalid)
		}
	}
	return &x, nil
}

// CheckDescriptor checks what a document says of another one: a known digest
// algorithm, a size in [0, MaxBlob] and a media type.
func CheckDescriptor(d ocispec.Descriptor) error {
	if _, err := reference.ParseDigest(string(d.Digest)); err != nil {
		return err
	}
	if d.Size < 0 || d.Size > MaxBlob {
		return fmt.Errorf("size of %d bytes, limit %d: %w", d.Size, int64(MaxBlob), fs.ErrInvalid)
	}
	if d.MediaType == "" || len(d.MediaType) > MaxMediaType {
		return fmt.Errorf("media type of %d bytes, at least 1 and at most %d: %w", len(d.MediaType), MaxMediaType, fs.ErrInvalid)
	}
	return nil
}

// CheckBlob verifies bytes against the descriptor by which they were found.
func CheckBlob(d ocispec.Descriptor, data []byte) error {
	if int64(len(data)) != d.Size {
		return fmt.Errorf("%s has %d bytes, its descriptor says %d: %w", d.Digest, len(data), d.Size, fs.ErrInvalid)
	}
	if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest {
		return fmt.Errorf("%s has the digest %s: %w", d.Digest, got, fs.ErrInvalid)
	}
	return nil
}
