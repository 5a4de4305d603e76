package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/layerfs/layerfs/image/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one image of one platform with its documents.
type Image struct {
	Names      []reference.Reference // that lead to Target, in order; may be none
	Target     ocispec.Descriptor    // what the names point to: Manifest, or an index that holds it
	Manifest   ocispec.Descriptor
	ConfigBlob ocispec.Descriptor
	Layers     []ocispec.Descriptor // as the manifest has them, bottom to top; not necessarily kept as blobs
	Config     *Config
	RawConfig  []byte // the config byte for byte; do not modify
}

// ID returns the image's id, the digest of its config.
func (im *Image) ID() digest.Digest { return im.ConfigBlob.Digest }

// DiffIDs returns the layers, bottom to top, for [Layers].
func (im *Image) DiffIDs() []digest.Digest { return im.Config.RootFS.DiffIDs }

// HistoryLine is one step of an image's history and the layer that it made.
type HistoryLine struct {
	History
	DiffID digest.Digest // "" for a step without a layer
}

// History returns the steps from the oldest to the newest. Layers that the config's
// history does not account for come first, with no more than their DiffID.
func (im *Image) History() []HistoryLine {
	layers := im.DiffIDs()
	with := 0
	for _, h := range im.Config.History {
		if !h.EmptyLayer {
			with++
		}
	}
	var lines []HistoryLine
	for len(layers) > with {
		lines = append(lines, HistoryLine{DiffID: layers[0]})
		layers = layers[1:]
	}
	for _, h := range im.Config.History {
		line := HistoryLine{History: h}
		if !h.EmptyLayer && len(layers) > 0 {
			line.DiffID, layers = layers[0], layers[1:]
		}
		lines = append(lines, line)
	}
	return lines
}

// Match is what a person's word for an image was found to mean.
type Match struct {
	Target ocispec.Descriptor // a manifest or an index
	Refs   []Ref              // that lead to Target: the name that was looked up, or all
	ByName bool               // the word was one of the names, not an id or a digest
}

// Find looks up a word that people use for an image: a name (with its default tag), a
// name with a digest, an image id or the digest of a manifest or an index, whole or
// shortened. A name goes before a shortened id. Not finding any wraps fs.ErrNotExist;
// a shortened id of several images wraps fs.ErrInvalid and lists them.
func (s *Store) Find(ctx context.Context, word string) (Match, error) {
	name, nameErr := reference.ParseTagged(word)
	_, digestErr := reference.ParseDigest(word)
	if nameErr == nil && digestErr != nil {
		m, err := s.findName(ctx, name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return m, err
		}
	}
	prefix, ok := reference.IDPrefix(word)
	switch {
	case digestErr == nil:
		prefix = word
	case ok:
		prefix = "sha256:" + prefix
	case nameErr != nil:
		return Match{}, nameErr
	default:
		return Match{}, fmt.Errorf("no image named %s: %w", name.Familiar(), fs.ErrNotExist)
	}
	return s.findID(ctx, word, prefix)
}

// findName looks up a name. One with a digest is also found when another name of its
// repository leads to that digest.
func (s *Store) findName(ctx context.Context, name reference.Reference) (Match, error) {
	exact, err := s.Ref(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Match{}, err
	}
	if err == nil {
		return Match{Target: exact.Target, Refs: []Ref{exact}, ByName: true}, nil
	}
	if name.Digest() == "" {
		return Match{}, err
	}
	refs, lerr := s.soundRefs(ctx)
	if lerr != nil {
		return Match{}, lerr
	}
	m := Match{ByName: true}
	for _, r := range refs {
		if r.Name.Repository() != name.Repository() {
			continue
		}
		werr := s.walk(ctx, r.Target, func(d ocispec.Descriptor, _ []byte) error {
			if d.Digest == name.Digest() {
				m.Target = d
				m.Refs = append(m.Refs, r)
				return fs.SkipAll
			}
			return nil
		})
		if werr != nil {
			return Match{}, fmt.Errorf("look into %s: %w", r, werr)
		}
	}
	if len(m.Refs) == 0 {
		return Match{}, err
	}
	return m, nil
}

