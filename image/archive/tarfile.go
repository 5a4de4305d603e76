package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// members is what a tar holds: regular files of type T by name, and links.
type members[T any] struct {
	files map[string]T
	links map[string]string
	count int
}

func newMembers[T any]() members[T] {
	return members[T]{files: make(map[string]T), links: make(map[string]string)}
}

// note checks one header. It returns the name of a regular file, "" for anything that
// is none or cannot be asked for.
func (m *members[T]) note(h *tar.Header) (string, error) {
	if m.count++; m.count > MaxMembers {
		return "", invalid("archive has more than %d members", MaxMembers)
	}
	name, ok := memberName(h.Name)
	if !ok {
		return "", nil
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return "", invalid("member %s is a sparse file", name)
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, '\x00':
	case tar.TypeGNUSparse:
		return "", invalid("member %s is a sparse file", name)
	case tar.TypeSymlink, tar.TypeLink:
		target := h.Linkname
		if h.Typeflag == tar.TypeSymlink && !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		if target, ok = memberName(target); ok && !m.has(name) {
			m.links[name] = target
			return "", nil
		}
		fallthrough
	default:
		if m.has(name) {
			return "", invalid("archive has two members %s", name)
		}
		return "", nil
	}
	if m.has(name) {
		// Readers differ in which of the two they take.
		return "", invalid("archive has two members %s", name)
	}
	return name, nil
}

func (m *members[T]) has(name string) bool {
	_, isFile := m.files[name]
	_, isLink := m.links[name]
	return isFile || isLink
}

// find follows links, by name and inside the archive only.
func (m *members[T]) find(name string) (T, error) {
	for range MaxLinks + 1 {
		if f, ok := m.files[name]; ok {
			return f, nil
		}
		target, ok := m.links[name]
		if !ok {
			var none T
			return none, fmt.Errorf("archive has no member %s: %w", name, fs.ErrNotExist)
		}
		name = target
	}
	var none T
	return none, invalid("more than %d links lead to member %s", MaxLinks, name)
}

// section is where in a file a member lies.
type section struct{ offset, size int64 }

// tarOpener opens the members of an uncompressed tar in a file.
type tarOpener struct {
	file    *os.File
	members members[section]
}

// openTar reads all headers, and seeks over the contents. It owns f when it succeeds.
func openTar(ctx context.Context, f *os.File) (*tarOpener, error) {
	t := &tarOpener{file: f, members: newMembers[section]()}
	r := tar.NewReader(f)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, tarError(t.members.count, err)
		}
		name, err := t.members.note(h)
		if err != nil {
			return nil, err
		}
		if name == "" {
			continue
		}
		// The tar reader reads whole blocks and never ahead.
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		t.members.files[name] = section{offset, h.Size}
	}
}

// tarError says where a tar broke off.
func tarError(count int, err error) error {
	if errors.Is(err, tar.ErrHeader) && count == 0 {
		return fmt.Errorf("%w: %w", ErrNoArchive, err)
	}
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("archive breaks off after member %d: %w: %w", count, err, fs.ErrInvalid)
	}
	return fmt.Errorf("read archive after member %d: %w", count, err)
}

func (t *tarOpener) close() error { return t.file.Close() }

func (t *tarOpener) open(name string) (io.ReadCloser, int64, error) {
	s, err := t.members.find(name)
	if err != nil {
		return nil, 0, err
	}
	return io.NopCloser(io.NewSectionReader(t.file, s.offset, s.size)), s.size, nil
}

// looksLikeLayer reports whether the first bytes of a member are those of a tar, plain
// or compressed. Documents never are: they begin with '{', '[' or white space.
func looksLikeLayer(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "BZh", "\xfd7zXZ\x00"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	if len(head) < tarBlock {
		return false
	}
	// The checksum of a tar header counts its own field as spaces (POSIX pax, "ustar
	// Interchange Format"); some writers took bytes as signed.
	want, ok := parseOctal(head[148:156])
	var unsigned, signed int64
	for i, c := range head[:tarBlock] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return ok && (want == unsigned || want == signed)
}

const tarBlock = 512

func parseOctal(field []byte) (int64, bool) {
	field = bytes.Trim(field, " \x00")
	var n int64
	for _, c := range field {
		if c < '0' || c > '7' {
			return 0, false
		}
		n = n<<3 | int64(c-'0')
	}
	return n, len(field) > 0
}
