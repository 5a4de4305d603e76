package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// plan is what the documents of an archive ask for.
type plan struct {
	src     source
	opts    LoadOptions
	blob    func(digest.Digest) string // member that holds a blob
	docs    []image.Document           // to store
	seen    map[digest.Digest]bool     // in docs
	blobs   []wantedBlob               // of artifacts, to store as they are
	needs   []*need                    // layers to import, each once
	byName  map[string]*need           // by member
	images  []*wantedImage
	targets []*target
}

// target is what names of the archive point to.
type target struct {
	names      []reference.Reference
	descriptor ocispec.Descriptor
	images     []*wantedImage
}

// wantedImage is one image of one platform.
type wantedImage struct {
	label  string
	config image.Document
	doc    *image.Config
	layers []*need
	// manifest is zero for an image of a docker archive until its layers are known.
	manifest ocispec.Descriptor
	entries  []ocispec.Descriptor // the manifest's layers
	owner    *target              // gets the manifest once it is made
}

// need is one layer to import.
type need struct {
	member string
	expect image.LayerExpect
	label  string
	layer  image.Layer
}

type wantedBlob struct {
	member     string
	descriptor ocispec.Descriptor
}

func newPlan(src source, o LoadOptions) *plan {
	return &plan{
		src: src, opts: o, blob: blobName,
		seen: make(map[digest.Digest]bool), byName: make(map[string]*need),
	}
}

// read finds out what kind of archive it is, and reads its documents.
func (p *plan) read(ctx context.Context) error {
	layout, err := p.src.read(ctx, ocispec.ImageLayoutFile, image.MaxRecord)
	if err != nil && !isMissing(err) {
		return err
	}
	isLayout := err == nil
	index, err := p.src.read(ctx, ocispec.ImageIndexFile, image.MaxLayoutIndex)
	if err != nil && !isMissing(err) {
		return err
	}
	isLayout = isLayout && err == nil
	manifest, err := p.src.read(ctx, manifestFile, image.MaxLayoutIndex)
	if err != nil && !isMissing(err) {
		return err
	}
	isDocker := err == nil
	switch {
	case isLayout:
		return p.readLayout(ctx, layout, index, manifest)
	case isDocker && strings.HasPrefix(strings.TrimSpace(string(manifest)), "{"):
		return p.readDir(ctx, manifest)
	case isDocker:
		return p.readDocker(ctx, manifest)
	}
	if _, err := p.src.size(repositoriesFile); err == nil {
		return fmt.Errorf("archive of a Docker version before 1.10, which has no manifest.json; load it with an old Docker and save it again: %w", errors.Join(fs.ErrInvalid, errors.ErrUnsupported))
	}
	return fmt.Errorf("there is neither oci-layout with index.json nor manifest.json; a root file system is not loaded but imported: %w", ErrNoArchive)
}

// keep notes a document to be stored.
func (p *plan) keep(d image.Document) {
	if !p.seen[d.Descriptor.Digest] {
		p.seen[d.Descriptor.Digest] = true
		d.Descriptor.Annotations, d.Descriptor.Platform = nil, nil
		p.docs = append(p.docs, d)
	}
}

// document reads and verifies the blob of a descriptor.
func (p *plan) document(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	name := p.blob(d.Digest)
	data, err := p.src.read(ctx, name, limit)
	if err == nil {
		err = image.CheckBlob(d, data)
	}
	if err != nil {
		return nil, fmt.Errorf("member %s: %w", name, err)
	}
	return data, nil
}

// want notes a layer to import, the same member only once.
func (p *plan) want(n need) *need {
	if old := p.byName[n.member]; old != nil {
		return old
	}
	p.byName[n.member] = &n
	p.needs = append(p.needs, &n)
	return &n
}

