package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/layerfs/layerfs/tarstream/compress"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// addLayout adds an image to an OCI layout.
func (c *composer) addLayout(ctx context.Context, it Item) (Saved, error) {
	s := Saved{Names: it.Names, Target: it.Target}
	if image.IsIndex(it.Target.MediaType) && c.opts.Platform == nil && c.opts.Compress == compress.None {
		whole, err := c.wholeIndex(ctx, it.Target, 1)
		if err != nil {
			return s, err
		}
		if whole {
			im, err := c.addIndex(ctx, it.Target)
			if err != nil {
				return s, err
			}
			if im != nil {
				s.ID = im.ID()
			}
			c.entry(it, it.Target, im)
			return s, nil
		}
	}
	im, err := c.store.Open(ctx, it.Target, c.opts.Platform)
	if err != nil {
		return s, err
	}
	if s.Target, err = c.addManifest(ctx, im); err != nil {
		return s, err
	}
	s.ID = im.ID()
	s.Changed = s.Target.Digest != it.Target.Digest
	c.entry(it, s.Target, im)
	return s, nil
}

// addManifest adds the documents and layers of an image, and returns its manifest: as
// it is stored, or made anew where layers are written in another form.
func (c *composer) addManifest(ctx context.Context, im *image.Image) (ocispec.Descriptor, error) {
	changed := false
	written := slices.Clone(im.Layers)
	for i, l := range im.Layers {
		d, err := c.addLayer(ctx, l, im.DiffIDs()[i])
		if err != nil {
			return d, fmt.Errorf("layer %d of %d: %w", i+1, len(im.Layers), err)
		}
		changed = changed || d.Digest != l.Digest
		written[i] = d
	}
	c.addBytes(blobName(im.ConfigBlob.Digest), im.RawConfig)
	im.Layers = written
	if !changed {
		c.addBlob(im.Manifest)
		d := im.Manifest
		d.Platform, d.Annotations = nil, nil
		return d, nil
	}
	m, err := image.NewManifest(im.ConfigBlob, written)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	c.addBytes(blobName(m.Descriptor.Digest), m.Data)
	return m.Descriptor, nil
}

// wholeIndex reports whether everything of an index is stored in the form that it names.
func (c *composer) wholeIndex(ctx context.Context, d ocispec.Descriptor, depth int) (bool, error) {
	if depth > image.MaxIndexDepth {
		return false, invalid("index %s lies deeper than %d", d.Digest, image.MaxIndexDepth)
	}
	children, err := c.children(ctx, d)
	if err != nil {
		return false, err
	}
	for _, m := range children {
		there, err := c.hasBlob(ctx, m)
		switch {
		case err != nil || !there:
			return false, err
		case image.IsIndex(m.MediaType):
			there, err = c.wholeIndex(ctx, m, depth+1)
		case image.IsManifest(m.MediaType):
			there, err = c.wholeManifest(ctx, m)
		}
		if err != nil || !there {
			return false, err
		}
	}
	return true, nil
}

func (c *composer) children(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	data, err := c.store.Document(ctx, d)
	if err != nil {
		return nil, err
	}
	x, err := image.ParseIndex(d.MediaType, data)
	if err != nil {
		return nil, err
	}
	return x.Manifests, nil
}

