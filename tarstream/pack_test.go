package tarstream

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// pack packs a layer, writes its tar, imports that and compares. It returns the tar.
func pack(tb testing.TB, layer *tree.Node, c Contents, store *memory, opts PackOptions) (*recipe.Built, []byte) {
	tb.Helper()
	opts.Source = store
	built, err := Pack(context.Background(), layer, c, store, opts)
	must(tb, err)
	rec := reopen(tb, built)
	must(tb, rec.Verify(context.Background()))
	var out bytes.Buffer
	must(tb, rec.WriteTar(context.Background(), &out, store))
	again, err := Import(context.Background(), bytes.NewReader(out.Bytes()), store, ImportOptions{InlineMax: opts.InlineMax})
	must(tb, err)
	if again.DiffID != built.DiffID || again.TarSize != built.TarSize || again.Entries != built.Entries {
		tb.Errorf("packed %s, %d bytes, %d entries; imported %s, %d, %d", built.DiffID, built.TarSize, built.Entries, again.DiffID, again.TarSize, again.Entries)
	}
	must(tb, tree.Same(built.Layer, again.Layer))
	decoded, err := rec.Layer()
	must(tb, err)
	must(tb, tree.Same(built.Layer, decoded))
	return built, out.Bytes()
}

// parse reads a dump, in which ~X stands for the object of X repeated 3000 times.
func parse(tb testing.TB, store *memory, text string) *tree.Node {
	tb.Helper()
	for _, c := range "ABC" {
		data := bytes.Repeat([]byte(string(c)), 3000)
		id := tree.ObjectID(sha256.Sum256(data))
		must(tb, store.PutObject(context.Background(), id, data))
		text = strings.ReplaceAll(text, "~"+string(c), fmt.Sprintf("size=3000 object=%x", id[:]))
	}
	root, err := tree.ParseDump(strings.NewReader(text))
	must(tb, err)
	return root
}

const oddLayer = `/ dir mode=0755 uid=0 gid=0 mtime=5
/.wh-not file mode=0644 uid=0 gid=0 mtime=1 size=0
/a file mode=0644 uid=0 gid=0 mtime=1700000000.123456789 ~A
/b link target=/a
/char char mode=0600 uid=0 gid=0 mtime=0 rdev=5:1
/dir dir mode=01777 uid=1000 gid=100 mtime=7
/dir/gone whiteout
/dir/here file mode=0600 uid=0 gid=0 mtime=-1.500000000 size=5 inline=hello
/dir/link unresolved target=/lower/file
/disk block mode=0660 uid=0 gid=6 mtime=0 rdev=259:70000
/far file mode=0644 uid=3000000 gid=4000000000 mtime=9999999999 ~B
/fifo fifo mode=0620 uid=0 gid=0 mtime=0
/imp dir implicit mode=0755 uid=0 gid=0 mtime=0
/imp/gone whiteout
/imp/opq dir opaque implicit mode=0755 uid=0 gid=0 mtime=0
/opaque dir opaque mode=0700 uid=0 gid=0 mtime=0
/opaque/z file mode=0644 uid=0 gid=0 mtime=0 size=0 xattr:security.capability=\x01\x00 xattr:user.a\x3db=v xattr:user.e=
/sym symlink mode=0777 uid=0 gid=0 mtime=0 target=caf\xe9\x0ax
/sym2 link target=/sym
/zero char mode=00 uid=0 gid=0 mtime=0 rdev=0:0
`

