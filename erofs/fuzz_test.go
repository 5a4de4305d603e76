package erofs_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// FuzzImage reads any bytes. Nothing may panic or take longer than the image is large,
// and what is read as a tree must agree with what single look-ups say, and survive
// being written and read again.
func FuzzImage(f *testing.F) {
	few := dir("", tree.Inode{})
	for i := range 500 {
		few.Children = append(few.Children, symlink(string([]byte{'a' + byte(i/26), 'a' + byte(i%26)}), "x"))
	}
	few.Inode.Xattrs = []tree.Xattr{{Name: "system.posix_acl_default", Value: acl}}
	for _, c := range []struct {
		root *tree.Node
		opts erofs.Options
	}{
		{smallTree(), erofs.Options{}},
		{smallTree(), erofs.Options{Namespace: erofs.User}},
		{layerTree(), erofs.Options{Layer: true}},
		{dir("", tree.Inode{}), erofs.Options{}},
		{few, erofs.Options{}},
	} {
		b, _ := image(f, c.root, c.opts)
		f.Add(unsealed(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		im, err := erofs.New(b)
		if err != nil {
			return
		}
		poke(im, im.Root())
		for n := erofs.NID(32); n < erofs.NID(len(b)/32) && n < 300; n++ {
			poke(im, n)
		}
		root, err := im.Tree()
		if err != nil {
			return
		}
		agree(t, im, root)
		var again bytes.Buffer
		opts := erofs.Options{Namespace: im.Namespace(), Layer: im.Layer()}
		if _, err := erofs.Write(&again, root, opts); err != nil {
			return // such as an ACL that Linux would not take
		}
		im, err = erofs.New(again.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		have, err := im.Tree()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, root, have)
	})
}

// poke calls everything on one inode.
func poke(im *erofs.Image, n erofs.NID) {
	_, _ = im.Stat(n)
	_, _ = im.Inode(n)
	_, _ = im.Xattrs(n)
	_, _, _ = im.Xattr(n, "user.k")
	_, _, _ = im.Object(n)
	_, _ = im.Readlink(n)
	_, _ = im.Parent(n)
	_, _, _ = im.Lookup(n, "l")
	for _, off := range []int64{0, 4090, 1 << 43, 1<<63 - 1} {
		_, _ = im.ReadAt(n, make([]byte, 5000), off)
	}
	for _, from := range []uint64{0, 3, 4097} {
		for _, err := range im.ReadDir(n, from) {
			if err != nil {
				break
			}
		}
	}
}

// agree looks up what a tree holds.
func agree(t *testing.T, im *erofs.Image, root *tree.Node) {
	t.Helper()
	left := 300
	var walk func(p tree.Path, n *tree.Node)
	walk = func(p tree.Path, n *tree.Node) {
		if left--; left < 0 {
			return
		}
		nid, ok, err := im.Resolve(p)
		if err != nil || !ok {
			t.Fatalf("resolve %q: %v %v", p, ok, err)
		}
		ino, err := im.Inode(nid)
		if err != nil {
			t.Fatalf("inode of %q: %v", p, err)
		}
		if !n.Whiteout {
			equal(t, &tree.Node{Inode: n.Inode}, &tree.Node{Inode: ino})
		}
		if ino.Type == tree.Regular && ino.Object.IsZero() {
			have := make([]byte, ino.Size)
			if k, err := im.ReadAt(nid, have, 0); string(have[:k]) != ino.Inline || err != nil && !errors.Is(err, io.EOF) {
				t.Fatalf("read %q: %v", p, err)
			}
		}
		for _, c := range n.Children {
			walk(p.Join(c.Name), c)
		}
	}
	walk("", root)
}
