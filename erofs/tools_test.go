package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	erofsgo "github.com/erofs/go-erofs"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/tree"
)

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
		"image":       {imageTree(2000), erofs.Options{}},
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

// TestGoErofs has another reader look at an image.
func TestGoErofs(t *testing.T) {
	root := oddTree()
	// io/fs knows no such names, and the reader no attributes larger than a block.
	root.Children = slices.DeleteFunc(root.Children, func(n *tree.Node) bool {
		return n.Name == "\xff\xfe" || n.Name == "big"
	})
	b, _ := image(t, root, erofs.Options{})
	fsys, err := erofsgo.Open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = fs.WalkDir(fsys, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		want := root
		if path != "." {
			want = root.Lookup(tree.Path(path))
		}
		if want == nil {
			return fmt.Errorf("unexpected %q", path)
		}
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		st, ok := info.Sys().(*erofsgo.Stat)
		if !ok {
			return fmt.Errorf("%q: no stat", path)
		}
		ino := want.Inode
		if st.UID != ino.UID || st.GID != ino.GID || int64(st.Mtime) != ino.MTime.Sec || st.MtimeNs != ino.MTime.Nsec || info.Mode().Perm() != fs.FileMode(ino.Mode&0o777) {
			t.Errorf("%q: %+v, want %+v", path, st, ino)
		}
		escaped := ino.Type == tree.CharDevice && ino.Rdev == tree.Device{}
		for _, x := range expectXattrs(want, view{}, escaped) {
			name := x.Name
			if strings.HasPrefix(name, "system.posix") {
				name += "." // as this reader has it
			}
			if st.Xattrs[name] != x.Value {
				t.Errorf("%q: %s is %.80q, want %.80q", path, name, st.Xattrs[name], x.Value)
			}
		}
		if ino.Type == tree.Regular && ino.Object.IsZero() {
			f, err := fsys.Open(path)
			if err != nil {
				return fmt.Errorf("%q: %w", path, err)
			}
			content, err := io.ReadAll(f)
			if err := errors.Join(err, f.Close()); err != nil || string(content) != ino.Inline {
				t.Errorf("%q: wrong content (%v)", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var count func(n *tree.Node) int
	count = func(n *tree.Node) int {
		sum := 1
		for _, c := range n.Children {
			sum += count(c)
		}
		return sum
	}
	if want := count(root); seen != want {
		t.Errorf("%d entries, want %d", seen, want)
	}
}

// TestForeign reads what mkfs.erofs writes: compact inodes and chunks.
func TestForeign(t *testing.T) {
	mkfs := needTool(t, "mkfs.erofs")
	src := t.TempDir()
	want := map[string]string{"empty": "", "small": "s", "block": text(4096), "large": text(100_001), "sparse": strings.Repeat("\x00", 50000) + "end"}
	for name, content := range want {
		if err := os.WriteFile(filepath.Join(src, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("small", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"plain": nil, "compact": {"-Eforce-inode-compact", "-T1234567"}, "extended": {"-Eforce-inode-extended"},
		"chunks": {"--chunksize=4096"}, "chunk indexes": {"--chunksize=8192", "-Eforce-chunk-indexes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if out, err := exec.Command(mkfs, append(args, path, src)...).CombinedOutput(); err != nil {
				t.Skipf("mkfs.erofs: %v\n%s", err, out)
			}
			im, err := erofs.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := im.Close(); err != nil {
					t.Error(err)
				}
			}()
			for name, content := range want {
				n := find(t, im, tree.Path(name))
				have := make([]byte, len(content)+1)
				k, err := im.ReadAt(n, have, 0)
				if !errors.Is(err, io.EOF) || string(have[:k]) != content {
					t.Errorf("%s: %d bytes, %v", name, k, err)
				}
				s, err := im.Stat(n)
				if err != nil || s.Mode != 0o640 || s.Size != int64(len(content)) || s.Type != tree.Regular || s.Nlink != 1 {
					t.Errorf("%s: %+v, %v", name, s, err)
				}
				if slices.Contains(args, "-T1234567") && s.MTime.Sec != 1234567 {
					t.Errorf("%s: time %v", name, s.MTime)
				}
			}
			if target, err := im.Readlink(find(t, im, "link")); err != nil || target != "small" {
				t.Errorf("link %q, %v", target, err)
			}
		})
	}
}
