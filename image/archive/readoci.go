package archive

import (
	"context"
	"fmt"
	"strings"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// readLayout reads an OCI layout. manifest is the manifest.json that `docker save`
// adds, or nil: it may have names that index.json lacks.
func (p *plan) readLayout(ctx context.Context, layout, index, manifest []byte) error {
	if err := image.CheckLayout(layout); err != nil {
		return err
	}
	x, err := image.ParseLayoutIndex(index)
	if err != nil {
		return err
	}
	extra, err := repoTags(manifest)
	if err != nil {
		return err
	}
	entries, err := p.layoutEntries(x.Manifests)
	if err != nil {
		return err
	}
	for _, e := range entries {
		t, fresh, err := p.pick(e.names, e.descriptor)
		if err != nil {
			return err
		}
		if !fresh {
			continue
		}
		label := string(e.descriptor.Digest)
		if len(e.names) > 0 {
			label = e.names[0].Familiar()
		}
		if err := p.readTarget(ctx, t, e.descriptor, label, 1); err != nil {
			return fmt.Errorf("image %s: %w", label, err)
		}
		if len(t.images) == 0 {
			return invalid("image %s: nothing of it is an image", label)
		}
		if len(t.names) == 0 {
			for _, im := range t.images {
				t.names = append(t.names, extra[im.config.Descriptor.Digest]...)
			}
		}
	}
	p.nameLone()
	return nil
}

// nameLone gives the name of the options to the only image, if it has none.
func (p *plan) nameLone() {
	if len(p.targets) == 1 && len(p.targets[0].names) == 0 && !p.opts.Name.IsZero() {
		p.targets[0].names = []reference.Reference{p.opts.Name.WithDefaultTag()}
	}
}

type layoutEntry struct {
	names      []reference.Reference
	descriptor ocispec.Descriptor
}

// layoutEntries finds the images of an index.json and their names. Several entries of
// one name are images for several platforms (image-spec, annotations.md).
func (p *plan) layoutEntries(all []ocispec.Descriptor) ([]layoutEntry, error) {
	var entries []layoutEntry
	byName := make(map[reference.Reference][]ocispec.Descriptor)
	var order []reference.Reference
	for _, d := range all {
		if !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType) {
			p.opts.Logger.Info("not an image, left out", "digest", d.Digest, "media_type", d.MediaType)
			continue
		}
		name, ok := p.layoutName(d, len(all) == 1)
		if !ok {
			entries = append(entries, layoutEntry{descriptor: d})
			continue
		}
		if byName[name] == nil {
			order = append(order, name)
		}
		byName[name] = append(byName[name], d)
	}
	for _, name := range order {
		same := byName[name]
		d := same[0]
		if distinct(same) {
			var err error
			if d, err = image.SelectPlatform(same, p.platform()); err != nil {
				return nil, fmt.Errorf("image %s: %w", name.Familiar(), err)
			}
		}
		entries = append(entries, layoutEntry{[]reference.Reference{name}, d})
	}
	return entries, nil
}

func distinct(all []ocispec.Descriptor) bool {
	for _, d := range all {
		if d.Digest != all[0].Digest {
			return true
		}
	}
	return false
}

// layoutName is the name of an entry of index.json: what containerd and Docker note,
// else the reference name of OCI, which may be a whole name or a tag. A lone entry is that
// of the only image.
func (p *plan) layoutName(d ocispec.Descriptor, lone bool) (reference.Reference, bool) {
	if whole := d.Annotations[image.AnnotationImageName]; whole != "" {
		if r, err := reference.ParseTagged(whole); err == nil {
			return r.WithoutTag(), true
		}
	}
	name := d.Annotations[ocispec.AnnotationRefName]
	if name == "" {
		return reference.Reference{}, false
	}
	if !strings.ContainsAny(name, "/:@") && !p.opts.Name.IsZero() {
		if lone && p.opts.Name.Tag() != "" {
			return p.opts.Name, true
		}
		if r, err := p.opts.Name.WithTag(name); err == nil {
			return r, true
		}
	}
	r, err := reference.ParseTagged(name)
	if err != nil {
		p.opts.Logger.Warn("an image of the archive has a name that is none, it is kept unnamed", "name", name, "error", err)
		return reference.Reference{}, false
	}
	return r.WithoutTag(), true
}

func (p *plan) platform() ocispec.Platform {
	if p.opts.Platform != nil {
		return *p.opts.Platform
	}
	return image.HostPlatform()
}

