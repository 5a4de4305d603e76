package erofs_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// view says what a mount is expected to show of a tree.
type view struct {
	ns      erofs.Namespace
	overlay bool // mounted by overlayfs: what is escaped is not, and objects can be read
	content map[tree.ObjectID]string
}

// compare compares a mounted tree with the one it was made from.
func compare(t *testing.T, mnt string, root *tree.Node, v view) {
	t.Helper()
	links := make(map[*tree.Inode]int)
	whiteouts := 0
	var count func(n *tree.Node)
	count = func(n *tree.Node) {
		if n.Whiteout {
			whiteouts++
			return
		}
		links[n.Inode]++
		for _, c := range n.Children {
			count(c)
		}
	}
	count(root)
	inodes := make(map[*tree.Inode]uint64)
	var walk func(path string, n *tree.Node)
	walk = func(path string, n *tree.Node) {
		compareNode(t, path, n, v, links, whiteouts)
		if n.Whiteout {
			return
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		if ino, ok := inodes[n.Inode]; ok && !n.IsDir() && ino != st.Ino {
			t.Errorf("%q: inode number %d, its hard link has %d", path, st.Ino, ino)
		}
		inodes[n.Inode] = st.Ino
		if !n.IsDir() {
			return
		}
		have, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(have) != len(n.Children) {
			t.Fatalf("%q: %d entries, want %d", path, len(have), len(n.Children))
		}
		for i, c := range n.Children {
			// os.ReadDir sorts.
			if have[i].Name() != c.Name {
				t.Fatalf("%q: entry %q, want %q", path, have[i].Name(), c.Name)
			}
			walk(path+"/"+c.Name, c)
		}
	}
	walk(mnt, root)
}

func compareNode(t *testing.T, path string, n *tree.Node, v view, links map[*tree.Inode]int, whiteouts int) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	ino, nlink := n.Inode, links[n.Inode]
	if n.Whiteout {
		ino, nlink = &tree.Inode{Type: tree.CharDevice}, whiteouts
	}
	kinds := map[tree.Type]uint32{
		tree.Regular: unix.S_IFREG, tree.Directory: unix.S_IFDIR, tree.Symlink: unix.S_IFLNK, tree.CharDevice: unix.S_IFCHR,
		tree.BlockDevice: unix.S_IFBLK, tree.Fifo: unix.S_IFIFO, tree.Socket: unix.S_IFSOCK,
	}
	mode := kinds[ino.Type] | uint32(ino.Mode)
	escaped := !n.Whiteout && ino.Type == tree.CharDevice && ino.Rdev == tree.Device{}
	if escaped {
		mode = unix.S_IFREG | uint32(ino.Mode)
	}
	if n.IsDir() {
		nlink = 2
		for _, c := range n.Children {
			if c.IsDir() {
				nlink++
			}
		}
		if v.overlay {
			nlink = int(st.Nlink) // overlayfs gives merged directories 1
		}
	}
	have := fmt.Sprintf("mode %#o uid %d gid %d nlink %d time %d.%09d", st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Sec, st.Mtim.Nsec)
	want := fmt.Sprintf("mode %#o uid %d gid %d nlink %d time %d.%09d", mode, ino.UID, ino.GID, nlink, ino.MTime.Sec, ino.MTime.Nsec)
	if have != want {
		t.Errorf("%q: %s, want %s", path, have, want)
	}
	if ino.Type == tree.CharDevice || ino.Type == tree.BlockDevice {
		if !escaped && (unix.Major(st.Rdev) != ino.Rdev.Major || unix.Minor(st.Rdev) != ino.Rdev.Minor) {
			t.Errorf("%q: device %#x, want %v", path, st.Rdev, ino.Rdev)
		}
	}
	if !n.IsDir() && st.Size != ino.Size {
		t.Errorf("%q: size %d, want %d", path, st.Size, ino.Size)
	}
	if ino.Type == tree.Symlink {
		if target, err := os.Readlink(path); err != nil || target != ino.Link {
			t.Errorf("%q: link %.40q (%v), want %.40q", path, target, err, ino.Link)
		}
	}
	if ino.Type == tree.Regular && ino.Object.IsZero() {
		if b, err := os.ReadFile(path); err != nil || string(b) != ino.Inline {
			t.Errorf("%q: wrong content (%v)", path, err)
		}
	}
	if v.overlay && ino.Type == tree.Regular && !ino.Object.IsZero() {
		if content, ok := v.content[ino.Object]; ok {
			if b, err := os.ReadFile(path); err != nil || string(b) != content {
				t.Errorf("%q: wrong content (%v)", path, err)
			}
		}
	}
	compareXattrs(t, path, n, v, escaped)
}

