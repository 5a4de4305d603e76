package tree

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// MaxDumpLine is how long one line of a dump may be, in bytes.
const MaxDumpLine = 16 << 20

// ParseDump reads what [Dump] writes. For the sake of dumps written by hand it also
// takes lines in any order in which directories come before what they hold and
// inodes before links to them, fields after the word in any order, missing META
// fields as zero, empty lines, and comments, whose first character is '#'. An error
// names the line and wraps fs.ErrInvalid; an error of r is returned wrapped.
func ParseDump(r io.Reader) (*Node, error) {
	p := dumpParser{nodes: make(map[Path]*Node)}
	lines := bufio.NewReaderSize(r, 64<<10)
	for number := 1; ; number++ {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = p.line(line)
		}
		if err != nil {
			return nil, fmt.Errorf("read dump, line %d: %w", number, err)
		}
	}
	root := p.nodes[""]
	if root == nil {
		return nil, fmt.Errorf("read dump: no root: %w", fs.ErrInvalid)
	}
	for _, n := range p.nodes {
		slices.SortFunc(n.Children, byName)
	}
	if err := CheckLayer(root); err != nil {
		return nil, fmt.Errorf("read dump: %w", err)
	}
	return root, nil
}

// readLine returns the next line without its newline, io.EOF after the last.
func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > MaxDumpLine {
			return "", fmt.Errorf("more than %d bytes: %w", MaxDumpLine, fs.ErrInvalid)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return string(line[:len(line)-1]), nil
		case errors.Is(err, io.EOF) && len(line) > 0:
			return string(line), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		}
	}
}

type dumpParser struct {
	nodes map[Path]*Node
}

func (p *dumpParser) line(line string) error {
	if line == "" || line[0] == '#' {
		return nil
	}
	fields := strings.Split(line, " ")
	if len(fields) < 2 {
		return fmt.Errorf("%.64q has no type: %w", line, fs.ErrInvalid)
	}
	path, err := dumpPath(fields[0])
	if err != nil {
		return err
	}
	if p.nodes[path] != nil {
		return fmt.Errorf("%s a second time: %w", quote(path), fs.ErrInvalid)
	}
	if len(p.nodes) >= MaxNodes {
		return fmt.Errorf("more than %d names: %w", MaxNodes, fs.ErrInvalid)
	}
	dir, name := path.Split()
	n := &Node{Name: name}
	if err := p.describe(n, fields[1], fields[2:]); err != nil {
		return fmt.Errorf("%s: %w", quote(path), err)
	}
	if path != "" {
		parent := p.nodes[dir]
		if parent == nil || !parent.IsDir() {
			return fmt.Errorf("%s comes before its directory: %w", quote(path), fs.ErrInvalid)
		}
		parent.Children = append(parent.Children, n)
	}
	p.nodes[path] = n
	return nil
}

func (p *dumpParser) describe(n *Node, word string, fields []string) error {
	switch word {
	case "whiteout":
		n.Whiteout = true
		if len(fields) > 0 {
			return fmt.Errorf("whiteout with fields: %w", fs.ErrInvalid)
		}
		return nil
	case "link", "unresolved":
		if len(fields) != 1 || !strings.HasPrefix(fields[0], "target=") {
			return fmt.Errorf("%s without just a target: %w", word, fs.ErrInvalid)
		}
		to, err := dumpPath(fields[0][len("target="):])
		if err != nil {
			return err
		}
		if word == "unresolved" {
			n.IsLink, n.LinkTo = true, to
			return nil
		}
		t := p.nodes[to]
		if t == nil || t.Inode == nil || t.IsDir() {
			return fmt.Errorf("link to %s, which is no earlier file: %w", quote(to), fs.ErrInvalid)
		}
		n.Inode = t.Inode
		return nil
	}
	for t := Regular; t <= Socket; t++ {
		if t.String() == word {
			n.Inode = &Inode{Type: t}
			return parseFields(n, fields)
		}
	}
	return fmt.Errorf("unknown type %q: %w", word, fs.ErrInvalid)
}

