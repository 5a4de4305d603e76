package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// The index.json of the store has a line for each name, so that in a large one a change of
// a name is a change of a few hundred bytes:
//
//	{"schemaVersion":2,"mediaType":"…","manifests":[
//	 {"mediaType":"…","digest":"sha256:…","size":1,"annotations":{…}}
//	,{"mediaType":"…","digest":"sha256:…","size":1,"annotations":{…}}
//	]}
//
// A line that is taken out becomes blanks; a new one goes to the end. Where it is small,
// or is not as expected, or holds more blanks than lines, all of it is written anew.
const (
	layoutHead = `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[` + "\n"
	layoutTail = "]}\n"
	// layoutSmall is up to what size in bytes, some 80 names, it is written anew.
	layoutSmall = 32 << 10
	// layoutLarge is what a record may have, in bytes, some 160,000 names.
	layoutLarge = 64 << 20
)

// errNotPatched is wrapped when index.json has to be written anew.
var errNotPatched = errors.New("index.json cannot be changed in place")

// layoutEdit is the change of one name: from old, which has no target for a new name, to
// now, which has none for one that is removed.
type layoutEdit struct{ old, now Ref }

// encodeLayout returns the index.json of a store with these names.
func encodeLayout(refs []Ref) ([]byte, error) {
	b := []byte(layoutHead)
	for i, r := range refs {
		line, err := layoutLine(r)
		if err != nil {
			return nil, err
		}
		b = append(b, " ,"[min(i, 1)])
		b = append(append(b, line...), '\n')
	}
	return append(b, layoutTail...), nil
}

// layoutLine returns the entry of a name, without what separates it from others.
func layoutLine(r Ref) ([]byte, error) {
	d := ocispec.Descriptor{MediaType: r.Target.MediaType, Digest: r.Target.Digest, Size: r.Target.Size}
	if !r.Name.IsZero() {
		d.Annotations = map[string]string{ocispec.AnnotationRefName: r.Name.String(), AnnotationImageName: r.Name.String()}
	}
	return encodeJSON(d)
}

// patchLayout applies edits to index.json in place.
func (s *Store) patchLayout(ctx context.Context, edits []layoutEdit) error {
	return s.records.PatchRecord(ctx, ocispec.ImageIndexFile, func(f *os.File) (err error) {
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		if size <= layoutSmall || size > layoutLarge {
			return errNotPatched
		}
		p := layoutPatch{}
		defer func() { err = errors.Join(err, p.close()) }()
		// New lines need no more than the end, when there is one before them.
		if !slices.ContainsFunc(edits, func(e layoutEdit) bool { return e.old.Target.Digest != "" }) {
			if err := p.read(f, size-layoutSmall, size); err != nil {
				return err
			}
		}
		if !bytes.Contains(p.data, []byte("\n,{")) {
			if err := p.mapAll(f, size); err != nil {
				return err
			}
		}
		for _, e := range edits {
			if err := p.apply(e); err != nil {
				return err
			}
		}
		return p.write(f)
	})
}

// layoutPatch is an index.json that is being changed, or the end of it.
type layoutPatch struct {
	off     int64 // of data in the file
	data    []byte
	mapped  []byte   // what data began as when it is all of the file; nil otherwise
	changed [][2]int // of data, from and to
}

func (p *layoutPatch) read(f *os.File, from, to int64) error {
	p.off, p.data = from, make([]byte, to-from)
	_, err := f.ReadAt(p.data, from)
	return err
}

// mapAll takes all of the file, of which little is looked at and less is changed. What is
// changed in memory is not the file's. Nobody shortens it: the lock of names is held.
func (p *layoutPatch) mapAll(f *os.File, size int64) error {
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map %s: %w", ocispec.ImageIndexFile, err)
	}
	p.off, p.data, p.mapped = 0, data, data
	return nil
}

func (p *layoutPatch) close() error {
	if p.mapped == nil {
		return nil
	}
	return unix.Munmap(p.mapped)
}

func (p *layoutPatch) apply(e layoutEdit) error {
	if p.off == 0 && !bytes.HasPrefix(p.data, []byte(layoutHead)) || !bytes.HasSuffix(p.data, []byte("\n"+layoutTail)) {
		return errNotPatched
	}
	if e.old.Target.Digest != "" {
		if err := p.remove(e.old); err != nil {
			return err
		}
	}
	if e.now.Target.Digest != "" {
		return p.add(e.now)
	}
	return nil
}

