package erofs

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/layerfs/layerfs/tree"
)

// record is one inode of the image under construction.
type record struct {
	ino  *tree.Inode
	node *tree.Node // of a directory

	off    int64  // bytes from the start of the image
	size   int64  // i_size
	block  uint32 // first of its own blocks
	nlink  uint32
	parent uint32 // of a directory: the record of its parent
	first  uint32 // of a directory: where its children start in entries
	body   int32  // bytes of attributes behind the inode
	attrs  int32  // index into attrSets, or -1
	tail   uint16 // bytes of data behind the attributes
	depth  uint16 // of a directory
	layout uint8
	flags  uint8
}

// Flags of a record.
const (
	hasObject   = 1 << iota // content is an object: overlay redirect
	wasChar                 // a character device 0:0, stored as an escaped whiteout
	holdsChar               // a directory in which there is such a device
	isOpaque                // an opaque directory of a layer
	isImplicit              // an implicit directory of a layer
	isWhiteout              // the one inode that all whiteouts of a layer share
	needsXattrs = wasChar | holdsChar | isOpaque | isImplicit
)

// layouter turns a tree into the plan of an image: which inodes there are, with what
// attributes, and where everything lies.
type layouter struct {
	opts    Options
	records []record
	entries []uint32 // for each directory the records of its children, in order
	links   map[*tree.Inode]uint32
	attrs   attrTable

	whiteout  uint32 // record of the shared whiteout, 0 for none yet (the root is 0)
	metaEnd   int64  // end of the inodes
	sharedAt  int64  // start of the shared attributes
	blocks    int64  // in the whole image
	chunked   bool
	stats     Stats
	objectXLn int32 // bytes of an inline redirect entry
}

func newLayouter(opts Options) *layouter {
	return &layouter{
		opts:      opts,
		links:     make(map[*tree.Inode]uint32),
		objectXLn: int32(entrySize(len(overlayRedirect), redirectLen)),
	}
}

// redirectLen is the length of "/ab/cdef…".
const redirectLen = 1 + 2 + 1 + 62

// entrySize is the space an attribute takes on disk.
func entrySize(name, value int) int { return (xattrEntry + name + value + 3) &^ 3 }

// plan does all of the layout.
func (l *layouter) plan(root *tree.Node) error {
	if err := l.collect(root); err != nil {
		return err
	}
	if err := l.collectXattrs(); err != nil {
		return err
	}
	return l.place()
}

// collect lists the inodes of the tree and validates them. Directories come in
// depth-first order, and all children of a directory lie together, which suits both a
// listing with metadata and a walk of a subtree.
func (l *layouter) collect(root *tree.Node) error {
	if root == nil || !root.IsDir() {
		return fmt.Errorf("root is not a directory: %w", fs.ErrInvalid)
	}
	if _, err := l.addDir(root, 0, 0); err != nil {
		return l.at(0, "", err)
	}
	todo := []uint32{0}
	for len(todo) > 0 {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		base := len(todo)
		node, depth := l.records[dir].node, l.records[dir].depth
		l.records[dir].first = uint32(len(l.entries))
		last := ""
		for i, child := range node.Children {
			if err := checkName(child.Name); err != nil {
				return l.at(dir, child.Name, err)
			}
			if i > 0 && child.Name <= last {
				return l.at(dir, child.Name, fmt.Errorf("children are not sorted: %w", fs.ErrInvalid))
			}
			last = child.Name
			at, err := l.addChild(child, dir, depth)
			if err != nil {
				return l.at(dir, child.Name, err)
			}
			if l.records[at].node != nil {
				todo = append(todo, at)
				l.records[dir].nlink++
			}
			if l.records[at].flags&wasChar != 0 {
				l.records[dir].flags |= holdsChar
			}
			l.entries = append(doubled(l.entries), at)
		}
		// The first subdirectory is to be taken up next.
		for i, j := base, len(todo)-1; i < j; i, j = i+1, j-1 {
			todo[i], todo[j] = todo[j], todo[i]
		}
	}
	l.stats.Inodes = len(l.records)
	l.stats.Entries = len(l.entries)
	return nil
}

// addChild returns the record for a child of a directory, which may be one of before.
func (l *layouter) addChild(n *tree.Node, parent uint32, depth uint16) (uint32, error) {
	switch {
	case n.IsLink:
		return 0, fmt.Errorf("hard link to %q of a layer below: %w", n.LinkTo.Abs(), ErrNeedsMerge)
	case n.Whiteout:
		if !l.opts.Layer {
			return 0, fmt.Errorf("whiteout: %w", ErrNeedsMerge)
		}
		if n.Inode != nil || len(n.Children) > 0 {
			return 0, fmt.Errorf("whiteout that is also a file: %w", fs.ErrInvalid)
		}
		return l.addWhiteout()
	case n.Inode == nil:
		return 0, fmt.Errorf("no inode: %w", fs.ErrInvalid)
	case n.Inode.Type == tree.Directory:
		if depth >= tree.MaxDepth {
			return 0, fmt.Errorf("directory deeper than %d levels: %w", tree.MaxDepth, fs.ErrInvalid)
		}
		return l.addDir(n, parent, depth+1)
	case len(n.Children) > 0:
		return 0, fmt.Errorf("%s with children: %w", n.Inode.Type, fs.ErrInvalid)
	case n.Opaque || n.Implicit:
		return 0, fmt.Errorf("%s marked as an opaque or implicit directory: %w", n.Inode.Type, fs.ErrInvalid)
	}
	if at, ok := l.links[n.Inode]; ok {
		l.records[at].nlink++
		return at, nil
	}
	at, err := l.add(record{ino: n.Inode, nlink: 1})
	if err == nil {
		l.links[n.Inode] = at
	}
	return at, err
}

