package testimage

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// CompareOptions says what [CompareTrees] leaves out. The zero value compares all.
type CompareOptions struct {
	// Ignore is asked for each difference before it counts: path is relative to the
	// roots ("." for the roots themselves), field one of "presence", "type", "mode",
	// "owner", "mtime", "nlink", "links" (which names are one file), "rdev", "target",
	// "size", "content", or "xattr NAME". Nil ignores nothing.
	Ignore func(path, field string) bool
	// Content can be switched off where only metadata is of interest.
	SkipContent bool
}

// maxShown is how many differences a failing comparison prints.
const maxShown = 25

// CompareTrees compares everything that a program can see of two directory trees: type,
// permissions, owner, modification time in nanoseconds, extended attributes including
// ACLs and capabilities, link counts and which names are links to one file, device
// numbers, targets of symbolic links, and contents. Link counts and sizes of directories
// are the file system's own business. Each difference is an error of the test, named
// got for dir a and want for dir b. It returns how many entries b has.
func CompareTrees(t testing.TB, got, want string, o CompareOptions) int {
	t.Helper()
	diffs, n, err := Differences(got, want, o)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range diffs {
		if i == maxShown {
			t.Errorf("… and %d more differences", len(diffs)-maxShown)
			break
		}
		t.Error(d)
	}
	return n
}

// Differences compares as [CompareTrees] does and returns each difference as a sentence,
// and how many entries want has.
func Differences(got, want string, o CompareOptions) (diffs []string, entries int, err error) {
	var a, b map[string]*entry
	var errA, errB error
	var wg sync.WaitGroup
	wg.Go(func() { a, errA = scan(got, o) })
	wg.Go(func() { b, errB = scan(want, o) })
	wg.Wait()
	if err := errors.Join(errA, errB); err != nil {
		return nil, 0, err
	}
	return compare(a, b, o), len(b), nil
}

// entry is what is known of one path; field by field so that differences have names.
type entry struct {
	fields map[string]string
}

func scan(root string, o CompareOptions) (map[string]*entry, error) {
	entries := map[string]*entry{}
	type inode struct{ dev, ino uint64 }
	first := map[inode]string{} // the name by which a file was met first
	err := walk(root, func(path string, st *unix.Stat_t) error {
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		kind := st.Mode & unix.S_IFMT
		f := map[string]string{
			"type":  kindName(kind),
			"mode":  fmt.Sprintf("%04o", st.Mode&0o7777),
			"owner": fmt.Sprintf("%d:%d", st.Uid, st.Gid),
			"mtime": fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec),
		}
		if kind != unix.S_IFDIR {
			f["nlink"] = fmt.Sprint(st.Nlink)
			if st.Nlink > 1 {
				id := inode{st.Dev, st.Ino}
				if _, ok := first[id]; !ok {
					first[id] = rel
				}
				f["links"] = first[id]
			}
		}
		switch kind {
		case unix.S_IFCHR, unix.S_IFBLK:
			f["rdev"] = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case unix.S_IFLNK:
			if f["target"], err = os.Readlink(path); err != nil {
				return err
			}
		case unix.S_IFREG:
			f["size"] = fmt.Sprint(st.Size)
			if o.SkipContent || f["links"] != "" && f["links"] != rel {
				break
			}
			if f["content"], err = contentSum(path); err != nil {
				return err
			}
		}
		names, err := listXattrs(path)
		if err != nil {
			return fmt.Errorf("list attributes of %q: %w", path, err)
		}
		for _, name := range names {
			value, err := getXattr(path, name)
			if err != nil {
				return fmt.Errorf("attribute %s of %q: %w", name, path, err)
			}
			f["xattr "+name] = fmt.Sprintf("%q", value)
		}
		entries[rel] = &entry{f}
		return nil
	})
	return entries, err
}

func compare(a, b map[string]*entry, o CompareOptions) []string {
	var diffs []string
	add := func(path, field, got, want string) {
		if o.Ignore == nil || !o.Ignore(path, field) {
			diffs = append(diffs, fmt.Sprintf("%q: %s is %s, want %s", path, field, got, want))
		}
	}
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		x, y := a[path], b[path]
		switch {
		case x == nil:
			add(path, "presence", "missing", "a "+y.fields["type"])
			continue
		case y == nil:
			add(path, "presence", "a "+x.fields["type"], "missing")
			continue
		}
		fields := maps.Clone(x.fields)
		maps.Copy(fields, y.fields)
		for _, field := range slices.Sorted(maps.Keys(fields)) {
			got, inX := x.fields[field]
			want, inY := y.fields[field]
			if got != want || inX != inY {
				add(path, field, orNone(got, inX), orNone(want, inY))
			}
		}
	}
	return diffs
}

func orNone(s string, there bool) string {
	if !there {
		return "none"
	}
	return s
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFCHR:
		return "char"
	case unix.S_IFBLK:
		return "block"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return fmt.Sprintf("type %o", kind)
}

func contentSum(path string) (sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %q: %w", path, err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// listXattrs returns the names of all extended attributes, of the link itself where
// path is one.
func listXattrs(path string) ([]string, error) {
	buf := make([]byte, 64*1024) // the kernel's limit, XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	list := strings.TrimSuffix(string(buf[:n]), "\x00")
	if list == "" {
		return nil, nil
	}
	return strings.Split(list, "\x00"), nil
}

func getXattr(path, name string) (string, error) {
	buf := make([]byte, 64*1024) // the kernel's limit, XATTR_SIZE_MAX
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
