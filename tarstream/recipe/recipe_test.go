package recipe

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
)

// objects is a source of objects for tests.
type objects map[tree.ObjectID][]byte

func (o objects) OpenObject(_ context.Context, id tree.ObjectID) (cas.Reader, error) {
	data, ok := o[id]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return object{bytes.NewReader(data)}, nil
}

type object struct{ *bytes.Reader }

func (object) Close() error { return nil }

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// sample builds a recipe of everything there is, and returns it with its tar.
func sample(tb testing.TB) (*Built, []byte, objects) {
	tb.Helper()
	store := objects{}
	var tar bytes.Buffer
	b, err := NewBuilder()
	must(tb, err)
	literal := func(p string) { b.Literal([]byte(p)); tar.WriteString(p) }
	put := func(data string, extents []Extent) *tree.Inode {
		ino := &tree.Inode{Type: tree.Regular, Mode: 0o644, Size: int64(len(data)), Object: sha256.Sum256([]byte(data))}
		store[ino.Object] = []byte(data)
		b.Object(ino, extents)
		if extents == nil {
			tar.WriteString(data)
		}
		for _, e := range extents {
			tar.WriteString(data[e.Offset : e.Offset+e.Length])
		}
		return ino
	}
	literal("header one" + strings.Repeat("\x00", 500))
	first := put(strings.Repeat("first object ", 1000), nil)
	b.Zeros(300)
	tar.Write(make([]byte, 300))
	literal(strings.Repeat("incompressible? ", 40000))
	sparse := put("data"+strings.Repeat("\x00", 5000)+"more", []Extent{{0, 4}, {5004, 4}})
	literal("x")
	again := put(string(store[first.Object]), nil)
	again.UID = 7
	hole := put(strings.Repeat("\x00", 9000), []Extent{})
	inlined := &tree.Inode{Type: tree.Regular, Size: 5, Xattrs: []tree.Xattr{{Name: "user.a", Value: "1"}, {Name: "user.b", Value: "\xff"}}}
	if !b.Inline(inlined, []byte("hello"), nil) {
		tb.Fatal("no room")
	}
	tar.WriteString("hello")
	smallSparse := &tree.Inode{Type: tree.Regular, Size: 10, MTime: tree.Time{Sec: -5, Nsec: 1}}
	if !b.Inline(smallSparse, []byte("\x00\x00\x00\x00\x00\x00data"), []Extent{{6, 4}}) {
		tb.Fatal("no room")
	}
	tar.WriteString("data")
	b.Zeros(1 << 21)
	tar.Write(make([]byte, 1<<21))

	dir := func(name string, children ...*tree.Node) *tree.Node {
		return &tree.Node{Name: name, Inode: &tree.Inode{Type: tree.Directory, Mode: 0o755, MTime: tree.Time{Sec: 1 << 40}}, Children: children}
	}
	opaque := dir("opaque")
	opaque.Opaque = true
	implicit := dir("implicit", opaque)
	implicit.Implicit = true
	link := &tree.Inode{Type: tree.Symlink, Mode: 0o777, Link: "tar\xffget", Size: 7}
	root := dir("",
		&tree.Node{Name: "again", Inode: again},
		&tree.Node{Name: "char", Inode: &tree.Inode{Type: tree.CharDevice, Rdev: tree.Device{Major: 5, Minor: 1 << 31}}},
		dir("dir", &tree.Node{Name: "hard", Inode: first}, &tree.Node{Name: "hole", Inode: hole}, implicit),
		&tree.Node{Name: "disk", Inode: &tree.Inode{Type: tree.BlockDevice, Rdev: tree.Device{Major: 1 << 31}}},
		&tree.Node{Name: "empty", Inode: &tree.Inode{Type: tree.Regular, UID: 1<<32 - 2}},
		&tree.Node{Name: "fifo", Inode: &tree.Inode{Type: tree.Fifo}},
		&tree.Node{Name: "first", Inode: first},
		&tree.Node{Name: "gone", Whiteout: true},
		&tree.Node{Name: "inline", Inode: inlined},
		&tree.Node{Name: "out", IsLink: true, LinkTo: "some/where"},
		&tree.Node{Name: "small", Inode: smallSparse},
		&tree.Node{Name: "sock", Inode: &tree.Inode{Type: tree.Socket}},
		&tree.Node{Name: "sparse", Inode: sparse},
		&tree.Node{Name: "sym", Inode: link},
		&tree.Node{Name: "sym2", Inode: link},
	)
	built, err := b.Finish(sha256.Sum256(tar.Bytes()), 17, func() (*tree.Node, error) { return root, nil })
	must(tb, err)
	return built, tar.Bytes(), store
}

