package unionfstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

// epoch is the modification time of all that layers hold unless they say otherwise:
// long ago and odd, so that a lost nanosecond or a time of today shows.
func epoch() time.Time { return time.Unix(1_000_000_000, 123_456_789) }

// Entry is one thing that a layer says. It is written twice: into the layer, in the
// upper format, and into the control, to which it is applied as a change.
type Entry func(w layerWriter) error

// layerWriter is a place to write entries to.
type layerWriter struct {
	root      string
	namespace unionfs.Namespace
	control   bool // apply, instead of writing the format
}

func (w layerWriter) at(path string) string { return filepath.Join(w.root, path) }

// Attr changes the metadata of the entry that it is given to.
type Attr func(w layerWriter, path string) error

// Owner sets user and group.
func Owner(uid, gid int) Attr {
	return func(w layerWriter, path string) error { return os.Lchown(w.at(path), uid, gid) }
}

// Mode sets the permission bits with setuid, setgid and sticky, after Owner, which
// clears some of them.
func Mode(mode uint32) Attr {
	return func(w layerWriter, path string) error { return unix.Chmod(w.at(path), mode) }
}

// Xattr sets an extended attribute. Trusted ones are left out, of the control too, where
// the format keeps its own among those of users: there is nobody who could set them.
func Xattr(name, value string) Attr {
	return func(w layerWriter, path string) error {
		if w.namespace == unionfs.User && strings.HasPrefix(name, "trusted.") {
			return nil
		}
		if !w.control {
			name = w.namespace.Escape(name)
		}
		return setXattr(w.at(path), name, value)
	}
}

// OverlayXattr sets an attribute of the upper format itself; the control has none.
func OverlayXattr(name, value string) Attr {
	return func(w layerWriter, path string) error {
		if w.control {
			return nil
		}
		return setXattr(w.at(path), w.namespace.Attr(name), value)
	}
}

// ModTime sets the modification time.
func ModTime(at time.Time) Attr {
	return func(w layerWriter, path string) error { return setTime(w.at(path), at) }
}

func setXattr(path, name, value string) error {
	if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s of %s: %w", name, path, err)
	}
	return nil
}

func setTime(path string, at time.Time) error {
	ts := unix.Timespec{Sec: at.Unix(), Nsec: int64(at.Nanosecond())}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time of %s: %w", path, err)
	}
	return nil
}

// entry makes what make makes, in place of a non-directory that is there already,
// then sets attributes and time.
func entry(path string, attrs []Attr, make func(w layerWriter, full string) error) Entry {
	return func(w layerWriter) error {
		if w.control {
			if err := unix.Unlink(w.at(path)); err == unix.EISDIR {
				if err := os.RemoveAll(w.at(path)); err != nil {
					return err
				}
			}
		}
		if err := make(w, w.at(path)); err != nil {
			return err
		}
		for _, a := range append([]Attr{ModTime(epoch())}, attrs...) {
			if err := a(w, path); err != nil {
				return err
			}
		}
		return nil
	}
}

// File is a regular file.
func File(path string, mode uint32, content string, attrs ...Attr) Entry {
	return entry(path, append([]Attr{Mode(mode)}, attrs...), func(_ layerWriter, full string) error {
		return os.WriteFile(full, []byte(content), 0o600)
	})
}

// Sparse is a regular file of the given size with text at the offset and holes elsewhere.
func Sparse(path string, size, offset int64, text string) Entry {
	return entry(path, nil, func(_ layerWriter, full string) error {
		f, err := os.Create(full)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(text), offset); err != nil {
			return err
		}
		return f.Truncate(size)
	})
}

// Dir is a directory, merged with what layers below have there, or, over something
// that is no directory, in place of it. The empty path is the root.
func Dir(path string, mode uint32, attrs ...Attr) Entry {
	return func(w layerWriter) error {
		full := w.at(path)
		var st unix.Stat_t
		if err := unix.Lstat(full, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err == nil {
				if err := unix.Unlink(full); err != nil {
					return err
				}
			}
			if err := os.Mkdir(full, 0o700); err != nil {
				return err
			}
		}
		for _, a := range append([]Attr{Mode(mode), ModTime(epoch())}, attrs...) {
			if err := a(w, path); err != nil {
				return err
			}
		}
		return nil
	}
}

// Symlink is a symbolic link.
func Symlink(path, target string, attrs ...Attr) Entry {
	return entry(path, attrs, func(_ layerWriter, full string) error { return os.Symlink(target, full) })
}

// Hardlink is another name of a file of the same layer.
func Hardlink(path, target string) Entry {
	return entry(path, nil, func(w layerWriter, full string) error { return os.Link(w.at(target), full) })
}

// Node is a device, fifo or socket; mode includes the type.
func Node(path string, mode uint32, major, minor uint32) Entry {
	return entry(path, []Attr{Mode(mode & 0o7777)}, func(_ layerWriter, full string) error {
		return unix.Mknod(full, mode, int(unix.Mkdev(major, minor)))
	})
}

// Whiteout removes a name of the layers below.
func Whiteout(path string) Entry {
	return func(w layerWriter) error {
		if w.control {
			return os.RemoveAll(w.at(path))
		}
		return unix.Mknod(w.at(path), unix.S_IFCHR, 0)
	}
}

// XattrWhiteout removes a name of the layers below, in the form that needs no
// device. Its directory must carry OverlayXattr(unionfs.Opaque, unionfs.OpaqueWhiteouts).
func XattrWhiteout(path string) Entry {
	return func(w layerWriter) error {
		if w.control {
			return os.RemoveAll(w.at(path))
		}
		if err := os.WriteFile(w.at(path), nil, 0o600); err != nil {
			return err
		}
		return setXattr(w.at(path), w.namespace.Attr(unionfs.Whiteout), "")
	}
}

// OpaqueDir is a directory that shows nothing of the layers below.
func OpaqueDir(path string, mode uint32, attrs ...Attr) Entry {
	return func(w layerWriter) error {
		if w.control {
			if err := os.RemoveAll(w.at(path)); err != nil {
				return err
			}
		}
		return Dir(path, mode, append([]Attr{OverlayXattr(unionfs.Opaque, unionfs.OpaqueYes)}, attrs...)...)(w)
	}
}

// MovedDir is a directory that was renamed from another path of the layers below.
// Both are paths from the root.
func MovedDir(path, from string) Entry {
	return func(w layerWriter) error {
		if w.control {
			return os.Rename(w.at(from), w.at(path))
		}
		if err := Whiteout(from)(w); err != nil {
			return err
		}
		return Dir(path, 0o755, OverlayXattr(unionfs.Redirect, "/"+from))(w)
	}
}

// writeLayers writes each layer into a directory of its own and all of them into the
// control. It returns the layers' directories, the topmost first.
func writeLayers(t testing.TB, layers [][]Entry, namespace unionfs.Namespace, dir, control string) []string {
	t.Helper()
	var dirs []string
	for i, layer := range layers {
		root := filepath.Join(dir, fmt.Sprintf("lower%d", i))
		must(t, os.Mkdir(root, 0o755))
		for _, w := range []layerWriter{{root, namespace, false}, {control, namespace, true}} {
			for _, e := range layer {
				must(t, e(w))
			}
		}
		must(t, setDirTimes(root))
		dirs = append([]string{root}, dirs...)
	}
	must(t, setDirTimes(control))
	return dirs
}

// setDirTimes gives all directories their time after their entries were made.
func setDirTimes(root string) error {
	return filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return setTime(path, epoch())
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
