package tree

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

// Dump writes a tree or a layer as text, one line for each name, a directory before
// what it holds and names in bytewise order. Equal trees give equal text, so a dump
// serves as a golden file, and a diff of two dumps says what differs.
//
// A line is fields separated by single spaces: the path with a leading slash, a
// word, and what the word calls for, in this order:
//
//	PATH dir     [opaque] [implicit]  META XATTRS
//	PATH file    META size=BYTES [object=HEX | inline=TEXT] XATTRS
//	PATH symlink META target=TEXT XATTRS
//	PATH char    META rdev=MAJOR:MINOR XATTRS      (block likewise)
//	PATH fifo    META XATTRS                       (socket likewise)
//	PATH link target=PATH         another name of the inode of an earlier line
//	PATH unresolved target=PATH   a link of a layer that waits for Merge
//	PATH whiteout
//
// META is "mode=OCTAL uid=N gid=N mtime=SECONDS[.NNNNNNNNN]", the fraction with nine
// digits and left out when it is zero; it always counts forwards, so half a second
// before the epoch is -1.500000000. XATTRS is "xattr:NAME=VALUE" for each, by name.
// In paths and texts every byte that is not printable ASCII, spaces and backslashes
// are written \xHH, and in names of extended attributes "=" too.
func Dump(w io.Writer, root *Node) error {
	d := dumper{seen: make(map[*Inode]Path)}
	bw := bufio.NewWriterSize(w, 64<<10)
	err := Walk(root, func(p Path, n *Node) error {
		d.line = appendEscaped(append(d.line[:0], '/'), string(p), false)
		d.line = append(d.line, ' ')
		d.line = append(d.fields(d.line, p, n), '\n')
		_, err := bw.Write(d.line)
		return err
	})
	if err == nil {
		err = bw.Flush()
	}
	if err != nil {
		return fmt.Errorf("write dump: %w", err)
	}
	return nil
}

type dumper struct {
	line []byte
	seen map[*Inode]Path // first name of each inode that is not a directory
}

func (d *dumper) fields(b []byte, p Path, n *Node) []byte {
	switch {
	case n.Whiteout:
		return append(b, "whiteout"...)
	case n.IsLink:
		return appendEscaped(append(b, "unresolved target=/"...), string(n.LinkTo), false)
	case n.Inode == nil:
		return append(b, "nothing"...)
	}
	ino := n.Inode
	if ino.Type != Directory {
		if first, ok := d.seen[ino]; ok {
			return appendEscaped(append(b, "link target=/"...), string(first), false)
		}
		d.seen[ino] = p
	}
	b = append(b, ino.Type.String()...)
	if n.Opaque {
		b = append(b, " opaque"...)
	}
	if n.Implicit {
		b = append(b, " implicit"...)
	}
	return appendInode(b, ino)
}

func appendInode(b []byte, ino *Inode) []byte {
	b = append(b, " mode=0"...)
	b = strconv.AppendUint(b, uint64(ino.Mode), 8)
	b = append(b, " uid="...)
	b = strconv.AppendUint(b, uint64(ino.UID), 10)
	b = append(b, " gid="...)
	b = strconv.AppendUint(b, uint64(ino.GID), 10)
	b = append(b, " mtime="...)
	b = strconv.AppendInt(b, ino.MTime.Sec, 10)
	if ino.MTime.Nsec != 0 {
		b = append(b, '.')
		for unit := uint32(1e8); unit > 0; unit /= 10 {
			b = append(b, byte('0'+ino.MTime.Nsec/unit%10))
		}
	}
	switch ino.Type {
	case Regular:
		b = append(b, " size="...)
		b = strconv.AppendInt(b, ino.Size, 10)
		if !ino.Object.IsZero() {
			b = append(b, " object="...)
			b = fmt.Appendf(b, "%x", ino.Object[:])
		} else if ino.Inline != "" {
			b = appendEscaped(append(b, " inline="...), ino.Inline, false)
		}
	case Symlink:
		b = appendEscaped(append(b, " target="...), ino.Link, false)
	case CharDevice, BlockDevice:
		b = append(b, " rdev="...)
		b = strconv.AppendUint(b, uint64(ino.Rdev.Major), 10)
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(ino.Rdev.Minor), 10)
	default:
	}
	for _, x := range ino.Xattrs {
		b = appendEscaped(append(b, " xattr:"...), x.Name, true)
		b = appendEscaped(append(b, '='), x.Value, false)
	}
	return b
}

func appendEscaped(b []byte, s string, equals bool) []byte {
	const hexDigits = "0123456789abcdef"
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '\\' || equals && c == '=' {
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}