// addDir adds a directory. Two of them may share the *Inode that describes them.
func (l *layouter) addDir(n *tree.Node, parent uint32, depth uint16) (uint32, error) {
	r := record{ino: n.Inode, node: n, nlink: 2, parent: parent, depth: depth}
	if n.Opaque || n.Implicit {
		if !l.opts.Layer {
			return 0, fmt.Errorf("opaque or implicit directory: %w", ErrNeedsMerge)
		}
		if n.Opaque {
			r.flags |= isOpaque
		}
		if n.Implicit {
			r.flags |= isImplicit
		}
	}
	l.stats.Directories++
	return l.add(r)
}

// addWhiteout returns the record that all whiteouts share.
func (l *layouter) addWhiteout() (uint32, error) {
	if l.whiteout != 0 {
		l.records[l.whiteout].nlink++
		return l.whiteout, nil
	}
	at, err := l.add(record{ino: &tree.Inode{Type: tree.CharDevice}, nlink: 1, flags: isWhiteout})
	l.whiteout = at
	return at, err
}

func (l *layouter) add(r record) (uint32, error) {
	if err := l.check(&r); err != nil {
		return 0, err
	}
	if len(l.records) == 1<<31-1 || len(l.entries) == 1<<32-1 {
		return 0, fmt.Errorf("more than %d inodes: %w", 1<<31-1, fs.ErrInvalid)
	}
	r.attrs = -1
	l.records = append(doubled(l.records), r)
	return uint32(len(l.records) - 1), nil
}

// check validates what the tree says of an inode but its attributes, and fills in
// what follows for the record.
func (l *layouter) check(r *record) error {
	ino := r.ino
	invalid := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, fs.ErrInvalid)...)
	}
	switch {
	case modeOf(ino.Type) == 0:
		return invalid("unknown type %d", uint8(ino.Type))
	case ino.Mode&^0o7777 != 0:
		return invalid("mode %#o has more than permission bits", ino.Mode)
	case ino.MTime.Nsec >= 1e9:
		return invalid("time with %d nanoseconds", ino.MTime.Nsec)
	case ino.Type != tree.Symlink && ino.Link != "":
		return invalid("%s with a link target", ino.Type)
	case ino.Type != tree.Regular && (ino.Inline != "" || !ino.Object.IsZero()):
		return invalid("%s with content", ino.Type)
	case ino.Type != tree.CharDevice && ino.Type != tree.BlockDevice && ino.Rdev != tree.Device{}:
		return invalid("%s with a device number", ino.Type)
	}
	switch ino.Type {
	case tree.Regular:
		l.stats.Files++
		switch {
		case ino.Size < 0:
			return invalid("size %d", ino.Size)
		case !ino.Object.IsZero() && (ino.Size == 0 || ino.Inline != ""):
			return invalid("content both an object and inline")
		case !ino.Object.IsZero():
			r.flags |= hasObject
			l.stats.Objects++
		case ino.Size != int64(len(ino.Inline)):
			return invalid("size %d but %d bytes of inline content and no object", ino.Size, len(ino.Inline))
		default:
			l.stats.InlineBytes += ino.Size
		}
		r.size = ino.Size
	case tree.Symlink:
		switch {
		case ino.Size != int64(len(ino.Link)):
			return invalid("size %d but a link target of %d bytes", ino.Size, len(ino.Link))
		case len(ino.Link) == 0 || len(ino.Link) > tree.MaxLink:
			return invalid("link target of %d bytes, limit %d", len(ino.Link), tree.MaxLink)
		case strings.IndexByte(ino.Link, 0) >= 0:
			return invalid("link target %q with a NUL byte", ino.Link)
		}
		r.size = ino.Size
	case tree.CharDevice, tree.BlockDevice:
		switch {
		case ino.Rdev.Major > MaxMajor || ino.Rdev.Minor > MaxMinor:
			return invalid("device number %d:%d, limit %d:%d", ino.Rdev.Major, ino.Rdev.Minor, MaxMajor, MaxMinor)
		case isWhiteoutDevice(ino) && r.flags&isWhiteout == 0:
			r.flags |= wasChar
		}
		fallthrough
	default:
		if ino.Size != 0 {
			return invalid("%s with size %d", ino.Type, ino.Size)
		}
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("name %q is not one of a directory entry: %w", name, fs.ErrInvalid)
	case len(name) > tree.MaxName:
		return fmt.Errorf("name of %d bytes, limit %d: %w", len(name), tree.MaxName, fs.ErrInvalid)
	case strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("name with a slash or a NUL byte: %w", fs.ErrInvalid)
	}
	return nil
}

// at adds the path of the child of a directory to an error.
func (l *layouter) at(dir uint32, name string, err error) error {
	var parts []string
	if name != "" {
		parts = append(parts, name)
	}
	for dir != 0 && int(dir) < len(l.records) {
		parts = append(parts, l.records[dir].node.Name)
		dir = l.records[dir].parent
	}
	var path strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		path.WriteByte('/')
		path.WriteString(parts[i])
	}
	if len(parts) == 0 {
		path.WriteByte('/')
	}
	return fmt.Errorf("write tree entry %q: %w", path.String(), err)
}
