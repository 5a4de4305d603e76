package erofs

import (
	"bytes"
	"encoding/binary"
	"iter"
	"strings"

	"github.com/layerfs/layerfs/tree"
)

// DirEntry is one name in a directory.
type DirEntry struct {
	Name []byte // aliases the image: valid until Close, not to be changed
	NID  NID
	Type tree.Type // as in Stat
	Next uint64    // where to go on behind this entry
}

// dir decodes an inode that must be a directory.
func (im *Image) dir(n NID) (inode, error) {
	r, err := im.inode(n)
	if err != nil {
		return inode{}, err
	}
	if r.mode&modeType != modeDir {
		return inode{}, notA(n, "directory")
	}
	if r.size > int64(len(im.b)) {
		return inode{}, corrupt("directory %d has a size of %d", n, r.size)
	}
	return r, nil
}

// dirBlock is one block of a directory.
type dirBlock struct {
	dir   NID
	b     []byte
	count int
}

func (im *Image) dirBlock(n NID, r *inode, block int64) (dirBlock, error) {
	b, err := im.span(n, r, block)
	if err != nil {
		return dirBlock{}, err
	}
	if len(b) < direntSize {
		return dirBlock{}, corrupt("directory %d has a block of %d bytes", n, len(b))
	}
	first := int(binary.LittleEndian.Uint16(b[8:]))
	if first < direntSize || first%direntSize != 0 || first > len(b) {
		return dirBlock{}, corrupt("directory %d has names at %d in block %d", n, first, block)
	}
	return dirBlock{dir: n, b: b, count: first / direntSize}, nil
}

// name returns the name of an entry of the block.
func (d *dirBlock) name(i int) ([]byte, error) {
	le := binary.LittleEndian
	start := int(le.Uint16(d.b[i*direntSize+8:]))
	end := len(d.b)
	if i+1 < d.count {
		end = int(le.Uint16(d.b[(i+1)*direntSize+8:]))
	}
	if start < d.count*direntSize || end < start || end > len(d.b) {
		return nil, corrupt("directory %d has a name from %d to %d", d.dir, start, end)
	}
	name := d.b[start:end:end]
	if i+1 == d.count {
		// A block that is not full ends in zeros.
		if zero := bytes.IndexByte(name, 0); zero >= 0 {
			name = name[:zero]
		}
	}
	if len(name) == 0 || len(name) > tree.MaxName {
		return nil, corrupt("directory %d has a name of %d bytes", d.dir, len(name))
	}
	return name, nil
}

func (d *dirBlock) nid(i int) NID {
	return NID(binary.LittleEndian.Uint64(d.b[i*direntSize:]))
}

// Lookup finds a name in a directory; ok is false where there is none. "." and ".."
// are not found. The time is logarithmic in the size of the directory, and nothing is
// allocated.
func (im *Image) Lookup(dir NID, name string) (n NID, ok bool, err error) {
	if name == "." || name == ".." {
		return 0, false, nil
	}
	return im.lookup(dir, name)
}

// Parent returns the directory that ".." of a directory names.
func (im *Image) Parent(dir NID) (NID, error) {
	n, ok, err := im.lookup(dir, "..")
	if err == nil && !ok {
		err = corrupt("directory %d has no parent", dir)
	}
	return n, err
}

func (im *Image) lookup(dir NID, name string) (n NID, ok bool, err error) {
	r, err := im.dir(dir)
	if err != nil {
		return 0, false, err
	}
	// The last block whose first name is not behind the one looked for.
	var at dirBlock
	lo, hi := int64(0), (r.size+BlockSize-1)>>blockBits
	for lo < hi {
		mid := (lo + hi) / 2
		d, err := im.dirBlock(dir, &r, mid)
		if err != nil {
			return 0, false, err
		}
		first, err := d.name(0)
		if err != nil {
			return 0, false, err
		}
		if string(first) <= name {
			at, lo = d, mid+1
		} else {
			hi = mid
		}
	}
	i, j := 0, at.count
	for i < j {
		mid := (i + j) / 2
		have, err := at.name(mid)
		if err != nil {
			return 0, false, err
		}
		switch {
		case string(have) == name:
			return at.nid(mid), true, nil
		case string(have) < name:
			i = mid + 1
		default:
			j = mid
		}
	}
	return 0, false, nil
}

// ReadDir lists a directory in the order of names, without "." and "..", from the
// place that a DirEntry's Next named, or from the start at 0. After an error it ends.
func (im *Image) ReadDir(dir NID, from uint64) iter.Seq2[DirEntry, error] {
	return func(yield func(DirEntry, error) bool) { im.readDir(dir, from, yield) }
}

func (im *Image) readDir(dir NID, from uint64, yield func(DirEntry, error) bool) {
	r, err := im.dir(dir)
	if err != nil {
		yield(DirEntry{}, err)
		return
	}
	if from > uint64(r.size) {
		return
	}
	skip := int(from & (BlockSize - 1))
	for block := int64(from >> blockBits); block<<blockBits < r.size; block++ {
		d, err := im.dirBlock(dir, &r, block)
		if err != nil {
			yield(DirEntry{}, err)
			return
		}
		for i := skip; i < d.count; i++ {
			e, err := d.entry(i)
			if err != nil {
				yield(DirEntry{}, err)
				return
			}
			if string(e.Name) == "." || string(e.Name) == ".." {
				continue
			}
			e.Next = uint64(block)<<blockBits + uint64(i) + 1
			if !yield(e, nil) {
				return
			}
		}
		skip = 0
	}
}

// entry decodes an entry whose name could be one in a tree.
func (d *dirBlock) entry(i int) (DirEntry, error) {
	name, err := d.name(i)
	if err != nil {
		return DirEntry{}, err
	}
	if bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0 {
		return DirEntry{}, corrupt("directory %d has the name %q", d.dir, name)
	}
	kind := int(d.b[i*direntSize+10])
	if kind == 0 || kind >= len(direntTypes) {
		return DirEntry{}, corrupt("directory %d has an entry of type %d", d.dir, kind)
	}
	return DirEntry{Name: name, NID: d.nid(i), Type: direntTypes[kind]}, nil
}

// Resolve finds the inode at a path below the root without following symbolic links;
// ok is false where there is none.
func (im *Image) Resolve(p tree.Path) (n NID, ok bool, err error) {
	n = im.root
	rest := string(p)
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		r, err := im.inode(n)
		if err != nil {
			return 0, false, err
		}
		if r.mode&modeType != modeDir {
			return 0, false, nil
		}
		n, ok, err = im.Lookup(n, name)
		if err != nil || !ok {
			return 0, false, err
		}
	}
	return n, true, nil
}