func (c *composer) wholeManifest(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	m, err := c.manifest(ctx, d)
	if err != nil {
		return false, err
	}
	for _, b := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		there, err := c.hasBlob(ctx, b)
		if err == nil && !there {
			there, err = c.layers.Remakes(ctx, b.Digest)
		}
		if err != nil {
			return false, err
		}
		if there {
			continue
		}
		_, err = c.layers.Stat(ctx, b.Digest) // a plain tar is named by its DiffID
		if isMissing(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

func (c *composer) manifest(ctx context.Context, d ocispec.Descriptor) (*ocispec.Manifest, error) {
	data, err := c.store.Document(ctx, d)
	if err != nil {
		return nil, err
	}
	return image.ParseManifest(d.MediaType, data)
}

// addIndex adds a whole index, and returns the image in it that suits this machine,
// nil where none does.
func (c *composer) addIndex(ctx context.Context, d ocispec.Descriptor) (*image.Image, error) {
	c.addBlob(d)
	children, err := c.children(ctx, d)
	if err != nil {
		return nil, err
	}
	for _, m := range children {
		switch {
		case image.IsIndex(m.MediaType):
			_, err = c.addIndex(ctx, m)
		case image.IsManifest(m.MediaType):
			err = c.addWhole(ctx, m)
		default:
			c.addBlob(m)
		}
		if err != nil {
			return nil, err
		}
	}
	im, err := c.store.Open(ctx, d, nil)
	if isMissing(err) {
		return nil, nil
	}
	return im, err
}

// addWhole adds a manifest and everything that it names, image or not.
func (c *composer) addWhole(ctx context.Context, d ocispec.Descriptor) error {
	m, err := c.manifest(ctx, d)
	if err != nil {
		return err
	}
	c.addBlob(d)
	for _, b := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		added, err := c.addLayerBlob(ctx, b)
		if err != nil {
			return err
		}
		if added {
			continue
		}
		l, err := c.layers.Stat(ctx, b.Digest)
		if err != nil {
			return err
		}
		c.addTar(blobName(b.Digest), l)
	}
	return nil
}

// entry notes an image for index.json and manifest.json.
func (c *composer) entry(it Item, d ocispec.Descriptor, im *image.Image) {
	d = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	if len(it.Names) == 0 {
		c.entries = append(c.entries, d)
	}
	for _, n := range it.Names {
		named := d
		named.Annotations = map[string]string{
			image.AnnotationImageName: n.String(),
			ocispec.AnnotationRefName: shortName(n),
		}
		c.entries = append(c.entries, named)
	}
	if im == nil {
		return
	}
	var layers []string
	for _, l := range im.Layers {
		layers = append(layers, blobName(l.Digest))
	}
	c.dockerEntry(blobName(im.ConfigBlob.Digest), layers, it.Names)
}

// shortName is the reference name of OCI as Docker and containerd write it: the tag,
// or the digest.
func shortName(n reference.Reference) string {
	if n.Tag() != "" {
		return n.Tag()
	}
	return string(n.Digest())
}

// finish makes the documents that list what was added.
func (c *composer) finish() error {
	if len(c.docker) > 0 {
		data, err := json.Marshal(c.docker)
		if err != nil {
			return err
		}
		c.addBytes(manifestFile, append(data, '\n'))
	}
	if len(c.tags) > 0 {
		data, err := json.Marshal(c.tags)
		if err != nil {
			return err
		}
		c.addBytes(repositoriesFile, append(data, '\n'))
	}
	if c.opts.Format == Docker {
		return nil
	}
	c.entries = distinguish(c.entries)
	data, err := image.EncodeLayoutIndex(c.entries)
	if err != nil {
		return err
	}
	c.addBytes(ocispec.ImageIndexFile, data)
	c.addBytes(ocispec.ImageLayoutFile, image.EncodeLayout())
	return nil
}

// distinguish writes whole names where the tag alone would name two images, since
// tools find an image in a layout by its reference name.
func distinguish(entries []ocispec.Descriptor) []ocispec.Descriptor {
	target := make(map[string]ocispec.Descriptor)
	ambiguous := make(map[string]bool)
	for _, e := range entries {
		name := e.Annotations[ocispec.AnnotationRefName]
		if name == "" {
			continue
		}
		if other, ok := target[name]; ok && other.Digest != e.Digest {
			ambiguous[name] = true
		}
		target[name] = e
	}
	out := slices.Clone(entries)
	for _, e := range out {
		whole := e.Annotations[image.AnnotationImageName]
		if whole != "" && ambiguous[e.Annotations[ocispec.AnnotationRefName]] {
			e.Annotations[ocispec.AnnotationRefName] = whole
		}
	}
	return out
}
