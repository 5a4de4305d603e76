package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func dir(mode uint16) *Inode { return &Inode{Type: Directory, Mode: mode} }

func file(content string) *Inode {
	return &Inode{Type: Regular, Mode: 0o644, Size: int64(len(content)), Inline: content}
}

func symlink(target string) *Inode {
	return &Inode{Type: Symlink, Mode: 0o777, Size: int64(len(target)), Link: target}
}

// script runs one instruction per line on a Builder: "d PATH" directory of mode
// 0700, "f PATH CONTENT", "s PATH TARGET", "l PATH TARGET", "w PATH", "o PATH".
func script(b *Builder, text string) error {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		f = append(f, "", "")
		p := Path(strings.TrimPrefix(f[1], "/"))
		var err error
		switch f[0] {
		case "d":
			err = b.Add(p, dir(0o700))
		case "f":
			err = b.Add(p, file(f[2]))
		case "s":
			err = b.Add(p, symlink(f[2]))
		case "l":
			err = b.Link(p, Path(strings.TrimPrefix(f[2], "/")))
		case "w":
			err = b.Whiteout(p)
		case "o":
			err = b.Opaque(p)
		default:
			err = fmt.Errorf("unknown instruction %q", f[0])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func build(t testing.TB, text string) *Node {
	t.Helper()
	b := NewBuilder()
	if err := script(b, text); err != nil {
		t.Fatal(err)
	}
	layer, err := b.Layer()
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckLayer(layer); err != nil {
		t.Fatalf("layer is malformed: %v", err)
	}
	return layer
}

// brief is a short form of a dump: "PATH word [flags] [what]" for each name below
// the root, and the root when it has a flag or is explicit.
func brief(root *Node) string {
	var s strings.Builder
	first := map[*Inode]Path{}
	err := Walk(root, func(p Path, n *Node) error {
		if p == "" && !n.Opaque && (n.Implicit || n.Inode.Equal(Implied())) {
			return nil
		}
		fmt.Fprintf(&s, "%s ", p.Abs())
		switch {
		case n.Whiteout:
			s.WriteString("whiteout")
		case n.IsLink:
			fmt.Fprintf(&s, "waits %s", n.LinkTo.Abs())
		case n.IsDir():
			s.WriteString("dir")
			if n.Opaque {
				s.WriteString(" opaque")
			}
			switch {
			case n.Implicit:
				s.WriteString(" implicit")
			case n.Inode.Equal(Implied()):
				s.WriteString(" implied")
			case n.Inode.Mode != 0o700:
				fmt.Fprintf(&s, " %o", n.Inode.Mode)
			}
		default:
			if to, ok := first[n.Inode]; ok {
				fmt.Fprintf(&s, "link %s", to.Abs())
				break
			}
			first[n.Inode] = p
			fmt.Fprintf(&s, "%s %s%s", n.Inode.Type, n.Inode.Inline, n.Inode.Link)
		}
		s.WriteByte('\n')
		return nil
	})
	if err != nil {
		panic(err)
	}
	return s.String()
}

func unindent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

func TestBuilder(t *testing.T) {
	tests := []struct{ name, entries, want string }{
		{"sorted with implied parents", "f b/c/z 1\nf b/a 2\nd a\n", `
			/a dir
			/b dir implicit
			/b/a file 2
			/b/c dir implicit
			/b/c/z file 1`},
		{"directory described after what it holds", "f a/x 1\nd a\n", `
			/a dir
			/a/x file 1`},
		{"directory described twice", "d a\nf a/x 1\nd a\n", `
			/a dir
			/a/x file 1`},
		{"root described", "d /\nf x 1\n", `
			/ dir
			/x file 1`},
		{"last of two files wins", "f a 1\nf a 2\n", `/a file 2`},
		{"link to the earlier of two files keeps it", "f a 1\nl b a\nf a 2\n", `
			/a file 2
			/b file 1`},
		{"link to the later of two files", "f a 1\nf a 2\nl b a\n", `
			/a file 2
			/b link /a`},
		{"symbolic link replaced by a file is not written through", "s a b\nf a 1\n", `/a file 1`},

		{"file replaced by a directory hides what is below", "f a 1\nd a\n", `/a dir opaque`},
		{"symbolic link replaced by a directory", "s a b\nd a\nf a/x 1\n", `
			/a dir opaque
			/a/x file 1`},
		{"waiting link replaced by a directory", "l a z\nd a\n", `/a dir opaque`},
		{"directory replaced by a file", "f a/b/c 1\nf a 2\n", `/a file 2`},
		{"directory replaced by a file and made again holds nothing", "f a/b/c 1\nf a 2\nd a\nf a/d 3\n", `
			/a dir opaque
			/a/d file 3`},

		{"whiteout", "w a/b\n", `
			/a dir implicit
			/a/b whiteout`},
		{"whiteout twice", "w a\nw a\n", `/a whiteout`},
		{"whiteout before a file", "w a\nf a 1\n", `/a file 1`},
		{"whiteout after a file", "f a 1\nw a\n", `/a file 1`},
		{"whiteout before a link", "w a\nl a z\n", `/a waits /z`},
		{"whiteout after a link", "l a z\nw a\n", `/a waits /z`},
		{"whiteout before a directory", "w a\nd a\nf a/x 1\n", `
			/a dir opaque
			/a/x file 1`},
		{"whiteout after a directory", "d a\nf a/x 1\nw a\n", `
			/a dir opaque
			/a/x file 1`},
		{"whiteout before an implied directory", "w a\nf a/x 1\n", `
			/a dir opaque implied
			/a/x file 1`},
		{"whiteout after an implied directory", "f a/x 1\nw a\n", `
			/a dir opaque implied
			/a/x file 1`},
		{"whiteout, file, directory", "w a\nf a 1\nd a\n", `/a dir opaque`},
		{"whiteout below a whiteout", "w a\nw a/b\n", `/a whiteout`},
		{"directory between whiteouts", "w a\nw a/b/c\nf a/b/d 1\nw a/b\nw a/e/f\n", `
			/a dir opaque implied
			/a/b dir opaque implied
			/a/b/d file 1`},
		{"described after a whiteout below a whiteout", "w a\nw a/b\nd a\n", `/a dir opaque`},
		{"whiteout of a symbolic link does not follow it", "s a b\nw a\n", `/a symlink b`},

		{"opaque before siblings", "o a\nf a/x 1\n", `
			/a dir opaque implicit
			/a/x file 1`},
		{"opaque after siblings", "f a/x 1\no a\n", `
			/a dir opaque implicit
			/a/x file 1`},
		{"opaque and described", "o a\nd a\n", `/a dir opaque`},
		{"opaque root", "f x 1\no /\n", `
			/ dir opaque implicit
			/x file 1`},
		{"opaque over a whiteout", "w a\no a\n", `/a whiteout`},
		{"opaque over a whiteout with a file", "w a\no a\nf a/x 1\n", `
			/a dir opaque implied
			/a/x file 1`},
		{"whiteouts in an opaque directory say nothing", "w a/b/c\nf a/e/f 1\nw a/e/g\nw a/d\no a\nw a/h/i/j\n", `
			/a dir opaque implicit
			/a/e dir implicit
			/a/e/f file 1`},
		{"whiteout after a whiteout below", "w a/b/c\no a/d\nw a\n", `/a whiteout`},
		{"whiteout after a whiteout and a file below", "w a/b/c\nf a/d/e 1\nw a/f\nw a\n", `
			/a dir opaque implied
			/a/d dir implicit
			/a/d/e file 1`},
		{"file after a whiteout above", "f a/b/c 1\nw a/d/e\nw a/d\nf a/d/f 1\n", `
			/a dir implicit
			/a/b dir implicit
			/a/b/c file 1
			/a/d dir opaque implied
			/a/d/f file 1`},

		{"link", "f a/x 1\nl b/y a/x\n", `
			/a dir implicit
			/a/x file 1
			/b dir implicit
			/b/y link /a/x`},
		{"link before its target", "l a b\nf b 1\n", `
			/a waits /b
			/b file 1`},
		{"link to a waiting link", "l a z\nl b a\n", `
			/a waits /z
			/b waits /z`},
		{"link to what the layer removes", "w a\nl b a\n", `
			/a whiteout
			/b waits /a`},
		{"link to an implied directory", "f a/x 1\nl b a\n", `
			/a dir implicit
			/a/x file 1
			/b waits /a`},
		{"link to itself", "f a 1\nl b a\nl b b\nl a b\n", `
			/a file 1
			/b link /a`},
		{"link to itself that waits", "l a a\n", `/a waits /a`},
		{"link to a symbolic link", "s a nowhere\nl b a\n", `
			/a symlink nowhere
			/b link /a`},
		{"link replaces a directory", "f a 1\nf d/x 2\nl d a\n", `
			/a file 1
			/d link /a`},

		{"below a symbolic link", "d d\ns l d\nf l/x 1\n", `
			/d dir
			/d/x file 1
			/l symlink d`},
		{"below an absolute symbolic link", "d d\ns a/l /d\nf a/l/x 1\n", `
			/a dir implicit
			/a/l symlink /d
			/d dir
			/d/x file 1`},
		{"below a symbolic link out of the root", "s a/l ../../../../etc\nf a/l/passwd 1\n", `
			/a dir implicit
			/a/l symlink ../../../../etc
			/etc dir implicit
			/etc/passwd file 1`},
		{"below a symbolic link to the root", "s l ../..\nf l/x 1\nw l/y\n", `
			/l symlink ../..
			/x file 1
			/y whiteout`},
		{"below symbolic links in a row", "s a b/.\ns b ./c/d\nf a/x 1\n", `
			/a symlink b/.
			/b symlink ./c/d
			/c dir implicit
			/c/d dir implicit
			/c/d/x file 1`},
		{"symbolic link into what the layer removes", "w d\ns l d\nf l/x 1\n", `
			/d dir opaque implied
			/d/x file 1
			/l symlink d`},
		{"opaque through a symbolic link", "s l d\no l\n", `
			/d dir opaque implicit
			/l symlink d`},
		{"symbolic link turned elsewhere", "s l a\nf l/x 1\ns l b\nf l/x 2\n", `
			/a dir implicit
			/a/x file 1
			/b dir implicit
			/b/x file 2
			/l symlink b`},
		{"symbolic link turned directory", "s l a\nf l/x 1\nd l\nf l/x 2\n", `
			/a dir implicit
			/a/x file 1
			/l dir opaque
			/l/x file 2`},
		{"link through a symbolic link", "s l d\nf d/x 1\nl y l/x\n", `
			/d dir implicit
			/d/x file 1
			/l symlink d
			/y link /d/x`},
		{"waiting link through a symbolic link", "s l d/e\nl y l/x\n", `
			/l symlink d/e
			/y waits /d/e/x`},
		{"waiting link through a symbolic link into a directory that is there", "s l /./d\nf d/x 1\nl y l/z\n", `
			/d dir implicit
			/d/x file 1
			/l symlink /./d
			/y waits /d/z`},
		{"waiting link through a file", "f f 1\nl y f/x\n", `
			/f file 1
			/y waits /f/x`},
		{"waiting link into what the layer removes", "w d\nl y d/x\n", `
			/d whiteout
			/y waits /d/x`},
		{"waiting link through a symbolic link that Merge must follow", "s l d/../e\nl y l/x\n", `
			/l symlink d/../e
			/y waits /l/x`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, want := brief(build(t, tt.entries)), unindent(tt.want); got != want {
				t.Errorf("layer is\n%swant\n%s", got, want)
			}
		})
	}
}

func TestBuilderRefuses(t *testing.T) {
	long := strings.Repeat("n", MaxName+1)
	tests := []struct{ name, entries, message string }{
		{"below a file", "f a 1\nf a/x 2\n", `add "/a/x": "/a" is not a directory`},
		{"below a file through a symbolic link", "f a 1\ns l a\nf l/x 2\n", `add "/l/x": "/a" is not a directory`},
		{"below a waiting link", "l a z\nf a/x 1\n", `"/a" is not a directory`},
		{"symbolic link to itself", "s a a\nf a/x 1\n", "more than 255 symbolic links"},
		{"symbolic links in a circle", "s a b\ns b c/../a\nd c\nf b/x 1\n", "more than 255 symbolic links"},
		{"link to a directory", "d a\nl b a\n", `link "/b" to "/a": target is a directory`},
		{"link to the root", "l b /\n", "target is a directory"},
		{"link to no clean path", "l a ./b\n", "no clean path"},
		{"link out of the root", "l a ../b\n", "no clean path"},
		{"link through symbolic links in a circle", "s a a\nl b a/x\n", "more than 255 symbolic links"},
		{"link as the root", "f a 1\nl / a\n", "root as a hard link"},
		{"link that removes its target", "f a/b/x 1\nl a a/b/x\n", `link "/a" to "/a/b/x": target lies in the directory`},
		{"link that removes its target by another way", "f a/b/x 1\ns l a/b\nl a l/x\n", `target lies in the directory`},
		{"link that removes its waiting target", "l a/b x\nl a a/b\n", `link "/a" to "/a/b": target lies in the directory`},
		{"root as a file", "f / 1\n", "root as a file"},
		{"whiteout of the root", "w /\n", "whiteout of the root"},
		{"whiteout below a file", "f a 1\nw a/x\n", `whiteout "/a/x": "/a" is not a directory`},
		{"opaque file", "f a 1\no a\n", `opaque "/a": "/a" is not a directory`},
		{"dot dot", "f a/../b 1\n", `name ".."`},
		{"long name", "f " + long + " 1\n", "limit 255"},
		{"long name in a symbolic link", "s l " + long + "\nf l/x 1\n", "limit 255"},
		{"empty symbolic link", "s a\n", "target of 0 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := script(NewBuilder(), tt.entries)
			if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), tt.message) {
				t.Errorf("got %v, want an fs.ErrInvalid with %q", err, tt.message)
			}
		})
	}
}

