package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func TestWalk(t *testing.T) {
	root, err := merged(t, "f a/b/x 1\nf a/c 1\nf d 1\nf e/f 1\n")
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	tests := []struct {
		at   Path
		err  error
		want string
	}{
		{"none", nil, "/ /a /a/b /a/b/x /a/c /d /e /e/f"},
		{"a/b", fs.SkipDir, "/ /a /a/b /a/c /d /e /e/f"},
		{"a/b/x", fs.SkipDir, "/ /a /a/b /a/b/x /a/c /d /e /e/f"},
		{"d", fs.SkipDir, "/ /a /a/b /a/b/x /a/c /d"},
		{"", fs.SkipDir, "/"},
		{"a/b", fs.SkipAll, "/ /a /a/b"},
		{"a/b", fmt.Errorf("wrapped: %w", fs.SkipAll), "/ /a /a/b"},
		{"a/b", stop, "/ /a /a/b"},
	}
	for _, tt := range tests {
		var got []string
		err := Walk(root, func(p Path, n *Node) error {
			got = append(got, p.Abs())
			if n != root.Lookup(p) {
				t.Errorf("%s comes with another node", p.Abs())
			}
			if p == tt.at {
				return tt.err
			}
			return nil
		})
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%v at %s: %s, want %s", tt.err, tt.at.Abs(), s, tt.want)
		}
		if wantErr := errors.Is(tt.err, stop); errors.Is(err, stop) != wantErr || (err != nil) != wantErr {
			t.Errorf("%v at %s: error %v", tt.err, tt.at.Abs(), err)
		}
	}
}

func TestLinks(t *testing.T) {
	layer := build(t, "f a/x 1\nl b a/x\nl a/c b\nf d 1\ns s d\nl t s\nw w\nl waits nowhere\n")
	got := Links(layer)
	if len(got) != 2 || got[layer.Lookup("b").Inode] != 3 || got[layer.Child("s").Inode] != 2 {
		t.Errorf("got %v", got)
	}
}

func TestCheck(t *testing.T) {
	shared := dir(0o755)
	root := func(children ...*Node) *Node { return &Node{Inode: dir(0o755), Children: children} }
	deep := root()
	for n, i := deep, 0; i <= MaxDepth; i++ {
		c := &Node{Name: "d", Inode: dir(0o755)}
		n.Children = []*Node{c}
		n = c
	}
	bad := map[string]*Node{
		"nothing":               nil,
		"root is a file":        {Inode: file("x")},
		"root with a name":      {Name: "x", Inode: dir(0o755)},
		"order":                 root(&Node{Name: "b", Inode: file("")}, &Node{Name: "a", Inode: file("")}),
		"name twice":            root(&Node{Name: "a", Inode: file("")}, &Node{Name: "a", Inode: file("")}),
		"empty name":            root(&Node{Inode: file("")}),
		"dot dot":               root(&Node{Name: "..", Inode: file("")}),
		"slash":                 root(&Node{Name: "a/b", Inode: file("")}),
		"NUL":                   root(&Node{Name: "a\x00", Inode: file("")}),
		"long name":             root(&Node{Name: strings.Repeat("n", MaxName+1), Inode: file("")}),
		"no inode":              root(&Node{Name: "a"}),
		"nil child":             root(nil),
		"malformed inode":       root(&Node{Name: "a", Inode: &Inode{Type: 99}}),
		"file with children":    root(&Node{Name: "a", Inode: file(""), Children: []*Node{{Name: "b", Inode: file("")}}}),
		"opaque file":           root(&Node{Name: "a", Inode: file(""), Opaque: true}),
		"implicit file":         root(&Node{Name: "a", Inode: file(""), Implicit: true}),
		"whiteout with inode":   root(&Node{Name: "a", Inode: file(""), Whiteout: true}),
		"opaque whiteout":       root(&Node{Name: "a", Whiteout: true, Opaque: true}),
		"whiteout and link":     root(&Node{Name: "a", Whiteout: true, IsLink: true, LinkTo: "b"}),
		"link with inode":       root(&Node{Name: "a", Inode: file(""), IsLink: true, LinkTo: "b"}),
		"link to nowhere":       root(&Node{Name: "a", IsLink: true}),
		"link out of the root":  root(&Node{Name: "a", IsLink: true, LinkTo: "../b"}),
		"link by no clean path": root(&Node{Name: "a", IsLink: true, LinkTo: "b//c"}),
		"target without link":   root(&Node{Name: "a", Inode: file(""), LinkTo: "b"}),
		"directory twice":       root(&Node{Name: "a", Inode: shared}, &Node{Name: "b", Inode: shared}),
		"too deep":              deep,
	}
	for name, n := range bad {
		if err := CheckLayer(n); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("layer, %s: %v", name, err)
		}
		if err := CheckTree(n); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("tree, %s: %v", name, err)
		}
	}
	for name, n := range map[string]*Node{
		"whiteout": root(&Node{Name: "a", Whiteout: true}),
		"opaque":   root(&Node{Name: "a", Inode: dir(0), Opaque: true}),
		"implicit": root(&Node{Name: "a", Inode: dir(0), Implicit: true}),
		"link":     root(&Node{Name: "a", IsLink: true, LinkTo: "b/c"}),
	} {
		if err := CheckLayer(n); err != nil {
			t.Errorf("layer, %s: %v", name, err)
		}
		if err := CheckTree(n); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("tree, %s: %v", name, err)
		}
	}
}

func TestSame(t *testing.T) {
	const text = "d a\nf a/x 1\nl a/y a/x\nf a/z 1\nw gone\no opaque\nl waits nowhere\n"
	want := build(t, text)
	if err := Same(want, build(t, text)); err != nil {
		t.Errorf("equal layers: %v", err)
	}
	if err := Same(nil, nil); err != nil {
		t.Errorf("nothing and nothing: %v", err)
	}
	for name, other := range map[string]string{
		"more":            text + "f a/more 1\n",
		"content":         text + "f a/z 2\n",
		"metadata":        text + "f x/y 1\n",
		"linked":          text + "l a/z a/x\n",
		"linked no more":  text + "f a/y 1\n",
		"whiteout to dir": text + "d gone\n",
		"opaque":          text + "o a\n",
		"explicit":        text + "d opaque\n",
		"other target":    text + "l waits elsewhere\n",
		"root":            text + "d /\n",
	} {
		if Same(want, build(t, other)) == nil || Same(build(t, other), want) == nil {
			t.Errorf("%s goes unnoticed", name)
		}
	}
	if Same(want, nil) == nil || Same(nil, want) == nil {
		t.Error("a missing tree goes unnoticed")
	}
}
