package tarstream

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/layerfs/layerfs/tree"
)

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0000644\x00", 0o644, true},
		{"   644 \x00", 0o644, true},
		{"644\x00junk", 0o644, true},
		{"\x00\x00\x00\x00\x00\x00\x00\x00", 0, true},
		{"        ", 0, true},
		{"77777777", 0o77777777, true},
		{"777777777777", 0o777777777777, true},
		{"0000648\x00", 0, false},
		{"-000644\x00", 0, false},
		{"0x12\x00\x00\x00\x00", 0, false},
		{"12 4\x00\x00\x00\x00", 0, false},
		{"\x80\x00\x00\x00\x00\x00\x01\x00", 256, true},
		{"\xff\xff\xff\xff\xff\xff\xff\xfe", -2, true},
		{"\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff", math.MaxInt64, true},
		{"\xff\xff\xff\xff\x80\x00\x00\x00\x00\x00\x00\x00", math.MinInt64, true},
		{"\x80\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00", 0, false},
		{"\xff\xff\xff\xfe\x80\x00\x00\x00\x00\x00\x00\x00", 0, false},
		{"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 0, false},
	} {
		got, err := number([]byte(c.in))
		if (err == nil) != c.ok || got != c.want && c.ok {
			t.Errorf("number(%q) = %d, %v; want %d, %v", c.in, got, err, c.want, c.ok)
		}
	}
}

func TestTime(t *testing.T) {
	for _, c := range []struct {
		in   string
		want tree.Time
		ok   bool
	}{
		{"0", tree.Time{}, true},
		{"1350244992.023960108", tree.Time{Sec: 1350244992, Nsec: 23960108}, true},
		{"1.", tree.Time{Sec: 1}, true},
		{"1.5", tree.Time{Sec: 1, Nsec: 5e8}, true},
		{"1.0000000009", tree.Time{Sec: 1}, true},
		{"-1", tree.Time{Sec: -1}, true},
		{"-1.5", tree.Time{Sec: -2, Nsec: 5e8}, true},
		{"-0.25", tree.Time{Sec: -1, Nsec: 75e7}, true},
		{"9223372036854775807.999999999", tree.Time{Sec: math.MaxInt64, Nsec: 999999999}, true},
		{"-9223372036854775808.5", tree.Time{}, false},
		{"9223372036854775808", tree.Time{}, false},
		{"1.x", tree.Time{}, false},
		{"1.-5", tree.Time{}, false},
		{".5", tree.Time{}, false},
		{"now", tree.Time{}, false},
	} {
		var r records
		err := r.time(c.in)
		if (err == nil) != c.ok || c.ok && r.mtime != c.want {
			t.Errorf("time %q gives %v, %v; want %v, %v", c.in, r.mtime, err, c.want, c.ok)
		}
		if c.ok && len(c.in) < 24 {
			var again records
			must(t, again.time(paxTime(c.want)))
			if again.mtime != c.want {
				t.Errorf("%v is written as %s, read as %v", c.want, paxTime(c.want), again.mtime)
			}
		}
	}
}

// goTar makes a tar of odd members with Go's archive/tar.
func goTar(tb testing.TB, format tar.Format) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	at := time.Unix(1600000000, 0)
	long := strings.Repeat("long-directory-name/", 12) + "file"
	headers := []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "dir/", Mode: 0o750},
		{Typeflag: tar.TypeReg, Name: "dir/file", Mode: 0o4755, Size: 10, Uid: 1000, Gid: 100},
		{Typeflag: tar.TypeReg, Name: "empty"},
		{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "dir/file", Mode: 0o777},
		{Typeflag: tar.TypeLink, Name: "hard", Linkname: "dir/file"},
		{Typeflag: tar.TypeChar, Name: "char", Devmajor: 5, Devminor: 1},
		{Typeflag: tar.TypeBlock, Name: "block", Devmajor: 8, Devminor: 17},
		{Typeflag: tar.TypeFifo, Name: "fifo"},
		{Typeflag: tar.TypeReg, Name: strings.Repeat("p/", 60) + "prefix", Size: 600},
	}
	if format != tar.FormatUSTAR {
		headers = append(headers,
			&tar.Header{Typeflag: tar.TypeReg, Name: long, Size: 3000},
			&tar.Header{Typeflag: tar.TypeSymlink, Name: "to-long", Linkname: long},
			&tar.Header{Typeflag: tar.TypeReg, Name: "large-ids", Uid: 1 << 30, Gid: 1<<32 - 2},
			&tar.Header{Typeflag: tar.TypeReg, Name: "before the epoch", ModTime: time.Unix(-100, 0)},
		)
	}
	if format == tar.FormatPAX {
		headers = append(headers,
			&tar.Header{Typeflag: tar.TypeReg, Name: "fraction", ModTime: time.Unix(5, 123456789)},
			&tar.Header{Typeflag: tar.TypeReg, Name: "fraction before the epoch", ModTime: time.Unix(-5, 123456789)},
			&tar.Header{Typeflag: tar.TypeReg, Name: "xattrs", PAXRecords: map[string]string{
				"SCHILY.xattr.user.b": "2", "SCHILY.xattr.user.a": "\xff\x01\n=", "SCHILY.xattr.user.empty": "",
			}},
		)
	}
	for _, h := range headers {
		h.Format = format
		if h.ModTime.IsZero() {
			h.ModTime = at
		}
		must(tb, w.WriteHeader(h))
		_, err := w.Write(bytes.Repeat([]byte("y"), int(h.Size)))
		must(tb, err)
	}
	must(tb, w.Close())
	return buf.Bytes()
}