func write(tb testing.TB, b *Built) []byte {
	tb.Helper()
	var buf bytes.Buffer
	n, err := b.WriteTo(&buf)
	must(tb, err)
	if n != int64(buf.Len()) || n != b.Size() {
		tb.Errorf("%d bytes were written, WriteTo says %d, Size %d", buf.Len(), n, b.Size())
	}
	return buf.Bytes()
}

func open(data []byte) (*Recipe, error) { return Open(bytes.NewReader(data), int64(len(data))) }

func TestRoundTrip(t *testing.T) {
	built, tar, store := sample(t)
	data := write(t, built)
	if !bytes.Equal(data, write(t, built)) {
		t.Error("WriteTo writes something else the second time")
	}
	other, _, _ := sample(t)
	if !bytes.Equal(data, write(t, other)) {
		t.Error("the same parts give another recipe")
	}
	r, err := open(data)
	must(t, err)
	must(t, r.Verify(context.Background()))
	if r.DiffID() != built.DiffID || r.TarSize() != int64(len(tar)) || r.Entries() != 17 {
		t.Errorf("%s, %d bytes, %d entries", r.DiffID(), r.TarSize(), r.Entries())
	}
	refs, err := r.Objects()
	must(t, err)
	if fmt.Sprint(refs) != fmt.Sprint(built.Objects) || len(refs) != 3 {
		t.Errorf("objects are %v, want %v", refs, built.Objects)
	}
	layer, err := r.Layer()
	must(t, err)
	must(t, tree.Same(built.Layer, layer))
	if layer.Lookup("dir/hard").Inode != layer.Child("first").Inode || layer.Child("sym").Inode != layer.Child("sym2").Inode {
		t.Error("hard links are torn apart")
	}
	if layer.Child("inline").Inode.Inline != "hello" || built.Layer.Child("small").Inode.Inline != "\x00\x00\x00\x00\x00\x00data" {
		t.Error("inline contents are wrong")
	}
	var out bytes.Buffer
	must(t, r.WriteTar(context.Background(), &out, store))
	if !bytes.Equal(out.Bytes(), tar) {
		t.Error("another tar came back")
	}
}

func TestEmpty(t *testing.T) {
	b, err := NewBuilder()
	must(t, err)
	root := &tree.Node{Inode: tree.Implied(), Implicit: true}
	built, err := b.Finish(sha256.Sum256(nil), 0, func() (*tree.Node, error) { return root, nil })
	must(t, err)
	r, err := open(write(t, built))
	must(t, err)
	var out bytes.Buffer
	must(t, r.WriteTar(context.Background(), &out, objects{}))
	if out.Len() != 0 {
		t.Error("the empty tar has bytes")
	}
	layer, err := r.Layer()
	must(t, err)
	must(t, tree.Same(root, layer))
}

// TestDamage flips a bit in every byte and cuts at every length. All of it has to be
// noticed.
func TestDamage(t *testing.T) {
	built, _, store := sample(t)
	data := write(t, built)
	for i := range data {
		damaged := bytes.Clone(data)
		damaged[i] ^= 1 << (i % 8)
		r, err := open(damaged)
		if err == nil {
			err = r.Verify(context.Background())
		}
		if err == nil {
			t.Fatalf("a flipped bit in byte %d of %d is not noticed", i, len(data))
		}
		if !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, errors.ErrUnsupported) {
			t.Fatalf("byte %d: the error is of no class: %v", i, err)
		}
	}
	for n := range len(data) {
		if _, err := open(data[:n]); err == nil {
			t.Fatalf("%d bytes of %d open", n, len(data))
		}
	}
	if _, err := Open(bytes.NewReader(data[:len(data)-10]), int64(len(data))); err == nil {
		t.Error("a reader that ends early opens")
	}
	r, err := open(append(bytes.Clone(data), 0))
	if err == nil {
		err = r.WriteTar(context.Background(), &bytes.Buffer{}, store)
	}
	if err == nil {
		t.Error("a byte at the end is not noticed")
	}
}