func parseFields(n *Node, fields []string) error {
	seen := make(map[string]bool, len(fields))
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		if seen[key] {
			return fmt.Errorf("field %q twice: %w", key, fs.ErrInvalid)
		}
		seen[key] = true
		if err := parseField(n, key, value, f); err != nil {
			return fmt.Errorf("field %.64q: %w", f, errors.Join(err, fs.ErrInvalid))
		}
	}
	slices.SortFunc(n.Inode.Xattrs, func(x, y Xattr) int { return strings.Compare(x.Name, y.Name) })
	return nil
}

func parseField(n *Node, key, value, field string) error {
	var err error
	ino := n.Inode
	switch {
	case field == "opaque" && ino.Type == Directory:
		n.Opaque = true
	case field == "implicit" && ino.Type == Directory:
		n.Implicit = true
	case key == "mode":
		ino.Mode, err = number[uint16](value, 8, 16)
	case key == "uid":
		ino.UID, err = number[uint32](value, 10, 32)
	case key == "gid":
		ino.GID, err = number[uint32](value, 10, 32)
	case key == "mtime":
		ino.MTime, err = parseTime(value)
	case key == "size" && ino.Type == Regular:
		ino.Size, err = strconv.ParseInt(value, 10, 64)
	case key == "object" && ino.Type == Regular:
		var id []byte
		if id, err = hex.DecodeString(value); err == nil && copy(ino.Object[:], id) != len(ino.Object) || len(id) > len(ino.Object) {
			return errors.New("not an object id")
		}
	case key == "inline" && ino.Type == Regular:
		ino.Inline, err = unescape(value)
	case key == "target" && ino.Type == Symlink:
		ino.Link, err = unescape(value)
		ino.Size = int64(len(ino.Link))
	case key == "rdev" && (ino.Type == CharDevice || ino.Type == BlockDevice):
		major, minor, _ := strings.Cut(value, ":")
		if ino.Rdev.Major, err = number[uint32](major, 10, 32); err == nil {
			ino.Rdev.Minor, err = number[uint32](minor, 10, 32)
		}
	case strings.HasPrefix(key, "xattr:"):
		var x Xattr
		if x.Name, err = unescape(key[len("xattr:"):]); err == nil {
			x.Value, err = unescape(value)
		}
		ino.Xattrs = append(ino.Xattrs, x)
	default:
		return fmt.Errorf("nothing that a %s has", ino.Type)
	}
	return err
}

func number[T uint16 | uint32](s string, base, bits int) (T, error) {
	n, err := strconv.ParseUint(s, base, bits)
	return T(n), err
}

func parseTime(s string) (t Time, err error) {
	sec, frac, ok := strings.Cut(s, ".")
	if t.Sec, err = strconv.ParseInt(sec, 10, 64); err != nil || !ok {
		return t, err
	}
	if len(frac) != 9 {
		return t, errors.New("a fraction of a second needs nine digits")
	}
	t.Nsec, err = number[uint32](frac, 10, 32)
	return t, err
}

func dumpPath(s string) (Path, error) {
	if !strings.HasPrefix(s, "/") {
		return "", fmt.Errorf("path %.64q does not begin with a slash: %w", s, fs.ErrInvalid)
	}
	raw, err := unescape(s)
	if err != nil {
		return "", err
	}
	return ParsePath(raw)
}

// unescape is the inverse of appendEscaped; it also takes escapes that need not be.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, nil
	}
	var b strings.Builder
	for len(s) > 0 {
		i := strings.IndexByte(s, '\\')
		if i < 0 {
			i = len(s)
		}
		b.WriteString(s[:i])
		if s = s[i:]; s == "" {
			break
		}
		if len(s) < 4 || s[1] != 'x' {
			return "", fmt.Errorf("%.64q is no escape: %w", s, fs.ErrInvalid)
		}
		c, err := hex.DecodeString(s[2:4])
		if err != nil {
			return "", fmt.Errorf("%q is no escape: %w", s[:4], fs.ErrInvalid)
		}
		b.WriteByte(c[0])
		s = s[4:]
	}
	return b.String(), nil
}