// TestAgainstGo compares each member with what archive/tar makes of it.
func TestAgainstGo(t *testing.T) {
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		t.Run(format.String(), func(t *testing.T) {
			data := goTar(t, format)
			roundTrip(t, data)
			r := tar.NewReader(bytes.NewReader(data))
			_, err := parseAll(iotest.OneByteReader(bytes.NewReader(data)), func(e *entry) {
				h, err := r.Next()
				must(t, err)
				want := fmt.Sprintf("%c %q %q %o %d %d %d %d:%d %d.%09d", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.Size, h.Devmajor, h.Devminor, h.ModTime.Unix(), h.ModTime.Nanosecond())
				got := fmt.Sprintf("%c %q %q %o %d %d %d %d:%d %d.%09d", e.typ, e.name, e.link, e.mode, e.uid, e.gid, e.size, e.dev.Major, e.dev.Minor, e.mtime.Sec, e.mtime.Nsec)
				if got != want {
					t.Errorf("member is\n%s, archive/tar has\n%s", got, want)
				}
				for _, x := range e.xattrs {
					if v, ok := h.PAXRecords[schilyXattr+x.Name]; !ok || v != x.Value {
						t.Errorf("%q: %s is %q, archive/tar has %q", e.name, x.Name, x.Value, v)
					}
				}
				if e.name == "xattrs" && len(e.xattrs) != 3 {
					t.Errorf("%d extended attributes", len(e.xattrs))
				}
			}, func([]byte) {})
			must(t, err)
			if _, err := r.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("archive/tar finds more: %v", err)
			}
		})
	}
}