// readTarget reads a manifest, or an index and the images wanted of it.
func (p *plan) readTarget(ctx context.Context, t *target, d ocispec.Descriptor, label string, depth int) error {
	data, err := p.document(ctx, d, image.MaxManifest)
	if err != nil {
		return err
	}
	if image.IsManifest(d.MediaType) {
		return p.readManifest(ctx, t, d, data, label)
	}
	if depth > image.MaxIndexDepth {
		return invalid("index %s lies deeper than %d", d.Digest, image.MaxIndexDepth)
	}
	x, err := image.ParseIndex(d.MediaType, data)
	if err != nil {
		return fmt.Errorf("member %s: %w", p.blob(d.Digest), err)
	}
	p.keep(image.Document{Descriptor: d, Data: data})
	var there []ocispec.Descriptor
	for _, m := range x.Manifests {
		_, err := p.src.size(p.blob(m.Digest))
		switch {
		case err == nil:
			there = append(there, m)
		case !isMissing(err):
			return err
		}
	}
	if !p.opts.AllPlatforms {
		best, err := image.SelectPlatform(there, p.platform())
		if err != nil {
			return err
		}
		there = []ocispec.Descriptor{best}
	}
	for _, m := range there {
		if !image.IsIndex(m.MediaType) && !image.IsManifest(m.MediaType) {
			p.wantBlob(m)
			continue
		}
		if err := p.readTarget(ctx, t, m, label, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) wantBlob(d ocispec.Descriptor) {
	if !p.seen[d.Digest] {
		p.seen[d.Digest] = true
		p.blobs = append(p.blobs, wantedBlob{p.blob(d.Digest), d})
	}
}

// readManifest reads a manifest of an image, or of something else that an index holds
// besides, such as an attestation.
func (p *plan) readManifest(ctx context.Context, t *target, d ocispec.Descriptor, data []byte, label string) error {
	name := p.blob(d.Digest)
	m, err := image.ParseManifest(d.MediaType, data)
	if err != nil {
		return fmt.Errorf("member %s: %w", name, err)
	}
	p.keep(image.Document{Descriptor: d, Data: data})
	isImage := image.IsConfig(m.Config.MediaType)
	for _, l := range m.Layers {
		isImage = isImage && image.IsLayer(l.MediaType)
	}
	if !isImage {
		if d.Digest == t.descriptor.Digest {
			return invalid("manifest %s is not that of an image: config %.100q", d.Digest, m.Config.MediaType)
		}
		p.wantBlob(m.Config)
		for _, l := range m.Layers {
			p.wantBlob(l)
		}
		return nil
	}
	raw, err := p.document(ctx, m.Config, image.MaxConfig)
	if err != nil {
		return err
	}
	c, err := image.ParseConfig(raw)
	if err != nil {
		return fmt.Errorf("member %s: %w", p.blob(m.Config.Digest), err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return invalid("manifest %s has %d layers, its config %d", d.Digest, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	if p.opts.Platform != nil && t.descriptor.Digest == d.Digest {
		if _, err := image.SelectPlatform([]ocispec.Descriptor{withPlatform(d, c)}, *p.opts.Platform); err != nil {
			return err
		}
	}
	im := &wantedImage{
		label: label, config: image.Document{Descriptor: m.Config, Data: raw}, doc: c,
		manifest: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, entries: m.Layers, owner: t,
	}
	for i, l := range m.Layers {
		im.layers = append(im.layers, p.want(need{
			member: p.blob(l.Digest),
			expect: image.LayerExpect{DiffID: c.RootFS.DiffIDs[i], Blob: l.Digest, BlobSize: l.Size, MediaType: l.MediaType},
			label:  fmt.Sprintf("image %s, layer %d of %d", label, i+1, len(m.Layers)),
		}))
	}
	t.images = append(t.images, im)
	p.images = append(p.images, im)
	return nil
}

func withPlatform(d ocispec.Descriptor, c *image.Config) ocispec.Descriptor {
	platform := c.Platform()
	d.Platform = &platform
	return d
}

// readDir reads a directory of skopeo's "dir:" transport: manifest.json is the manifest
// itself, and blobs are files named by the hexadecimal part of their digests.
func (p *plan) readDir(ctx context.Context, manifest []byte) error {
	p.blob = func(d digest.Digest) string { return d.Encoded() }
	mediaType, err := image.DetectMediaType(manifest)
	if err != nil {
		return fmt.Errorf("member %s: %w", manifestFile, err)
	}
	if image.IsIndex(mediaType) {
		// The manifests of such an index are files with another naming.
		p.blob = func(d digest.Digest) string {
			if name := d.Encoded() + ".manifest.json"; p.has(name) {
				return name
			}
			return d.Encoded()
		}
	}
	d := image.NewDocument(mediaType, manifest).Descriptor
	t, _, err := p.pick(nil, d)
	if err != nil {
		return err
	}
	label := string(d.Digest)
	if !p.opts.Name.IsZero() {
		label = p.opts.Name.Familiar()
	}
	blob := p.blob
	p.blob = func(other digest.Digest) string {
		if other == d.Digest {
			return manifestFile
		}
		return blob(other)
	}
	if err := p.readTarget(ctx, t, d, label, 1); err != nil {
		return fmt.Errorf("image %s: %w", label, err)
	}
	p.nameLone()
	return nil
}

func (p *plan) has(name string) bool {
	_, err := p.src.size(name)
	return err == nil
}
