package union

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
)

// There are no open directories: the kernel is told that opening needs no request, and
// it keeps what it has read of a directory until it changes that itself. So an offset
// alone says where to go on.
//
// A directory of a tree that nothing has touched is read from the tree, and its offsets
// are those of the tree. Of other directories a list is made when one is read from its
// start, in the order of hashes of the names: those are the offsets, so that they stay
// when names come and go and when the list has to be made anew. A directory that is
// changed while it is read goes on being read from the tree, without what was removed.

// dirent is one name of a directory.
type dirent struct {
	name string
	ino  uint64 // as the upper tells; 0 of a lower layer's
	kind uint32 // type bits of st_mode
	low  ref    // of a file of the only lower layer that has the directory
	has  bool   // low is set
	next uint64 // offset to go on after it, of a list
}

// OpenDir says that there is no need to open directories. The kernel does not ask again.
func (f *FS) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// ReadDir lists a directory.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.status(f.readDir(in, out, false))
}

// ReadDirPlus lists a directory with the attributes of what is in it.
func (f *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.status(f.readDir(in, out, true))
}

// dots is the number of offsets that "." and ".." take in front of the others.
const dots = 2

func (f *FS) readDir(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) error {
	dir, err := f.file(in.NodeId)
	if err != nil {
		return err
	}
	if in.Offset < dots {
		if full, err := f.addDots(dir, in.Offset, out, plus); full || err != nil {
			return err
		}
	}
	from := max(in.Offset, dots)
	switch {
	case dir.n == nil && from >= firstHash:
		return nil // no offset of a tree
	case dir.n == nil || from > dots && from < firstHash:
		return f.readTree(dir, from-dots, out, plus)
	}
	f.names.RLock()
	defer f.names.RUnlock()
	list, err := f.listFrom(dir.n, from)
	if err != nil {
		return err
	}
	at, _ := slices.BinarySearchFunc(list, from+1, func(e dirent, next uint64) int { return cmp.Compare(e.next, next) })
	if at == len(list) {
		f.lists.drop(dir.n)
	}
	for ; at < len(list); at++ {
		full, err := f.addEntry(dir.n, &list[at], list[at].next, out, plus)
		if full || err != nil {
			return err
		}
	}
	return nil
}

// addDots lists the directory itself and the one above.
func (f *FS) addDots(dir file, from uint64, out *fuse.DirEntryList, plus bool) (full bool, err error) {
	self := dir.id
	above := uint64(rootID)
	if n := dir.n; n != nil {
		self = n.ino
		if parent, _, _ := n.where(); parent != nil {
			above = parent.ino
		}
	} else {
		im := f.lower[dir.r.layer].image
		parent, err := im.Parent(dir.r.nid)
		if err != nil {
			return false, err
		}
		above = treeID(dir.r.layer, parent)
		if n := f.tables.get(above); n != nil {
			above = n.ino
		}
	}
	for i, e := range []fuse.DirEntry{{Name: ".", Ino: self}, {Name: "..", Ino: above}} {
		if uint64(i) < from {
			continue
		}
		e.Mode, e.Off = unix.S_IFDIR, uint64(i)+1
		if plus && out.AddDirLookupEntry(e) == nil || !plus && !out.AddDirEntry(e) {
			return true, nil
		}
	}
	return false, nil
}

// readTree lists a directory of a tree.
func (f *FS) readTree(dir file, from uint64, out *fuse.DirEntryList, plus bool) error {
	r := dir.r
	if dir.n != nil {
		if len(dir.n.lowers) == 0 || f.lower[dir.n.lowers[0].layer].image == nil {
			return nil // no offset of a tree
		}
		r = dir.n.lowers[0] // all that it was made of
		f.names.RLock()
		defer f.names.RUnlock()
	}
	im := f.lower[r.layer].image
	for e, err := range im.ReadDir(r.nid, from) {
		if err != nil {
			return err
		}
		if white, err := f.isTreeWhiteout(r.layer, &e); white || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		if dir.n != nil {
			one := dirent{name: string(e.Name), kind: erofs.TypeBits(e.Type)}
			if full, err := f.addEntry(dir.n, &one, e.Next+dots, out, plus); full || err != nil {
				return err
			}
			continue
		}
		id := treeID(r.layer, e.NID)
		// The name is copied before anything else happens to the tree.
		entry := fuse.DirEntry{Name: unsafe.String(unsafe.SliceData(e.Name), len(e.Name)), Ino: id, Mode: erofs.TypeBits(e.Type), Off: e.Next + dots}
		if !plus {
			if !out.AddDirEntry(entry) {
				return nil
			}
			continue
		}
		eo := out.AddDirLookupEntry(entry)
		if eo == nil {
			return nil
		}
		if err := f.found(id, eo); err != nil {
			return err
		}
	}
	return nil
}