func TestBuilderRefusesInodes(t *testing.T) {
	tests := map[string]*Inode{
		"none":                  nil,
		"no type":               {},
		"unknown type":          {Type: Socket + 1},
		"mode":                  {Type: Fifo, Mode: 0o10000},
		"nanoseconds":           {Type: Fifo, MTime: Time{Nsec: 1e9}},
		"device of a file":      {Type: Regular, Rdev: Device{1, 3}},
		"negative size":         {Type: Regular, Size: -1},
		"inline of other size":  {Type: Regular, Size: 2, Inline: "abc"},
		"inline and object":     {Type: Regular, Size: 3, Inline: "abc", Object: ObjectID{1}},
		"directory with size":   {Type: Directory, Size: 4096},
		"fifo with content":     {Type: Fifo, Inline: "x"},
		"file with target":      {Type: Regular, Link: "x"},
		"symlink of other size": {Type: Symlink, Link: "abc"},
		"symlink too long":      symlink(strings.Repeat("l", MaxLink+1)),
		"symlink with NUL":      symlink("a\x00b"),
		"xattr without name":    {Type: Fifo, Xattrs: []Xattr{{"", "v"}}},
		"xattr name too long":   {Type: Fifo, Xattrs: []Xattr{{strings.Repeat("n", MaxXattrName+1), "v"}}},
		"xattr too long":        {Type: Fifo, Xattrs: []Xattr{{"user.a", strings.Repeat("v", MaxXattr+1)}}},
		"xattrs out of order":   {Type: Fifo, Xattrs: []Xattr{{"user.b", ""}, {"user.a", ""}}},
		"xattr twice":           {Type: Fifo, Xattrs: []Xattr{{"user.a", ""}, {"user.a", ""}}},
	}
	for name, ino := range tests {
		if err := NewBuilder().Add("x", ino); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: got %v, want fs.ErrInvalid", name, err)
		}
	}
	for name, ino := range map[string]*Inode{
		"mode":    {Type: Fifo, Mode: 0o7777, MTime: Time{Sec: -1, Nsec: 1e9 - 1}},
		"symlink": symlink(strings.Repeat("l", MaxLink)),
		"xattr":   {Type: Fifo, Xattrs: []Xattr{{strings.Repeat("n", MaxXattrName), strings.Repeat("v", MaxXattr)}}},
		"pending": {Type: Regular, Size: 1 << 40},
	} {
		if err := NewBuilder().Add("x", ino); err != nil {
			t.Errorf("%s at the limit: %v", name, err)
		}
	}
}

