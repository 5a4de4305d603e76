package erofs_test

import (
	"fmt"
	"io"
	"testing"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// imageTree is a tree with the proportions of a Linux distribution: of ten inodes one
// is a directory, one a link, four are small files of about 800 bytes and four objects.
func imageTree(inodes int) *tree.Node {
	const perDir = 10
	blob := text(2048)
	made := 0
	var grow func(name string, depth int) *tree.Node
	grow = func(name string, depth int) *tree.Node {
		made++
		var all []*tree.Node
		for i := range perDir - 1 {
			made++
			meta := tree.Inode{Mode: 0o644, MTime: tree.Time{Sec: 1700000000 + int64(made)}}
			name := fmt.Sprintf("some-file-name-%d.txt", i)
			switch {
			case i == 0:
				l := symlink(name, "../lib/some-target.so.1")
				all = append(all, l)
				continue
			case i < 5:
				meta.Type, meta.Size = tree.Regular, int64(made*37%1600)
				meta.Inline = blob[:meta.Size]
			default:
				meta.Type, meta.Size = tree.Regular, int64(5000+made)
				meta.Object = tree.ObjectID{byte(made), byte(made >> 8), byte(made >> 16), 31: 1}
			}
			all = append(all, node(name, meta))
		}
		if depth > 0 {
			for i := range 10 {
				if made < inodes {
					all = append(all, grow(fmt.Sprintf("directory%d", i), depth-1))
				}
			}
		}
		return dir(name, tree.Inode{Mode: 0o755}, all...)
	}
	return grow("", 5)
}

// label gives every inode an attribute, of which there are few different ones.
func label(n *tree.Node) {
	if n.Inode.Xattrs == nil {
		n.Inode.Xattrs = []tree.Xattr{{Name: "security.selinux", Value: fmt.Sprintf("system_u:object_r:type%d_t:s0\x00", n.Inode.Size%20)}}
	}
	for _, c := range n.Children {
		label(c)
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		inodes int
		labels bool
	}{{1000, false}, {60000, false}, {60000, true}} {
		root := imageTree(c.inodes)
		if c.labels {
			label(root)
		}
		b.Run(fmt.Sprintf("inodes=%d/labels=%v", c.inodes, c.labels), func(b *testing.B) {
			b.ReportAllocs()
			var stats erofs.Stats
			for b.Loop() {
				var err error
				if stats, err = erofs.Write(io.Discard, root, erofs.Options{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(stats.Size), "image-bytes")
		})
	}
}

func BenchmarkTree(b *testing.B) {
	_, im := image(b, imageTree(60000), erofs.Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := im.Tree(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{100, 100000} {
		root := dir("", tree.Inode{})
		ino := &tree.Inode{Type: tree.Regular}
		for i := range n {
			root.Children = append(root.Children, &tree.Node{Name: fmt.Sprintf("file-%08d", i), Inode: ino})
		}
		_, im := image(b, root, erofs.Options{})
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i = (i + 7919) % n
				if _, ok, err := im.Lookup(im.Root(), root.Children[i].Name); err != nil || !ok {
					b.Fatal(ok, err)
				}
			}
		})
	}
}

func BenchmarkResolve(b *testing.B) {
	_, im := image(b, imageTree(60000), erofs.Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := im.Resolve("directory0/directory1/directory2/directory3/some-file-name-3.txt"); err != nil || !ok {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkStat(b *testing.B) {
	_, im := image(b, imageTree(1000), erofs.Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := im.Stat(im.Root()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkXattr(b *testing.B) {
	_, im := image(b, imageTree(1000), erofs.Options{})
	n, _, err := im.Resolve("some-file-name-7.txt")
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"trusted.overlay.redirect", "security.selinux"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := im.Xattr(n, name); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadDir(b *testing.B) {
	root := dir("", tree.Inode{})
	ino := &tree.Inode{Type: tree.Regular}
	for i := range 1000 {
		root.Children = append(root.Children, &tree.Node{Name: fmt.Sprintf("file-%08d", i), Inode: ino})
	}
	_, im := image(b, root, erofs.Options{})
	b.ReportAllocs()
	for b.Loop() {
		count := 0
		for _, err := range im.ReadDir(im.Root(), 0) {
			if err != nil {
				b.Fatal(err)
			}
			count++
		}
		if count != 1000 {
			b.Fatal(count)
		}
	}
}