func TestPack(t *testing.T) {
	store := newMemory()
	layer := parse(t, store, oddLayer)
	before := dump(t, layer)
	built, data := pack(t, layer, nil, store, PackOptions{})
	if dump(t, layer) != before {
		t.Error("Pack has changed the layer")
	}
	must(t, tree.Same(layer, built.Layer))
	var names []string
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		names = append(names, h.Name)
	}
	want := []string{
		"./", "dir/", "dir/link", ".wh-not", "a", "b", "char", "dir/.wh.gone", "dir/here", "disk", "far", "fifo",
		"imp/.wh.gone", "imp/opq/.wh..wh..opq", "opaque/", "opaque/.wh..wh..opq", "opaque/z", "sym", "sym2", "zero",
	}
	if !slices.Equal(names, want) {
		t.Errorf("members are\n%q, want\n%q", names, want)
	}
	if len(data)%blockSize != 0 || !isZero(data[len(data)-2*blockSize:len(data)-blockSize]) || isZero(data[len(data)-3*blockSize:len(data)-2*blockSize]) {
		t.Error("the tar does not end in two blocks of zeros")
	}
	again, _ := pack(t, built.Layer, nil, store, PackOptions{Workers: 5})
	if again.DiffID != built.DiffID {
		t.Error("the same layer gives another tar")
	}
}

// TestPackGolden keeps the canonical form from changing unnoticed.
func TestPackGolden(t *testing.T) {
	store := newMemory()
	built, _ := pack(t, parse(t, store, oddLayer), nil, store, PackOptions{})
	const want = "sha256:354126f8db7bb0047ff02b231b1ae5a606917e2fa1c70f211a77f8a32717b7f3"
	if string(built.DiffID) != want {
		t.Errorf("canonical tar has digest %s, want %s", built.DiffID, want)
	}
}

func TestPackLeavesOut(t *testing.T) {
	store := newMemory()
	layer := parse(t, store, `/ dir mode=0755 uid=0 gid=0 mtime=5
/.wh.mine file mode=0644 uid=0 gid=0 mtime=0 size=0
/empty dir implicit mode=0755 uid=0 gid=0 mtime=0
/run dir mode=0755 uid=0 gid=0 mtime=0
/run/sock socket mode=0755 uid=0 gid=0 mtime=0
`)
	built, _ := pack(t, layer, nil, store, PackOptions{})
	if got := dump(t, built.Layer); got != "/ dir mode=0755 uid=0 gid=0 mtime=5\n/run dir mode=0755 uid=0 gid=0 mtime=0\n" {
		t.Errorf("layer is\n%s", got)
	}
	if len(built.Notes) != 2 || built.Notes[0].Path != ".wh.mine" || built.Notes[1].Path != "run/sock" {
		t.Errorf("notes are %v", built.Notes)
	}
}

func TestPackClamp(t *testing.T) {
	store := newMemory()
	layer := parse(t, store, `/ dir mode=0755 uid=0 gid=0 mtime=5
/early file mode=0644 uid=0 gid=0 mtime=3.500000000 ~A
/late file mode=0644 uid=0 gid=0 mtime=4.500000000 ~B
`)
	built, _ := pack(t, layer, nil, store, PackOptions{Clamp: time.Unix(4, 0)})
	for name, want := range map[string]tree.Time{"": {Sec: 4}, "early": {Sec: 3, Nsec: 5e8}, "late": {Sec: 4}} {
		if got := built.Layer.Lookup(tree.Path(name)).Inode.MTime; got != want {
			t.Errorf("%q has time %v, want %v", name, got, want)
		}
	}
}

// files is a Contents of files in a directory; plain hides what *os.File can do.
type files struct {
	dir   string
	plain bool
	opens int
}

func (f *files) OpenContent(_ context.Context, p tree.Path, _ *tree.Inode) (io.ReadCloser, error) {
	f.opens++
	file, err := os.Open(filepath.Join(f.dir, string(p)))
	if err != nil {
		return nil, err
	}
	if f.plain {
		return struct{ io.ReadCloser }{file}, nil
	}
	return file, nil
}