// reseal makes all checksums right again after sections were changed.
func reseal(b *Built, change func(kind int, raw []byte) []byte) []byte {
	made := *b
	made.sections = nil
	for kind := sectionObjects; kind <= sectionIndex; kind++ {
		var raw []byte
		for _, f := range b.sections[kind-1] {
			one := make([]byte, f.raw)
			rec := &Recipe{r: bytes.NewReader(f.stored), decoder: newDecoder}
			if err := rec.decode(place{0, len(f.stored), f.raw, f.crc}, one); err != nil {
				panic(err)
			}
			raw = append(raw, one...)
		}
		s := section{}
		s.write(change(kind, raw))
		s.flush()
		made.sections = append(made.sections, s.frames)
	}
	var buf bytes.Buffer
	if _, err := made.WriteTo(&buf); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// TestHostile has recipes with right checksums and wrong contents.
func TestHostile(t *testing.T) {
	built, _, store := sample(t)
	only := func(want int, change func(raw []byte) []byte) []byte {
		return reseal(built, func(kind int, raw []byte) []byte {
			if kind == want {
				return change(raw)
			}
			return raw
		})
	}
	add := func(tail ...byte) func([]byte) []byte {
		return func(raw []byte) []byte { return append(raw, tail...) }
	}
	use := func(ops ...byte) func([]byte) []byte {
		return func([]byte) []byte { return ops }
	}
	huge := binary.AppendUvarint(nil, 1<<63)
	node := func(flags byte, rest ...byte) func([]byte) []byte {
		// One attribute set, and a root with one child "c" of the given flags.
		head := []byte{2, 2, 0, 1, 0, 0, 0, 0, byte(tree.Directory) | flagSameTime, 0, 0, 1, flags, 1, 'c'}
		return use(append(head, rest...)...)
	}
	if _, err := mustOpen(t, only(sectionIndex, node(byte(tree.Fifo)|flagSameTime, 0))).Layer(); err != nil {
		t.Fatalf("the pattern for the index is wrong: %v", err)
	}
	for name, data := range map[string][]byte{
		"stream too long":         only(sectionStream, add(1<<2|opZeros)),
		"stream too short":        only(sectionStream, use(1<<2|opZeros)),
		"stream unknown":          only(sectionStream, use(3)),
		"stream literal":          only(sectionStream, use(200, 1, 'x')),
		"stream zeros":            only(sectionStream, use(append(huge, opZeros)...)),
		"stream cut":              only(sectionStream, use(0x80)),
		"contents left over":      only(sectionContents, add(0)),
		"contents missing":        only(sectionContents, use()),
		"contents unknown":        only(sectionContents, use(2<<1, 2<<1, 2<<1, 2<<1, 2<<1, 2<<1)),
		"contents beyond":         only(sectionContents, use(1<<1, 9<<1)),
		"contents inline":         only(sectionContents, use(0, 0, 0, 0, 0, 0)),
		"contents extent":         only(sectionContents, use(1<<1|1, 1, 0xff, 0xff, 0x7f, 1)),
		"contents empty extent":   only(sectionContents, use(1<<1|1, 1, 0, 0)),
		"contents many extents":   only(sectionContents, use(append([]byte{1<<1 | 1}, huge...)...)),
		"objects size":            only(sectionObjects, func(raw []byte) []byte { raw[39] = 0x80; return raw }),
		"objects size zero":       only(sectionObjects, func(raw []byte) []byte { clear(raw[32:40]); return raw }),
		"objects id":              only(sectionObjects, func(raw []byte) []byte { clear(raw[:32]); return raw }),
		"objects part":            only(sectionObjects, add(1)),
		"objects missing":         only(sectionObjects, func(raw []byte) []byte { return raw[:objectEntry] }),
		"inline length":           only(sectionInline, add(0x7f, 1)),
		"inline empty":            only(sectionInline, add(0)),
		"inline cut":              only(sectionInline, add(0x80)),
		"index nothing":           only(sectionIndex, use()),
		"index no nodes":          only(sectionIndex, use(0, 0, 0, 0)),
		"index many nodes":        only(sectionIndex, use(0xff, 0xff, 0xff, 0x7f, 0, 0, 0)),
		"index more inodes":       only(sectionIndex, use(1, 2, 0, 0, 8, 0)),
		"index left over":         only(sectionIndex, add(0)),
		"index file as root":      only(sectionIndex, use(1, 1, 0, 1, 0, 0, 0, 0, byte(tree.Fifo)|flagSameTime, 0, 0)),
		"index whiteout as root":  only(sectionIndex, use(1, 0, 0, 1, 0, 0, 0, 0, kindWhiteout, 0)),
		"index name of the root":  only(sectionIndex, use(1, 1, 0, 1, 0, 0, 0, 0, byte(tree.Directory)|flagSameTime, 1, 'r', 0, 0)),
		"index more children":     only(sectionIndex, use(1, 1, 0, 1, 0, 0, 0, 0, byte(tree.Directory)|flagSameTime, 0, 0, 9)),
		"index mode":              only(sectionIndex, use(1, 1, 0, 1, 0x80, 0x40, 0, 0, 0, byte(tree.Directory)|flagSameTime, 0, 0, 0)),
		"index type":              only(sectionIndex, node(10)),
		"index attributes":        only(sectionIndex, node(byte(tree.Fifo)|flagSameTime, 1)),
		"index flags":             only(sectionIndex, node(byte(tree.Fifo)|flagSameTime|flagOpaque, 0)),
		"index time flags":        only(sectionIndex, node(byte(tree.Fifo)|flagSameTime|flagNsec, 0)),
		"index nanoseconds":       only(sectionIndex, node(byte(tree.Fifo)|flagNsec, 0, 0, 0x80, 0x94, 0xeb, 0xdc, 0x03)),
		"index two contents":      only(sectionIndex, node(byte(tree.Regular)|flagSameTime|flagInline|flagObject, 0, 0)),
		"index object":            only(sectionIndex, node(byte(tree.Regular)|flagSameTime|flagObject, 0, 100)),
		"index object below zero": only(sectionIndex, node(byte(tree.Regular)|flagSameTime|flagObject, 0, 1)),
		"index inline":            only(sectionIndex, node(byte(tree.Regular)|flagSameTime|flagInline, 0, 100)),
		"index symlink":           only(sectionIndex, node(byte(tree.Symlink)|flagSameTime, 0, 0)),
		"index symlink with NUL":  only(sectionIndex, node(byte(tree.Symlink)|flagSameTime, 0, 1, 0)),
		"index device":            only(sectionIndex, node(byte(tree.CharDevice)|flagSameTime, 0, 0xff, 0xff, 0xff, 0xff, 0x7f, 0)),
		"index hard link":         only(sectionIndex, node(kindHardLink, 1)),
		"index link to directory": only(sectionIndex, node(kindHardLink, 0)),
		"index link flags":        only(sectionIndex, node(kindHardLink|flagOpaque, 0)),
		"index link out":          only(sectionIndex, node(kindLinkOut, 4, '/', '.', '.', '/')),
		"index link to nothing":   only(sectionIndex, node(kindLinkOut, 0)),
		"index dot dot":           only(sectionIndex, use(2, 1, 0, 1, 0, 0, 0, 0, byte(tree.Directory)|flagSameTime, 0, 0, 1, kindWhiteout, 2, '.', '.')),
		"index slash":             only(sectionIndex, use(2, 1, 0, 1, 0, 0, 0, 0, byte(tree.Directory)|flagSameTime, 0, 0, 1, kindWhiteout, 3, 'a', '/', 'b')),
		"index unsorted":          only(sectionIndex, use(3, 1, 0, 1, 0, 0, 0, 0, byte(tree.Directory)|flagSameTime, 0, 0, 2, kindWhiteout, 1, 'b', kindWhiteout, 1, 'a')),
		"index twice":             only(sectionIndex, use(3, 1, 0, 1, 0, 0, 0, 0, byte(tree.Directory)|flagSameTime, 0, 0, 2, kindWhiteout, 1, 'a', kindWhiteout, 1, 'a')),
		"index xattrs unsorted":   only(sectionIndex, use(1, 1, 1, 1, 2, 1, 'b', 0, 1, 'a', 0, 0, 0, 0, 1, byte(tree.Directory)|flagSameTime, 0, 0, 0)),
		"index xattr name":        only(sectionIndex, use(1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, byte(tree.Directory)|flagSameTime, 0, 0, 0)),
		"index xattrs none":       only(sectionIndex, use(1, 1, 1, 1, 0, 0, 0, 0, 1, byte(tree.Directory)|flagSameTime, 0, 0, 0)),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := open(data)
			if err == nil {
				if err = r.Verify(context.Background()); err == nil {
					err = r.WriteTar(context.Background(), &bytes.Buffer{}, store)
				}
			}
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func mustOpen(t *testing.T, data []byte) *Recipe {
	t.Helper()
	r, err := open(data)
	must(t, err)
	return r
}

func TestFeatures(t *testing.T) {
	built, _, _ := sample(t)
	seal := func(at int, v uint32) []byte {
		data := bytes.Clone(write(t, built))
		binary.LittleEndian.PutUint32(data[at:], v)
		binary.LittleEndian.PutUint32(data[76:], checksum(data[:76]))
		return data
	}
	if _, err := open(seal(8, 2)); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("version 2: %v", err)
	}
	if _, err := open(seal(12, 1)); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("an incompatible feature: %v", err)
	}
	if _, err := open(seal(16, 1)); err != nil {
		t.Errorf("a compatible feature: %v", err)
	}
}

// TestOptionalSection has a section that this version does not know.
func TestOptionalSection(t *testing.T) {
	dir := appendDirectory(nil, make([][]frame, knownSections))
	for _, c := range []struct {
		kinds []byte
		ok    bool
	}{
		{nil, true}, {[]byte{128}, true}, {[]byte{128, 200}, true},
		{[]byte{6}, false}, {[]byte{127}, false}, {[]byte{200, 128}, false}, {[]byte{128, 128}, false}, {[]byte{1}, false},
	} {
		d := bytes.Clone(dir)
		end := int64(headerSize)
		for _, k := range c.kinds {
			d = append(d, k, 1, 10, 20, 0, 0, 0, 0)
			end += 10
		}
		if _, err := parseDirectory(d, end); (err == nil) != c.ok {
			t.Errorf("sections %d: %v", c.kinds, err)
		}
	}
	for n := range dir {
		if _, err := parseDirectory(dir[:n], headerSize); err == nil {
			t.Errorf("a directory of %d bytes of %d is accepted", n, len(dir))
		}
	}
	if _, err := parseDirectory(dir, headerSize+1); err == nil {
		t.Error("a gap before the directory is accepted")
	}
}

func TestInlineRoom(t *testing.T) {
	b, err := NewBuilder()
	must(t, err)
	defer func() { must(t, b.Close()) }()
	for n, want := range map[int]bool{0: false, 1: true, MaxInline: true, MaxInline + 1: false} {
		if got := b.HasRoom(n); got != want {
			t.Errorf("HasRoom(%d) = %v", n, got)
		}
	}
	b.sections[sectionInline].rawSum = MaxInlineSum - MaxInline
	if b.HasRoom(MaxInline) || b.Inline(&tree.Inode{}, make([]byte, MaxInline), nil) {
		t.Error("inline contents exceed their limit")
	}
}

func TestBuilderRefuses(t *testing.T) {
	finish := func(ino *tree.Inode) error {
		b, err := NewBuilder()
		must(t, err)
		_, err = b.Finish([32]byte{}, 1, func() (*tree.Node, error) {
			return &tree.Node{Inode: tree.Implied(), Children: []*tree.Node{{Name: "victim", Inode: ino}}}, nil
		})
		return err
	}
	for name, ino := range map[string]*tree.Inode{
		"no inode":       nil,
		"unknown object": {Type: tree.Regular, Size: 1, Object: tree.ObjectID{1}},
		"unknown inline": {Type: tree.Regular, Size: 1, Inline: "x"},
		"unknown type":   {Type: 99},
	} {
		if err := finish(ino); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "victim") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	built, _, store := sample(f)
	f.Add(write(f, built))
	f.Add(reseal(built, func(_ int, raw []byte) []byte { return raw }))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := open(data)
		if err != nil {
			return
		}
		if layer, err := r.Layer(); err == nil {
			must(t, tree.CheckLayer(layer))
		}
		if r.TarSize() < 1<<24 {
			_ = r.WriteTar(context.Background(), &bytes.Buffer{}, store)
		}
	})
}

