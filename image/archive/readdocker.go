package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerEntry is one image of the manifest.json that `docker save` writes since Docker
// 1.10 (moby, image/tarexport).
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// readDocker reads a docker archive. It has no manifests; they are made once it is
// known in which form the layers came.
func (p *plan) readDocker(ctx context.Context, manifest []byte) error {
	entries, err := parseEntries(manifest)
	if err != nil {
		return err
	}
	for i, e := range entries {
		label := fmt.Sprintf("%d of %d", i+1, len(entries))
		names, err := entryNames(e)
		if err != nil {
			return fmt.Errorf("image %s: %w", label, err)
		}
		if len(names) > 0 {
			label = names[0].Familiar()
		}
		if err := p.readEntry(ctx, e, names, label); err != nil {
			return fmt.Errorf("image %s: %w", label, err)
		}
	}
	p.nameLone()
	return nil
}

func (p *plan) readEntry(ctx context.Context, e dockerEntry, names []reference.Reference, label string) error {
	member, ok := memberName(e.Config)
	if !ok {
		return invalid("config has the name %.100q", e.Config)
	}
	raw, err := p.src.read(ctx, member, image.MaxConfig)
	if err != nil {
		return err
	}
	c, err := image.ParseConfig(raw)
	if err != nil {
		return fmt.Errorf("member %s: %w", member, err)
	}
	config := image.NewDocument(ocispec.MediaTypeImageConfig, raw)
	if err := checkConfigName(member, config.Descriptor.Digest); err != nil {
		return err
	}
	if len(e.Layers) != len(c.RootFS.DiffIDs) {
		return invalid("%s lists %d layers, the config %d", manifestFile, len(e.Layers), len(c.RootFS.DiffIDs))
	}
	if p.opts.Platform != nil {
		d := withPlatform(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest}, c)
		if _, err := image.SelectPlatform([]ocispec.Descriptor{d}, *p.opts.Platform); err != nil {
			return err
		}
	}
	// The descriptor follows when the layers are known; until then no two are the same.
	t, _, err := p.pick(names, ocispec.Descriptor{})
	if err != nil {
		return err
	}
	im := &wantedImage{label: label, config: config, doc: c, owner: t}
	for i, l := range e.Layers {
		member, ok := memberName(l)
		if !ok {
			return invalid("layer %d of %d has the name %.100q", i+1, len(e.Layers), l)
		}
		im.layers = append(im.layers, p.want(need{
			member: member,
			expect: image.LayerExpect{DiffID: c.RootFS.DiffIDs[i], BlobSize: -1},
			label:  fmt.Sprintf("image %s, layer %d of %d", label, i+1, len(e.Layers)),
		}))
	}
	t.images = append(t.images, im)
	p.images = append(p.images, im)
	return nil
}

// checkConfigName verifies the digest that a config's name promises: <hex>.json,
// sha256:<hex> or blobs/sha256/<hex>. Other names promise nothing.
func checkConfigName(member string, got digest.Digest) error {
	base := strings.TrimSuffix(member[strings.LastIndexByte(member, '/')+1:], ".json")
	want, err := reference.ParseDigest("sha256:" + strings.TrimPrefix(base, "sha256:"))
	if err == nil && want != got {
		return invalid("config %s has the digest %s", member, got)
	}
	return nil
}

func entryNames(e dockerEntry) ([]reference.Reference, error) {
	var names []reference.Reference
	for _, tag := range e.RepoTags {
		if tag == "<none>:<none>" {
			continue // what old versions wrote for no name
		}
		r, err := reference.ParseTagged(tag)
		if err != nil {
			return nil, err
		}
		names = append(names, r.WithoutTag())
	}
	return names, nil
}

// repoTags returns the names that a manifest.json gives to the configs of an archive
// that is an OCI layout at once.
func repoTags(manifest []byte) (map[digest.Digest][]reference.Reference, error) {
	if manifest == nil {
		return nil, nil
	}
	entries, err := parseEntries(manifest)
	if err != nil {
		return nil, err
	}
	tags := make(map[digest.Digest][]reference.Reference)
	for _, e := range entries {
		member, _ := memberName(e.Config)
		hex, ok := strings.CutPrefix(member, blobsDir+"/sha256/")
		if !ok {
			continue
		}
		if tags[digest.Digest("sha256:"+hex)], err = entryNames(e); err != nil {
			return nil, err
		}
	}
	return tags, nil
}

func parseEntries(manifest []byte) ([]dockerEntry, error) {
	var entries []dockerEntry
	err := image.CheckJSON(manifest, image.MaxLayoutIndex)
	if err == nil {
		if err = json.Unmarshal(manifest, &entries); err != nil {
			err = fmt.Errorf("%w: %w", err, fs.ErrInvalid)
		}
	}
	names := 0
	for _, e := range entries {
		if len(e.Layers) > image.MaxLayers {
			err = invalid("image of %d layers, limit %d", len(e.Layers), image.MaxLayers)
		}
		names += len(e.RepoTags)
	}
	switch {
	case err != nil:
	case len(entries) > MaxImages:
		err = invalid("%d images, limit %d", len(entries), MaxImages)
	case names > MaxNames:
		err = invalid("%d names, limit %d", names, MaxNames)
	}
	if err != nil {
		return nil, fmt.Errorf("member %s: %w", manifestFile, err)
	}
	return entries, nil
}
