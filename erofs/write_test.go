package erofs_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestRoundTrip reads images back as the trees from which they were written.
func TestRoundTrip(t *testing.T) {
	for name, c := range map[string]struct {
		root *tree.Node
		opts erofs.Options
	}{
		"odd":         {oddTree(), erofs.Options{}},
		"odd user":    {oddTree(), erofs.Options{Namespace: erofs.User}},
		"odd layer":   {oddTree(), erofs.Options{Layer: true}},
		"layer":       {layerTree(), erofs.Options{Layer: true}},
		"layer user":  {layerTree(), erofs.Options{Layer: true, Namespace: erofs.User, UUID: [16]byte{1: 7}}},
		"sizes":       {sizesTree(), erofs.Options{}},
		"directories": {dirsTree(), erofs.Options{}},
		"empty":       {dir("", tree.Inode{Mode: 0o7777, UID: 1}), erofs.Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			b, im := image(t, c.root, c.opts)
			have, err := im.Tree()
			if err != nil {
				t.Fatal(err)
			}
			equal(t, c.root, have)
			if im.Layer() != c.opts.Layer || im.Namespace() != c.opts.Namespace || im.UUID() != c.opts.UUID {
				t.Errorf("options are not kept: %v %v %x", im.Layer(), im.Namespace(), im.UUID())
			}
			again, _ := image(t, have, c.opts)
			if !bytes.Equal(b, again) {
				t.Error("the tree that was read gives another image")
			}
		})
	}
}