// addEntry adds one name of a list. The caller holds f.names.
func (f *FS) addEntry(dir *node, e *dirent, next uint64, out *fuse.DirEntryList, plus bool) (full bool, err error) {
	entry := fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: e.kind, Off: next}
	got := file{id: treeID(e.low.layer, e.low.nid), r: e.low}
	if e.has {
		got.n = f.tables.get(got.id)
	} else {
		got, err = f.find(dir, e.name, false)
		if errors.Is(err, unix.ENOENT) {
			return false, nil // removed since the list was made
		}
		if err != nil {
			return false, err
		}
	}
	entry.Ino = got.id
	if got.n != nil {
		entry.Ino, entry.Mode = got.n.ino, got.n.mode
	}
	if !plus {
		return !out.AddDirEntry(entry), nil
	}
	eo := out.AddDirLookupEntry(entry)
	if eo == nil {
		return true, nil
	}
	err = f.entry(got, eo)
	if errors.Is(err, unix.ENOENT) {
		*eo = fuse.EntryOut{} // removed meanwhile: the name without its attributes
		return false, nil
	}
	if err == nil && got.n != nil {
		f.know(got.n)
	}
	return false, err
}

// list returns all names that the union shows in a directory. The caller holds f.names.
func (f *FS) list(dir *node) ([]dirent, error) {
	var all []dirent
	seen := map[string]struct{}{}
	if dir.upper.Load() {
		var err error
		if all, err = f.listUpper(dir, seen); err != nil {
			return nil, err
		}
	}
	for i, r := range dir.lowers {
		last := i == len(dir.lowers)-1
		if f.lower[r.layer].image == nil {
			more, err := f.listDir(r, seen)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
			continue
		}
		for e, err := range f.lower[r.layer].image.ReadDir(r.nid, 0) {
			if err != nil {
				return nil, err
			}
			if _, ok := seen[string(e.Name)]; ok {
				continue
			}
			white, err := f.isTreeWhiteout(r.layer, &e)
			if err != nil {
				return nil, err
			}
			name := string(e.Name)
			if !last {
				seen[name] = struct{}{}
			}
			if !white {
				// Only a directory may have more to it below.
				mode := erofs.TypeBits(e.Type)
				all = append(all, dirent{name: name, kind: mode, low: ref{layer: r.layer, nid: e.NID}, has: last || mode != unix.S_IFDIR})
			}
		}
	}
	return all, nil
}

func (f *FS) isTreeWhiteout(layer int32, e *erofs.DirEntry) (bool, error) {
	im := f.lower[layer].image
	if !im.Layer() || erofs.TypeBits(e.Type) != unix.S_IFCHR {
		return false, nil
	}
	st, err := im.Stat(e.NID)
	return err == nil && st.Rdev.Major == 0 && st.Rdev.Minor == 0, err
}

// listUpper lists a directory in the upper without whiteouts; seen gets all names.
func (f *FS) listUpper(dir *node, seen map[string]struct{}) ([]dirent, error) {
	d, err := f.dir(dir)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.dirs.release(d)
	fd, err := openAt(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // a removed directory
	}
	if err != nil {
		return nil, err
	}
	defer closeFD(fd)
	all, err := readDirents(fd)
	if err != nil {
		return nil, err
	}
	kept := all[:0]
	for _, e := range all {
		if len(dir.lowers) > 0 {
			seen[e.name] = struct{}{}
		}
		if e.kind == unix.S_IFCHR || e.kind == unix.S_IFREG && dir.xwhite.Load() {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				if errors.Is(err, unix.ENOENT) {
					continue
				}
				return nil, err
			}
			white, err := f.isWhiteout(dir, d, e.name, &st)
			if err != nil {
				return nil, err
			}
			if white {
				continue
			}
		}
		kept = append(kept, e)
	}
	return kept, nil
}

// listDir lists a directory of a layer that is one, but for names that are seen.
func (f *FS) listDir(r ref, seen map[string]struct{}) ([]dirent, error) {
	fd, err := f.openRef(r, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer closeFD(fd)
	all, err := readDirents(fd)
	if err != nil {
		return nil, err
	}
	kept := all[:0]
	for _, e := range all {
		if _, ok := seen[e.name]; ok {
			continue
		}
		seen[e.name] = struct{}{}
		if e.kind == unix.S_IFCHR || e.kind == unix.S_IFREG {
			got, ok, err := f.lookupIn(r, e.name)
			if err != nil {
				return nil, err
			}
			if !ok || got.whiteout {
				continue
			}
		}
		kept = append(kept, e)
	}
	return kept, nil
}

// direntBuffer is the size in bytes of the buffer for getdents64.
const direntBuffer = 32 << 10

// readDirents returns all names in an open directory but "." and "..".
func readDirents(fd int) ([]dirent, error) {
	var all []dirent
	buf := make([]byte, direntBuffer)
	for {
		n, err := unix.Getdents(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return all, nil
		}
		// struct linux_dirent64: u64 ino, u64 off, u16 length, u8 type, name, NUL.
		const head = 19
		for rest := buf[:n]; len(rest) > head; {
			length := int(binary.NativeEndian.Uint16(rest[16:]))
			name := rest[head:length]
			for i, c := range name {
				if c == 0 {
					name = name[:i]
					break
				}
			}
			if s := string(name); s != "." && s != ".." {
				all = append(all, dirent{name: s, ino: binary.NativeEndian.Uint64(rest), kind: uint32(rest[18]) << 12})
			}
			rest = rest[length:]
		}
	}
}
