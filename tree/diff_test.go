package tree

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func changes(old, new *Node) string {
	var s strings.Builder
	for c := range Diff(old, new) {
		fmt.Fprintf(&s, "%s %s\n", c.Kind.Letter(), c.Path.Abs())
	}
	return s.String()
}

func TestDiff(t *testing.T) {
	const base = "f a/b/x 1\nf a/b/y 2\nf c 3\nd d\ns l c\nl m c\n"
	tests := []struct{ name, layer, want string }{
		{"nothing", "", ""},
		{"new file", "f a/b/z 1\n", "A /a/b/z"},
		{"new directory", "f n/o/p 1\nf n/q 1\n", "A /n\nA /n/o\nA /n/o/p\nA /n/q"},
		{"file gone", "w a/b/x\n", "D /a/b/x"},
		{"directory gone", "w a\n", "D /a"},
		{"file changed", "f a/b/x 2\n", "C /a/b/x"},
		{"same file again", "f a/b/x 1\n", ""},
		{"directory's metadata", "d a\n", "C /a"},
		{"directory's metadata and a child", "d a\nf a/z 1\n", "C /a\nA /a/z"},
		{"directory emptied", "o a/b\n", "D /a/b/x\nD /a/b/y"},
		{"directory to file", "f a 1\n", "C /a"},
		{"file to directory", "f c/x/y 1\n", "C /c\nA /c/x\nA /c/x/y"},
		{"symbolic link to directory", "d l\nf l/x 1\n", "C /l\nA /l/x"},
		{"link's content", "f m 4\n", "C /m"},
		{"link to a separate but equal file", "f m 3\n", ""},
		{"separate file to a link", "l d/e c\n", "A /d/e"},
		{"root's metadata", "d /\n", "C /"},
		{"order is that of a walk", "f a!/x 1\nf a/b0/x 1\nf a/c 1\nf a.b 1\nf a0 1\nw a/b/y\n",
			"D /a/b/y\nA /a/b0\nA /a/b0/x\nA /a/c\nA /a!\nA /a!/x\nA /a.b\nA /a0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			old, err := merged(t, base)
			if err != nil {
				t.Fatal(err)
			}
			got, err := merged(t, base, tt.layer)
			if err != nil {
				t.Fatal(err)
			}
			if out := changes(old, got); out != unindent(tt.want) {
				t.Errorf("trees that share nothing:\n%swant\n%s", out, tt.want)
			}
			top, err := Merge(old, build(t, tt.layer))
			if err != nil {
				t.Fatal(err)
			}
			if out := changes(old, top); out != unindent(tt.want) {
				t.Errorf("trees that share:\n%swant\n%s", out, tt.want)
			}
		})
	}
}

func TestDiffOfNothing(t *testing.T) {
	tree, err := merged(t, "f a/b 1\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		old, new *Node
		want     string
	}{{nil, nil, ""}, {tree, tree, ""}, {nil, tree, "A /\nA /a\nA /a/b\n"}, {tree, nil, "D /\n"}} {
		if got := changes(tt.old, tt.new); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestDiffStops(t *testing.T) {
	old, err := merged(t, "f a/x 1\nf b 1\nf d/y 1\n")
	if err != nil {
		t.Fatal(err)
	}
	new, err := merged(t, "f a/x 2\nf c/d/e 1\nd d\nf d/y 2\n")
	if err != nil {
		t.Fatal(err)
	}
	all := slices.Collect(Diff(old, new))
	if len(all) != 7 {
		t.Fatalf("%d changes: %v", len(all), changes(old, new))
	}
	for stop := 1; stop <= len(all); stop++ {
		var got []Change
		for c := range Diff(old, new) {
			if got = append(got, c); len(got) == stop {
				break
			}
		}
		if !slices.Equal(got, all[:stop]) {
			t.Errorf("stopped after %d: %v", stop, got)
		}
	}
	for range Diff(nil, new) {
		break
	}
	for _, c := range all {
		if c.Old != inodeAt(old, c.Path) || c.New != inodeAt(new, c.Path) {
			t.Errorf("%s %s does not carry the inodes", c.Kind, c.Path.Abs())
		}
	}
}

func inodeAt(root *Node, p Path) *Inode {
	if n := root.Lookup(p); n != nil {
		return n.Inode
	}
	return nil
}

func TestInodeEqual(t *testing.T) {
	base := Inode{Type: Regular, Mode: 0o644, UID: 1, GID: 2, MTime: Time{3, 4}, Size: 3, Inline: "abc", Xattrs: []Xattr{{"user.a", "b"}}}
	for name, change := range map[string]func(*Inode){
		"type":         func(i *Inode) { i.Type = Fifo },
		"mode":         func(i *Inode) { i.Mode |= 0o4000 },
		"uid":          func(i *Inode) { i.UID++ },
		"gid":          func(i *Inode) { i.GID++ },
		"seconds":      func(i *Inode) { i.MTime.Sec++ },
		"nanoseconds":  func(i *Inode) { i.MTime.Nsec++ },
		"device":       func(i *Inode) { i.Rdev.Minor++ },
		"size":         func(i *Inode) { i.Size++ },
		"target":       func(i *Inode) { i.Link = "x" },
		"inline":       func(i *Inode) { i.Inline = "abd" },
		"other object": func(i *Inode) { i.Inline, i.Object = "", ObjectID{1} },
		"no content":   func(i *Inode) { i.Inline = "" },
		"xattr name":   func(i *Inode) { i.Xattrs = []Xattr{{"user.b", "b"}} },
		"xattr value":  func(i *Inode) { i.Xattrs = []Xattr{{"user.a", "c"}} },
		"no xattr":     func(i *Inode) { i.Xattrs = nil },
	} {
		other := base
		change(&other)
		if base.Equal(&other) || other.Equal(&base) {
			t.Errorf("%s does not count", name)
		}
	}
	same := base
	same.Xattrs = slices.Clone(base.Xattrs)
	object := base
	object.Inline, object.Object = "", ObjectID(sha256.Sum256([]byte("abc")))
	for name, other := range map[string]*Inode{"itself": &base, "copy": &same, "the same content as an object": &object} {
		if !base.Equal(other) || !other.Equal(&base) {
			t.Errorf("%s is not equal", name)
		}
	}
	pending := object
	pending.Object = ObjectID{}
	if object.Equal(&pending) || pending.Equal(&object) {
		t.Error("content that nobody knows equals an object")
	}
	if base.Equal(nil) || (*Inode)(nil).Equal(&base) || !(*Inode)(nil).Equal(nil) {
		t.Error("nil is not equal to itself only")
	}
}
