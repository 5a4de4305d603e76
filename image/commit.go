package image

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"time"

	"github.com/layerfs/layerfs/image/reference"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CommitOptions describes an image that is made from another one, or from nothing.
type CommitOptions struct {
	Parent *Image // nil for an image of this one layer
	Layer  *Layer // on top of the parent's; nil to change the config alone
	// Changes are Dockerfile instructions, see [ApplyChanges].
	Changes   []string
	Author    string
	Comment   string    // the message of the commit
	CreatedBy string    // the command that made the layer
	Created   time.Time // of image and history entry, UTC; now when zero
	// Platform of an image without parent; that of this machine when zero.
	Platform ocispec.Platform
	// Names to give to the image, with tags. Without any it is kept unnamed.
	Names  []reference.Reference
	Source string // for the records of the names
}

// Commit makes an image, stores its documents and gives it its names. The layer must be
// stored already. Unknown fields of the parent's config are kept.
func (s *Store) Commit(ctx context.Context, o CommitOptions) (*Image, error) {
	if o.Created.IsZero() {
		o.Created = s.now()
	}
	o.Created = o.Created.UTC()
	im, docs, err := build(o)
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	if err := s.PutDocuments(ctx, docs); err != nil {
		return nil, err
	}
	refs := make([]Ref, 0, len(o.Names))
	for _, name := range o.Names {
		refs = append(refs, Ref{Name: name, Target: im.Target, Source: o.Source})
	}
	if len(refs) == 0 {
		refs = []Ref{{Target: im.Target, Source: o.Source}}
	}
	if err := s.SetRefs(ctx, refs...); err != nil {
		return nil, err
	}
	im.Names = slices.Clone(o.Names)
	return im, nil
}

// build makes the documents of a new image. The same options give the same bytes.
func build(o CommitOptions) (*Image, []Document, error) {
	raw, err := newConfig(o)
	if err != nil {
		return nil, nil, err
	}
	c, err := ParseConfig(raw)
	if err != nil {
		return nil, nil, err
	}
	config := NewDocument(ocispec.MediaTypeImageConfig, raw)
	var layers []ocispec.Descriptor
	if o.Parent != nil {
		if len(o.Parent.Layers) != len(o.Parent.DiffIDs()) {
			return nil, nil, fmt.Errorf("parent has %d layers, its config %d: %w", len(o.Parent.Layers), len(o.Parent.DiffIDs()), fs.ErrInvalid)
		}
		for _, l := range o.Parent.Layers {
			l.MediaType = ociMediaType(l.MediaType)
			layers = append(layers, l)
		}
	}
	if o.Layer != nil {
		layers = append(layers, o.Layer.Descriptor())
	}
	manifest, err := NewManifest(config.Descriptor, layers)
	if err != nil {
		return nil, nil, err
	}
	im := &Image{
		Target: manifest.Descriptor, Manifest: manifest.Descriptor, ConfigBlob: config.Descriptor,
		Layers: layers, Config: c, RawConfig: raw,
	}
	return im, []Document{config, manifest}, nil
}

// Descriptor returns how a manifest refers to the layer: as the blob it came in where
// that is of a kind that manifests know, else as its plain tar.
func (l Layer) Descriptor() ocispec.Descriptor {
	if l.Blob != "" && l.Blob != l.DiffID && IsLayer(l.MediaType) {
		return ocispec.Descriptor{MediaType: ociMediaType(l.MediaType), Digest: l.Blob, Size: l.BlobSize}
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: l.DiffID, Size: l.Size}
}

// NewManifest returns an OCI manifest.
func NewManifest(config ocispec.Descriptor, layers []ocispec.Descriptor) (Document, error) {
	if layers == nil {
		layers = []ocispec.Descriptor{}
	}
	config.MediaType = ociMediaType(config.MediaType)
	data, err := encodeJSON(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers,
	})
	if err != nil {
		return Document{}, err
	}
	if _, err := ParseManifest(ocispec.MediaTypeImageManifest, data); err != nil {
		return Document{}, err
	}
	return NewDocument(ocispec.MediaTypeImageManifest, data), nil
}

func descriptorOf(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// newConfig returns the parent's config with one step more.
func newConfig(o CommitOptions) ([]byte, error) {
	var (
		base = []byte("{}")
		c    = &Config{}
	)
	if o.Parent != nil {
		base, c = o.Parent.RawConfig, o.Parent.Config
	}
	top, err := parseObject(base)
	if err != nil {
		return nil, err
	}
	process, err := ApplyChanges(c.Config, o.Changes)
	if err != nil {
		return nil, err
	}
	rawProcess, err := editProcess(top.raw("config"), c.Config, process)
	if err != nil {
		return nil, err
	}
	h := History{Created: &o.Created, CreatedBy: o.CreatedBy, Author: o.Author, Comment: o.Comment, EmptyLayer: o.Layer == nil}
	rootfs := RootFS{Type: "layers", DiffIDs: slices.Clone(c.RootFS.DiffIDs)}
	if o.Layer != nil {
		rootfs.DiffIDs = append(rootfs.DiffIDs, o.Layer.DiffID)
	}
	if rootfs.DiffIDs == nil {
		rootfs.DiffIDs = []digest.Digest{}
	}
	// What Docker's old builder noted of the container that made the parent is not true
	// of the new image.
	for _, field := range []string{"container", "container_config", "parent", "id", "comment"} {
		top.drop(field)
	}
	set := func(field string, value any) {
		if err == nil {
			err = top.set(field, value)
		}
	}
	set("created", o.Created)
	if o.Author != "" {
		set("author", o.Author)
	}
	if o.Parent == nil {
		p := o.Platform
		if p.OS == "" {
			p = HostPlatform()
		}
		set("architecture", p.Architecture)
		if p.Variant != "" {
			set("variant", p.Variant)
		}
		set("os", p.OS)
	}
	set("config", rawProcess)
	set("rootfs", rootfs)
	set("history", append(historyOf(o.Parent), h))
	if err != nil {
		return nil, err
	}
	return top.bytes()
}

// historyOf returns the parent's history, completed so that every layer has a step.
func historyOf(parent *Image) []History {
	if parent == nil {
		return nil
	}
	var steps []History
	for _, line := range parent.History() {
		steps = append(steps, line.History)
	}
	return steps
}

// editProcess returns the "config" object with the fields replaced that changed, and
// every other member as it was.
func editProcess(raw []byte, before, after ProcessConfig) (rawObject, error) {
	if len(raw) == 0 {
		raw = []byte("{}")
	}
	o, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	b, a := reflect.ValueOf(before), reflect.ValueOf(after)
	for i := range b.NumField() {
		if reflect.DeepEqual(b.Field(i).Interface(), a.Field(i).Interface()) {
			continue
		}
		field := b.Type().Field(i).Name // fields are named as their JSON members
		if a.Field(i).IsZero() {
			o.drop(field)
			continue
		}
		if err := o.set(field, a.Field(i).Interface()); err != nil {
			return nil, err
		}
	}
	data, err := o.bytes()
	return bytes.TrimSpace(data), err
}

// rawObject is JSON that is written as it is.
type rawObject []byte

// MarshalJSON returns the bytes.
func (r rawObject) MarshalJSON() ([]byte, error) { return r, nil }
