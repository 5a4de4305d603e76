// Package reference parses, normalises and prints the names of images as Docker
// does: "debian" is docker.io/library/debian, "localhost:5000/a/b:v1" names a
// registry on port 5000. The grammar is that of the distribution project
// (https://distribution.github.io/distribution/, "reference"), the normal form that
// of Docker Hub. The package does no I/O and compiles nothing when a program starts.
package reference

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"
)

// What a name without them stands for.
const (
	DefaultDomain = "docker.io"
	DefaultTag    = "latest"

	legacyDomain   = "index.docker.io"
	officialPrefix = "library/"
)

// Limits, in bytes. The first two are those of the grammar. A domain has no limit
// there; 255 is the longest name that DNS and a directory entry know.
const (
	MaxPath   = 255
	MaxTag    = 128
	MaxDomain = 255
)

// Reference is the normalised name of an image: a repository, and a tag, a digest,
// both or neither. References are comparable; the zero Reference names nothing.
type Reference struct {
	domain string
	path   string
	tag    string
	digest digest.Digest
}

// Parse parses and normalises a name as people write it. Neither tag nor digest is
// added; see [Reference.WithDefaultTag]. An error wraps fs.ErrInvalid.
func Parse(s string) (Reference, error) {
	r, err := parse(s)
	if err != nil {
		return Reference{}, fmt.Errorf("parse reference %q: %w", abbreviate(s), err)
	}
	return r, nil
}

// ParseTagged is Parse, and adds the default tag to a name that has neither tag nor
// digest: what a command that names one image wants.
func ParseTagged(s string) (Reference, error) {
	r, err := Parse(s)
	return r.WithDefaultTag(), err
}

// Domain returns the registry, "docker.io" or "localhost:5000".
func (r Reference) Domain() string { return r.domain }

// Path returns the repository's name in its registry, "library/debian".
func (r Reference) Path() string { return r.path }

// Repository returns domain and path, "docker.io/library/debian".
func (r Reference) Repository() string {
	if r.IsZero() {
		return ""
	}
	return r.domain + "/" + r.path
}

// Tag returns the tag, or "".
func (r Reference) Tag() string { return r.tag }

// Digest returns the digest, or "".
func (r Reference) Digest() digest.Digest { return r.digest }

// IsZero reports whether r is the zero Reference.
func (r Reference) IsZero() bool { return r == Reference{} }

// String returns the whole normalised name, "docker.io/library/debian:12".
func (r Reference) String() string { return r.Repository() + r.suffix() }

// FamiliarRepository returns the repository as people write it, "debian".
func (r Reference) FamiliarRepository() string {
	if r.domain != DefaultDomain {
		return r.Repository()
	}
	if rest, ok := strings.CutPrefix(r.path, officialPrefix); ok && !strings.Contains(rest, "/") {
		return rest
	}
	// Of a path like docker.io/a.b/c, the first component would be taken for a registry.
	if domain, path := splitDomain(r.path); domain != r.domain || path != r.path {
		return r.Repository()
	}
	return r.path
}

// Familiar returns the name as people write it, "debian:12". Parsing it gives r.
func (r Reference) Familiar() string { return r.FamiliarRepository() + r.suffix() }

func (r Reference) suffix() string {
	s := ""
	if r.tag != "" {
		s = ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + string(r.digest)
	}
	return s
}

// WithDefaultTag returns r with the tag "latest" when it has neither tag nor digest.
func (r Reference) WithDefaultTag() Reference {
	if !r.IsZero() && r.tag == "" && r.digest == "" {
		r.tag = DefaultTag
	}
	return r
}

// WithTag returns the same repository with this tag and no digest.
func (r Reference) WithTag(tag string) (Reference, error) {
	if err := checkTag(tag); err != nil {
		return Reference{}, fmt.Errorf("tag %s: %w", r.FamiliarRepository(), err)
	}
	r.tag, r.digest = tag, ""
	return r, nil
}

// WithDigest returns the same repository with this digest and no tag.
func (r Reference) WithDigest(d digest.Digest) (Reference, error) {
	if _, err := ParseDigest(string(d)); err != nil {
		return Reference{}, err
	}
	r.tag, r.digest = "", d
	return r, nil
}

// WithoutTag returns r without its tag when it has a digest too: the digest alone
// says which image is meant.
func (r Reference) WithoutTag() Reference {
	if r.digest != "" {
		r.tag = ""
	}
	return r
}

// Compare orders references by repository, then tag, then digest, bytewise.
func Compare(a, b Reference) int {
	for _, c := range []int{
		strings.Compare(a.domain, b.domain), strings.Compare(a.path, b.path),
		strings.Compare(a.tag, b.tag), strings.Compare(string(a.digest), string(b.digest)),
	} {
		if c != 0 {
			return c
		}
	}
	return 0
}

// ParseDigest parses a whole digest of the algorithms that layerfs stores by: sha256
// and sha512, in lower case. An error wraps fs.ErrInvalid, and errors.ErrUnsupported
// too where only the algorithm is unknown.
func ParseDigest(s string) (digest.Digest, error) {
	algorithm, encoded, ok := strings.Cut(s, ":")
	if !ok {
		return "", fmt.Errorf("digest %q is not algorithm:hex: %w", abbreviate(s), fs.ErrInvalid)
	}
	want := 0
	switch algorithm {
	case "sha256":
		want = 64
	case "sha512":
		want = 128
	default:
		return "", fmt.Errorf("digest %q: algorithm is neither sha256 nor sha512: %w", abbreviate(s), errors.Join(fs.ErrInvalid, errors.ErrUnsupported))
	}
	if len(encoded) != want || !isLowerHex(encoded) {
		return "", fmt.Errorf("digest %q is not %s: and %d lower-case hexadecimal digits: %w", abbreviate(s), algorithm, want, fs.ErrInvalid)
	}
	return digest.Digest(s), nil
}

// IDPrefix reports whether s may be the beginning of an image's id or digest:
// hexadecimal digits, at most 64, with or without "sha256:" in front; it returns the
// digits. Such an s may be a valid name too, and a name that exists has precedence.
func IDPrefix(s string) (string, bool) {
	s = strings.TrimPrefix(s, "sha256:")
	if s == "" || len(s) > 64 || !isLowerHex(s) {
		return "", false
	}
	return s, true
}

func isLowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// abbreviate keeps a hostile name from filling a message.
func abbreviate(s string) string {
	const most = 256
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
