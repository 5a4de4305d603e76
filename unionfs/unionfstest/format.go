package unionfstest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

// formatReader merges directories in upper format by the definition at
// [unionfs.Namespace], with as little cleverness as possible. It is the judge of
// what drivers write.
type formatReader struct {
	namespace unionfs.Namespace
	dirs      []string // the topmost first
	data      []string
}

// place is a file in one of the layers.
type place struct {
	layer int // index of dirs
	full  string
}

func (r formatReader) read() (snapshot, error) {
	s := snapshot{}
	return s, r.directory(s, ".", r.roots(0))
}

// roots returns the root directories from one layer downwards.
func (r formatReader) roots(from int) []place {
	var roots []place
	for i := from; i < len(r.dirs); i++ {
		roots = append(roots, place{i, r.dirs[i]})
	}
	return roots
}

// directory records the merged directory whose parts are given, and all in it.
func (r formatReader) directory(s snapshot, path string, parts []place) error {
	if err := r.record(s, path, parts[0], parts[0].full); err != nil {
		return err
	}
	names := map[string]bool{}
	for _, part := range parts {
		entries, err := os.ReadDir(part.full)
		if err != nil {
			return err
		}
		for _, e := range entries {
			names[e.Name()] = true
		}
	}
	for name := range names {
		found, err := r.lookup(parts, name)
		if err != nil {
			return err
		}
		child := filepath.Join(path, name)
		switch {
		case len(found) == 0:
		case isDir(found[0]):
			err = r.directory(s, child, found)
		default:
			err = r.file(s, child, found)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lookup finds what name stands for in the merged directory with the given parts:
// the parts of a directory, or a file after those above it that have its metadata
// only. Nothing is found where a whiteout comes first, or nothing is there.
func (r formatReader) lookup(parts []place, name string) ([]place, error) {
	var found []place
	for _, part := range parts {
		p := place{part.layer, filepath.Join(part.full, name)}
		var st unix.Stat_t
		if err := unix.Lstat(p.full, &st); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("stat %s: %w", p.full, err)
		}
		dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if r.whiteout(p, st) || len(found) > 0 && dir != isDir(found[0]) {
			return found, nil
		}
		found = append(found, p)
		_, metacopy := r.attr(p, unionfs.Metacopy)
		if opaque, _ := r.attr(p, unionfs.Opaque); dir && opaque == unionfs.OpaqueYes || !dir && !metacopy {
			return found, nil
		}
		redirect, ok := r.attr(p, unionfs.Redirect)
		switch {
		case !ok:
		case strings.HasPrefix(redirect, "/"):
			rest, err := r.lookupPath(r.roots(p.layer+1), redirect)
			if err == nil && len(rest) > 0 && isDir(rest[0]) == dir {
				found = append(found, rest...)
			}
			return found, err
		default:
			name = redirect
		}
	}
	return found, nil
}

// lookupPath finds a path from the root of the given layers.
func (r formatReader) lookupPath(parts []place, path string) ([]place, error) {
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		found, err := r.lookup(parts, name)
		if err != nil || len(found) == 0 {
			return nil, err
		}
		parts = found
	}
	return parts, nil
}

// file records a file whose last place, or else a data directory, has the content.
func (r formatReader) file(s snapshot, path string, found []place) error {
	last := found[len(found)-1]
	if _, ok := r.attr(last, unionfs.Metacopy); !ok {
		return r.record(s, path, found[0], last.full)
	}
	redirect, _ := r.attr(last, unionfs.Redirect)
	for _, data := range r.data {
		full := filepath.Join(data, redirect)
		if _, err := os.Lstat(full); err == nil && strings.HasPrefix(redirect, "/") {
			return r.record(s, path, found[0], full)
		}
	}
	return fmt.Errorf("%s has metadata only (redirect %q), and its content is nowhere below", last.full, redirect)
}

// whiteout reports whether a file stands for a removed name.
func (r formatReader) whiteout(p place, st unix.Stat_t) bool {
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		return true
	}
	if _, ok := r.attr(p, unionfs.Whiteout); !ok || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	opaque, _ := r.attr(place{p.layer, filepath.Dir(p.full)}, unionfs.Opaque)
	return opaque == unionfs.OpaqueWhiteouts
}

// attr returns one of the format's own attributes of the file.
func (r formatReader) attr(p place, name string) (string, bool) {
	value := make([]byte, 64*1024)
	n, err := unix.Lgetxattr(p.full, r.namespace.Attr(name), value)
	if err != nil {
		return "", false
	}
	return string(value[:n]), true
}

// record notes a file with the metadata of one place and the content of another.
func (r formatReader) record(s snapshot, path string, meta place, content string) error {
	st, err := look(meta.full)
	if err != nil {
		return err
	}
	if content != meta.full {
		if st.content, err = readContent(content); err != nil {
			return err
		}
	}
	visible := map[string]string{}
	for stored, value := range st.xattrs {
		if name, ok := r.namespace.Unescape(stored); ok {
			visible[name] = value
		}
	}
	st.xattrs = visible
	s[path] = st
	return nil
}

func isDir(p place) bool {
	var st unix.Stat_t
	return unix.Lstat(p.full, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}