func TestBuilderLimits(t *testing.T) {
	t.Run("nodes", func(t *testing.T) {
		b := NewBuilderLimits(Limits{Nodes: 3})
		if err := script(b, "f a/b 1\nf c 1\nf c 2\n"); err != nil {
			t.Fatal(err)
		}
		if err := script(b, "f d 1\n"); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("fourth of three names: %v", err)
		}
	})
	t.Run("depth", func(t *testing.T) {
		deep := Path(strings.Repeat("d/", MaxDepth/2-1) + "d")
		b := NewBuilder()
		if err := b.Add(deep, dir(0o755)); err != nil {
			t.Fatal(err)
		}
		// A symbolic link doubles what an archive's path can say.
		if err := b.Add("l", symlink(string(deep))); err != nil {
			t.Fatal(err)
		}
		base := Path("l")
		room := MaxDepth - MaxDepth/2
		at := base + Path(strings.Repeat("/e", room))
		if err := b.Add(at, file("x")); err != nil {
			t.Errorf("%d components: %v", MaxDepth, err)
		}
		if err := b.Add(base+Path(strings.Repeat("/g", room+1)), file("x")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%d components: %v", MaxDepth+1, err)
		}
	})
	t.Run("length", func(t *testing.T) {
		name := strings.Repeat("n", MaxName)
		link := strings.Repeat(name+"/", 14) + "short"
		b := NewBuilder()
		if err := b.Add("l", symlink(link)); err != nil {
			t.Fatal(err)
		}
		rest := MaxPath - len(link)
		p := "l" + strings.Repeat("/"+name, rest/(MaxName+1))
		rest %= MaxName + 1
		if err := b.Add(Path(p+"/"+strings.Repeat("m", rest-1)), file("x")); err != nil {
			t.Errorf("path of %d bytes: %v", MaxPath, err)
		}
		if err := b.Add(Path(p+"/"+strings.Repeat("m", rest)), file("x")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("path of %d bytes: %v", MaxPath+1, err)
		}
	})
	t.Run("hops", func(t *testing.T) {
		b := NewBuilder()
		for i := range MaxHops {
			if err := b.Add(Path(fmt.Sprintf("s%d", i)), symlink(fmt.Sprintf("s%d", i+1))); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Add("s0/x", file("x")); err != nil {
			t.Errorf("%d links: %v", MaxHops, err)
		}
		if err := b.Add("t", symlink("s0")); err != nil {
			t.Fatal(err)
		}
		if err := b.Add("t/y", file("x")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%d links: %v", MaxHops+1, err)
		}
	})
	t.Run("work", func(t *testing.T) {
		// Each entry goes through half a million components that its links name.
		b := NewBuilder()
		if err := b.Add("l0", symlink(".")); err != nil {
			t.Fatal(err)
		}
		for i := 1; i < MaxHops; i++ {
			if err := b.Add(Path(fmt.Sprintf("l%d", i)), symlink(strings.Repeat("./", 2000)+fmt.Sprintf("l%d", i-1))); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		for i := 0; i < 1000 && err == nil; i++ {
			err = b.Add(Path(fmt.Sprintf("l%d/d%d/x", MaxHops-1, i)), file("x"))
		}
		if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "too far") {
			t.Errorf("got %v", err)
		}
	})
}

