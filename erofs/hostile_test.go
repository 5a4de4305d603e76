package erofs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// unsealed switches off the checksum, so that what follows it can be broken.
func unsealed(b []byte) []byte {
	b = bytes.Clone(b)
	b[1024+8] &^= 1
	return b
}

// inodeAt is the place of an inode in an image.
func inodeAt(n erofs.NID) int { return int(n) * 32 }

// TestHostile reads images that were broken on purpose.
func TestHostile(t *testing.T) {
	le := binary.LittleEndian
	good, im := image(t, smallTree(), erofs.Options{})
	a, d, e, l, o, x, y := find(t, im, "a"), find(t, im, "d"), find(t, im, "d/e"), find(t, im, "d/l"), find(t, im, "d/o"), find(t, im, "x"), find(t, im, "y")
	// dirent returns where an entry of a directory of one block lies.
	dirent := func(n erofs.NID, name string) int {
		at := inodeAt(n) + 64
		if words := int(le.Uint16(good[inodeAt(n)+2:])); words > 0 {
			at += 12 + 4*(words-1)
		}
		for i := range int(le.Uint16(good[at+8:])) / 12 {
			start := at + int(le.Uint16(good[at+12*i+8:]))
			if bytes.HasPrefix(good[start:], []byte(name)) {
				return at + 12*i
			}
		}
		t.Fatalf("no entry %q", name)
		return 0
	}
	if im, err := erofs.New(unsealed(good)); err != nil {
		t.Fatal(err)
	} else if _, err := im.Tree(); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(b []byte){
		"root outside":          func(b []byte) { le.PutUint16(b[1024+14:], 0xffff) },
		"root is a file":        func(b []byte) { le.PutUint16(b[1024+14:], uint16(a)) },
		"more blocks":           func(b []byte) { le.PutUint32(b[1024+36:], 0xffffffff) },
		"inodes outside":        func(b []byte) { le.PutUint32(b[1024+40:], 0xffffffff) },
		"xattrs outside":        func(b []byte) { le.PutUint32(b[1024+44:], 0xffffffff) },
		"mode":                  func(b []byte) { le.PutUint16(b[inodeAt(a)+4:], 0) },
		"layout":                func(b []byte) { b[inodeAt(a)] = 1 | 7<<1 },
		"compressed":            func(b []byte) { b[inodeAt(a)] = 1 | 3<<1 },
		"negative size":         func(b []byte) { le.PutUint64(b[inodeAt(a)+8:], 1<<63) },
		"huge size":             func(b []byte) { le.PutUint64(b[inodeAt(a)+8:], 1<<62) },
		"nanoseconds":           func(b []byte) { le.PutUint32(b[inodeAt(a)+40:], 1e9) },
		"huge directory":        func(b []byte) { le.PutUint64(b[inodeAt(d)+8:], 1<<62) },
		"directory of one byte": func(b []byte) { le.PutUint64(b[inodeAt(d)+8:], 1) },
		"blocks outside":        func(b []byte) { le.PutUint32(b[inodeAt(x)+16:], 0xfffffff0) },
		"tail crosses a block":  func(b []byte) { le.PutUint64(b[inodeAt(a)+8:], 4095) },
		"attributes outside":    func(b []byte) { le.PutUint16(b[inodeAt(x)+2:], 0xffff) },
		"shared count":          func(b []byte) { b[inodeAt(y)+64+4] = 200 },
		"shared id":             func(b []byte) { le.PutUint32(b[inodeAt(y)+64+12:], 0xffffffff) },
		"attribute twice":       func(b []byte) { copy(b[inodeAt(y)+64+16:], b[inodeAt(y)+64+12:][:4]) },
		"name outside":          func(b []byte) { le.PutUint16(b[dirent(d, "l")+8:], 0xffff) },
		"name backwards":        func(b []byte) { le.PutUint16(b[dirent(d, "o")+8:], 1) },
		"names at 0":            func(b []byte) { le.PutUint16(b[dirent(d, ".")+8:], 0) },
		"names not at an entry": func(b []byte) { le.PutUint16(b[dirent(d, ".")+8:], 13) },
		"type of an entry":      func(b []byte) { b[dirent(d, "l")+10] = 1 },
		"no type":               func(b []byte) { b[dirent(d, "l")+10] = 99 },
		"entry outside":         func(b []byte) { le.PutUint64(b[dirent(d, "l"):], 1<<60) },
		"entry overflows":       func(b []byte) { le.PutUint64(b[dirent(d, "l"):], 1<<64-1) },
		"cycle":                 func(b []byte) { le.PutUint64(b[dirent(d, "e"):], uint64(d)) },
		"cycle over the root":   func(b []byte) { le.PutUint64(b[dirent(d, "e"):], uint64(im.Root())) },
		"directory linked twice": func(b []byte) {
			le.PutUint64(b[dirent(im.Root(), "d"):], uint64(e))
			le.PutUint64(b[dirent(im.Root(), "f"):], uint64(e))
			b[dirent(im.Root(), "f")+10] = 2
		},
		"slash in a name":       func(b []byte) { at := dirent(d, "l"); b[dirent(d, ".")+int(le.Uint16(b[at+8:]))] = '/' },
		"NUL in a name":         func(b []byte) { at := dirent(d, "l"); b[dirent(d, ".")+int(le.Uint16(b[at+8:]))] = 0 },
		"names not sorted":      func(b []byte) { at := dirent(d, "l"); b[dirent(d, ".")+int(le.Uint16(b[at+8:]))] = 'z' },
		"empty link":            func(b []byte) { le.PutUint64(b[inodeAt(l)+8:], 0) },
		"long link":             func(b []byte) { le.PutUint64(b[inodeAt(l)+8:], tree.MaxLink+1) },
		"NUL in a link":         func(b []byte) { b[inodeAt(l)+64] = 0 },
		"redirect":              func(b []byte) { at := bytes.Index(b, []byte("/01/")); b[at+1] = 'G' },
		"redirect of no object": func(b []byte) { b[inodeAt(o)] = 1 },
		"fifo with a size":      func(b []byte) { b[inodeAt(find(t, im, "f"))+8] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			b := unsealed(good)
			damage(b)
			broken, err := erofs.New(b)
			if err == nil {
				_, err = broken.Tree()
			}
			if !errors.Is(err, erofs.ErrCorrupt) && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestOverlap has images in which many inodes have the same bytes: as trees they would
// be larger than any memory.
func TestOverlap(t *testing.T) {
	const n = 300
	names := dir("", tree.Inode{})
	files := dir("", tree.Inode{})
	for i := range n {
		names.Children = append(names.Children, dir(fmt.Sprintf("%06d", i), tree.Inode{}))
		files.Children = append(files.Children, file(fmt.Sprintf("%06d", i), ""))
	}
	files.Children[0] = file("000000", text(1<<20))
	link := symlink("", "t").Inode
	for i := range 50_000 {
		names.Children[0].Children = append(names.Children[0].Children, &tree.Node{Name: fmt.Sprintf("%08d", i), Inode: link})
	}
	for name, root := range map[string]*tree.Node{"directories": names, "files": files} {
		t.Run(name, func(t *testing.T) {
			good, im := image(t, root, erofs.Options{})
			b := unsealed(good)
			first := inodeAt(find(t, im, "000000"))
			binary.LittleEndian.PutUint16(b[first:], 1) // without its tail
			b[first+8], b[first+9] = 0, b[first+9]&0xf0
			for _, c := range root.Children[1:] {
				// Format, size and first block of the first one.
				at := inodeAt(find(t, im, tree.Path(c.Name)))
				copy(b[at:][:2], b[first:])
				copy(b[at+8:][:12], b[first+8:])
			}
			broken, err := erofs.New(b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := broken.Tree(); !errors.Is(err, erofs.ErrCorrupt) || !strings.Contains(err.Error(), "others use") {
				t.Errorf("error %v", err)
			}
		})
	}
}
