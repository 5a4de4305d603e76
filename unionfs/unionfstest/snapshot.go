package unionfstest

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
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// state is what can be seen of one file.
type state struct {
	mode     uint32 // with the type
	uid, gid uint32
	size     int64 // of a regular file
	mtime    unix.Timespec
	nlink    uint64 // of anything but a directory
	rdev     uint64
	target   string
	content  string            // of a regular file; a digest when it is long
	xattrs   map[string]string // by name
	twin     string            // the first path with the same inode
	ino, dev uint64
}

// snapshot is a tree by path; the root is ".".
type snapshot map[string]state

// longContent is the size from which a content is told by its digest.
const longContent = 200

// capture takes a snapshot of the tree at root.
func capture(t testing.TB, root string) snapshot {
	t.Helper()
	s := snapshot{}
	twins := map[[2]uint64]string{}
	err := filepath.WalkDir(root, func(full string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path, err := filepath.Rel(root, full)
		if err != nil {
			return err
		}
		st, err := look(full)
		if err != nil {
			return err
		}
		if st.mode&unix.S_IFMT != unix.S_IFDIR && st.nlink > 1 {
			key := [2]uint64{st.dev, st.ino}
			if _, ok := twins[key]; !ok {
				twins[key] = path
			}
			st.twin = twins[key]
		}
		s[path] = st
		return nil
	})
	must(t, err)
	return s
}

// look takes the state of one file.
func look(path string) (state, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return state{}, fmt.Errorf("stat %s: %w", path, err)
	}
	s := state{mode: st.Mode, uid: st.Uid, gid: st.Gid, mtime: st.Mtim, ino: st.Ino, dev: st.Dev}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s.size = st.Size
		content, err := readContent(path)
		if err != nil {
			return state{}, err
		}
		s.content = content
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return state{}, err
		}
		s.target = target
	case unix.S_IFCHR, unix.S_IFBLK:
		s.rdev = st.Rdev
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		s.nlink = st.Nlink
	}
	var err error
	s.xattrs, err = readXattrs(path)
	return s, err
}

func readContent(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, longContent)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return string(head[:n]), nil
	} else if err != nil {
		return "", err
	}
	hash := sha256.New()
	hash.Write(head)
	rest, err := io.Copy(hash, f)
	return fmt.Sprintf("%d bytes, sha256 %x", rest+longContent, hash.Sum(nil)), err
}

func readXattrs(path string) (map[string]string, error) {
	names := make([]byte, 64*1024)
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("list attributes of %s: %w", path, err)
	}
	xattrs := map[string]string{}
	value := make([]byte, 64*1024)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" || name == "security.selinux" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", name, path, err)
		}
		xattrs[name] = string(value[:n])
	}
	return xattrs, nil
}

// comparable returns s without what a reader of the format cannot know.
func (s snapshot) comparable() snapshot {
	out := snapshot{}
	for path, st := range s {
		st.nlink, st.twin = 0, ""
		out[path] = st
	}
	return out
}

// Difference lists how the tree at got differs from the one at want, in what the suite's
// cases compare. Files that were changed since started need not have the same time.
func Difference(t testing.TB, got, want string, started time.Time) []string {
	t.Helper()
	return difference(capture(t, got), capture(t, want), unix.NsecToTimespec(started.UnixNano()))
}

// difference lists how got differs from want. Times before started were set by hand
// and have to agree exactly; later ones come from the clock of the operation and
// have only to be as late.
func difference(got, want snapshot, started unix.Timespec) []string {
	var diffs []string
	for _, path := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[path]
		if !ok {
			diffs = append(diffs, fmt.Sprintf("%q is missing", path))
			continue
		}
		for _, d := range stateDifference(g, want[path], started) {
			diffs = append(diffs, fmt.Sprintf("%q: %s", path, d))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[path]; !ok {
			diffs = append(diffs, fmt.Sprintf("%q should not be there (mode %o)", path, got[path].mode))
		}
	}
	return diffs
}

func stateDifference(g, w state, started unix.Timespec) []string {
	var diffs []string
	add := func(what string, got, want any) {
		if got != want {
			diffs = append(diffs, fmt.Sprintf("%s %v, want %v", what, got, want))
		}
	}
	add("mode", fmt.Sprintf("%o", g.mode), fmt.Sprintf("%o", w.mode))
	add("user", g.uid, w.uid)
	add("group", g.gid, w.gid)
	add("size", g.size, w.size)
	add("link count", g.nlink, w.nlink)
	add("device", g.rdev, w.rdev)
	add("target", g.target, w.target)
	add("content", g.content, w.content)
	add("other name", g.twin, w.twin)
	if !maps.Equal(g.xattrs, w.xattrs) {
		add("attributes", fmt.Sprintf("%q", g.xattrs), fmt.Sprintf("%q", w.xattrs))
	}
	if old := before(w.mtime, started); old != before(g.mtime, started) || old && g.mtime != w.mtime {
		add("time", fmt.Sprint(g.mtime), fmt.Sprint(w.mtime))
	}
	return diffs
}

func before(a, b unix.Timespec) bool {
	return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec
}

// dirent is one entry as getdents64 gives it.
type dirent struct {
	name string
	ino  uint64
	kind uint8
	off  int64 // where the next one is
}

// readDirents reads what is left of an open directory with a buffer of size bytes.
func readDirents(fd, size int) ([]dirent, error) {
	var all []dirent
	for {
		batch, err := nextDirents(fd, size)
		if err != nil || len(batch) == 0 {
			return all, err
		}
		all = append(all, batch...)
	}
}

// nextDirents makes one call of getdents64.
func nextDirents(fd, size int) ([]dirent, error) {
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		return nil, fmt.Errorf("getdents: %w", err)
	}
	return parseDirents(buf[:n]), nil
}

// checkDirents compares what readdir says of each entry with what stat says.
func checkDirents(t testing.TB, root string, s snapshot) {
	t.Helper()
	for path, st := range s {
		if st.mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		dir, err := os.Open(filepath.Join(root, path))
		must(t, err)
		entries, err := readDirents(int(dir.Fd()), 4096)
		must(t, errors.Join(err, dir.Close()))
		for _, e := range entries {
			child, ok := s[filepath.Join(path, e.name)]
			switch {
			case e.name == "..":
			case e.name == "." && e.ino != st.ino:
				t.Errorf("%q: readdir says inode %d of \".\", stat %d", path, e.ino, st.ino)
			case e.name == ".":
			case !ok:
				t.Errorf("%q: readdir names %q, which was not there a moment ago", path, e.name)
			case e.ino != child.ino:
				t.Errorf("%q: readdir says inode %d of %q, stat %d", path, e.ino, e.name, child.ino)
			case uint32(e.kind) != child.mode>>12:
				t.Errorf("%q: readdir says type %d of %q, stat %d", path, e.kind, e.name, child.mode>>12)
			}
		}
	}
}