func TestPackUnknownContents(t *testing.T) {
	dir := t.TempDir()
	root := &tree.Node{Inode: &tree.Inode{Type: tree.Directory, Mode: 0o755}}
	want := map[string][]byte{}
	wantHoles := map[string]int64{}
	add := func(name string, size int64, at ...int64) {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err)
		must(t, f.Truncate(size))
		for _, off := range at {
			_, err := f.WriteAt([]byte(name), off)
			must(t, err)
		}
		must(t, f.Close())
		want[name], err = os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		root.Children = append(root.Children, &tree.Node{Name: name, Inode: &tree.Inode{Type: tree.Regular, Mode: 0o644, Size: size}})
	}
	add("a-inline", 100, 0)
	add("b-limit", DefaultInlineMax, 5)
	add("c-small", 100000, 1, 60000)
	add("d-whole-dense", 1<<20+20<<10, 0, 100<<10, 200<<10, 300<<10, 400<<10, 500<<10, 600<<10)
	add("e-whole-sparse", 3<<20, 4096)
	wantHoles["e-whole-sparse"] = 3<<20 - 4096 - 4096
	add("f-whole-hole", 2<<20)
	wantHoles["f-whole-hole"] = 2 << 20
	add("g-large-sparse", 40<<20+123, 5, 20<<20, 40<<20+100)
	wantHoles["g-large-sparse"] = 40<<20 - 8192
	big := bytes.Repeat([]byte("not a hole "), 18<<20/11)
	must(t, os.WriteFile(filepath.Join(dir, "h-large-dense"), big, 0o600))
	want["h-large-dense"] = big
	root.Children = append(root.Children, &tree.Node{Name: "h-large-dense", Inode: &tree.Inode{Type: tree.Regular, Mode: 0o644, Size: int64(len(big))}})
	root.Children = append(root.Children, &tree.Node{Name: "i-link", Inode: root.Children[2].Inode})

	var digests []string
	for _, plain := range []bool{false, true} {
		store := newMemory()
		c := &files{dir: dir, plain: plain}
		built, data := pack(t, root, c, store, PackOptions{})
		digests = append(digests, string(built.DiffID))
		if len(data) > 24<<20 {
			t.Errorf("the tar has %d bytes, holes included", len(data))
		}
		for name, content := range want {
			ino := built.Layer.Child(name).Inode
			if len(content) <= DefaultInlineMax {
				if ino.Inline != string(content) {
					t.Errorf("%s is not inline", name)
				}
				continue
			}
			if ino.Object != sha256.Sum256(content) || !bytes.Equal(store.objects[ino.Object], content) {
				t.Errorf("%s has the wrong object", name)
			}
			if got := store.holes[ino.Object]; got != wantHoles[name] {
				t.Errorf("%s has %d bytes of holes, want %d", name, got, wantHoles[name])
			}
		}
		// Known objects give the same tar, and go nowhere.
		again, err := Pack(context.Background(), built.Layer, nil, &memory{fail: errors.New("must not be written")}, PackOptions{Source: store})
		must(t, err)
		digests = append(digests, string(again.DiffID))
		var out bytes.Buffer
		must(t, WriteTree(context.Background(), &out, built.Layer, store, WriteOptions{}))
		digests = append(digests, string(tree.ObjectID(sha256.Sum256(out.Bytes())).Digest()))
		if os.Geteuid() == 0 {
			sameAsGNU(t, data)
		}
	}
	for _, d := range digests {
		if d != digests[0] {
			t.Errorf("digests differ: %q", digests)
		}
	}
	if root.Children[2].Inode.Object != (tree.ObjectID{}) {
		t.Error("Pack has written to the layer")
	}
}

func TestPackShrunk(t *testing.T) {
	dir := t.TempDir()
	root := &tree.Node{Inode: &tree.Inode{Type: tree.Directory, Mode: 0o755}}
	for _, size := range []int64{3000, 2 << 20, 17 << 20} {
		name := fmt.Sprintf("f%09d", size)
		must(t, os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), int(size)-1000), 0o600))
		root.Children = append(root.Children, &tree.Node{Name: name, Inode: &tree.Inode{Type: tree.Regular, Size: size}})
	}
	built, _ := pack(t, root, &files{dir: dir}, newMemory(), PackOptions{})
	if len(built.Notes) != 3 {
		t.Errorf("notes are %v", built.Notes)
	}
}

