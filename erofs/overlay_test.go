package erofs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

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
	compare(t, mnt, root, view{overlay: true, content: content})
}

// TestOverlayUser has overlayfs take its attributes from user.overlay.*, as a mount
// without privileges does.
func TestOverlayUser(t *testing.T) {
	needRoot(t)
	root := oddTree()
	objects, content := objectStore(t, root)
	b, _ := image(t, root, erofs.Options{Namespace: erofs.User})
	lower := mountImage(t, b)
	mnt := mount(t, "overlay", [2]string{"userxattr", ""}, [2]string{"lowerdir+", lower}, [2]string{"datadir+", objects})
	compare(t, mnt, root, view{ns: erofs.User, overlay: true, content: content})
}

// TestOverlayNested has a whiteout of the image's own serve an overlay mount inside
// the one of the image.
func TestOverlayNested(t *testing.T) {
	needRoot(t)
	b, _ := image(t, dir("", tree.Inode{Mode: 0o755},
		dir("low", tree.Inode{Mode: 0o755}, file("gone", "g"), file("stays", "s")),
		dir("up", tree.Inode{Mode: 0o755}, node("gone", tree.Inode{Type: tree.CharDevice}), file("new", "n")),
	), erofs.Options{})
	outer := mount(t, "overlay", [2]string{"metacopy", "on"}, [2]string{"redirect_dir", "on"},
		[2]string{"lowerdir+", mountImage(t, b)}, [2]string{"datadir+", t.TempDir()})
	inner := mount(t, "overlay", [2]string{"lowerdir+", filepath.Join(outer, "up")}, [2]string{"lowerdir+", filepath.Join(outer, "low")})
	entries, err := os.ReadDir(inner)
	if err != nil || len(entries) != 2 || entries[0].Name() != "new" || entries[1].Name() != "stays" {
		t.Errorf("inner overlay has %v, %v", entries, err)
	}
	if _, err := os.Lstat(filepath.Join(inner, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("look-up of a whiteout: %v", err)
	}
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
	compare(t, mnt, merged, view{overlay: true, content: content})
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
