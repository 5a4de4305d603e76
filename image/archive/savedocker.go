package archive

import (
	"context"
	"fmt"
	"slices"

	"github.com/layerfs/layerfs/image/reference"
	"github.com/opencontainers/go-digest"
)

// addDocker adds an image to a docker archive: its config as <hex>.json, its layers as
// plain tars named by their DiffIDs.
func (c *composer) addDocker(ctx context.Context, it Item) (Saved, error) {
	im, err := c.store.Open(ctx, it.Target, c.opts.Platform)
	if err != nil {
		return Saved{}, err
	}
	config := im.ID().Encoded() + ".json"
	c.addBytes(config, im.RawConfig)
	var names []string
	for i, d := range im.DiffIDs() {
		l, err := c.layers.Stat(ctx, d)
		if err != nil {
			return Saved{}, fmt.Errorf("layer %d of %d: %w", i+1, len(im.DiffIDs()), err)
		}
		name := d.Encoded() + ".tar"
		c.addTar(name, l)
		names = append(names, name)
	}
	c.dockerEntry(config, names, it.Names)
	if ids := im.DiffIDs(); len(ids) > 0 {
		c.repositories(it.Names, ids[len(ids)-1])
	}
	return Saved{Names: it.Names, Target: it.Target, ID: im.ID()}, nil
}

// dockerEntry notes an image for manifest.json, the same one only once. A name with a
// digest has no place there.
func (c *composer) dockerEntry(config string, layers []string, names []reference.Reference) {
	i := slices.IndexFunc(c.docker, func(e dockerEntry) bool { return e.Config == config })
	if i < 0 {
		i = len(c.docker)
		c.docker = append(c.docker, dockerEntry{Config: config, Layers: layers})
	}
	for _, n := range names {
		if tag := n.Familiar(); n.Tag() != "" && !slices.Contains(c.docker[i].RepoTags, tag) {
			c.docker[i].RepoTags = append(c.docker[i].RepoTags, tag)
		}
	}
}

func (c *composer) repositories(names []reference.Reference, top digest.Digest) {
	for _, n := range names {
		if n.Tag() == "" {
			continue
		}
		if c.tags == nil {
			c.tags = make(map[string]map[string]string)
		}
		repository := n.FamiliarRepository()
		if c.tags[repository] == nil {
			c.tags[repository] = make(map[string]string)
		}
		c.tags[repository][n.Tag()] = top.Encoded()
	}
}
