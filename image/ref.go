package image

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/layerfs/layerfs/image/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// refsDir holds a record for each name: refs/<domain>/<path>:<tag> or, for a name with
// a digest, refs/<domain>/<path>@<digest>. Where the last component would exceed what
// a file system takes for a name, the suffix is a component of its own. An image
// without a name has refs/@/<digest>. No valid domain or path component begins with
// one of ":" and "@", so the forms never meet.
const (
	refsDir    = "refs"
	unnamedDir = "@"
	maxNameLen = 255
)

// Ref is a name and what it points to.
type Ref struct {
	Name    reference.Reference // with a tag or a digest; zero for an unnamed image
	Target  ocispec.Descriptor  // digest, media type and size of a manifest or an index
	Created time.Time           // when the name was given
	Source  string              // where the image came from, for people; may be ""
	Shared  bool                // it is a name of a store that this one stands on
}

// String returns the familiar name, or the digest of an unnamed image.
func (r Ref) String() string {
	if r.Name.IsZero() {
		return string(r.Target.Digest)
	}
	return r.Name.Familiar()
}

// refRecord is the form of a Ref in its file.
type refRecord struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Created   time.Time     `json:"created"`
	Source    string        `json:"source,omitempty"`
}

func (r Ref) encode() ([]byte, error) {
	data, err := encodeJSON(refRecord{
		Digest: r.Target.Digest, MediaType: r.Target.MediaType, Size: r.Target.Size,
		Created: r.Created.UTC().Truncate(time.Second), Source: r.Source,
	})
	if err == nil && len(data) >= MaxRecord {
		err = fmt.Errorf("record of %d bytes, limit %d: %w", len(data), MaxRecord, fs.ErrInvalid)
	}
	return append(data, '\n'), err
}

// parseRef parses the record of a name. Unknown fields are let pass, for a later
// version may add some.
func parseRef(data []byte) (Ref, error) {
	if err := CheckJSON(data, MaxRecord); err != nil {
		return Ref{}, err
	}
	var rec refRecord
	if err := json.Unmarshal(data, &rec); err != nil {
		return Ref{}, fmt.Errorf("%w: %w", err, fs.ErrInvalid)
	}
	r := Ref{
		Target:  ocispec.Descriptor{MediaType: rec.MediaType, Digest: rec.Digest, Size: rec.Size},
		Created: rec.Created, Source: rec.Source,
	}
	if err := CheckDescriptor(r.Target); err != nil {
		return Ref{}, err
	}
	if !IsIndex(rec.MediaType) && !IsManifest(rec.MediaType) {
		return Ref{}, fmt.Errorf("media type %.100q is neither a manifest nor an index: %w", rec.MediaType, fs.ErrInvalid)
	}
	return r, nil
}

// record returns the name of the file of r.
func (r Ref) record() string {
	if r.Name.IsZero() {
		return refsDir + "/" + unnamedDir + "/" + string(r.Target.Digest)
	}
	suffix := ":" + r.Name.Tag()
	if d := r.Name.Digest(); d != "" {
		suffix = "@" + string(d)
	}
	p := refsDir + "/" + r.Name.Repository()
	if last := p[strings.LastIndexByte(p, '/')+1:]; len(last)+len(suffix) > maxNameLen {
		return p + "/" + suffix
	}
	return p + suffix
}

// parseRecordName is the inverse of record: a name, or the digest of an unnamed image.
func parseRecordName(rel string) (reference.Reference, digest.Digest, error) {
	name := strings.TrimPrefix(rel, refsDir+"/")
	if d, ok := strings.CutPrefix(name, unnamedDir+"/"); ok {
		unnamed, err := reference.ParseDigest(d)
		return reference.Reference{}, unnamed, err
	}
	for _, sep := range []string{":", "@"} {
		if dir, suffix, ok := strings.Cut(name, "/"+sep); ok {
			name = dir + sep + suffix
		}
	}
	ref, err := reference.Parse(name)
	if err == nil && (Ref{Name: ref}).record() != rel {
		err = fmt.Errorf("file is not where the name %s belongs: %w", ref, fs.ErrInvalid)
	}
	if err != nil {
		return reference.Reference{}, "", fmt.Errorf("name record %q: %w", rel, err)
	}
	return ref, "", nil
}

func compareRefs(a, b Ref) int {
	if a.Name.IsZero() != b.Name.IsZero() {
		if a.Name.IsZero() {
			return 1
		}
		return -1
	}
	return cmp.Or(reference.Compare(a.Name, b.Name), cmp.Compare(a.Target.Digest, b.Target.Digest))
}