// expectXattrs says what attributes a mount shows.
func expectXattrs(n *tree.Node, v view, escaped bool) []tree.Xattr {
	var want []tree.Xattr
	if n.Whiteout {
		return nil
	}
	own := v.ns.String()
	esc := own + ".overlay."
	if !v.overlay {
		esc += "overlay."
	}
	has := func(name string) bool {
		return slices.ContainsFunc(want, func(x tree.Xattr) bool { return x.Name == name })
	}
	for _, x := range n.Inode.Xattrs {
		if rest, ok := strings.CutPrefix(x.Name, own+".overlay."); ok {
			x.Name = esc + rest
		}
		if strings.HasPrefix(x.Name, "com.") || strings.HasPrefix(x.Name, "system.nfs4") {
			continue
		}
		want = append(want, x)
	}
	note := ""
	if escaped {
		note += "c"
		if !has(esc + "whiteout") {
			note += "w"
			want = append(want, tree.Xattr{Name: esc + "whiteout"})
		}
	}
	for _, c := range n.Children {
		if c.Inode != nil && c.Inode.Type == tree.CharDevice && c.Inode.Rdev == (tree.Device{}) && !has(esc+"opaque") {
			note += "o"
			want = append(want, tree.Xattr{Name: esc + "opaque", Value: "x"})
		}
	}
	if n.Implicit {
		note += "i"
	}
	if !v.overlay {
		if n.Opaque {
			want = append(want, tree.Xattr{Name: own + ".overlay.opaque", Value: "y"})
		}
		if note != "" {
			want = append(want, tree.Xattr{Name: own + ".overlay.layerfs", Value: note})
		}
		if !n.Inode.Object.IsZero() {
			want = append(want, tree.Xattr{Name: own + ".overlay.metacopy"}, tree.Xattr{Name: own + ".overlay.redirect", Value: "/" + n.Inode.Object.Path()})
		}
	}
	slices.SortFunc(want, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return want
}

func compareXattrs(t *testing.T, path string, n *tree.Node, v view, escaped bool) {
	t.Helper()
	list := make([]byte, 64<<10)
	size, err := unix.Llistxattr(path, list)
	if err != nil {
		t.Errorf("%q: list xattrs: %v", path, err)
		return
	}
	var have []tree.Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		k, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Errorf("%q: %s: %v", path, name, err)
			continue
		}
		have = append(have, tree.Xattr{Name: name, Value: string(value[:k])})
	}
	slices.SortFunc(have, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	if want := expectXattrs(n, v, escaped); !slices.Equal(have, want) {
		t.Errorf("%q: xattrs %.300q, want %.300q", path, have, want)
	}
	if _, err := unix.Lgetxattr(path, "user.absent", nil); !errors.Is(err, unix.ENODATA) {
		t.Errorf("%q: absent xattr: %v", path, err)
	}
}

// TestKernelMount mounts images and looks at all that the kernel tells of them.
func TestKernelMount(t *testing.T) {
	for _, c := range []struct {
		name string
		root *tree.Node
		opts erofs.Options
	}{
		{"odd", oddTree(), erofs.Options{}},
		{"odd user", oddTree(), erofs.Options{Namespace: erofs.User}},
		{"layer", layerTree(), erofs.Options{Layer: true}},
		{"sizes", sizesTree(), erofs.Options{}},
		{"directories", dirsTree(), erofs.Options{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := image(t, c.root, c.opts)
			compare(t, mountImage(t, b), c.root, view{ns: c.opts.Namespace})
		})
	}
}

// sizesTree has files and links of every other size up to 9000 bytes, some with
// attributes before their tails.
func sizesTree() *tree.Node {
	var all []*tree.Node
	for n := 1; n <= 9000; n += 2 {
		f := file(fmt.Sprintf("f%05d", n), text(n))
		if n%7 == 0 {
			f.Inode.Xattrs = []tree.Xattr{{Name: "user.pad", Value: text(n % 97)}}
		}
		all = append(all, f)
		if n <= tree.MaxLink {
			all = append(all, symlink(fmt.Sprintf("l%05d", n), strings.Repeat("t", n)))
		}
	}
	for _, n := range []int{4030, 4031, 4032, 4033, 4094, 4096, 8192, 4096 + 4032, 4096 + 4033} {
		all = append(all, file(fmt.Sprintf("e%05d", n), text(n)))
	}
	return dir("", tree.Inode{Mode: 0o755}, all...)
}

// dirsTree has directories whose last blocks are of every fill near the limits.
func dirsTree() *tree.Node {
	var all []*tree.Node
	one := file("x", "")
	fill := func(name string, bytes int) *tree.Node {
		// "." and ".." take 27 bytes, an entry 12 and its name.
		bytes -= 2*12 + 3
		d := dir(name, tree.Inode{Mode: 0o755})
		for i := 0; bytes > 12; i++ {
			n := min(bytes-12, 200)
			if rest := bytes - 12 - n; rest > 0 && rest <= 20 {
				n -= 20
			}
			bytes -= 12 + n
			d.Children = append(d.Children, &tree.Node{Name: fmt.Sprintf("%04d", i) + strings.Repeat("y", max(n-4, 0)), Inode: one.Inode})
		}
		return d
	}
	for bytes := 100; bytes <= 9000; bytes += 331 {
		all = append(all, fill(fmt.Sprintf("fill%05d", bytes), bytes))
	}
	for bytes := 4096 - 70; bytes <= 4096+70; bytes++ {
		all = append(all, fill(fmt.Sprintf("edge%05d", bytes), bytes))
	}
	for _, n := range []int{14, 15, 16, 30, 31, 300} {
		d := dir(fmt.Sprintf("long%03d", n), tree.Inode{Mode: 0o755})
		for i := range n {
			d.Children = append(d.Children, &tree.Node{Name: fmt.Sprintf("%03d", i) + strings.Repeat("z", 252), Inode: one.Inode})
		}
		all = append(all, d)
	}
	short := dir("short", tree.Inode{Mode: 0o755})
	for i := 1; i < 256; i++ {
		if i != '/' && i != '.' {
			short.Children = append(short.Children, &tree.Node{Name: string([]byte{byte(i)}), Inode: one.Inode})
		}
		for j := 1; j < 256; j += 50 {
			if name := string([]byte{byte(i), byte(j)}); !strings.Contains(name, "/") && name != ".." {
				short.Children = append(short.Children, &tree.Node{Name: name, Inode: one.Inode})
			}
		}
	}
	all = append(all, dir("short", tree.Inode{Mode: 0o755}, short.Children...))
	return dir("", tree.Inode{Mode: 0o755}, all...)
}