// findID looks up all of a digest, or its beginning, among the digests of indexes,
// manifests and configs that names lead to.
func (s *Store) findID(ctx context.Context, word, prefix string) (Match, error) {
	refs, err := s.soundRefs(ctx)
	if err != nil {
		return Match{}, err
	}
	found := make(map[digest.Digest]*Match) // by the digest of the target
	for _, r := range refs {
		err := s.walk(ctx, r.Target, func(d ocispec.Descriptor, data []byte) error {
			hit := strings.HasPrefix(string(d.Digest), prefix)
			if !hit && IsManifest(d.MediaType) {
				m, err := ParseManifest(d.MediaType, data)
				if err != nil {
					return err
				}
				hit = strings.HasPrefix(string(m.Config.Digest), prefix)
			}
			if !hit {
				return nil
			}
			if found[d.Digest] == nil {
				found[d.Digest] = &Match{Target: d}
			}
			found[d.Digest].Refs = append(found[d.Digest].Refs, r)
			return fs.SkipAll
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
			return Match{}, fmt.Errorf("look into %s: %w", r, err)
		}
		if err != nil {
			// A damaged image must not keep others from being found.
			s.log.Warn("image is damaged", "name", r.String(), "error", err)
		}
	}
	switch len(found) {
	case 0:
		return Match{}, fmt.Errorf("no image %q, neither by name nor by id: %w", word, fs.ErrNotExist)
	case 1:
		for _, m := range found {
			return *m, nil
		}
	}
	return s.oneImage(ctx, word, found)
}

// oneImage settles a shortened id that fits several manifests: they may be the same
// image, kept under an OCI and a Docker manifest for instance.
func (s *Store) oneImage(ctx context.Context, word string, found map[digest.Digest]*Match) (Match, error) {
	ids := make(map[digest.Digest]bool)
	var all Match
	for _, m := range found {
		id := m.Target.Digest
		if data, err := s.Document(ctx, m.Target); err == nil && IsManifest(m.Target.MediaType) {
			if doc, err := ParseManifest(m.Target.MediaType, data); err == nil {
				id = doc.Config.Digest
			}
		}
		ids[id] = true
		if all.Target.Digest == "" || m.Target.Digest < all.Target.Digest {
			all.Target = m.Target
		}
		all.Refs = append(all.Refs, m.Refs...)
	}
	if len(ids) == 1 {
		slices.SortFunc(all.Refs, compareRefs)
		return all, nil
	}
	list := make([]string, 0, len(ids))
	for id := range ids {
		list = append(list, string(id))
	}
	slices.Sort(list)
	return Match{}, fmt.Errorf("%q is the beginning of %d ids, give more of it: %s: %w", word, len(list), strings.Join(list, " "), fs.ErrInvalid)
}

// walk visits a manifest, or an index and all manifests and indexes in it that are
// stored; those that are not are left out, for a load may take one platform only.
// fn may return fs.SkipAll. data is nil for what is neither manifest nor index.
func (s *Store) walk(ctx context.Context, target ocispec.Descriptor, fn func(d ocispec.Descriptor, data []byte) error) error {
	err := s.walkDepth(ctx, target, 1, fn)
	if errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

func (s *Store) walkDepth(ctx context.Context, d ocispec.Descriptor, depth int, fn func(ocispec.Descriptor, []byte) error) error {
	if depth > MaxIndexDepth+1 {
		return fmt.Errorf("index %s lies deeper than %d: %w", d.Digest, MaxIndexDepth, fs.ErrInvalid)
	}
	if !IsManifest(d.MediaType) && !IsIndex(d.MediaType) {
		return nil
	}
	data, err := s.Document(ctx, d)
	if err != nil {
		return err
	}
	if err := fn(d, data); err != nil || !IsIndex(d.MediaType) {
		return err
	}
	x, err := ParseIndex(d.MediaType, data)
	if err != nil {
		return err
	}
	for _, child := range x.Manifests {
		_, err := s.blobs.Stat(ctx, child.Digest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := s.walkDepth(ctx, child, depth+1, fn); err != nil {
			return err
		}
	}
	return nil
}

// Resolve finds an image by a word as Find does, and reads it. Of an index it takes
// the image that suits platform best, that of this machine when platform is nil.
func (s *Store) Resolve(ctx context.Context, word string, platform *ocispec.Platform) (*Image, error) {
	im, err := s.ResolveAlone(ctx, word, platform)
	if err != nil {
		return nil, err
	}
	refs, err := s.Names(ctx, im.Target)
	if err != nil {
		return nil, err
	}
	im.Names = im.Names[:0]
	for _, r := range refs {
		if !r.Name.IsZero() {
			im.Names = append(im.Names, r.Name)
		}
	}
	return im, nil
}

// ResolveAlone is Resolve without looking for names other than the one that was given: it
// takes no longer when the store has many.
func (s *Store) ResolveAlone(ctx context.Context, word string, platform *ocispec.Platform) (*Image, error) {
	m, err := s.Find(ctx, word)
	if err != nil {
		return nil, err
	}
	im, err := s.Open(ctx, m.Target, platform)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", word, err)
	}
	for _, r := range m.Refs {
		if !r.Name.IsZero() {
			im.Names = append(im.Names, r.Name)
		}
	}
	return im, nil
}

// Open reads the image that a manifest or an index describes, as Resolve does. With a
// platform given, a lone manifest for another one wraps fs.ErrNotExist.
func (s *Store) Open(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform) (*Image, error) {
	d, err := s.selectManifest(ctx, target, platform)
	if err != nil {
		return nil, err
	}
	data, err := s.Document(ctx, d)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(d.MediaType, data)
	if err != nil {
		return nil, err
	}
	if !IsConfig(m.Config.MediaType) {
		return nil, fmt.Errorf("%s holds %.100q, which is no image: %w", d.Digest, m.Config.MediaType, fs.ErrInvalid)
	}
	raw, err := s.Document(ctx, m.Config)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c, err := ParseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("%s has %d layers, its config %d: %w", d.Digest, len(m.Layers), len(c.RootFS.DiffIDs), fs.ErrInvalid)
	}
	if platform != nil && rank(c.Platform(), *platform) == 0 {
		return nil, fmt.Errorf("image is for platform %s, not %s: %w", FormatPlatform(c.Platform()), FormatPlatform(*platform), fs.ErrNotExist)
	}
	d.Annotations = nil
	return &Image{
		Target: target, Manifest: d, ConfigBlob: m.Config, Layers: m.Layers, Config: c, RawConfig: raw,
	}, nil
}

// selectManifest goes down from an index to the manifest of a platform, among those
// that are stored.
func (s *Store) selectManifest(ctx context.Context, d ocispec.Descriptor, platform *ocispec.Platform) (ocispec.Descriptor, error) {
	want := HostPlatform()
	if platform != nil {
		want = *platform
	}
	for depth := 1; IsIndex(d.MediaType); depth++ {
		if depth > MaxIndexDepth {
			return d, fmt.Errorf("index %s lies deeper than %d: %w", d.Digest, MaxIndexDepth, fs.ErrInvalid)
		}
		data, err := s.Document(ctx, d)
		if err != nil {
			return d, err
		}
		x, err := ParseIndex(d.MediaType, data)
		if err != nil {
			return d, err
		}
		var there []ocispec.Descriptor
		for _, m := range x.Manifests {
			_, err := s.blobs.Stat(ctx, m.Digest)
			if err == nil {
				there = append(there, m)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return d, err
			}
		}
		best, err := SelectPlatform(there, want)
		if err != nil && platform == nil {
			// The one image that somebody loaded for another platform is meant.
			there = slices.DeleteFunc(there, isAttachment)
			if len(there) == 1 {
				best, err = there[0], nil
			}
		}
		if err != nil {
			return d, fmt.Errorf("%s: %w", d.Digest, err)
		}
		d = best
	}
	return d, nil
}
