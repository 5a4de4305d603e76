package union

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

// marks are the union's own attributes of one file in an upper or in a directory layer.
type marks struct {
	whiteout bool
	opaque   bool // nothing below shows through
	xwhite   bool // may hold whiteouts in the form of attributes
	redirect string
	metacopy bool
	impure   bool // holds files with an origin
	origin   string
}

// Most files have few and short attributes.
const (
	smallList = 512
	maxList   = 64 << 10 // XATTR_LIST_MAX of Linux
	maxValue  = 64 << 10 // XATTR_SIZE_MAX of Linux
)

// readMarks reads the marks of the file at path, as the l…xattr calls take it.
func readMarks(path string, ns unionfs.Namespace, st *unix.Stat_t) (m marks, err error) {
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFCHR && st.Rdev == 0:
		m.whiteout = true
		return m, nil
	case kind != unix.S_IFDIR && kind != unix.S_IFREG && ns == unionfs.User:
		return m, nil // the file cannot have such attributes
	}
	var small [smallList]byte
	list, err := listXattr(path, small[:])
	if err != nil {
		return m, err
	}
	for len(list) > 0 {
		end := strings.IndexByte(list, 0)
		if end < 0 {
			end = len(list) - 1
		}
		full := list[:end]
		list = list[end+1:]
		name, ok := ns.Own(full)
		if !ok {
			continue
		}
		var value string
		switch name {
		case unionfs.Opaque, unionfs.Redirect, unionfs.Origin, unionfs.Impure:
			if value, err = getXattr(path, full); err != nil {
				return m, err
			}
		}
		switch name {
		case unionfs.Opaque:
			m.opaque, m.xwhite = value == unionfs.OpaqueYes, value == unionfs.OpaqueWhiteouts
		case unionfs.Redirect:
			m.redirect = value
		case unionfs.Origin:
			m.origin = value
		case unionfs.Impure:
			m.impure = value == "y"
		case unionfs.Metacopy:
			m.metacopy = kind == unix.S_IFREG
		case unionfs.Whiteout:
			m.whiteout = kind == unix.S_IFREG && st.Size == 0
		}
	}
	return m, nil
}

// The path of an open file in /proc is a magic link, which has to be followed once: it
// leads to the file itself and no further, even if that is a symbolic link. Any other
// path here ends in a name, which must not be followed.
func magic(path string) bool { return strings.LastIndexByte(path, '/') < len("/proc/self/fd/") }

func listXattr(path string, small []byte) (string, error) {
	call := unix.Llistxattr
	if magic(path) {
		call = unix.Listxattr
	}
	buf := small
	for {
		n, err := call(path, buf)
		switch {
		case err == nil:
			return string(buf[:n]), nil
		case errors.Is(err, unix.ENOTSUP):
			return "", nil
		case errors.Is(err, unix.ERANGE) && len(buf) < maxList:
			buf = make([]byte, maxList)
		default:
			return "", err
		}
	}
}

// getXattr returns the value of an attribute; ENODATA when there is none.
func getXattr(path, name string) (string, error) {
	call := unix.Lgetxattr
	if magic(path) {
		call = unix.Getxattr
	}
	var small [256]byte
	buf := small[:]
	for {
		n, err := call(path, name, buf)
		switch {
		case err == nil:
			return string(buf[:n]), nil
		case errors.Is(err, unix.ERANGE) && len(buf) < maxValue:
			buf = make([]byte, maxValue)
		default:
			return "", err
		}
	}
}

func setXattr(path, name, value string, flags int) error {
	if magic(path) {
		return unix.Setxattr(path, name, []byte(value), flags)
	}
	return unix.Lsetxattr(path, name, []byte(value), flags)
}

func removeXattr(path, name string) error {
	if magic(path) {
		return unix.Removexattr(path, name)
	}
	return unix.Lremovexattr(path, name)
}