// TestTruncated cuts a tar at every block: either what is there ends with a member, or
// the error names one.
func TestTruncated(t *testing.T) {
	data := goTar(t, tar.FormatPAX)
	whole := importTar(t, data, discard{}).Entries
	complete := 0
	for n := 0; n < len(data); n += blockSize {
		built, err := Import(context.Background(), bytes.NewReader(data[:n]), newMemory(), ImportOptions{})
		if err == nil {
			if complete++; built.Entries > whole {
				t.Errorf("%d bytes have %d entries", n, built.Entries)
			}
			continue
		}
		var ee *EntryError
		if !errors.As(err, &ee) || ee.Name == "" && ee.After == "" && ee.Offset > 0 {
			t.Errorf("cut at %d: the error names no entry: %v", n, err)
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	if complete < whole-1 || complete > whole+3 {
		t.Errorf("%d cuts out of %d gave whole archives, there are %d entries", complete, len(data)/blockSize, whole)
	}
	for n := 1; n < len(data); n += 101 {
		if n%blockSize == 0 {
			continue
		}
		_, err := Import(context.Background(), bytes.NewReader(data[:n]), newMemory(), ImportOptions{})
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

// TestBitFlips changes every bit of the headers. Nothing may panic, and what is
// accepted has to come back as it is.
func TestBitFlips(t *testing.T) {
	data := goTar(t, tar.FormatPAX)
	const step = 61 // prime, so that all positions in a byte have their turn
	for bit := 0; bit < len(data)*8; bit += step {
		flipped := bytes.Clone(data)
		flipped[bit/8] ^= 1 << (bit % 8)
		store := newMemory()
		built, err := Import(context.Background(), bytes.NewReader(flipped), store, ImportOptions{Workers: 1})
		if err != nil {
			continue
		}
		var out bytes.Buffer
		must(t, reopen(t, built).WriteTar(context.Background(), &out, store))
		if !bytes.Equal(out.Bytes(), flipped) {
			t.Fatalf("bit %d: another tar came back", bit)
		}
	}
}

// paxMember is a member with a PAX header of the given body before it.
func paxMember(body string, h header, data string) []byte {
	x := header{name: "x", typ: typePAX, size: int64(len(body))}
	b := appendPadding(append(x.append(nil), body...), int64(len(body)))
	if h.size == 0 {
		h.size = int64(len(data))
	}
	b = h.append(b)
	return appendPadding(append(b, data...), int64(len(data)))
}

func paxBody(records ...string) string {
	var w paxWriter
	var out []byte
	for i := 0; i+1 < len(records); i += 2 {
		w.records = nil
		w.add(records[i], records[i+1])
		out = append(out, w.body()...)
	}
	return string(out)
}

func TestHostile(t *testing.T) {
	file := header{name: "victim", typ: typeFile}
	plain := func(h header, data string) []byte {
		h.size = max(h.size, int64(len(data)))
		return appendPadding(append(h.append(nil), data...), int64(len(data)))
	}
	named := func(name string) []byte { return plain(header{name: name, typ: typeFile}, "") }
	base256 := func(off int, value ...byte) []byte {
		b := plain(file, "")
		clear(b[off : off+12])
		copy(b[off:], value)
		return resum(b)
	}
	sparse := func(list, real string) []byte {
		return paxMember(paxBody("GNU.sparse.map", list, "GNU.sparse.size", real, "GNU.sparse.numblocks", "1"), file, "0123456789")
	}
	sparse1 := func(list string) []byte {
		return paxMember(paxBody("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "victim", "GNU.sparse.realsize", "100"), file, list+strings.Repeat("\x00", blockSize-len(list)%blockSize))
	}
	old := func(change func(b []byte)) []byte {
		b := plain(header{name: "victim", typ: typeSparse}, "0123456789")
		copy(b[257:], "ustar  \x00")
		clear(b[345:500])
		change(b)
		return resum(b)
	}
	global := func(body string) []byte {
		g := header{name: "g", typ: typePAXGlobal, size: int64(len(body))}
		return slices.Concat(appendPadding(append(g.append(nil), body...), int64(len(body))), named("victim"))
	}
	long := func(typ byte, n int) []byte {
		h := header{name: "long", typ: typ, size: int64(n)}
		return slices.Concat(appendPadding(append(h.append(nil), strings.Repeat("n", n)...), int64(n)), named("victim"))
	}
	for name, c := range map[string]struct {
		data []byte
		say  string // part of the error
	}{
		"dot dot":             {named("../../victim"), `"../../victim"`},
		"dot dot inside":      {named("a/../victim"), `"a/../victim"`},
		"dot dot link target": {plain(header{name: "victim", typ: typeLink, link: "../../etc/passwd"}, ""), "target"},
		"no name":             {named(""), "root"},
		"long component":      {paxMember(paxBody("path", "victim"+strings.Repeat("x", 256)), file, ""), "255"},
		"deep":                {paxMember(paxBody("path", strings.Repeat("v/", tree.MaxDepth)+"victim"), file, ""), "4096"},
		"NUL in a name":       {paxMember(paxBody("path", "vic\x00tim"), file, ""), "NUL"},
		"whiteout of dot":     {named("a/.wh.."), "whiteout"},
		"whiteout of dot dot": {named("a/.wh..."), "whiteout"},
		"whiteout of nothing": {named("a/.wh."), "whiteout"},
		"whiteout as a dir":   {named(".wh.a/victim"), "whiteout"},
		"file as root":        {named("."), "root"},
		"symlink as root":     {plain(header{name: "./", typ: typeSymlink, link: "x"}, ""), "root"},
		"file as a directory": {slices.Concat(named("a"), named("a/victim")), `"a/victim"`},
		"empty symlink":       {plain(header{name: "victim", typ: typeSymlink}, ""), "target"},
		"empty hard link":     {plain(header{name: "victim", typ: typeLink}, ""), "target"},
		"link to a directory": {slices.Concat(plain(header{name: "d/", typ: typeDir}, ""), plain(header{name: "victim", typ: typeLink, link: "d"}, "")), "directory"},
		"unknown type":        {plain(header{name: "victim", typ: 'Q'}, ""), "not supported"},
		"multi-volume":        {plain(header{name: "victim", typ: 'M'}, ""), "not supported"},
		"checksum":            {func() []byte { b := plain(file, ""); b[0] ^= 1; return b }(), "checksum"},
		"negative size":       {base256(124, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "-1 bytes"},
		"absurd size":         {base256(124, 0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "limit"},
		"more than 64 bits":   {base256(124, 0x80, 1, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "too large"},
		"negative PAX size":   {paxMember(paxBody("size", "-1"), file, ""), "size"},
		"PAX size":            {paxMember(paxBody("size", "9223372036854775807"), file, ""), "limit"},
		"PAX size overflows":  {paxMember(paxBody("size", "9223372036854775808"), file, ""), "size"},
		"uid -1":              {paxMember(paxBody("uid", "4294967295"), file, ""), "4294967295"},
		"uid":                 {paxMember(paxBody("uid", "99999999999"), file, ""), "out of range"},
		"PAX length lies":     {paxMember("99 path=victim\n", file, ""), "PAX record"},
		"PAX length short":    {paxMember("5 path=victim\n", file, ""), "PAX record"},
		"PAX length zero":     {paxMember("0 path=victim\n", file, ""), "PAX record"},
		"PAX no length":       {paxMember("path=victim\n", file, ""), "PAX record"},
		"PAX no newline":      {paxMember("15 path=victim ", file, ""), "PAX record"},
		"PAX no key":          {paxMember("4 =\n", file, ""), "PAX record"},
		"PAX time":            {paxMember(paxBody("mtime", "soon"), file, ""), "mtime"},
		"xattr name":          {paxMember(paxBody(schilyXattr, "v"), file, ""), "extended attribute"},
		"xattr long name":     {paxMember(paxBody(schilyXattr+strings.Repeat("u", 256), "v"), file, ""), "limit 255"},
		"xattr long value":    {paxMember(paxBody(schilyXattr+"user.v", strings.Repeat("v", tree.MaxXattr+1)), file, ""), "limit 65536"},
		"xattr bad base64":    {paxMember(paxBody(libarchiveXattr+"user.v", "***"), file, ""), "LIBARCHIVE"},
		"xattr bad escape":    {paxMember(paxBody(libarchiveXattr+"user.%zz", ""), file, ""), "LIBARCHIVE"},
		"GNU and PAX names":   {slices.Concat(long(typeLongName, 200)[:2*blockSize], paxMember(paxBody("path", "other"), file, "")), "other"},
		"large extension":     {plain(header{name: "x", typ: typePAX, size: MaxHeader + 1}, ""), "limit"},
		"header for nothing":  {slices.Concat(paxMember(paxBody("path", "victim"), file, "")[:2*blockSize], make([]byte, 2*blockSize)), "victim"},
		"global path":         {global(paxBody("path", "victim")), "global"},
		"global size":         {global(paxBody("size", "5")), "global"},
		"global sparse":       {global(paxBody("GNU.sparse.major", "1")), "global"},
		"map overlaps":        {sparse("0,6,5,4", "100"), "sparse map"},
		"map backwards":       {sparse("50,5,0,5", "100"), "sparse map"},
		"map beyond the end":  {sparse("95,10", "100"), "sparse map"},
		"map overflows":       {sparse("9223372036854775807,10", "100"), "sparse map"},
		"map negative":        {sparse("-5,10", "100"), "map"},
		"map odd":             {sparse("0,5,5", "100"), "odd"},
		"map text":            {sparse("0,five", "100"), "map"},
		"map too little":      {sparse("0,9", "100"), "sparse map"},
		"map too much":        {sparse("0,11", "100"), "sparse map"},
		"real size":           {sparse("0,10", "99999999999999"), "limit"},
		"no real size":        {paxMember(paxBody("GNU.sparse.map", "0,10"), file, "0123456789"), "without its size"},
		"holes":               {sparse("0,10", "1099511627776"), "holes"},
		"0.0 offset alone":    {paxMember(paxBody("GNU.sparse.size", "10", "GNU.sparse.offset", "0"), file, ""), "numbytes"},
		"0.0 two offsets":     {paxMember(paxBody("GNU.sparse.size", "10", "GNU.sparse.offset", "0", "GNU.sparse.offset", "1"), file, ""), "out of place"},
		"0.0 length first":    {paxMember(paxBody("GNU.sparse.size", "10", "GNU.sparse.numbytes", "1"), file, ""), "out of place"},
		"1.0 endless":         {sparse1("1\n0\n"), "sparse map"},
		"1.0 count":           {sparse1("99999999\n"), "limit"},
		"1.0 text":            {sparse1("one\n"), "not a number"},
		"1.0 long number":     {sparse1(strings.Repeat("1", 40)), "not a number"},
		"version":             {paxMember(paxBody("GNU.sparse.major", "2", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "1"), file, ""), "version"},
		"old endless":         {old(func(b []byte) { b[oldSparseMore] = 1 }), "victim"},
		"old text":            {old(func(b []byte) { copy(b[oldSparseAt:], "zero") }), "sparse map"},
		"old overlap": {old(func(b []byte) {
			octal(b[oldSparseAt:oldSparseAt+12], 0)
			octal(b[oldSparseAt+12:oldSparseAt+24], 6)
			octal(b[oldSparseAt+24:oldSparseAt+36], 5)
			octal(b[oldSparseAt+36:oldSparseAt+48], 4)
			octal(b[oldRealSizeAt:oldRealSizeAt+12], 100)
		}), "sparse map"},
	} {
		t.Run(name, func(t *testing.T) {
			data := slices.Concat(named("before"), c.data)
			_, err := Import(context.Background(), bytes.NewReader(data), newMemory(), ImportOptions{})
			if err == nil {
				t.Fatal("was accepted")
			}
			var ee *EntryError
			if !errors.As(err, &ee) {
				t.Fatalf("the error names no entry: %v", err)
			}
			if !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the error is of no class: %v", err)
			}
			if !strings.Contains(err.Error(), c.say) || !strings.Contains(err.Error(), "offset 512") && !strings.Contains(err.Error(), "offset 1024") {
				t.Errorf("the error does not say %q and the offset: %v", c.say, err)
			}
		})
	}
}

func TestExtensionBomb(t *testing.T) {
	body := paxBody("comment", "x")
	x := header{name: "x", typ: typePAX, size: int64(len(body))}
	one := appendPadding(append(x.append(nil), body...), int64(len(body)))
	for _, n := range []int{MaxExtension, MaxExtension + 1} {
		data := append(bytes.Repeat(one, n), (&header{name: "victim", typ: typeFile}).append(nil)...)
		_, err := parseAll(bytes.NewReader(data), func(*entry) {}, func([]byte) {})
		if (err == nil) != (n == MaxExtension) {
			t.Errorf("%d extension headers: %v", n, err)
		}
	}
}

func TestLimits(t *testing.T) {
	many := func(n int) []byte {
		var b []byte
		for i := range n {
			h := header{name: fmt.Sprintf("f%d", i), typ: typeFile}
			b = h.append(b)
		}
		return b
	}
	sparse := func(holes int) []byte {
		return paxMember(paxBody("GNU.sparse.map", "0,10", "GNU.sparse.size", fmt.Sprint(10+holes)), header{name: "s", typ: typeFile}, "0123456789")
	}
	sized := func(n int) []byte {
		return appendPadding(append((&header{name: "z", typ: typeFile, size: int64(n)}).append(nil), make([]byte, n)...), int64(n))
	}
	for name, c := range map[string]struct {
		at, past []byte
		lim      Limits
	}{
		"entries":  {many(5), many(6), Limits{Entries: 5}},
		"nodes":    {many(5), many(6), Limits{Nodes: 5}},
		"metadata": {many(5), many(6), Limits{Metadata: 10}},
		"file":     {sized(100), sized(101), Limits{File: 100}},
		"holes":    {sparse(1000), sparse(1001), Limits{Holes: 1000}},
	} {
		_, err := Import(context.Background(), bytes.NewReader(c.at), newMemory(), ImportOptions{Limits: c.lim})
		if err != nil {
			t.Errorf("%s at the limit: %v", name, err)
		}
		_, err = Import(context.Background(), bytes.NewReader(c.past), newMemory(), ImportOptions{Limits: c.lim})
		var ee *EntryError
		if !errors.As(err, &ee) || ee.Name == "" || !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s past the limit: %v", name, err)
		}
	}
	xattrs := func(n int) []byte {
		var records []string
		for i := range n {
			records = append(records, fmt.Sprintf("%suser.%d", schilyXattr, i), "v")
		}
		return paxMember(paxBody(records...), header{name: "x", typ: typeFile}, "")
	}
	_, err := Import(context.Background(), bytes.NewReader(xattrs(MaxXattrs)), newMemory(), ImportOptions{})
	must(t, err)
	if _, err = Import(context.Background(), bytes.NewReader(xattrs(MaxXattrs+1)), newMemory(), ImportOptions{}); err == nil {
		t.Error("one extended attribute too many was accepted")
	}
}