// importLayers imports what is not there yet.
func (p *plan) importLayers(ctx context.Context, layers image.Layers) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.opts.Workers)
	if !p.src.parallel() {
		g.SetLimit(1)
	}
	for _, n := range p.needs {
		g.Go(func() error {
			if err := n.importLayer(gctx, p.src, layers, p.opts.Force); err != nil {
				return fmt.Errorf("%s (%s): %w", n.label, n.member, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (n *need) importLayer(ctx context.Context, src source, layers image.Layers, force bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := fs.ErrNotExist
	if !force {
		n.layer, err = known(ctx, layers, n.expect)
	}
	if isMissing(err) {
		n.layer, err = src.layer(ctx, n.member, n.expect)
	}
	if err != nil {
		return err
	}
	if n.expect.DiffID != "" && n.layer.DiffID != n.expect.DiffID {
		return invalid("its tar has the digest %s, the config says %s", n.layer.DiffID, n.expect.DiffID)
	}
	return nil
}

// finish verifies the DiffIDs of every image, and makes the manifests that the archive
// had none of.
func (p *plan) finish() error {
	for _, im := range p.images {
		for i, n := range im.layers {
			if want := im.doc.RootFS.DiffIDs[i]; n.layer.DiffID != want {
				return invalid("image %s, layer %d of %d (%s): its tar has the digest %s, the config says %s", im.label, i+1, len(im.layers), n.member, n.layer.DiffID, want)
			}
		}
		p.keep(im.config)
		if im.manifest.Digest != "" {
			continue
		}
		im.entries = nil
		for _, n := range im.layers {
			im.entries = append(im.entries, n.layer.Descriptor())
		}
		m, err := image.NewManifest(im.config.Descriptor, im.entries)
		if err != nil {
			return fmt.Errorf("image %s: %w", im.label, err)
		}
		p.keep(m)
		im.manifest = m.Descriptor
		im.owner.descriptor = m.Descriptor
	}
	return nil
}

// store makes documents, and blobs of artifacts, durable.
func (p *plan) store(ctx context.Context, store *image.Store) (err error) {
	if len(p.blobs) > 0 {
		batch, err := store.Blobs().Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, batch.Close()) }()
		for _, b := range p.blobs {
			if err := p.copyBlob(ctx, batch, b); err != nil {
				return fmt.Errorf("member %s: %w", b.member, err)
			}
		}
		if err := batch.Publish(ctx); err != nil {
			return err
		}
	}
	return store.PutDocuments(ctx, p.docs)
}

func (p *plan) copyBlob(ctx context.Context, batch cas.Batch, b wantedBlob) (err error) {
	w, err := batch.Create(ctx, cas.Expect{Digest: b.descriptor.Digest, Size: b.descriptor.Size})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := p.src.copy(ctx, b.member, w); err != nil {
		return err
	}
	_, err = w.Commit(ctx)
	return err
}

// name gives all names at once.
func (p *plan) name(ctx context.Context, store *image.Store) ([]Loaded, error) {
	var refs []image.Ref
	var loaded []Loaded
	for _, t := range p.targets {
		for _, n := range t.names {
			refs = append(refs, image.Ref{Name: n, Target: t.descriptor, Source: p.opts.Source})
		}
		if len(t.names) == 0 {
			refs = append(refs, image.Ref{Target: t.descriptor, Source: p.opts.Source})
		}
		l := Loaded{Names: slices.Clone(t.names), Target: t.descriptor}
		for _, im := range t.images {
			l.Images = append(l.Images, &image.Image{
				Names: l.Names, Target: t.descriptor, Manifest: im.manifest, ConfigBlob: im.config.Descriptor,
				Layers: im.entries, Config: im.doc, RawConfig: im.config.Data,
			})
		}
		loaded = append(loaded, l)
	}
	if p.opts.Verify != nil {
		for _, l := range loaded {
			for _, im := range l.Images {
				if err := p.opts.Verify(ctx, im); err != nil {
					return nil, fmt.Errorf("image %s: %w", im.ID(), err)
				}
			}
		}
	}
	if err := store.SetRefs(ctx, refs...); err != nil {
		return nil, err
	}
	return loaded, nil
}

// pick groups what the archive named into targets: names that point to the same
// descriptor belong together, and two images may not have one name.
func (p *plan) pick(names []reference.Reference, d ocispec.Descriptor) (*target, bool, error) {
	for _, t := range p.targets {
		for _, n := range names {
			if (d.Digest == "" || t.descriptor.Digest != d.Digest) && slices.Contains(t.names, n) {
				return nil, false, invalid("archive has two images named %s", n.Familiar())
			}
		}
	}
	for _, t := range p.targets {
		if d.Digest != "" && t.descriptor.Digest == d.Digest {
			for _, n := range names {
				if !slices.Contains(t.names, n) {
					t.names = append(t.names, n)
				}
			}
			return t, false, nil
		}
	}
	t := &target{names: names, descriptor: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
	p.targets = append(p.targets, t)
	return t, true, nil
}