// TestGolden pins the bytes of images: they may change only along with the version of
// the trees that a store keeps.
func TestGolden(t *testing.T) {
	var have strings.Builder
	for _, c := range []struct {
		name string
		root *tree.Node
		opts erofs.Options
	}{
		{"odd", oddTree(), erofs.Options{}},
		{"odd-user", oddTree(), erofs.Options{Namespace: erofs.User}},
		{"layer", layerTree(), erofs.Options{Layer: true}},
		{"sizes", sizesTree(), erofs.Options{}},
		{"directories", dirsTree(), erofs.Options{}},
	} {
		b, _ := image(t, c.root, c.opts)
		fmt.Fprintf(&have, "%x %d %s\n", sha256.Sum256(b), len(b), c.name)
	}
	path := filepath.Join("testdata", "golden.txt")
	if *update {
		if err := os.WriteFile(path, []byte(have.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if have.String() != string(want) {
		t.Errorf("images have changed:\n%swant\n%s", have.String(), want)
	}
}

// TestStats checks what Write says of an image.
func TestStats(t *testing.T) {
	var b bytes.Buffer
	root := dir("", tree.Inode{Mode: 0o755}, file("a", "12345"), object("b", 1, 9), symlink("c", "a"), dir("d", tree.Inode{}))
	root.Children = append(root.Children, &tree.Node{Name: "e", Inode: root.Child("a").Inode})
	have, err := erofs.Write(&b, root, erofs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := erofs.Stats{Inodes: 5, Entries: 5, Directories: 2, Files: 2, Objects: 1, InlineBytes: 5, SharedXattrs: 1, Size: 8192}
	if have != want {
		t.Errorf("stats %+v, want %+v", have, want)
	}
}

// TestRefused has trees that cannot be written: the error names the path and nothing
// is written.
func TestRefused(t *testing.T) {
	reg := tree.Inode{Type: tree.Regular}
	with := func(change func(*tree.Inode)) *tree.Node {
		ino := reg
		change(&ino)
		return node("f", ino)
	}
	xattr := func(name, value string) *tree.Node {
		return with(func(i *tree.Inode) { i.Xattrs = []tree.Xattr{{Name: name, Value: value}} })
	}
	loop := dir("f", tree.Inode{})
	loop.Children = []*tree.Node{loop}
	flagged := func(name string, opaque, implicit bool) *tree.Node {
		d := dir(name, tree.Inode{})
		d.Opaque, d.Implicit = opaque, implicit
		return d
	}
	badFlag := file("f", "")
	badFlag.Opaque = true
	huge := tree.Inode{Type: tree.Regular}
	for i := range 260 {
		huge.Xattrs = append(huge.Xattrs, tree.Xattr{Name: fmt.Sprintf("user.%03d", i), Value: strings.Repeat("x", 65000)})
	}
	for name, c := range map[string]struct {
		child *tree.Node
		layer bool
		class error
	}{
		"no name":            {child: file("", "")},
		"dot":                {child: file(".", "")},
		"dot dot":            {child: file("..", "")},
		"slash":              {child: file("f/g", "")},
		"NUL":                {child: file("f\x00", "")},
		"name of 256":        {child: file(strings.Repeat("f", 256), "")},
		"no inode":           {child: &tree.Node{Name: "f"}},
		"unknown type":       {child: with(func(i *tree.Inode) { i.Type = 99 })},
		"file type in mode":  {child: with(func(i *tree.Inode) { i.Mode = 0o100644 })},
		"nanoseconds":        {child: with(func(i *tree.Inode) { i.MTime.Nsec = 1e9 })},
		"negative size":      {child: with(func(i *tree.Inode) { i.Size = -1 })},
		"no content":         {child: with(func(i *tree.Inode) { i.Size = 1 })},
		"too much content":   {child: with(func(i *tree.Inode) { i.Inline = "x" })},
		"two contents":       {child: with(func(i *tree.Inode) { i.Inline, i.Size, i.Object = "x", 1, tree.ObjectID{1} })},
		"empty object":       {child: with(func(i *tree.Inode) { i.Object = tree.ObjectID{1} })},
		"file with link":     {child: with(func(i *tree.Inode) { i.Link = "x" })},
		"file with device":   {child: with(func(i *tree.Inode) { i.Rdev.Minor = 1 })},
		"empty link":         {child: symlink("f", "")},
		"long link":          {child: symlink("f", strings.Repeat("x", tree.MaxLink+1))},
		"NUL in link":        {child: symlink("f", "a\x00b")},
		"size of link":       {child: node("f", tree.Inode{Type: tree.Symlink, Link: "x"})},
		"link with content":  {child: node("f", tree.Inode{Type: tree.Symlink, Link: "x", Size: 1, Inline: "x"})},
		"major":              {child: node("f", tree.Inode{Type: tree.BlockDevice, Rdev: tree.Device{Major: 1 << 12}})},
		"minor":              {child: node("f", tree.Inode{Type: tree.CharDevice, Rdev: tree.Device{Minor: 1 << 20}})},
		"fifo with size":     {child: node("f", tree.Inode{Type: tree.Fifo, Size: 1})},
		"directory's size":   {child: dir("f", tree.Inode{Size: 4096})},
		"children of a file": {child: &tree.Node{Name: "f", Inode: &reg, Children: []*tree.Node{file("g", "")}}},
		"opaque file":        {child: badFlag, layer: true},
		"loop":               {child: loop},
		"xattr no name":      {child: xattr("", "")},
		"xattr name":         {child: xattr("user."+strings.Repeat("x", 251), "")},
		"xattr NUL":          {child: xattr("user.a\x00b", "")},
		"xattr value":        {child: xattr("user.a", strings.Repeat("x", erofs.MaxXattrValue+1))},
		"xattr not an ACL":   {child: xattr("system.posix_acl_access", "x")},
		"xattr ACL cut":      {child: xattr("system.posix_acl_default", acl[:len(acl)-8])},
		"xattr twice": {child: with(func(i *tree.Inode) {
			i.Xattrs = []tree.Xattr{{Name: "user.a"}, {Name: "user.a"}}
		})},
		"xattr unsorted": {child: with(func(i *tree.Inode) {
			i.Xattrs = []tree.Xattr{{Name: "user.b"}, {Name: "user.a"}}
		})},
		"xattrs too large":  {child: node("f", huge)},
		"whiteout":          {child: &tree.Node{Name: "f", Whiteout: true}, class: erofs.ErrNeedsMerge},
		"opaque":            {child: flagged("f", true, false), class: erofs.ErrNeedsMerge},
		"implicit":          {child: flagged("f", false, true), class: erofs.ErrNeedsMerge},
		"link":              {child: &tree.Node{Name: "f", IsLink: true, LinkTo: "x"}, class: erofs.ErrNeedsMerge},
		"link in layer":     {child: &tree.Node{Name: "f", IsLink: true, LinkTo: "x"}, layer: true, class: erofs.ErrNeedsMerge},
		"whiteout and file": {child: &tree.Node{Name: "f", Whiteout: true, Inode: &reg}, layer: true},
	} {
		t.Run(name, func(t *testing.T) {
			root := dir("", tree.Inode{}, dir("sub", tree.Inode{}, c.child))
			var b bytes.Buffer
			_, err := erofs.Write(&b, root, erofs.Options{Layer: c.layer})
			class := c.class
			if class == nil {
				class = fs.ErrInvalid
			}
			if !errors.Is(err, class) {
				t.Fatalf("error %v, want one of %v", err, class)
			}
			if !strings.Contains(err.Error(), `"/sub`) {
				t.Errorf("error %q does not name the path", err)
			}
			if b.Len() > 0 {
				t.Errorf("%d bytes were written", b.Len())
			}
		})
	}
	for name, root := range map[string]*tree.Node{"nil": nil, "file": file("", ""), "whiteout": {Whiteout: true}} {
		if _, err := erofs.Write(&bytes.Buffer{}, root, erofs.Options{}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("root %s: %v", name, err)
		}
	}
	unsorted := dir("", tree.Inode{})
	unsorted.Children = []*tree.Node{file("b", ""), file("a", "")}
	if _, err := erofs.Write(&bytes.Buffer{}, unsorted, erofs.Options{}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("unsorted children: %v", err)
	}
	if _, err := erofs.Write(&bytes.Buffer{}, dir("", tree.Inode{}), erofs.Options{Namespace: 9}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("unknown namespace: %v", err)
	}
}

// TestAtLimits has trees that are just small enough.
func TestAtLimits(t *testing.T) {
	most := tree.Inode{Type: tree.Regular, Xattrs: []tree.Xattr{{Name: "user." + strings.Repeat("x", 250), Value: text(erofs.MaxXattrValue)}}}
	// The whole space for attributes: 3 of nearly 64 KiB each, and one for the rest.
	full := tree.Inode{Type: tree.Regular}
	left := erofs.MaxXattrBody - 12
	for i := range 3 {
		full.Xattrs = append(full.Xattrs, tree.Xattr{Name: fmt.Sprintf("user.%d", i), Value: text(65531)})
		left -= 65536
	}
	full.Xattrs = append(full.Xattrs, tree.Xattr{Name: "user.3", Value: text(left - 5)})
	// What does not fit with the inode goes to the shared area.
	over := tree.Inode{Type: tree.Regular, Xattrs: append([]tree.Xattr(nil), full.Xattrs...)}
	over.Xattrs = append(over.Xattrs, tree.Xattr{Name: "user.4", Value: text(1000)})
	depth := dir("", tree.Inode{}, deep(tree.MaxDepth))
	tooDeep := dir("", tree.Inode{}, deep(tree.MaxDepth+1))
	root := dir("", tree.Inode{Mode: 0o755}, node("most", most), node("full", full), node("over", over))
	b, im := image(t, root, erofs.Options{})
	have, err := im.Tree()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, root, have)
	t.Run("mount", func(t *testing.T) { compare(t, mountImage(t, b), root, view{}) })
	_, im = image(t, depth, erofs.Options{})
	if have, err = im.Tree(); err != nil {
		t.Fatal(err)
	}
	equal(t, depth, have)
	if _, err := erofs.Write(&bytes.Buffer{}, tooDeep, erofs.Options{}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("%d levels: %v", tree.MaxDepth+1, err)
	}
}

// TestWriteError passes on what the writer says.
func TestWriteError(t *testing.T) {
	root := dir("", tree.Inode{}, file("f", text(3<<20)))
	for _, n := range []int64{0, 5000, 2 << 20} {
		_, err := erofs.Write(&limitWriter{left: n}, root, erofs.Options{})
		if !errors.Is(err, iotest.ErrTimeout) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// limitWriter fails after so many bytes.
type limitWriter struct{ left int64 }

func (w *limitWriter) Write(p []byte) (int, error) {
	if w.left -= int64(len(p)); w.left < 0 {
		return 0, iotest.ErrTimeout
	}
	return len(p), nil
}

// TestSharedDirectoryInode has directories described by one *Inode, as implied ones
// may be: each is an inode of its own.
func TestSharedDirectoryInode(t *testing.T) {
	implied := tree.Implied()
	root := &tree.Node{Inode: implied, Children: []*tree.Node{
		{Name: "a", Inode: implied, Children: []*tree.Node{file("x", "1")}},
		{Name: "b", Inode: implied, Children: []*tree.Node{file("y", "2")}},
	}}
	b, im := image(t, root, erofs.Options{})
	have, err := im.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if have.Lookup("a/x") == nil || have.Lookup("b/y") == nil || have.Lookup("b/x") != nil {
		t.Error("directories are mixed up")
	}
	t.Run("mount", func(t *testing.T) { compare(t, mountImage(t, b), root, view{}) })
}