// remove makes the line of a name blank.
func (p *layoutPatch) remove(r Ref) error {
	line, err := layoutLine(r)
	if err != nil {
		return err
	}
	at := bytes.Index(p.data, append(append([]byte("\n,"), line...), '\n'))
	if at < 0 {
		at = bytes.Index(p.data, append(append([]byte("\n "), line...), '\n'))
	}
	if at < 0 || bytes.Count(p.data, []byte(" ")) > len(p.data)/2 {
		return errNotPatched
	}
	first := p.data[at+1] == ' '
	end := at + 2 + len(line)
	p.fill(at+1, bytes.Repeat([]byte(" "), end-at-1))
	if !first {
		return nil
	}
	// The next one becomes the first.
	if next := bytes.Index(p.data[end:], []byte("\n,{")); next >= 0 {
		p.fill(end+next+1, []byte(" "))
	}
	return nil
}

// add puts a name at the end.
func (p *layoutPatch) add(r Ref) error {
	line, err := layoutLine(r)
	if err != nil {
		return err
	}
	at := len(p.data) - len(layoutTail)
	separator := ","
	if p.off == 0 && !bytes.Contains(p.data[len(layoutHead):at], []byte("{")) {
		separator = " "
	}
	p.data = p.data[:at]
	p.data = append(append(append(append(p.data, separator...), line...), '\n'), layoutTail...)
	p.changed = append(p.changed, [2]int{at, len(p.data)})
	return nil
}

func (p *layoutPatch) fill(at int, with []byte) {
	copy(p.data[at:], with)
	p.changed = append(p.changed, [2]int{at, at + len(with)})
}

func (p *layoutPatch) write(f *os.File) error {
	for _, c := range p.changed {
		if _, err := f.WriteAt(p.data[c[0]:c[1]], p.off+int64(c[0])); err != nil {
			return fmt.Errorf("write %s: %w", ocispec.ImageIndexFile, err)
		}
	}
	return nil
}

// Names returns the names of an image, in order, by the digest that they point to. In a
// store with many it takes them from index.json, which after a kill can lack one until
// the next collection.
func (s *Store) Names(ctx context.Context, target ocispec.Descriptor) ([]Ref, error) {
	refs, err := s.namesOf(ctx, s.records, target)
	for i := 0; i < len(s.shared) && err == nil; i++ {
		var more []Ref
		more, err = s.namesOf(ctx, s.shared[i], target)
		for _, r := range more {
			r.Shared = true
			if !slices.ContainsFunc(refs, func(o Ref) bool { return o.record() == r.record() }) {
				refs = append(refs, r)
			}
		}
	}
	return refs, err
}

func (s *Store) namesOf(ctx context.Context, records Records, target ocispec.Descriptor) ([]Ref, error) {
	refs, err := indexedNames(records, target)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		refs, err = s.soundRefsOf(ctx, records)
	}
	if err != nil {
		return nil, err
	}
	refs = slices.DeleteFunc(refs, func(r Ref) bool { return r.Target.Digest != target.Digest })
	slices.SortFunc(refs, compareRefs)
	return refs, nil
}

// layoutPart is how much of index.json is looked through at once, in bytes.
const layoutPart = 256 << 10

// indexedNames finds the names of an image in a large index.json. For one that is small,
// or not as expected, the error wraps fs.ErrInvalid.
func indexedNames(records Records, target ocispec.Descriptor) (refs []Ref, err error) {
	r, err := records.OpenRecord(ocispec.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.Size() <= layoutSmall {
		return nil, fs.ErrInvalid
	}
	buf := make([]byte, layoutPart)
	for off := int64(0); off < r.Size(); {
		n, err := r.ReadAt(buf[:min(layoutPart, r.Size()-off)], off)
		if n == 0 {
			return refs, err
		}
		part := buf[:n]
		if off == 0 && !bytes.HasPrefix(part, []byte(layoutHead)) {
			return nil, fs.ErrInvalid
		}
		if off+int64(n) < r.Size() {
			// A line that goes on in the next part belongs there whole.
			part = part[:bytes.LastIndexByte(part, '\n')+1]
		}
		if len(part) == 0 {
			return nil, fs.ErrInvalid
		}
		found, err := namesIn(records, part, target)
		if err != nil {
			return nil, err
		}
		refs = append(refs, found...)
		off += int64(len(part))
	}
	return refs, nil
}

// namesIn reads the records of the names whose lines in index.json have the digest.
func namesIn(records Records, data []byte, target ocispec.Descriptor) (refs []Ref, err error) {
	for rest := data; ; {
		at := bytes.Index(rest, []byte(target.Digest))
		if at < 0 {
			return refs, nil
		}
		start := bytes.LastIndexByte(rest[:at], '\n') + 1
		line, after, _ := bytes.Cut(rest[start:], []byte("\n"))
		rest = after
		entry := append(append([]byte(layoutHead), bytes.TrimLeft(line, " ,")...), layoutTail...)
		for record := range layoutNames(entry) {
			r, err := readRef(records, record)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
				continue
			}
			if err != nil {
				return nil, err
			}
			refs = append(refs, r)
		}
	}
}
