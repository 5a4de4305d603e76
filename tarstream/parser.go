package tarstream

import (
	"errors"
	"io"
	"math"
	"strings"

	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// entry is one member of a tar.
type entry struct {
	off    int64 // of the first header block, extension headers included
	typ    byte  // one of the constants, files of every kind being typeFile
	name   string
	link   string
	mode   uint16
	uid    uint32
	gid    uint32
	mtime  tree.Time
	dev    tree.Device
	xattrs []tree.Xattr

	size    int64           // of the file, holes included
	stored  int64           // bytes of data that follow
	extents []recipe.Extent // of a sparse file, never nil for one: where the data belong
}

// parser reads the members of a tar. Every byte that is not a member's data goes to
// raw, in order. The caller takes the data of an entry, exactly entry.stored bytes,
// from in, and then calls next again.
type parser struct {
	in  *input
	raw func(p []byte)
	lim Limits

	global  records
	last    string // name of the member before
	entries int
	holes   int64
	pad     int // zeros expected after the data
	e       entry

	// What extension headers said of the member being read.
	longName, longLink       string
	hasLongName, hasLongLink bool
	local                    records
}

// next returns the next entry, valid until the next call, or io.EOF after the end of
// the archive, with all that follows it passed to raw.
func (p *parser) next() (*entry, error) {
	p.e = entry{off: p.in.off}
	err := p.padding()
	if err == nil {
		p.e.off = p.in.off
		err = p.member()
	}
	if err == nil || errors.Is(err, io.EOF) {
		p.last = p.e.name
		return &p.e, err
	}
	return nil, p.fail(err)
}

func (p *parser) fail(err error) error {
	return &EntryError{Name: p.e.name, After: p.last, Offset: p.e.off, Err: err}
}

// padding passes what fills up the last block of data. An archive that ends there
// lacks only that.
func (p *parser) padding() error {
	if p.pad == 0 {
		return nil
	}
	if err := p.in.need(p.pad); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if n := min(p.pad, p.in.end-p.in.pos); n > 0 {
		p.raw(p.in.pass(n))
	}
	p.pad = 0
	return nil
}

// header passes one header block; nil says that the archive has ended. The block is
// to be used before more is read.
func (p *parser) header(first bool) (block, error) {
	err := p.in.need(blockSize)
	if errors.Is(err, io.EOF) && first {
		return nil, nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	b, err := p.in.exactly(blockSize)
	if err != nil {
		return nil, err
	}
	p.raw(b)
	if b[0] == 0 && isZero(b) {
		if !first {
			return nil, invalid("archive ends after an extension header")
		}
		return nil, nil
	}
	if err := block(b).verify(); err != nil {
		return nil, err
	}
	return b, nil
}

func (p *parser) member() error {
	p.local = p.global
	p.local.xattrs = p.global.xattrs[:len(p.global.xattrs):len(p.global.xattrs)]
	p.hasLongName, p.hasLongLink = false, false
	for n := 0; ; n++ {
		h, err := p.header(n == 0)
		if err != nil {
			return err
		}
		if h == nil {
			if err := p.trailer(); err != nil {
				return err
			}
			return io.EOF
		}
		if n > MaxExtension {
			return invalid("more than %d extension headers", MaxExtension)
		}
		switch typ := h.typ(); typ {
		case typePAX, typeSolaris, typePAXGlobal, typeLongName, typeLongLink:
			if err := p.extension(h); err != nil {
				return err
			}
			// A global header may be the last thing in an archive.
			if typ == typePAXGlobal {
				n = -1
			}
		default:
			return p.entry(h)
		}
	}
}

// trailer passes everything after the end of the archive.
func (p *parser) trailer() error {
	for {
		err := p.in.need(1)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for p.in.pos < p.in.end {
			p.raw(p.in.pass(min(blockSize, p.in.end-p.in.pos)))
		}
	}
}

// extension reads a header that is about the next member.
func (p *parser) extension(h block) error {
	typ := h.typ()
	size, err := number(h.size())
	if err != nil {
		return err
	}
	if size < 0 || size > MaxHeader {
		return invalid("extension header of %d bytes, limit %d", size, MaxHeader)
	}
	padded := (size + blockSize - 1) / blockSize * blockSize
	body, err := p.in.exactly(int(padded))
	if err != nil {
		return err
	}
	p.raw(body)
	body = body[:size]
	switch typ {
	case typeLongName:
		p.longName, p.hasLongName = string(cstring(body)), true
		p.e.name = p.longName
	case typeLongLink:
		p.longLink, p.hasLongLink = string(cstring(body)), true
	case typePAXGlobal:
		if err := p.global.parse(body); err != nil {
			return err
		}
		const refused = hasPath | hasLink | hasSize | hasSparseName | hasRealSize | hasMap
		if p.global.has&refused != 0 || p.global.sparseMajor != "" || p.global.sparseMinor != "" {
			return invalid("global PAX header that sets a path, size or sparse map for all entries")
		}
		// What came before for this member alone is older than the global values.
		p.local = p.global
		p.local.xattrs = p.global.xattrs[:len(p.global.xattrs):len(p.global.xattrs)]
		p.hasLongName, p.hasLongLink = false, false
	default:
		if err := p.local.parse(body); err != nil {
			return err
		}
		if p.local.has&hasPath != 0 {
			p.e.name = p.local.path
		}
	}
	return nil
}

// entry interprets the header of a member together with its extension headers.
func (p *parser) entry(h block) error {
	e, r := &p.e, &p.local
	f := h.format()
	if err := p.names(h, f); err != nil {
		return err
	}
	if p.entries++; p.entries > p.lim.Entries {
		return invalid("more than %d entries", p.lim.Entries)
	}
	mode, err := number(h.mode())
	if err != nil {
		return err
	}
	e.mode = uint16(mode & 0o7777)
	if e.uid, err = owner(h.uid(), r.has&hasUID != 0, r.uid); err != nil {
		return err
	}
	if e.gid, err = owner(h.gid(), r.has&hasGID != 0, r.gid); err != nil {
		return err
	}
	if r.has&hasTime != 0 {
		e.mtime = r.mtime
	} else if e.mtime.Sec, err = number(h.mtime()); err != nil {
		return err
	}
	e.xattrs = r.sortedXattrs()
	size, err := number(h.size())
	if r.has&hasSize != 0 {
		size, err = r.size, nil
	}
	if err != nil {
		return err
	}
	return p.byType(h, f, size)
}

func (p *parser) names(h block, f format) error {
	e, r := &p.e, &p.local
	e.name = ""
	switch {
	case r.has&hasSparseName != 0:
		e.name = r.sparseName
	case r.has&hasPath != 0:
		e.name = r.path
	case p.hasLongName:
		e.name = p.longName
	default:
		e.name = h.fullName(f)
	}
	if p.hasLongName && e.name != p.longName {
		return invalid("GNU header calls it %q, PAX header %q", p.longName, e.name)
	}
	switch {
	case r.has&hasLink != 0:
		e.link = r.link
	case p.hasLongLink:
		e.link = p.longLink
	case h.typ() == typeLink || h.typ() == typeSymlink:
		e.link = string(cstring(h.link()))
	}
	if p.hasLongLink && e.link != p.longLink {
		return invalid("GNU header says it links to %q, PAX header to %q", p.longLink, e.link)
	}
	return nil
}

// owner gives a user or group id: an unsigned number of 32 bits but the last, which
// stands for "no change" in the kernel.
func owner(field []byte, has bool, record int64) (uint32, error) {
	id := record
	if !has {
		var err error
		if id, err = number(field); err != nil {
			return 0, err
		}
	}
	if id < 0 || id >= math.MaxUint32 {
		return 0, invalid("user or group id %d is out of range", id)
	}
	return uint32(id), nil
}

func (p *parser) byType(h block, f format, size int64) error {
	e := &p.e
	e.typ = h.typ()
	switch e.typ {
	case typeOldFile, typeFile, typeContig, typeSparse:
		if err := p.file(h, size); err != nil {
			return err
		}
	case typeDump, typeVolume:
		if size < 0 || size > p.lim.File {
			return invalid("data of %d bytes, limit %d", size, p.lim.File)
		}
		e.stored = size
		if e.typ == typeDump {
			e.typ = typeDir
		}
	case typeChar, typeBlock:
		return p.device(h, f)
	case typeLink, typeSymlink, typeDir, typeFifo:
	default:
		return invalid("entry type %q is not supported", e.typ)
	}
	p.pad = int(-e.stored & (blockSize - 1))
	return nil
}

func (p *parser) device(h block, f format) error {
	major, minor := p.local.major, p.local.minor
	var err error
	if p.local.has&hasMajor == 0 && f != formatV7 {
		if major, err = number(h.devMajor()); err != nil {
			return err
		}
	}
	if p.local.has&hasMinor == 0 && f != formatV7 {
		if minor, err = number(h.devMinor()); err != nil {
			return err
		}
	}
	if major < 0 || major > math.MaxUint32 || minor < 0 || minor > math.MaxUint32 {
		return invalid("device number %d:%d is out of range", major, minor)
	}
	p.e.dev = tree.Device{Major: uint32(major), Minor: uint32(minor)}
	return nil
}

// file works out sizes and the sparse map of a regular file.
func (p *parser) file(h block, size int64) error {
	e, r := &p.e, &p.local
	if size < 0 || size > p.lim.File {
		return invalid("file of %d bytes, limit %d", size, p.lim.File)
	}
	e.size, e.stored = size, size
	var extents []recipe.Extent
	var err error
	real := r.realSize
	inPAX := r.has&(hasMap|hasRealSize) != 0 || r.sparseMajor != ""
	switch {
	case e.typ == typeSparse && inPAX:
		return invalid("two sparse maps in different formats")
	case e.typ == typeSparse:
		extents, real, err = p.oldSparse(h)
	case !inPAX:
		if e.typ = typeFile; strings.HasSuffix(e.name, "/") {
			// Before there was a type for directories, this was how they looked.
			e.typ = typeDir
		}
		return nil
	case r.has&hasRealSize == 0:
		return invalid("sparse file without its size")
	case r.sparseMajor == "1" && r.sparseMinor == "0":
		var taken int64
		extents, taken, err = p.newSparse(size)
		e.stored -= taken
	case r.sparseMajor == "" || r.sparseMajor == "0":
		extents = r.sparseMap
	default:
		return invalid("sparse file of version %.16q.%.16q", r.sparseMajor, r.sparseMinor)
	}
	if err != nil {
		return err
	}
	e.typ = typeFile
	if real < 0 || real > p.lim.File {
		return invalid("file of %d bytes, limit %d", real, p.lim.File)
	}
	if e.extents, err = checkExtents(extents, real, e.stored); err != nil {
		return err
	}
	e.size = real
	if p.holes += real - e.stored; p.holes > p.lim.Holes {
		return invalid("holes of sparse files exceed %d bytes", p.lim.Holes)
	}
	return nil
}