func TestBuilderEnds(t *testing.T) {
	b := NewBuilder()
	if _, err := b.Layer(); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Add":      b.Add("x", file("")),
		"Add root": b.Add("", dir(0o755)),
		"Link":     b.Link("x", "y"),
		"Whiteout": b.Whiteout("x"),
		"Opaque":   b.Opaque("x"),
	} {
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s on a finished Builder: %v", name, err)
		}
	}
	if _, err := b.Layer(); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Layer on a finished Builder: %v", err)
	}
}

func FuzzBuilder(f *testing.F) {
	for _, s := range []string{
		"f a/b 1\nl c a/b\nw d\no a\n",
		"s a b\ns b a\nf a/x 1\n",
		"s a ../../b\nf a/x 1\nl y a/x\nl a/z nowhere\n",
		"l a b\nl b a\n",
		"w a\nf a/x 1\nf a 2\nd a\n",
		"f a/x 1\nw a\n", // with the base: a symbolic link removed and made a directory
		"f a/x 1\nf b/y 2\nw e\no a\n",
	} {
		f.Add(s)
	}
	base, err := Merge(nil, func() *Node {
		b := NewBuilder()
		if err := script(b, "s a b\nd b\nf b/x 1\nf b/y 2\ns c a/../b\nl d b/x\ns e e\nf g 1\n"); err != nil {
			f.Fatal(err)
		}
		layer, err := b.Layer()
		if err != nil {
			f.Fatal(err)
		}
		return layer
	}())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b := NewBuilderLimits(Limits{Nodes: 1000})
		if err := script(b, text); err != nil {
			return
		}
		layer, err := b.Layer()
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckLayer(layer); err != nil {
			t.Fatalf("malformed layer: %v", err)
		}
		before, baseBefore := dumpString(t, layer), dumpString(t, base)
		for _, below := range []*Node{nil, base} {
			merged, err := Merge(below, layer)
			if err != nil {
				continue
			}
			if err := CheckTree(merged); err != nil {
				t.Fatalf("malformed tree: %v", err)
			}
		}
		if dumpString(t, layer) != before || dumpString(t, base) != baseBefore {
			t.Fatal("Merge changed an input")
		}
	})
}
