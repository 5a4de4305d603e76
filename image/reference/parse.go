package reference

import (
	"fmt"
	"io/fs"
	"strings"
)

func parse(s string) (Reference, error) {
	if s == "" {
		return Reference{}, fmt.Errorf("a name is wanted: %w", fs.ErrInvalid)
	}
	if len(s) == 64 && isLowerHex(s) {
		return Reference{}, fmt.Errorf("64 hexadecimal digits are an id, not a name: %w", fs.ErrInvalid)
	}
	var r Reference
	rest := ""
	r.domain, rest = splitDomain(s)
	if err := checkDomain(r.domain); err != nil {
		return Reference{}, err
	}
	rest, d, hasDigest := strings.Cut(rest, "@")
	if hasDigest {
		var err error
		if r.digest, err = ParseDigest(d); err != nil {
			return Reference{}, err
		}
	}
	path, tag, hasTag := strings.Cut(rest, ":")
	if hasTag {
		if err := checkTag(tag); err != nil {
			return Reference{}, err
		}
		r.tag = tag
	}
	if err := checkPath(path); err != nil {
		return Reference{}, err
	}
	r.path = path
	return r, nil
}

// splitDomain takes the first component for a registry when it looks like one: it is
// "localhost", or holds a '.', a ':' or an upper-case letter. Anything else belongs to
// Docker Hub, where a name of one component is below "library/".
func splitDomain(s string) (domain, rest string) {
	first, after, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		return DefaultDomain, officialPrefix + s
	case first == legacyDomain:
		domain, rest = DefaultDomain, after
	case first == "localhost", strings.ContainsAny(first, ".:"), strings.ToLower(first) != first:
		domain, rest = first, after
	default:
		domain, rest = DefaultDomain, s
	}
	if domain == DefaultDomain && !strings.Contains(rest, "/") {
		rest = officialPrefix + rest
	}
	return domain, rest
}

// checkDomain accepts a host name, an IPv4 address or an IPv6 address in brackets,
// each with an optional decimal port.
func checkDomain(s string) error {
	bad := func(why string) error {
		return fmt.Errorf("registry %q %s: %w", abbreviate(s), why, fs.ErrInvalid)
	}
	if len(s) > MaxDomain {
		return bad(fmt.Sprintf("is longer than %d bytes", MaxDomain))
	}
	port, hasPort := "", false
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 2 {
			return bad("has no IPv6 address in its brackets")
		}
		for i := 1; i < end; i++ {
			if c := s[i]; c != ':' && !isDigit(c) && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return bad("has no IPv6 address in its brackets")
			}
		}
		rest := s[end+1:]
		if rest != "" && rest[0] != ':' {
			return bad("has something other than a port after its address")
		}
		if rest != "" {
			port, hasPort = rest[1:], true
		}
	} else {
		var host string
		host, port, hasPort = strings.Cut(s, ":")
		for part := range strings.SplitSeq(host, ".") {
			if !isHostPart(part) {
				return bad("is not a host name")
			}
		}
	}
	if hasPort {
		if port == "" {
			return bad("has an empty port")
		}
		for i := range len(port) {
			if !isDigit(port[i]) {
				return bad("has a port that is not a number")
			}
		}
	}
	return nil
}

func isHostPart(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isUpper(c) && !isDigit(c) && c != '-' {
			return false
		}
	}
	return true
}

// checkPath accepts components of lower-case letters and digits, joined by single
// slashes; inside a component '.', '_', "__" or any number of '-' may separate.
func checkPath(s string) error {
	bad := func(why string) error {
		return fmt.Errorf("repository %q %s: %w", abbreviate(s), why, fs.ErrInvalid)
	}
	if len(s) > MaxPath {
		return bad(fmt.Sprintf("is longer than %d bytes", MaxPath))
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" {
			return bad("has an empty component")
		}
		if !isWord(part[0]) || !isWord(part[len(part)-1]) {
			return bad("has a component that does not begin and end with a lower-case letter or a digit")
		}
		for i := 0; i < len(part); {
			if isWord(part[i]) {
				i++
				continue
			}
			start := i
			for i < len(part) && !isWord(part[i]) {
				i++
			}
			switch sep := part[start:i]; {
			case sep == "." || sep == "_" || sep == "__":
			case strings.Trim(sep, "-") == "":
			case strings.ToLower(sep) != sep:
				return bad("must be in lower case")
			default:
				return bad(fmt.Sprintf("has %q between letters", sep))
			}
		}
	}
	return nil
}

func checkTag(s string) error {
	ok := s != "" && len(s) <= MaxTag && s[0] != '.' && s[0] != '-'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = isLower(c) || isUpper(c) || isDigit(c) || c == '_' || c == '.' || c == '-'
	}
	if !ok {
		return fmt.Errorf("tag %q is not 1 to %d letters, digits, '_', '.' or '-', the first no '.' or '-': %w", abbreviate(s), MaxTag, fs.ErrInvalid)
	}
	return nil
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isWord(c byte) bool  { return isLower(c) || isDigit(c) }
