package tarstream

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// Prefixes of the PAX keys that carry extended attributes: raw, and with the name in
// URL coding and the value in base64.
const (
	schilyXattr     = "SCHILY.xattr."
	libarchiveXattr = "LIBARCHIVE.xattr."
)

// which is a set of the values that PAX records have set.
type which uint16

const (
	hasPath which = 1 << iota
	hasLink
	hasSize
	hasUID
	hasGID
	hasTime
	hasMajor
	hasMinor
	hasSparseName
	hasRealSize
	hasMap
)

// records is what the PAX headers before a member say about it.
type records struct {
	has          which
	path, link   string
	size         int64
	uid, gid     int64
	mtime        tree.Time
	major, minor int64
	xattrs       []tree.Xattr // in order of appearance

	sparseMajor, sparseMinor string
	sparseName               string
	realSize                 int64
	sparseMap                []recipe.Extent
	sparseOffset             int64 // of format 0.0, -1 unless a length must follow
}

// parse adds the records of one PAX header: "length key=value\n", the length counting
// itself and the newline.
func (r *records) parse(p []byte) error {
	r.sparseOffset = -1
	for len(p) > 0 {
		sp := bytes.IndexByte(p[:min(len(p), 12)], ' ')
		if sp <= 0 {
			return invalid("PAX record without a length")
		}
		n, err := strconv.ParseUint(string(p[:sp]), 10, 32)
		if err != nil || n > uint64(len(p)) || n < uint64(sp)+2 || p[n-1] != '\n' {
			return invalid("PAX record of length %q, %d bytes are left", p[:sp], len(p))
		}
		rec := p[sp+1 : n-1]
		p = p[n:]
		eq := bytes.IndexByte(rec, '=')
		if eq <= 0 {
			return invalid("PAX record %.32q without a key", rec)
		}
		key, value := string(rec[:eq]), string(rec[eq+1:])
		if err := r.set(key, value); err != nil {
			return invalid("PAX record %.64q: %v", key, err)
		}
	}
	if r.sparseOffset >= 0 {
		return invalid("PAX record GNU.sparse.offset without GNU.sparse.numbytes")
	}
	return nil
}

func (r *records) set(key, value string) error {
	switch key {
	case "path":
		return r.text(hasPath, &r.path, value)
	case "linkpath":
		return r.text(hasLink, &r.link, value)
	case "size":
		return r.number(hasSize, &r.size, value)
	case "uid":
		return r.number(hasUID, &r.uid, value)
	case "gid":
		return r.number(hasGID, &r.gid, value)
	case "SCHILY.devmajor":
		return r.number(hasMajor, &r.major, value)
	case "SCHILY.devminor":
		return r.number(hasMinor, &r.minor, value)
	case "mtime":
		return r.time(value)
	}
	if name, ok := strings.CutPrefix(key, schilyXattr); ok {
		return r.xattr(name, value)
	}
	if name, ok := strings.CutPrefix(key, libarchiveXattr); ok {
		name, err := url.PathUnescape(name)
		if err != nil {
			return err
		}
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
		if err != nil {
			return err
		}
		return r.xattr(name, string(raw))
	}
	if sparse, ok := strings.CutPrefix(key, "GNU.sparse."); ok {
		return r.sparse(sparse, value)
	}
	return nil
}

// text sets a string; an empty value takes back what a global header said.
func (r *records) text(bit which, dst *string, value string) error {
	if strings.IndexByte(value, 0) >= 0 {
		return invalid("value holds a NUL byte")
	}
	*dst = value
	r.mark(bit, value)
	return nil
}

func (r *records) number(bit which, dst *int64, value string) error {
	r.mark(bit, value)
	if value == "" {
		return nil
	}
	v, err := decimal(value)
	if err == nil && v < 0 {
		err = invalid("negative number %s", value)
	}
	*dst = v
	return err
}

