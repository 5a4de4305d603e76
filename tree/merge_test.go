package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// merged builds layers from scripts and merges them, making sure that no input
// changes and that the result is well-formed.
func merged(t testing.TB, layers ...string) (*Node, error) {
	t.Helper()
	var nodes []*Node
	var before []string
	for _, text := range layers {
		n := build(t, text)
		nodes = append(nodes, n)
		before = append(before, dumpString(t, n))
	}
	var base *Node
	for i, n := range nodes {
		var below string
		if base != nil {
			below = dumpString(t, base)
		}
		next, err := Merge(base, n)
		if base != nil && dumpString(t, base) != below {
			t.Fatalf("merging layer %d changed what was below it", i)
		}
		if got := dumpString(t, n); got != before[i] {
			t.Fatalf("merging layer %d changed it", i)
		}
		if err != nil {
			return nil, err
		}
		if err := CheckTree(next); err != nil {
			t.Fatalf("tree is malformed: %v", err)
		}
		base = next
	}
	all, err := MergeAll(nodes)
	if err != nil {
		t.Fatal(err)
	}
	if err := Same(base, all); err != nil {
		t.Fatalf("MergeAll differs from Merge one by one: %v", err)
	}
	return base, nil
}

func TestMerge(t *testing.T) {
	tests := []struct {
		name   string
		layers []string
		want   string
	}{
		{"nothing", []string{""}, ``},
		{"implied directories", []string{"f a/b 1\n"}, `
			/a dir implied
			/a/b file 1`},
		{"whiteouts of nothing", []string{"w a/b\nw c\no d\n"}, `
			/a dir implied
			/d dir implied`},
		{"whiteout of a file", []string{"f a 1\nf b 2\n", "w a\n"}, `/b file 2`},
		{"whiteout of a directory", []string{"f a/b/c 1\nf b 2\n", "w a\n"}, `/b file 2`},
		{"whiteout of nothing leaves the rest", []string{"f a 1\nf c 2\n", "w b\n"}, "/a file 1\n/c file 2\n"},
		{"whiteout in a directory that is missing", []string{"", "w a/b\n"}, `/a dir implied`},
		{"whiteout and file", []string{"d a\nf a/b 1\n", "w a\nf a 2\n"}, `/a file 2`},
		{"whiteout and directory", []string{"d a\nf a/b 1\n", "w a\nd a\nf a/c 2\n"}, `
			/a dir
			/a/c file 2`},
		{"directory and whiteout", []string{"d a\nf a/b 1\n", "d a\nf a/c 2\nw a\n"}, `
			/a dir
			/a/c file 2`},
		{"whiteout and implied directory", []string{"d a\nf a/b 1\n", "w a\nf a/c 2\n"}, `
			/a dir implied
			/a/c file 2`},
		{"whiteout of a symbolic link, and implied directory", []string{"d d\ns a d\n", "w a\nf a/c 2\n"}, `
			/a dir implied
			/a/c file 2
			/d dir`},
		{"opaque before its siblings", []string{"d a\nf a/b 1\nf a/d/e 1\n", "o a\nf a/c 2\n"}, `
			/a dir
			/a/c file 2`},
		{"opaque after its siblings", []string{"d a\nf a/b 1\nf a/d/e 1\n", "f a/c 2\nf a/d/f 3\no a\n"}, `
			/a dir
			/a/c file 2
			/a/d dir implied
			/a/d/f file 3`},
		{"opaque root", []string{"d /\nf a 1\n", "f b 2\no /\n"}, `
			/ dir
			/b file 2`},
		{"opaque over a file", []string{"f a 1\n", "o a\n"}, `/a dir implied`},
		{"opaque through a symbolic link", []string{"d d\nf d/a 1\ns l d\n", "o l\nf d/b 2\n"}, `
			/d dir
			/d/b file 2
			/l symlink d`},

		{"file over a file", []string{"f a 1\n", "f a 2\n"}, `/a file 2`},
		{"file over a directory", []string{"f a/b 1\n", "f a 2\n"}, `/a file 2`},
		{"file over a symbolic link", []string{"f b 1\ns a b\n", "f a 2\n"}, "/a file 2\n/b file 1\n"},
		{"directory over a directory", []string{"f a/b 1\n", "d a\n"}, "/a dir\n/a/b file 1\n"},
		{"directory over a file", []string{"f a 1\n", "d a\n"}, `/a dir`},
		{"directory over a symbolic link", []string{"f d/x 1\ns a d\n", "d a\nf a/y 2\n"}, `
			/a dir
			/a/y file 2
			/d dir implied
			/d/x file 1`},
		{"directory after a file of the same layer", []string{"f a/b 1\n", "f a 2\nd a\n"}, `/a dir`},
		{"implied directory over a directory", []string{"d a\nf a/b 1\n", "f a/c 2\n"}, `
			/a dir
			/a/b file 1
			/a/c file 2`},
		{"implied directory over a file", []string{"f a 1\n", "f a/b 2\n"}, `
			/a dir implied
			/a/b file 2`},
		{"root's metadata", []string{"d /\n", "f a 1\n"}, "/ dir\n/a file 1\n"},

		{"through a symbolic link", []string{"d d\nf d/a 1\ns l d\n", "f l/b 2\nw l/a\n"}, `
			/d dir
			/d/b file 2
			/l symlink d`},
		{"through an absolute symbolic link", []string{"d d\ns x/l /d\n", "f x/l/b 2\n"}, `
			/d dir
			/d/b file 2
			/x dir implied
			/x/l symlink /d`},
		{"through a symbolic link out of the root", []string{"d d\ns x/l ../../../d/.\n", "f x/l/b 2\n"}, `
			/d dir
			/d/b file 2
			/x dir implied
			/x/l symlink ../../../d/.`},
		{"through a symbolic link to the root", []string{"s l ..\n", "f l/b 2\n"}, "/b file 2\n/l symlink ..\n"},
		{"through symbolic links in a row", []string{"d e\ns d e\ns l d\ns e/m ../l\n", "f l/m/b 2\n"}, `
			/d symlink e
			/e dir
			/e/b file 2
			/e/m symlink ../l
			/l symlink d`},
		{"through a symbolic link to what this layer adds", []string{"s l d\n", "d d\nf l/b 2\n"}, `
			/d dir
			/d/b file 2
			/l symlink d`},
		{"through symbolic links of two layers", []string{"s l m\nd e\n", "s m e\nf l/b 2\n"}, `
			/e dir
			/e/b file 2
			/l symlink m
			/m symlink e`},
		{"through a symbolic link into an opaque directory", []string{"f d/a 1\nf d/e/f 1\ns l d\n", "o d\nf l/b 2\n"}, `
			/d dir implied
			/d/b file 2
			/l symlink d`},
		{"what the layer adds survives a whiteout through a symbolic link", []string{"f d/a 1\ns l d\n", "w l/a\nf d/a 2\n"}, `
			/d dir implied
			/d/a file 2
			/l symlink d`},
		{"through a symbolic link comes last", []string{"d d\ns l d\n", "f l/a 1\nf d/a 2\n"}, `
			/d dir
			/d/a file 1
			/l symlink d`},
		{"directory through a symbolic link", []string{"f d/e/x 1\ns l d\n", "d l/e\n"}, `
			/d dir implied
			/d/e dir
			/d/e/x file 1
			/l symlink d`},
		{"explicit directory over a symbolic link behind a symbolic link", []string{"d d\nd e\ns d/m ../e\ns l d\n", "d l/m\nf l/m/a 1\n"}, `
			/d dir
			/d/m dir
			/d/m/a file 1
			/e dir
			/l symlink d`},
		{"symbolic link that the layer replaces is not followed", []string{"d d\ns l d\n", "s l e\nf l/a 1\n"}, `
			/d dir
			/e dir implied
			/e/a file 1
			/l symlink e`},
		{"two layers through the same symbolic link", []string{"d d\ns l d\n", "f l/a 1\n", "f l/b 1\nw l/a\n"}, `
			/d dir
			/d/b file 1
			/l symlink d`},

		{"link into the layer below", []string{"f a 1\n", "l b a\n"}, "/a file 1\n/b link /a\n"},
		{"link into the layer below whose target goes", []string{"f a 1\n", "l b a\nw a\n"}, `/b file 1`},
		{"link into the layer below whose target changes", []string{"f a 1\n", "l b a\nf a 2\n"}, "/a file 2\n/b file 1\n"},
		{"link to the changed target", []string{"f a 1\n", "f a 2\nl b a\n"}, "/a file 2\n/b link /a\n"},
		{"link before its target", []string{"l a b\nf b 1\n"}, "/a file 1\n/b link /a\n"},
		{"links before their targets in a row", []string{"l a b\nl b c\nl c d\nf d 1\n"}, `
			/a file 1
			/b link /a
			/c link /a
			/d link /a`},
		{"links in a row, other way", []string{"l c d\nl b c\nl a b\nf d 1\n"}, `
			/a file 1
			/b link /a
			/c link /a
			/d link /a`},
		{"link before its target, which replaces a directory", []string{"f b/x 1\n", "l a b\nf b 2\n"}, "/a file 2\n/b link /a\n"},
		{"link to itself keeps what is below", []string{"f a 1\nl b a\n", "l a a\n"}, "/a file 1\n/b link /a\n"},
		{"link through a symbolic link below", []string{"f d/a 1\ns l d\n", "l b l/a\n"}, `
			/b file 1
			/d dir implied
			/d/a link /b
			/l symlink d`},
		{"link through symbolic links below, absolute and upwards", []string{"f d/e/a 1\ns x/l /d/./e\ns x/m ../../x/l\n", "l b x/m/a\n"}, `
			/b file 1
			/d dir implied
			/d/e dir implied
			/d/e/a link /b
			/x dir implied
			/x/l symlink /d/./e
			/x/m symlink ../../x/l`},
		{"link through a symbolic link to what comes later", []string{"d d\ns l d\n", "l b l/a\nf d/a 2\n"}, `
			/b file 2
			/d dir
			/d/a link /b
			/l symlink d`},
		{"link through the layer's own symbolic link", []string{"f d/a 1\n", "s l x/../d\nd x\nl b l/a\n"}, `
			/b file 1
			/d dir implied
			/d/a link /b
			/l symlink x/../d
			/x dir`},
		{"link made through a symbolic link", []string{"f a 1\nd d\ns l d\n", "l l/b a\n"}, `
			/a file 1
			/d dir
			/d/b link /a
			/l symlink d`},
		{"link to a symbolic link below", []string{"s a b\n", "l c a\n"}, "/a symlink b\n/c link /a\n"},
		{"links survive a layer that does not name them", []string{"f a/x 1\nl b/y a/x\n", "f a/z 2\n"}, `
			/a dir implied
			/a/x file 1
			/a/z file 2
			/b dir implied
			/b/y link /a/x`},
		{"one of two links replaced", []string{"f a 1\nl b a\n", "f a 2\n"}, "/a file 2\n/b file 1\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, err := merged(t, tt.layers...)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := brief(root), unindent(tt.want); got != want {
				t.Errorf("tree is\n%swant\n%s", got, want)
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	tests := []struct {
		name    string
		layers  []string
		class   error
		message string
	}{
		{"through a symbolic link to nothing", []string{"s l d\n", "f l/a 1\n"}, fs.ErrInvalid, `"/l": symbolic link to "/d", which is no directory`},
		{"through a symbolic link to a file", []string{"f d 1\ns l d\n", "f l/a 1\n"}, fs.ErrInvalid, `"/l": symbolic link to "/d", which is no directory`},
		{"through a symbolic link to a file of this layer", []string{"d d\ns l d\n", "f d 1\nf l/a 1\n"}, fs.ErrInvalid, `"/d" is not a directory`},
		{"through a symbolic link to what this layer removes", []string{"d d\ns l d\n", "w d\nf l/a 1\n"}, fs.ErrInvalid, `"/d", which the layer removes`},
		{"through a symbolic link to itself", []string{"s l l\n", "f l/a 1\n"}, fs.ErrInvalid, "more than 255 symbolic links"},
		{"through symbolic links in a circle", []string{"s a b\ns b ./a\n", "w a/x\n"}, fs.ErrInvalid, "more than 255 symbolic links"},
		{"link to nothing", []string{"f a 1\n", "l b c\n"}, fs.ErrNotExist, `link "/b" to "/c": target: file does not exist`},
		{"link to nothing in the lowest layer", []string{"l b c/d\n"}, fs.ErrNotExist, `link "/b" to "/c/d": target`},
		{"link through a file", []string{"f a 1\n", "l b a/x\n"}, fs.ErrNotExist, `link "/b" to "/a/x"`},
		{"link through symbolic links in a circle", []string{"s l l\n", "l b l/x\n"}, fs.ErrInvalid, `link "/b" to "/l/x": more than 255`},
		{"link to a directory below", []string{"d a\n", "l b a\n"}, fs.ErrInvalid, `link "/b" to "/a": target is a directory`},
		{"link to a later directory", []string{"l b a\nd a\n"}, fs.ErrInvalid, `link "/b" to "/a": target is a directory`},
		{"link to itself", []string{"l a a\n"}, fs.ErrInvalid, `link "/a" to "/a": hard links in a circle`},
		{"links in a circle", []string{"f a 1\n", "l c d\nl d e\nl e c\n"}, fs.ErrInvalid, `in a circle`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := merged(t, tt.layers...)
			if !errors.Is(err, tt.class) || !strings.Contains(fmt.Sprint(err), tt.message) {
				t.Errorf("got %v, want %v with %q", err, tt.class, tt.message)
			}
		})
	}
	file := &Node{Inode: file("x")}
	for name, args := range map[string][2]*Node{
		"no layer":                 {nil, nil},
		"layer that is a file":     {nil, file},
		"base that is a file":      {file, {Inode: Implied()}},
		"layer with an empty node": {nil, {Inode: Implied(), Children: []*Node{{Name: "x"}}}},
	} {
		if _, err := Merge(args[0], args[1]); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := MergeAll([]*Node{build(t, "f a 1\n"), build(t, "l b c\n")}); err == nil || !strings.HasPrefix(err.Error(), "layer 2 of 2: ") {
		t.Errorf("MergeAll does not name the layer: %v", err)
	}
}

// TestMergeLinkWork: looking up the targets of few links must not take long, however
// the symbolic links of the base are laid out.
func TestMergeLinkWork(t *testing.T) {
	b := NewBuilder()
	for i := range MaxHops {
		to := strings.Repeat("./", 2000) + fmt.Sprintf("l%d", i-1)
		if i == 0 {
			to = "."
		}
		if err := b.Add(Path(fmt.Sprintf("l%d", i)), symlink(to)); err != nil {
			t.Fatal(err)
		}
	}
	base, err := b.Layer()
	if err != nil {
		t.Fatal(err)
	}
	if base, err = Merge(nil, base); err != nil {
		t.Fatal(err)
	}
	b = NewBuilder()
	for i := range 100 {
		if err := b.Link(Path(fmt.Sprintf("n%d", i)), Path(fmt.Sprintf("l%d/l%d", MaxHops-1, i))); err != nil {
			t.Fatal(err)
		}
	}
	layer, err := b.Layer()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Merge(base, layer); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "too far") {
		t.Errorf("got %v", err)
	}
}

func TestMergeAllOfNothing(t *testing.T) {
	root, err := MergeAll(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Same(&Node{Inode: Implied()}, root); err != nil {
		t.Error(err)
	}
}

// chain is a layer of directories nested to a depth, a whiteout at the end.
func chain(depth int) *Node {
	n := &Node{Name: "w", Whiteout: true}
	for range depth {
		n = &Node{Name: "d", Inode: dir(0o755), Children: []*Node{n}}
	}
	n.Name = ""
	return n
}

func TestMergeDepth(t *testing.T) {
	base, err := Merge(nil, chain(MaxDepth+1))
	if err != nil {
		t.Fatalf("%d components: %v", MaxDepth, err)
	}
	if _, err := Merge(base, chain(MaxDepth+1)); err != nil {
		t.Errorf("%d components over as many: %v", MaxDepth, err)
	}
	if _, err := Merge(nil, chain(MaxDepth+2)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("%d components: %v", MaxDepth+1, err)
	}
	deeper := chain(MaxDepth + 2)
	if _, err := Merge(deeper, deeper); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("%d components over as many: %v", MaxDepth+1, err)
	}
}

func TestMergeShares(t *testing.T) {
	base, err := merged(t, "f a/b/x 1\nf c/d/y 2\nf c/e/z 3\nf f 4\n")
	if err != nil {
		t.Fatal(err)
	}
	top, err := Merge(base, build(t, "f c/d/n 5\nw f\n"))
	if err != nil {
		t.Fatal(err)
	}
	for p, same := range map[Path]bool{"a": true, "c": false, "c/d": false, "c/d/y": true, "c/e": true, "": false} {
		if got := base.Lookup(p) == top.Lookup(p); got != same {
			t.Errorf("%s shared: %v", p.Abs(), got)
		}
	}
	same := &Node{Inode: Implied(), Children: []*Node{{Name: "a", Inode: Implied()}, {Name: "c", Inode: Implied()}}}
	for name, layer := range map[string]*Node{
		"empty layer":                     build(t, ""),
		"whiteout of nothing":             build(t, "w nothing\nw c/nothing\n"),
		"implied directories":             build(t, "w a/b/nothing\n"),
		"directories described as before": same,
	} {
		got, err := Merge(base, layer)
		if err != nil {
			t.Fatal(err)
		}
		if got != base {
			t.Errorf("%s: the tree is not the base itself", name)
		}
	}
	clean := build(t, "d /\nd a\nf a/b 1\n")
	if got, err := Merge(nil, clean); err != nil || got != clean {
		t.Errorf("a layer without flags is not the tree itself: %v", err)
	}

	// A result must not be able to grow into an array that another tree uses.
	meta, err := Merge(base, build(t, "d c\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c := meta.Child("c").Children; &c[0] != &base.Child("c").Children[0] || cap(c) != len(c) {
		t.Errorf("children of a directory with new metadata only: shared %v, room for %d more", &c[0] == &base.Child("c").Children[0], cap(c)-len(c))
	}
}

func TestSeek(t *testing.T) {
	var children []*Node
	for i := range 40 {
		children = append(children, &Node{Name: fmt.Sprintf("%02d", 2*i)})
	}
	for from := range len(children) + 1 {
		for name := 0; name < 82; name++ {
			want, found := slices.BinarySearchFunc(children[from:], fmt.Sprintf("%02d", name), func(n *Node, s string) int { return strings.Compare(n.Name, s) })
			at, ok := seek(children, from, fmt.Sprintf("%02d", name))
			if at != from+want || ok != found {
				t.Fatalf("seek %02d from %d: %d %v, want %d %v", name, from, at, ok, from+want, found)
			}
		}
	}
}
