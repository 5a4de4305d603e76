package aufs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

// Names of AUFS (include/uapi/linux/aufs_type.h).
const (
	whPrefix = ".wh."         // of a name that is removed: ".wh.NAME"
	whOpaque = ".wh..wh..opq" // in a directory below which nothing shows
	whInode  = ".wh..wh.aufs" // at the top: the inode that all whiteouts are links of
)

// ownNames are at the top of a writable branch and no part of its content.
func ownName(name string) bool {
	switch name {
	case whInode, ".wh..wh.plnk", ".wh..wh.orph", ".wh..wh..tmp":
		return true
	}
	return false
}

// ToAUFS translates an upper directory in the format of package unionfs, in place. The
// file that AUFS links its whiteouts to says from then on which format it is.
func ToAUFS(upper string, ns unionfs.Namespace) error {
	if err := walk(upper, func(path string, m marks) error {
		if m.impossible != "" {
			return fmt.Errorf("%s has %s, which AUFS cannot say: %w", path, m.impossible, errors.ErrUnsupported)
		}
		return nil
	}, ns); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(upper, whInode), os.O_RDONLY|os.O_CREATE, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return walk(upper, func(path string, m marks) error {
		switch {
		case m.whiteout:
			dir, name := filepath.Split(path)
			if err := os.WriteFile(dir+whPrefix+name, nil, 0o444); err != nil {
				return err
			}
			return os.Remove(path)
		case m.opaque:
			if err := os.WriteFile(filepath.Join(path, whOpaque), nil, 0o444); err != nil {
				return err
			}
			return unix.Lremovexattr(path, ns.Attr(unionfs.Opaque))
		}
		return nil
	}, ns)
}

// Plain refuses a directory that is not the same in both formats.
func Plain(dir string, ns unionfs.Namespace) error {
	return walk(dir, func(path string, m marks) error {
		if m.whiteout || m.opaque || m.impossible != "" {
			return fmt.Errorf("%s has a mark of overlayfs, which AUFS does not know: merge the layers, or commit: %w", path, errors.ErrUnsupported)
		}
		return nil
	}, ns)
}

// marks are what overlayfs says by a file.
type marks struct {
	whiteout, opaque bool
	impossible       string
}

// walk visits all below dir, and dir itself, each directory before what is in it.
//
// In a directory that was translated and not back, as after a crash, the marks of AUFS
// are passed over. Elsewhere such names are a file's own.
func walk(dir string, visit func(path string, m marks) error, ns unionfs.Namespace) error {
	_, err := os.Lstat(filepath.Join(dir, whInode))
	translated := err == nil
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		var m marks
		has := func(name string) (string, bool) {
			value := make([]byte, 2)
			n, err := unix.Lgetxattr(path, ns.Attr(name), value)
			return string(value[:max(n, 0)]), err == nil || errors.Is(err, unix.ERANGE)
		}
		m.whiteout = st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
		if v, ok := has(unionfs.Opaque); ok && v == unionfs.OpaqueYes {
			m.opaque = true
		}
		if _, ok := has(unionfs.Whiteout); ok && d.Type().IsRegular() {
			m.whiteout = true
		}
		for _, name := range []string{unionfs.Redirect, unionfs.Metacopy} {
			if _, ok := has(name); ok {
				m.impossible = "the mark " + name
			}
		}
		switch {
		case path == dir || !strings.HasPrefix(d.Name(), whPrefix):
		case !translated:
			m.impossible = "a name that begins with " + whPrefix
		case d.IsDir():
			return fs.SkipDir
		default:
			return nil
		}
		return visit(path, m)
	})
}

// FromAUFS translates an upper directory that AUFS wrote back, in place.
func FromAUFS(upper string, ns unionfs.Namespace) error {
	return filepath.WalkDir(upper, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == upper || !strings.HasPrefix(d.Name(), whPrefix) {
			return err
		}
		dir, name := filepath.Split(path)
		switch {
		case ownName(name) && filepath.Clean(dir) == filepath.Clean(upper):
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case name == whOpaque:
			if err := unix.Lsetxattr(filepath.Clean(dir), ns.Attr(unionfs.Opaque), []byte(unionfs.OpaqueYes), 0); err != nil {
				return fmt.Errorf("mark %s as opaque: %w", dir, err)
			}
		default:
			if err := unix.Mknod(dir+strings.TrimPrefix(name, whPrefix), unix.S_IFCHR, 0); err != nil {
				return fmt.Errorf("whiteout in place of %s: %w", path, err)
			}
		}
		return os.Remove(path)
	})
}
