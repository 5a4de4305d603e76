package tree

import (
	"fmt"
	"io"
	"slices"
	"testing"
)

// entry is one tar entry of the synthetic tree.
type entry struct {
	path   Path
	inode  *Inode
	target Path // of a hard link
}

// synthetic makes about n entries shaped like a distribution's image: 9 files to a
// directory, up to 7 directories deep, some symbolic and hard links, directories
// described before what they hold.
func synthetic(n int) []entry {
	var entries []entry
	last := Path("")
	for d := 0; len(entries) < n; d++ {
		p := Path(fmt.Sprintf("usr/lib/python%d/site%d/package%02d/module%03d/data", d%3, d/3%7, d/21%40, d))
		for i, c := range []byte(p + "/") {
			if c == '/' && (len(last) < i || last[:i] != p[:i]) {
				entries = append(entries, entry{path: p[:i], inode: dir(0o755)})
			}
		}
		last = p
		for f := range 9 {
			e := entry{path: p.Join(fmt.Sprintf("file-with-a-name-%d.py", (f*5)%9))}
			switch f {
			case 7:
				e.inode = symlink("file-with-a-name-0.py")
			case 8:
				e.target = p.Join("file-with-a-name-0.py")
			default:
				e.inode = &Inode{Type: Regular, Mode: 0o644, MTime: Time{Sec: 1700000000}, Size: 5000, Object: ObjectID{byte(d), byte(d >> 8), byte(f)}}
			}
			entries = append(entries, e)
		}
	}
	return entries[:n]
}

func buildEntries(b testing.TB, entries []entry) *Node {
	builder := NewBuilder()
	for _, e := range entries {
		var err error
		if e.inode == nil {
			err = builder.Link(e.path, e.target)
		} else {
			err = builder.Add(e.path, e.inode)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	layer, err := builder.Layer()
	if err != nil {
		b.Fatal(err)
	}
	return layer
}

func BenchmarkBuilder(b *testing.B) {
	entries := synthetic(80000)
	b.ReportAllocs()
	for b.Loop() {
		buildEntries(b, entries)
	}
}

// BenchmarkBuilderDirectory fills one directory of a million files, in no order.
func BenchmarkBuilderDirectory(b *testing.B) {
	ino := file("")
	names := make([]Path, 1_000_000)
	for i := range names {
		names[i] = Path(fmt.Sprintf("d/%d", i*7919%len(names)))
	}
	b.ReportAllocs()
	for b.Loop() {
		builder := NewBuilder()
		for _, p := range names {
			if err := builder.Add(p, ino); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := builder.Layer(); err != nil {
			b.Fatal(err)
		}
	}
}

// layersOf cuts 80,000 entries into eight layers, as equal as they come or the first
// with nearly all, the others repeating some of its files.
func layersOf(b testing.TB, interleaved bool) []*Node {
	entries := synthetic(80000)
	var parts [8][]entry
	for i, e := range entries {
		switch {
		case !interleaved:
			parts[i/10000] = append(parts[i/10000], e)
		case e.inode != nil && e.inode.Type == Directory:
			for k := range parts {
				parts[k] = append(parts[k], entry{path: e.path, inode: dir(0o755)})
			}
		default:
			parts[i%8] = append(parts[i%8], e)
		}
	}
	var layers []*Node
	for _, p := range parts {
		layers = append(layers, buildEntries(b, slices.DeleteFunc(p, func(e entry) bool { return interleaved && e.inode == nil })))
	}
	return layers
}

func BenchmarkMergeAll(b *testing.B) {
	for _, interleaved := range []bool{false, true} {
		b.Run(map[bool]string{false: "apart", true: "every-directory-in-every-layer"}[interleaved], func(b *testing.B) {
			layers := layersOf(b, interleaved)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := MergeAll(layers); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMergeSmall puts ten files on top of 80,000 entries.
func BenchmarkMergeSmall(b *testing.B) {
	base, err := Merge(nil, buildEntries(b, synthetic(80000)))
	if err != nil {
		b.Fatal(err)
	}
	var small []entry
	for i, e := range synthetic(80000) {
		if i%8000 == 4000 {
			small = append(small, entry{path: e.path + "-new", inode: file("new")})
		}
	}
	layer := buildEntries(b, small)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Merge(base, layer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	entries := synthetic(80000)
	old, err := Merge(nil, buildEntries(b, entries))
	if err != nil {
		b.Fatal(err)
	}
	bld := NewBuilder()
	for i, e := range entries {
		if i%8000 == 4000 {
			if err := bld.Add(e.path+"-new", file("new")); err != nil {
				b.Fatal(err)
			}
		}
	}
	layer, err := bld.Layer()
	if err != nil {
		b.Fatal(err)
	}
	shared, err := Merge(old, layer)
	if err != nil {
		b.Fatal(err)
	}
	// The same again from inodes of its own, as from another image.
	for i, e := range entries {
		if e.inode != nil {
			c := *e.inode
			entries[i].inode = &c
		}
	}
	apart, err := Merge(buildEntries(b, entries), layer)
	if err != nil {
		b.Fatal(err)
	}
	for name, new := range map[string]*Node{"shared": shared, "apart": apart} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				for range Diff(old, new) {
					n++
				}
				if n != 10 {
					b.Fatalf("%d changes", n)
				}
			}
		})
	}
}

func BenchmarkDump(b *testing.B) {
	root := buildEntries(b, synthetic(80000))
	b.ReportAllocs()
	for b.Loop() {
		if err := Dump(io.Discard, root); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLinks(b *testing.B) {
	root := buildEntries(b, synthetic(80000))
	b.ReportAllocs()
	for b.Loop() {
		if len(Links(root)) == 0 {
			b.Fatal("no links")
		}
	}
}
