package image

import (
	"fmt"
	"io/fs"
	"runtime"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// HostPlatform returns the platform of this machine.
func HostPlatform() ocispec.Platform {
	return normalize(ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH})
}

// ParsePlatform parses "linux/arm/v7", "linux/amd64" or an architecture alone, for
// which the system of this machine is meant. An error wraps fs.ErrInvalid.
func ParsePlatform(s string) (ocispec.Platform, error) {
	parts := strings.Split(s, "/")
	ok := len(parts) <= 3
	for _, p := range parts {
		ok = ok && p != "" && len(p) <= 64 && strings.Trim(strings.ToLower(p), "abcdefghijklmnopqrstuvwxyz0123456789_.-") == ""
	}
	if !ok {
		return ocispec.Platform{}, fmt.Errorf("platform %.100q is not os/architecture[/variant]: %w", s, fs.ErrInvalid)
	}
	if len(parts) == 1 {
		parts = append([]string{runtime.GOOS}, parts...)
	}
	p := ocispec.Platform{OS: strings.ToLower(parts[0]), Architecture: strings.ToLower(parts[1])}
	if len(parts) == 3 {
		p.Variant = strings.ToLower(parts[2])
	}
	return normalize(p), nil
}

// FormatPlatform returns "os/architecture[/variant]".
func FormatPlatform(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// normalize maps the spellings of one architecture to the one that Go and OCI use, and
// drops a variant that every processor of the architecture has.
func normalize(p ocispec.Platform) ocispec.Platform {
	switch strings.ToLower(p.Architecture) {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "i386", "i686", "x86":
		p.Architecture = "386"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	switch p.Architecture + "/" + p.Variant {
	case "amd64/v1", "arm64/v8", "arm64/8":
		p.Variant = ""
	case "arm/", "arm/7":
		p.Variant = "v7"
	case "arm/5", "arm/6", "arm/8":
		p.Variant = "v" + p.Variant
	}
	return p
}

// rank says how well an image of platform have suits want: the greater the better, 0
// not at all. Processors run code for lower variants of theirs.
func rank(have, want ocispec.Platform) int {
	have, want = normalize(have), normalize(want)
	if have.OS != want.OS || have.Architecture != want.Architecture || (want.OSVersion != "" && want.OSVersion != have.OSVersion) {
		return 0
	}
	h, w := variantLevel(have), variantLevel(want)
	switch {
	case have.Variant == want.Variant:
		return 100
	case h > 0 && w > 0 && h < w:
		return h
	}
	return 0
}

// variantLevel is the number in "v7"; 0 for a variant that is no such level.
func variantLevel(p ocispec.Platform) int {
	v := p.Variant
	if v == "" && (p.Architecture == "amd64" || p.Architecture == "ppc64le") {
		return 1
	}
	if v == "" && p.Architecture == "arm64" {
		return 8
	}
	if len(v) == 2 && v[0] == 'v' && v[1] >= '1' && v[1] <= '9' {
		return int(v[1] - '0')
	}
	return 0
}

// isAttachment reports whether an entry of an index describes another entry (as the
// attestations that BuildKit adds) and is no image itself.
func isAttachment(d ocispec.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] != "" ||
		(d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown")
}

// SelectPlatform picks the entry of an index that suits a platform best, the first of
// equals. An entry without a platform is taken only when no other suits. Where none
// does, the error lists what there is and wraps fs.ErrNotExist.
func SelectPlatform(entries []ocispec.Descriptor, want ocispec.Platform) (ocispec.Descriptor, error) {
	best, bestRank := -1, 0
	var there []string
	for i, d := range entries {
		if isAttachment(d) || (!IsManifest(d.MediaType) && !IsIndex(d.MediaType)) {
			continue
		}
		r := 0
		if d.Platform == nil {
			r = 1
			there = append(there, "unnamed")
		} else {
			if r = rank(*d.Platform, want); r > 0 {
				r++
			}
			there = append(there, FormatPlatform(normalize(*d.Platform)))
		}
		if r > bestRank {
			best, bestRank = i, r
		}
	}
	if best < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("no image for platform %s, there are [%s]: %w", FormatPlatform(want), strings.Join(there, " "), fs.ErrNotExist)
	}
	return entries[best], nil
}