func TestPackFails(t *testing.T) {
	unknown := &tree.Inode{Type: tree.Regular, Size: 5000}
	root := &tree.Node{Inode: &tree.Inode{Type: tree.Directory}, Children: []*tree.Node{{Name: "victim", Inode: unknown}}}
	_, err := Pack(context.Background(), root, nil, newMemory(), PackOptions{})
	if err == nil || !strings.Contains(err.Error(), "victim") {
		t.Errorf("contents nobody has: %v", err)
	}
	_, err = Pack(context.Background(), root, &files{dir: t.TempDir()}, newMemory(), PackOptions{})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "victim") {
		t.Errorf("contents that cannot be opened: %v", err)
	}
	missing := *unknown
	missing.Object[0] = 1
	root.Children[0].Inode = &missing
	_, err = Pack(context.Background(), root, nil, newMemory(), PackOptions{Source: newMemory()})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("object that is missing: %v", err)
	}
	if err := WriteTree(context.Background(), io.Discard, root, newMemory(), WriteOptions{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "victim") {
		t.Errorf("object that is missing: %v", err)
	}
	if _, err := Pack(context.Background(), &tree.Node{Inode: unknown}, nil, newMemory(), PackOptions{}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a root that is a file: %v", err)
	}
	large := *unknown
	for i := range 20 {
		large.Xattrs = append(large.Xattrs, tree.Xattr{Name: fmt.Sprintf("user.%02d", i), Value: strings.Repeat("v", tree.MaxXattr)})
	}
	root.Children[0].Inode = &large
	if _, err := Pack(context.Background(), root, nil, newMemory(), PackOptions{}); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "extended attributes") {
		t.Errorf("too large extended attributes: %v", err)
	}
}

// TestPackRoundTrip packs what was imported, in every order of names.
func TestPackRoundTrip(t *testing.T) {
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		store := newMemory()
		first := importTar(t, goTar(t, format), store)
		built, _ := pack(t, first.Layer, nil, store, PackOptions{})
		must(t, tree.Same(first.Layer, built.Layer))
	}
}

func TestSplitName(t *testing.T) {
	for _, c := range []struct {
		name, prefix, rest string
		ok                 bool
	}{
		{"short", "", "short", true},
		{strings.Repeat("n", 100), "", strings.Repeat("n", 100), true},
		{strings.Repeat("n", 101), "", "", false},
		{"p/" + strings.Repeat("n", 100), "p", strings.Repeat("n", 100), true},
		{strings.Repeat("p", 155) + "/n", strings.Repeat("p", 155), "n", true},
		{strings.Repeat("p", 156) + "/n", "", "", false},
		{"/" + strings.Repeat("n", 100), "", "", false},
		{strings.Repeat("p", 110) + "/", "", "", false},
		{strings.Repeat("p", 60) + "/" + strings.Repeat("q", 60) + "/", strings.Repeat("p", 60), strings.Repeat("q", 60) + "/", true},
	} {
		prefix, rest, ok := splitName(c.name)
		if prefix != c.prefix || rest != c.rest || ok != c.ok {
			t.Errorf("%.20q of %d bytes: %q, %q, %v", c.name, len(c.name), prefix, rest, ok)
		}
	}
}

// TestWriteTreeExtracts compares what GNU tar extracts with the tree.
func TestWriteTreeExtracts(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	oddTree(t, dir)
	root := scanDir(t, dir)
	store := newMemory()
	must(t, tree.Walk(root, func(p tree.Path, n *tree.Node) error {
		if n.Inode.Object.IsZero() {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(dir, string(p)))
		store.objects[n.Inode.Object] = data
		return err
	}))
	var out bytes.Buffer
	must(t, WriteTree(context.Background(), &out, root, store, WriteOptions{}))
	sameAsGNU(t, out.Bytes())
	layer := importTar(t, out.Bytes(), store).Layer
	var again bytes.Buffer
	must(t, WriteTree(context.Background(), &again, layer, store, WriteOptions{}))
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("the tree that comes back gives another tar")
	}
}