func (r *records) mark(bit which, value string) {
	r.has |= bit
	if value == "" {
		r.has &^= bit
	}
}

// time reads seconds with an optional fraction. What is finer than a nanosecond is
// cut off.
func (r *records) time(value string) error {
	r.mark(hasTime, value)
	if value == "" {
		return nil
	}
	whole, frac, _ := strings.Cut(value, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return invalid("%.32q is not a time", value)
	}
	var nsec int64
	for i := range 9 {
		nsec *= 10
		if i < len(frac) {
			nsec += int64(frac[i] - '0')
		}
	}
	if strings.Trim(frac, "0123456789") != "" {
		return invalid("%.32q is not a time", value)
	}
	if nsec > 0 && strings.HasPrefix(whole, "-") {
		if sec == -1<<63 {
			return invalid("%.32q is out of range", value)
		}
		sec, nsec = sec-1, 1e9-nsec
	}
	r.mtime = tree.Time{Sec: sec, Nsec: uint32(nsec)}
	return nil
}

func (r *records) xattr(name, value string) error {
	if name == "" || len(name) > tree.MaxXattrName || strings.IndexByte(name, 0) >= 0 {
		return invalid("extended attribute with a name of %d bytes, limit %d", len(name), tree.MaxXattrName)
	}
	if len(value) > tree.MaxXattr {
		return invalid("extended attribute with a value of %d bytes, limit %d", len(value), tree.MaxXattr)
	}
	if len(r.xattrs) == MaxXattrs {
		return invalid("more than %d extended attributes", MaxXattrs)
	}
	r.xattrs = append(r.xattrs, tree.Xattr{Name: name, Value: value})
	return nil
}

// sortedXattrs returns the extended attributes by name; of two with one name the later
// wins.
func (r *records) sortedXattrs() []tree.Xattr {
	if len(r.xattrs) == 0 {
		return nil
	}
	out := slices.Clone(r.xattrs)
	slices.SortStableFunc(out, func(a, b tree.Xattr) int { return cmp.Compare(a.Name, b.Name) })
	n := 0
	for i := range out {
		if i+1 < len(out) && out[i+1].Name == out[i].Name {
			continue
		}
		out[n] = out[i]
		n++
	}
	return out[:n]
}

// sparse takes the keys of GNU's three PAX formats for sparse files.
func (r *records) sparse(key, value string) error {
	switch key {
	case "major":
		r.sparseMajor = value
	case "minor":
		r.sparseMinor = value
	case "name":
		return r.text(hasSparseName, &r.sparseName, value)
	case "realsize", "size":
		return r.number(hasRealSize, &r.realSize, value)
	case "offset":
		v, err := decimal(value)
		if err != nil || v < 0 || r.sparseOffset >= 0 {
			return invalid("offset %.32q out of place", value)
		}
		r.sparseOffset = v
	case "numbytes":
		v, err := decimal(value)
		if err != nil || v < 0 || r.sparseOffset < 0 {
			return invalid("length %.32q out of place", value)
		}
		err = r.extent(r.sparseOffset, v)
		r.sparseOffset = -1
		return err
	case "map":
		return r.sparseList(value)
	}
	return nil
}

func (r *records) sparseList(value string) error {
	offset, isLength := int64(0), false
	for part := range strings.SplitSeq(value, ",") {
		v, err := decimal(part)
		if err != nil || v < 0 {
			return invalid("map with %.32q", part)
		}
		if isLength {
			if err := r.extent(offset, v); err != nil {
				return err
			}
		}
		offset, isLength = v, !isLength
	}
	if isLength {
		return invalid("map with an odd count of numbers")
	}
	return nil
}

func (r *records) extent(offset, length int64) error {
	r.has |= hasMap
	if len(r.sparseMap) == MaxExtents {
		return invalid("more than %d extents", MaxExtents)
	}
	r.sparseMap = append(r.sparseMap, recipe.Extent{Offset: offset, Length: length})
	return nil
}
