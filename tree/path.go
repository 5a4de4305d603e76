package tree

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Limits on paths, as the Linux kernel has them for one component, and generous
// for a whole path, since an image may hold trees deeper than PATH_MAX.
const (
	MaxName  = 255       // bytes in one component
	MaxPath  = 1 << 16   // bytes in a whole path
	MaxDepth = 1 << 12   // components in a whole path
	MaxLink  = 4096 - 1  // bytes in a symbolic link's target
	MaxXattr = 64 * 1024 // bytes in one extended attribute's value
)

// Path names an entry below the root of a tree: components joined by '/', with no
// leading or trailing slash and no component that is empty, "." or "..". The root
// itself is "". A component is raw bytes, not necessarily UTF-8.
type Path string

// ParsePath cleans a name as archives and people write it ("./a//b/", "/a/b") into
// a Path. A name that holds a ".." component, a NUL byte or exceeds a limit is
// refused with an error that wraps fs.ErrInvalid: such a name never becomes a place
// in a tree, let alone on the host.
func ParsePath(name string) (Path, error) {
	if p, ok := cleanPath(name); ok {
		return p, nil
	}
	if len(name) > MaxPath {
		return "", fmt.Errorf("path of %d bytes, limit %d: %w", len(name), MaxPath, fs.ErrInvalid)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("path %s holds a NUL byte: %w", shorten(name), fs.ErrInvalid)
	}
	parts := make([]string, 0, strings.Count(name, "/")+1)
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return "", fmt.Errorf("path %s holds a \"..\" component: %w", shorten(name), fs.ErrInvalid)
		case len(part) > MaxName:
			return "", fmt.Errorf("path %s has a component of %d bytes, limit %d: %w", shorten(name), len(part), MaxName, fs.ErrInvalid)
		default:
			parts = append(parts, part)
		}
	}
	if len(parts) > MaxDepth {
		return "", fmt.Errorf("path %s is %d components deep, limit %d: %w", shorten(name), len(parts), MaxDepth, fs.ErrInvalid)
	}
	return Path(strings.Join(parts, "/")), nil
}

// cleanPath handles the common case of a name that needs at most its leading "./"
// or its trailing slash removed, without allocating.
func cleanPath(name string) (Path, bool) {
	if len(name) > MaxName {
		return "", false
	}
	name = strings.TrimPrefix(name, "./")
	name = strings.TrimSuffix(name, "/")
	start := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] == 0 {
			return "", false
		}
		if i == len(name) || name[i] == '/' {
			switch name[start:i] {
			case "", ".", "..":
				return "", false
			}
			start = i + 1
		}
	}
	return Path(name), true
}

// String returns the path as it stands, "" for the root.
func (p Path) String() string { return string(p) }

// Abs returns the path as seen from inside the tree, with a leading slash.
func (p Path) Abs() string { return "/" + string(p) }

// Split returns the parent directory and the last component. The root splits into
// two empty strings.
func (p Path) Split() (dir Path, name string) {
	i := strings.LastIndexByte(string(p), '/')
	if i < 0 {
		return "", string(p)
	}
	return p[:i], string(p[i+1:])
}

// Join returns the path of name inside the directory p.
func (p Path) Join(name string) Path {
	if p == "" {
		return Path(name)
	}
	return p + "/" + Path(name)
}

// Cut returns the first component and the rest.
func (p Path) Cut() (first string, rest Path) {
	f, r, _ := strings.Cut(string(p), "/")
	return f, Path(r)
}

// quote is p as messages show it, absolute.
func quote(p Path) string { return shorten(p.Abs()) }

// shorten quotes s, and cuts it in the middle when it is longer than anybody reads.
func shorten(s string) string {
	const head, tail = 160, 80
	if len(s) <= head+tail {
		return strconv.Quote(s)
	}
	q := strconv.Quote(s[:head])
	return q[:len(q)-1] + "…" + strconv.Quote(s[len(s)-tail:])[1:]
}

// ComparePath orders paths as a walk in name order meets them: component by
// component, bytewise, so that a directory comes before all that is in it and
// nothing else comes between.
func ComparePath(a, b Path) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if a[i] == b[i] {
			continue
		}
		if a[i] == '/' {
			return -1
		}
		if b[i] == '/' {
			return 1
		}
		if a[i] < b[i] {
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}
