package tarstream

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// member is one entry of a canonical tar: USTAR, with a PAX header before it when
// something does not fit.
type member struct {
	name    string // with a slash at the end for a directory
	typ     byte
	link    string
	mode    uint16
	uid     uint32
	gid     uint32
	mtime   tree.Time
	dev     tree.Device
	size    int64
	xattrs  []tree.Xattr
	extents []recipe.Extent // of a sparse file, else nil
}

// stored returns how many bytes of data follow the header (and the sparse map).
func (m *member) stored() int64 {
	if m.extents == nil {
		return m.size
	}
	var n int64
	for _, e := range m.extents {
		n += e.Length
	}
	return n
}

// Fields of a USTAR header hold that much, one octal digit less than their width.
const (
	maxOctal7  = 1<<21 - 1
	maxOctal11 = 1<<33 - 1
)

// appendHeader appends all blocks that stand before the member's data.
func (m *member) appendHeader(dst []byte) []byte {
	var pax paxWriter
	h := header{name: m.name, typ: m.typ, link: m.link, mode: m.mode, dev: m.dev, size: m.stored()}
	var sparse []byte
	if m.extents != nil {
		sparse = sparseMap(m.extents, m.size)
		h.size += int64(len(sparse))
		h.name = "GNUSparseFile.0/" + fitBase(m.name, 84)
		pax.add("GNU.sparse.major", "1")
		pax.add("GNU.sparse.minor", "0")
		pax.add("GNU.sparse.name", m.name)
		pax.add("GNU.sparse.realsize", strconv.FormatInt(m.size, 10))
	}
	if prefix, name, ok := splitName(h.name); ok {
		h.prefix, h.name = prefix, name
	} else {
		pax.add("path", h.name)
		h.name = cutName(h.name)
	}
	if len(h.link) > 100 {
		pax.add("linkpath", h.link)
		h.link = h.link[:100]
	}
	if !utf8.ValidString(m.name) || !utf8.ValidString(m.link) {
		// POSIX wants UTF-8 in PAX records unless they say otherwise.
		if pax.has("path") || pax.has("linkpath") || m.extents != nil {
			pax.add("hdrcharset", "BINARY")
		}
	}
	if h.uid = int64(m.uid); h.uid > maxOctal7 {
		pax.add("uid", strconv.FormatInt(h.uid, 10))
		h.uid = 0
	}
	if h.gid = int64(m.gid); h.gid > maxOctal7 {
		pax.add("gid", strconv.FormatInt(h.gid, 10))
		h.gid = 0
	}
	if h.dev.Major > maxOctal7 {
		pax.add("SCHILY.devmajor", strconv.FormatUint(uint64(h.dev.Major), 10))
		h.dev.Major = 0
	}
	if h.dev.Minor > maxOctal7 {
		pax.add("SCHILY.devminor", strconv.FormatUint(uint64(h.dev.Minor), 10))
		h.dev.Minor = 0
	}
	if h.size > maxOctal11 {
		pax.add("size", strconv.FormatInt(h.size, 10))
		h.size = 0
	}
	if h.mtime = m.mtime.Sec; h.mtime < 0 || h.mtime > maxOctal11 || m.mtime.Nsec != 0 {
		pax.add("mtime", paxTime(m.mtime))
		if h.mtime < 0 || h.mtime > maxOctal11 {
			h.mtime = 0
		}
	}
	for _, x := range m.xattrs {
		pax.add(paxXattr(x))
	}
	if len(pax.records) > 0 {
		body := pax.body()
		x := header{name: "PaxHeaders.0/" + fitBase(m.name, 87), typ: typePAX, mode: 0o644, size: int64(len(body))}
		dst = x.append(dst)
		dst = append(dst, body...)
		dst = appendPadding(dst, int64(len(body)))
	}
	dst = h.append(dst)
	return append(dst, sparse...)
}

func appendPadding(dst []byte, n int64) []byte {
	return append(dst, zeroBlock[:-n&(blockSize-1)]...)
}

// header is what one USTAR block says; everything fits.
type header struct {
	name, prefix, link string
	typ                byte
	mode               uint16
	uid, gid           int64
	mtime, size        int64
	dev                tree.Device
}

func (h *header) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, zeroBlock[:]...)
	b := block(dst[at:])
	copy(b.name(), h.name)
	octal(b.mode(), int64(h.mode))
	octal(b.uid(), h.uid)
	octal(b.gid(), h.gid)
	octal(b.size(), h.size)
	octal(b.mtime(), h.mtime)
	b[156] = h.typ
	copy(b.link(), h.link)
	copy(b[257:265], "ustar\x0000")
	octal(b.devMajor(), int64(h.dev.Major))
	octal(b.devMinor(), int64(h.dev.Minor))
	copy(b[345:500], h.prefix)
	copy(b.chksum(), "        ")
	sum, _ := sums(b)
	octal(b.chksum()[:7], sum)
	return dst
}

