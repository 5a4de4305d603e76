package recipe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"unsafe"

	"github.com/klauspost/compress/zstd"
	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Recipe is an opened recipe. It is safe for concurrent use as long as the reader it
// was opened on is; it has nothing to close. Nothing but the header, the directory and
// the footer is read before it is asked for.
type Recipe struct {
	r       io.ReaderAt
	diffID  [32]byte
	tarSize int64
	entries int
	places  [knownSections + 1][]place

	decoder func() (*zstd.Decoder, error)
}

// Open reads a recipe of size bytes. The recipe is not trusted: everything is checked,
// here or when it is used, and an error that wraps fs.ErrInvalid says what is wrong.
func Open(r io.ReaderAt, size int64) (*Recipe, error) {
	if size < headerSize+footerSize || size > MaxStored+MaxDirectory {
		return nil, corrupt("%d bytes, at least %d and at most %d expected", size, headerSize+footerSize, MaxStored+MaxDirectory)
	}
	var head [headerSize]byte
	var foot [footerSize]byte
	if err := readAt(r, head[:], 0); err != nil {
		return nil, err
	}
	if err := readAt(r, foot[:], size-footerSize); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if string(head[:8]) != magic {
		return nil, corrupt("not a recipe")
	}
	if v := le.Uint32(head[8:]); v != version {
		return nil, fmt.Errorf("recipe: version %d, this program knows %d: %w", v, version, errors.ErrUnsupported)
	}
	if le.Uint32(head[76:]) != checksum(head[:76]) {
		return nil, corrupt("checksum of the header")
	}
	if f := le.Uint32(head[12:]); f != 0 {
		return nil, fmt.Errorf("recipe: unknown incompatible features %#x: %w", f, errors.ErrUnsupported)
	}
	if string(foot[28:]) != endMagic || le.Uint32(foot[24:]) != checksum(foot[:24]) {
		return nil, corrupt("checksum of the footer")
	}
	dirOff, dirLen := le.Uint64(foot[0:]), le.Uint32(foot[8:])
	if le.Uint64(foot[16:]) != uint64(size) || dirLen > MaxDirectory || dirOff < headerSize || dirOff+uint64(dirLen)+footerSize != uint64(size) {
		return nil, corrupt("footer does not match a size of %d bytes", size)
	}
	tarSize, entries := le.Uint64(head[52:]), le.Uint64(head[60:])
	if tarSize > MaxTar || entries > MaxEntries {
		return nil, corrupt("tar of %d bytes with %d entries, limits %d and %d", tarSize, entries, int64(MaxTar), MaxEntries)
	}
	dir := make([]byte, dirLen)
	if err := readAt(r, dir, int64(dirOff)); err != nil {
		return nil, err
	}
	if checksum(dir) != le.Uint32(foot[12:]) {
		return nil, corrupt("checksum of the directory")
	}
	rec := &Recipe{
		r:       r,
		tarSize: int64(tarSize),
		entries: int(entries),
		decoder: sync.OnceValues(newDecoder),
	}
	copy(rec.diffID[:], head[20:])
	var err error
	if rec.places, err = parseDirectory(dir, int64(dirOff)); err != nil {
		return nil, err
	}
	for kind, limit := range map[int]int64{sectionContents: MaxContents, sectionInline: MaxInlineSum, sectionIndex: MaxIndex} {
		if n := rec.rawSize(kind); n > limit {
			return nil, corrupt("section %d has %d bytes, limit %d", kind, n, limit)
		}
	}
	return rec, nil
}

func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read recipe at %d: %w", off, err)
}

// DiffID is the SHA-256 of the layer's tar, and the recipe's name.
func (r *Recipe) DiffID() digest.Digest { return tree.ObjectID(r.diffID).Digest() }

// TarSize is the number of bytes in the layer's tar.
func (r *Recipe) TarSize() int64 { return r.tarSize }

// Entries is the number of members of the layer's tar.
func (r *Recipe) Entries() int { return r.entries }

func (r *Recipe) rawSize(kind int) int64 {
	var n int64
	for _, p := range r.places[kind] {
		n += int64(p.raw)
	}
	return n
}

// decode reads one frame into dst, which has the frame's raw size.
func (r *Recipe) decode(p place, dst []byte) error {
	stored := dst
	if p.stored != p.raw {
		stored = make([]byte, p.stored)
	}
	if err := readAt(r.r, stored, p.off); err != nil {
		return err
	}
	if checksum(stored) != p.crc {
		return corrupt("checksum of the frame at %d", p.off)
	}
	if p.stored == p.raw {
		return nil
	}
	dec, err := r.decoder()
	if err != nil {
		return fmt.Errorf("set up recipe decompression: %w", err)
	}
	out, err := dec.DecodeAll(stored, dst[:0:len(dst)])
	if err != nil {
		return corrupt("frame at %d: %v", p.off, err)
	}
	if len(out) != len(dst) {
		return corrupt("frame at %d has %d bytes instead of %d", p.off, len(out), len(dst))
	}
	return nil
}

// frames decodes all frames of a section, a few at a time.
func (r *Recipe) frames(kind int) ([]byte, error) {
	all := make([]byte, r.rawSize(kind))
	var g errgroup.Group
	g.SetLimit(4)
	off := 0
	for _, p := range r.places[kind] {
		dst := all[off : off+p.raw]
		off += p.raw
		g.Go(func() error { return r.decode(p, dst) })
	}
	return all, g.Wait()
}

// text makes a string of bytes that nobody writes to any more, without copying them.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Objects returns the distinct objects of the layer in the order of the tar. It reads
// the objects section only.
func (r *Recipe) Objects() ([]ObjectRef, error) {
	raw, err := r.frames(sectionObjects)
	if err != nil {
		return nil, err
	}
	objects := make([]ObjectRef, len(raw)/objectEntry)
	for i := range objects {
		entry := raw[i*objectEntry:]
		copy(objects[i].ID[:], entry)
		size := binary.LittleEndian.Uint64(entry[32:])
		if objects[i].ID.IsZero() || size == 0 || size > MaxTar {
			return nil, corrupt("object %d has %d bytes", i, size)
		}
		objects[i].Size = int64(size)
	}
	return objects, nil
}

// inlineContents decodes the inline section.
func (r *Recipe) inlineContents() ([]string, error) {
	raw, err := r.frames(sectionInline)
	if err != nil {
		return nil, err
	}
	all := text(raw)
	contents := make([]string, 0, len(all)/512+16)
	for _, p := range r.places[sectionInline] {
		if contents, err = decodeInline(contents, all[:p.raw]); err != nil {
			return nil, err
		}
		all = all[p.raw:]
	}
	return contents, nil
}

// Layer decodes the index: the layer as a tree, every file with its object or its
// inline contents. Each call returns a new tree.
func (r *Recipe) Layer() (*tree.Node, error) {
	var objects []ObjectRef
	var inline []string
	var index []byte
	var g errgroup.Group
	g.Go(func() (err error) { inline, err = r.inlineContents(); return })
	g.Go(func() (err error) { index, err = r.frames(sectionIndex); return })
	objects, err := r.Objects()
	if werr := g.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		return nil, err
	}
	return decodeIndex(text(index), objects, inline)
}
