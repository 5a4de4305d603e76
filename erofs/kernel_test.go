package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

// view says what a mount is expected to show of a tree.
type view struct {
	ns      string // whose overlay attributes are shown as they are on disk; "" on an overlay
	objects bool   // contents of objects can be read
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
		if v.ns == "" {
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
	if v.objects && ino.Type == tree.Regular && !ino.Object.IsZero() {
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
	own := v.ns
	if own == "" {
		own = "trusted"
	}
	esc := own + ".overlay."
	if v.ns != "" {
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
	if v.ns != "" {
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
			compare(t, mountImage(t, b), c.root, view{ns: c.opts.Namespace.String()})
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

// TestTools has erofs-utils check and describe images.
func TestTools(t *testing.T) {
	fsck, dump := needTool(t, "fsck.erofs"), needTool(t, "dump.erofs")
	for name, c := range map[string]struct {
		root *tree.Node
		opts erofs.Options
	}{
		"odd":         {oddTree(), erofs.Options{}},
		"empty":       {dir("", tree.Inode{Mode: 0o755}), erofs.Options{}},
		"layer":       {layerTree(), erofs.Options{Layer: true, Namespace: erofs.User}},
		"sizes":       {sizesTree(), erofs.Options{}},
		"directories": {dirsTree(), erofs.Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			b, im := image(t, c.root, c.opts)
			path := store(t, b)
			args := []string{path}
			if name != "odd" { // it has a file of 8 EiB, which --extract would read
				args = append([]string{"--extract"}, args...)
			}
			if out, err := exec.Command(fsck, args...).CombinedOutput(); err != nil || bytes.Contains(out, []byte("<E>")) || bytes.Contains(out, []byte("<W>")) {
				t.Errorf("fsck.erofs: %v\n%.2000s", err, out)
			}
			out, err := exec.Command(dump, "-s", path).CombinedOutput()
			if err != nil || bytes.Contains(out, []byte("<E>")) {
				t.Errorf("dump.erofs: %v\n%s", err, out)
			}
			if want := fmt.Sprintf("%d", im.Inodes()); !strings.Contains(string(out), want) {
				t.Errorf("dump.erofs does not tell of %s inodes:\n%s", want, out)
			}
			if out, err := exec.Command(dump, "--nid", fmt.Sprint(uint64(im.Root())), path).CombinedOutput(); err != nil || bytes.Contains(out, []byte("<E>")) {
				t.Errorf("dump.erofs of the root: %v\n%s", err, out)
			}
		})
	}
}

// TestACL has getfacl read the ACLs of a mount.
func TestACL(t *testing.T) {
	getfacl := needTool(t, "getfacl")
	b, _ := image(t, oddTree(), erofs.Options{})
	mnt := mountImage(t, b)
	out, err := exec.Command(getfacl, "-n", "-c", "-p", filepath.Join(mnt, "acldir")).CombinedOutput()
	if err != nil {
		t.Fatalf("getfacl: %v\n%s", err, out)
	}
	want := "user::rwx\nuser:1000:r--\ngroup::r-x\nmask::r-x\nother::---\n" +
		"default:user::rwx\ndefault:user:1000:r--\ndefault:group::r-x\ndefault:mask::r-x\ndefault:other::---\n\n"
	if string(out) != want {
		t.Errorf("getfacl says\n%swant\n%s", out, want)
	}
}

// objectStore makes a directory of objects for a tree and says what they hold. Objects
// of huge files are left out.
func objectStore(t *testing.T, root *tree.Node) (string, map[tree.ObjectID]string) {
	t.Helper()
	base := t.TempDir()
	content := make(map[tree.ObjectID]string)
	var walk func(n *tree.Node)
	walk = func(n *tree.Node) {
		if n.Inode != nil && !n.Inode.Object.IsZero() && n.Inode.Size < 1<<20 {
			content[n.Inode.Object] = text(int(n.Inode.Size))
			path := filepath.Join(base, n.Inode.Object.Path())
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content[n.Inode.Object]), 0o444); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range n.Children {
			walk(c)
		}
	}
	walk(root)
	return base, content
}

// TestOverlay mounts an image as a lower of overlayfs with the objects as a data-only
// lower: attributes and devices of the image show again, and contents are there.
func TestOverlay(t *testing.T) {
	needRoot(t)
	root := oddTree()
	objects, content := objectStore(t, root)
	b, _ := image(t, root, erofs.Options{})
	lower := mountImage(t, b)
	mnt := mount(t, "overlay", [2]string{"metacopy", "on"}, [2]string{"redirect_dir", "on"},
		[2]string{"lowerdir+", lower}, [2]string{"datadir+", objects})
	compare(t, mnt, root, view{objects: true, content: content})
}

// TestOverlayLayer stacks the image of a layer above a merged one.
func TestOverlayLayer(t *testing.T) {
	needRoot(t)
	below := dir("", tree.Inode{Mode: 0o700},
		dir("opaque", tree.Inode{Mode: 0o700}, file("hidden", "h")),
		dir("implicit", tree.Inode{Mode: 0o711, UID: 8}, file("gone", "g"), file("gone2", "g"), file("stays", "old")),
		file("removed", "r"), object("kept", 6, 80000))
	layer := layerTree()
	// What the two make together.
	merged := dir("", tree.Inode{Mode: 0o755},
		dir("opaque", tree.Inode{Mode: 0o755}, file("in", "new")),
		dir("implicit", tree.Inode{Mode: 0o711, UID: 8}, file("stays", "old"), layer.Lookup("implicit/own")),
		dir("both", tree.Inode{Mode: 0o755}),
		layer.Lookup("added"), layer.Lookup("small"), below.Lookup("kept"))
	objects, content := objectStore(t, merged)
	low, _ := image(t, below, erofs.Options{UUID: [16]byte{1}})
	top, _ := image(t, layer, erofs.Options{Layer: true, UUID: [16]byte{2}})
	mnt := mount(t, "overlay", [2]string{"metacopy", "on"}, [2]string{"redirect_dir", "on"},
		[2]string{"lowerdir+", mountImage(t, top)}, [2]string{"lowerdir+", mountImage(t, low)}, [2]string{"datadir+", objects})
	compare(t, mnt, merged, view{objects: true, content: content})
}

// TestOverlayUpper writes through an overlay above an image: the first write copies an
// object up, with its attributes.
func TestOverlayUpper(t *testing.T) {
	needRoot(t)
	root := oddTree()
	objects, content := objectStore(t, root)
	b, _ := image(t, root, erofs.Options{UUID: [16]byte{3}})
	upper := t.TempDir()
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(upper, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mnt := mount(t, "overlay", [2]string{"metacopy", "on"}, [2]string{"redirect_dir", "on"},
		[2]string{"lowerdir+", mountImage(t, b)}, [2]string{"datadir+", objects},
		[2]string{"upperdir", filepath.Join(upper, "upper")}, [2]string{"workdir", filepath.Join(upper, "work")})
	path := filepath.Join(mnt, "objx")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("more")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != content[root.Lookup("objx").Inode.Object]+"more" {
		t.Errorf("wrong content after copy up (%v)", err)
	}
	value := make([]byte, 100)
	if n, err := unix.Lgetxattr(path, "user.color", value); err != nil || string(value[:n]) != "red" {
		t.Errorf("xattr after copy up: %q, %v", value[:n], err)
	}
}