// octal fills a field with digits and a zero byte at the end.
func octal(field []byte, v int64) {
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = byte('0' + v&7)
		v >>= 3
	}
	field[len(field)-1] = 0
}

// splitName fits a name into the fields of a USTAR header. The prefix is as long as
// it can be.
func splitName(name string) (prefix, rest string, ok bool) {
	if len(name) <= 100 {
		return "", name, true
	}
	i := strings.LastIndexByte(name[:min(len(name)-1, 156)], '/')
	if i <= 0 || len(name)-i-1 > 100 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

// cutName gives the name field something to show where a PAX header has the name.
func cutName(name string) string {
	cut := name[:min(len(name), 100)]
	if strings.HasSuffix(name, "/") && !strings.HasSuffix(cut, "/") {
		cut = cut[:99] + "/"
	}
	return cut
}

// fitBase returns the last component of a name, cut to n bytes of ASCII.
func fitBase(name string, n int) string {
	name = strings.TrimSuffix(name, "/")
	name = name[strings.LastIndexByte(name, '/')+1:]
	b := []byte(name[:min(len(name), n)])
	for i, c := range b {
		if c < ' ' || c >= 0x7f {
			b[i] = '_'
		}
	}
	return string(b)
}

// paxWriter collects PAX records, sorted by key in the end.
type paxWriter struct{ records [][2]string }

func (w *paxWriter) add(key, value string) { w.records = append(w.records, [2]string{key, value}) }

func (w *paxWriter) has(key string) bool {
	return slices.ContainsFunc(w.records, func(r [2]string) bool { return r[0] == key })
}

func (w *paxWriter) body() []byte {
	slices.SortFunc(w.records, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	var b []byte
	for _, r := range w.records {
		// The length counts its own digits.
		rest := len(r[0]) + len(r[1]) + 3
		n := rest + len(strconv.Itoa(rest))
		n = rest + len(strconv.Itoa(n))
		b = strconv.AppendInt(b, int64(n), 10)
		b = append(b, ' ')
		b = append(b, r[0]...)
		b = append(b, '=')
		b = append(b, r[1]...)
		b = append(b, '\n')
	}
	return b
}

// paxTime is the inverse of records.time. The fraction is subtracted from negative
// seconds.
func paxTime(t tree.Time) string {
	sec, nsec := t.Sec, int64(t.Nsec)
	sign := ""
	if sec < 0 && nsec > 0 {
		sec, nsec = sec+1, 1e9-nsec
		if sec == 0 {
			sign = "-"
		}
	}
	s := sign + strconv.FormatInt(sec, 10)
	if nsec == 0 {
		return s
	}
	frac := strconv.FormatInt(1e9+nsec, 10)[1:]
	return s + "." + strings.TrimRight(frac, "0")
}

// paxXattr returns the record of an extended attribute: raw as star, GNU tar and
// Docker have it, or as libarchive has it where the name would break a record.
func paxXattr(x tree.Xattr) (key, value string) {
	plain := true
	for i := range len(x.Name) {
		if c := x.Name[i]; c == '=' || c <= ' ' || c >= 0x7f {
			plain = false
		}
	}
	if plain {
		return schilyXattr + x.Name, x.Value
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(x.Name) {
		if c := x.Name[i]; c == '=' || c == '%' || c <= ' ' || c >= 0x7f {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return libarchiveXattr + b.String(), base64.RawStdEncoding.EncodeToString([]byte(x.Value))
}

// sparseMap is what stands before the data of a PAX sparse 1.0 member.
func sparseMap(extents []recipe.Extent, size int64) []byte {
	count, end := len(extents), int64(0)
	if count > 0 {
		end = extents[count-1].Offset + extents[count-1].Length
	}
	if end < size {
		count++
	}
	b := strconv.AppendInt(nil, int64(count), 10)
	b = append(b, '\n')
	put := func(v int64) { b = append(strconv.AppendInt(b, v, 10), '\n') }
	for _, e := range extents {
		put(e.Offset)
		put(e.Length)
	}
	if end < size {
		// GNU tar extends a file to its size by an empty extent at the end.
		put(size)
		put(0)
	}
	return appendPadding(b, int64(len(b)))
}

// overflows reports whether a time cannot be told from math.MinInt64, which paxTime
// and records.time cannot round-trip with a fraction.
func overflows(t tree.Time) bool { return t.Sec == math.MinInt64 && t.Nsec != 0 }