// FuzzSections gives each decoder what would pass the checksums.
func FuzzSections(f *testing.F) {
	built, _, store := sample(f)
	reseal(built, func(kind int, raw []byte) []byte {
		f.Add(byte(kind), raw)
		return raw
	})
	f.Fuzz(func(t *testing.T, want byte, body []byte) {
		data := reseal(built, func(kind int, raw []byte) []byte {
			if kind == int(want) {
				return body
			}
			return raw
		})
		r, err := open(data)
		if err != nil {
			return
		}
		if layer, err := r.Layer(); err == nil {
			must(t, tree.CheckLayer(layer))
		}
		if err := r.WriteTar(context.Background(), &bytes.Buffer{}, store); err == nil {
			must(t, r.Verify(context.Background()))
		}
	})
}

// TestFormatExample is the example of FORMAT.md.
func TestFormatExample(t *testing.T) {
	b, err := NewBuilder()
	must(t, err)
	root := &tree.Node{Inode: tree.Implied(), Implicit: true}
	built, err := b.Finish(sha256.Sum256(nil), 0, func() (*tree.Node, error) { return root, nil })
	must(t, err)
	data := write(t, built)
	index := []byte{1, 1, 0, 1, 0xed, 3, 0, 0, 0, 0xa2, 0, 0, 0}
	dir := binary.LittleEndian.AppendUint32([]byte{1, 0, 2, 0, 3, 0, 4, 0, 5, 1, 13, 13}, checksum(index))
	if got := data[headerSize : len(data)-footerSize]; !bytes.Equal(got, append(index, dir...)) {
		t.Errorf("the example is\n% x, want\n% x", got, append(index, dir...))
	}
}
