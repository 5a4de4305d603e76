package rootfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/layerfs/layerfs/runtime/rootfs"
)

func open(t testing.TB, dir string) *rootfs.Root {
	t.Helper()
	r, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o640)); err != nil {
		t.Fatal(err)
	}
}

func pack(t testing.TB, r *rootfs.Root, from, as string, follow bool) (*bytes.Buffer, error) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := r.Pack(t.Context(), w, from, as, follow)
	if err == nil {
		err = w.Close()
	}
	return &b, err
}

func self() *rootfs.Owner { return &rootfs.Owner{UID: os.Geteuid(), GID: os.Getegid()} }

func unpack(t testing.TB, r *rootfs.Root, b *bytes.Buffer, dir string) error {
	t.Helper()
	return r.Unpack(t.Context(), tar.NewReader(b), dir, rootfs.UnpackOptions{Owner: self()})
}

// What is packed and unpacked is the same: files, links of both kinds, modes and times.
func TestThereAndBack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, from+"/a/file", "text")
	write(t, from+"/a/b/empty", "")
	if err := errors.Join(os.Link(from+"/a/file", from+"/a/same"), os.Symlink("../nowhere", from+"/a/link"), os.Chmod(from+"/a/b", 0o700)); err != nil {
		t.Fatal(err)
	}
	b, err := pack(t, open(t, from), "/a", "copy", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := unpack(t, open(t, to), b, "/"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(to + "/copy/file"); err != nil || string(text) != "text" {
		t.Errorf("file %q (%v)", text, err)
	}
	if target, err := os.Readlink(to + "/copy/link"); err != nil || target != "../nowhere" {
		t.Errorf("link to %q (%v)", target, err)
	}
	one, err1 := os.Stat(to + "/copy/file")
	two, err2 := os.Stat(to + "/copy/same")
	if err1 != nil || err2 != nil || !os.SameFile(one, two) || one.Mode() != 0o640 {
		t.Errorf("two names: %v, %v (%v, %v)", one, two, err1, err2)
	}
	for _, name := range []string{"", "/b", "/file"} {
		x, err1 := os.Stat(from + "/a" + name)
		y, err2 := os.Stat(to + "/copy" + name)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if !x.ModTime().Equal(y.ModTime()) || x.Mode() != y.Mode() {
			t.Errorf("%s: %v %v, want %v %v", name, y.Mode(), y.ModTime(), x.Mode(), x.ModTime())
		}
	}
}

// Links in a root lead to places in it, however they are written, for who reads and for
// who writes.
func TestLinksStayInside(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	write(t, outside+"/secret", "outside")
	write(t, root+outside+"/secret", "inside")
	for name, target := range map[string]string{"abs": outside, "up": "../../../../../../../../../.." + outside, "fd": "/proc/self/cwd"} {
		if err := os.Symlink(target, root+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	r := open(t, root)
	for _, name := range []string{"abs", "up"} {
		b, err := pack(t, r, "/"+name+"/secret", "x", false)
		if err != nil || !bytes.Contains(b.Bytes(), []byte("inside")) || bytes.Contains(b.Bytes(), []byte("outside")) {
			t.Errorf("read through %s: %v", name, err)
		}
		b, err = pack(t, r, "/"+name, "x", true)
		if err != nil || bytes.Contains(b.Bytes(), []byte("outside")) {
			t.Errorf("follow %s: %v", name, err)
		}
		var in bytes.Buffer
		w := tar.NewWriter(&in)
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: "new", Typeflag: tar.TypeReg, Size: 1, Mode: 0o600}), second(w.Write([]byte("x"))), w.Close()); err != nil {
			t.Fatal(err)
		}
		if err := unpack(t, r, &in, "/"+name); err != nil {
			t.Errorf("write through %s: %v", name, err)
		}
	}
	if _, err := os.Lstat(outside + "/new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made outside: %v", err)
	}
	if _, err := os.Lstat(root + outside + "/new"); err != nil {
		t.Error(err)
	}
	if _, err := pack(t, r, "/fd/x", "x", true); err == nil {
		t.Error("a magic link was followed")
	}
}

func second(_ int, err error) error { return err }

// A stream can neither leave the directory by its names nor by links that it makes first.
func TestHostileStreams(t *testing.T) {
	for what, entries := range map[string][]tar.Header{
		"dots":          {{Name: "../../../escaped", Typeflag: tar.TypeReg}},
		"absolute":      {{Name: "/escaped", Typeflag: tar.TypeReg}},
		"link first":    {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/escaped", Typeflag: tar.TypeReg}},
		"absolute link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, {Name: "l/escaped", Typeflag: tar.TypeReg}},
		"hard link":     {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../secret"}, {Name: "h", Typeflag: tar.TypeReg}},
	} {
		top := t.TempDir()
		write(t, top+"/secret", "secret")
		root := top + "/root"
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		_ = unpack(t, open(t, root), &b, "/") // it may refuse, and may do it inside
		for _, name := range []string{top + "/escaped", "/escaped"} {
			if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s was made", what, name)
			}
		}
		if text, err := os.ReadFile(top + "/secret"); err != nil || string(text) != "secret" {
			t.Errorf("%s: the file outside is %q (%v)", what, text, err)
		}
	}
}

func TestFilesAreNoDirectories(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, from+"/x/file", "text")
	write(t, to+"/x", "a file")
	b, err := pack(t, open(t, from), "/x", "x", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := unpack(t, open(t, to), b, "/"); err == nil {
		t.Error("a directory took the place of a file")
	}
	if dir, err := open(t, from).IsDir("/x/nothing"); !errors.Is(err, fs.ErrNotExist) || dir {
		t.Errorf("what is not there: %v, %v", dir, err)
	}
}
