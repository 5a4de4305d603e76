package tarstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tarstream/recipe"
	"github.com/layerfs/layerfs/tree"
)

// DefaultInlineMax is the size in bytes up to which contents are kept in the recipe.
const DefaultInlineMax = 2048

// ImportOptions are the options of [Import]. The zero value is useful.
type ImportOptions struct {
	InlineMax int         // contents up to this many bytes are inline; 0: DefaultInlineMax, -1: none
	Workers   int         // goroutines that hash and store contents; 0: one for each CPU
	Limits    Limits      // on the tar
	Progress  func(int64) // called now and then with the bytes of the tar read so far, from one goroutine
}

// Import reads an uncompressed layer tar from r up to its end, puts the contents of
// its files into sink, roughly in the order of the tar, and returns its recipe. An
// error about a member is an *[EntryError]; it wraps fs.ErrInvalid when the tar is
// malformed or exceeds a limit, and io.ErrUnexpectedEOF when it is cut off. What was
// put into sink by then is of no use. Memory does not grow with the size of the tar,
// only with the number of its members.
func Import(ctx context.Context, r io.Reader, sink cas.ObjectSink, opts ImportOptions) (*recipe.Built, error) {
	b, err := recipe.NewBuilder()
	if err != nil {
		return nil, err
	}
	lim := opts.Limits.withDefaults()
	p := newPipeline(ctx, sink, opts.Workers)
	in := &input{r: r, pool: p.pool, done: p.passed}
	if opts.Progress != nil {
		in.done = func(s *slab, data []byte) {
			p.passed(s, data)
			opts.Progress(in.off)
		}
	}
	im := &importer{
		pipe:   p,
		in:     in,
		recipe: b,
		layer:  newApplier(lim),
		parser: &parser{in: in, raw: b.Literal, lim: lim},
		inline: inlineMax(opts.InlineMax),
	}
	err = im.run()
	in.hand()
	if opts.Progress != nil && err == nil {
		opts.Progress(in.off)
	}
	if err = p.finish(err); err != nil {
		return nil, errors.Join(fmt.Errorf("import layer: %w", err), b.Close())
	}
	built, err := b.Finish(p.sum, im.parser.entries, im.layer.builder.Layer)
	if err != nil {
		return nil, fmt.Errorf("import layer: %w", err)
	}
	return built, nil
}

func inlineMax(n int) int64 {
	switch {
	case n < 0:
		return 0
	case n == 0:
		return DefaultInlineMax
	default:
		return int64(min(n, recipe.MaxInline))
	}
}

// importer is the producer of an import's pipeline.
type importer struct {
	pipe   *pipeline
	in     *input
	recipe *recipe.Builder
	layer  *applier
	parser *parser
	inline int64
}

func (im *importer) run() error {
	for {
		e, err := im.parser.next()
		if errors.Is(err, io.EOF) {
			return im.recipe.Err()
		}
		if err != nil {
			return err
		}
		ino, err := im.layer.apply(e)
		if err == nil {
			err = im.data(e, ino)
		}
		if err == nil {
			err = im.recipe.Err()
		}
		if err != nil {
			return im.parser.fail(err)
		}
		if im.pipe.ctx.Err() != nil {
			return context.Cause(im.pipe.ctx)
		}
	}
}

// data passes the data of an entry. Ino is nil when the tree does not have it.
func (im *importer) data(e *entry, ino *tree.Inode) error {
	switch {
	case e.size == 0 && e.stored == 0:
		return nil
	case ino == nil || ino.Type != tree.Regular:
		return im.aside(e)
	case e.extents == nil && e.size <= im.inline:
		data, err := im.in.exactly(int(e.size))
		if err != nil {
			return err
		}
		if im.recipe.Inline(ino, data, nil) {
			return nil
		}
		im.store(e, data, ino)
		return nil
	case e.extents != nil && e.size <= im.inline:
		return im.smallSparse(e, ino)
	case e.extents == nil && e.size <= maxWhole:
		data, err := im.in.exactly(int(e.size))
		if err != nil {
			return err
		}
		im.store(e, data, ino)
		return nil
	case e.extents == nil:
		return im.stream(e, ino)
	default:
		return im.sparse(e, ino)
	}
}

// store hands over the whole contents of a file, the bytes passed last.
func (im *importer) store(e *entry, data []byte, ino *tree.Inode) {
	im.recipe.Object(ino, nil)
	im.in.split(len(data))
	im.pipe.storePassed(im.in.cur, data, ino, e.name, e.off)
}

// aside passes data that belong to no file of the tree but to the tar. They become
// contents like any other, so that the recipe does not swell.
func (im *importer) aside(e *entry) error {
	e.size, e.extents = e.stored, nil
	if e.stored == 0 {
		return nil
	}
	return im.data(e, &tree.Inode{Type: tree.Regular, Size: e.stored})
}

// stream passes the contents of a large file.
func (im *importer) stream(e *entry, ino *tree.Inode) error {
	im.recipe.Object(ino, nil)
	s := im.pipe.streamPassed(ino, e.name, e.off)
	defer s.end()
	for n := e.size; n > 0; {
		from, data, err := im.some(n)
		if err != nil {
			return err
		}
		im.in.split(len(data))
		s.add(from, data)
		n -= int64(len(data))
	}
	return nil
}

// sparse passes the contents of a file with holes.
func (im *importer) sparse(e *entry, ino *tree.Inode) error {
	im.recipe.Object(ino, e.extents)
	s := im.pipe.stream(ino, e.name, e.off)
	defer s.end()
	return s.addSparse(e.extents, im.some)
}

// some passes the next bytes of a file, at most so many.
func (im *importer) some(limit int64) (*slab, []byte, error) {
	if im.pipe.ctx.Err() != nil {
		return nil, nil, context.Cause(im.pipe.ctx)
	}
	data, err := im.in.some(limit)
	return im.in.cur, data, err
}

// smallSparse expands a sparse file that is inline.
func (im *importer) smallSparse(e *entry, ino *tree.Inode) error {
	whole := make([]byte, e.size)
	for _, x := range e.extents {
		data, err := im.in.exactly(int(x.Length))
		if err != nil {
			return err
		}
		copy(whole[x.Offset:], data)
	}
	if im.recipe.Inline(ino, whole, e.extents) {
		return nil
	}
	im.recipe.Object(ino, e.extents)
	s := im.pipe.pool.take(len(whole), im.in.cur)
	im.pipe.store(s, s.buf[:copy(s.buf, whole)], ino, e.name, e.off)
	s.release()
	return nil
}

// applier turns entries into a layer tree.
type applier struct {
	builder  *tree.Builder
	lim      Limits
	metadata int64
	inodes   []tree.Inode
	linked   map[string]*tree.Inode // files in .wh..wh.plnk
}

func newApplier(lim Limits) *applier {
	return &applier{builder: tree.NewBuilderLimits(tree.Limits{Nodes: lim.Nodes}), lim: lim}
}

// Names with a meaning (OCI image-spec, "Whiteouts"; the rest is from AUFS).
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueMarker   = ".wh..wh..opq"
	linkDir        = ".wh..wh.plnk/"
)

// apply adds an entry to the layer and returns its inode, nil when it has none of its
// own.
func (a *applier) apply(e *entry) (*tree.Inode, error) {
	a.metadata += int64(len(e.name) + len(e.link))
	for _, x := range e.xattrs {
		a.metadata += int64(len(x.Name) + len(x.Value))
	}
	if a.metadata > a.lim.Metadata {
		return nil, invalid("names, link targets and extended attributes of the layer exceed %d bytes", a.lim.Metadata)
	}
	if e.typ == typeVolume {
		return nil, nil
	}
	if strings.Contains(e.name, whiteoutPrefix) {
		if ino, done, err := a.marker(e); done || err != nil {
			return ino, err
		}
	}
	p, err := tree.ParsePath(e.name)
	if err != nil {
		return nil, err
	}
	if e.typ == typeLink {
		return nil, a.link(p, e.link)
	}
	ino := a.inode(e)
	return ino, a.builder.Add(p, ino)
}

func (a *applier) link(p tree.Path, target string) error {
	if target == "" {
		return invalid("hard link without a target")
	}
	t, err := tree.ParsePath(target)
	if err != nil {
		return fmt.Errorf("target of the hard link: %w", err)
	}
	if ino := a.linked[string(t)]; ino != nil {
		return a.builder.Add(p, ino)
	}
	return a.builder.Link(p, t)
}

func (a *applier) inode(e *entry) *tree.Inode {
	if len(a.inodes) == 0 {
		a.inodes = make([]tree.Inode, 128)
	}
	ino := &a.inodes[0]
	a.inodes = a.inodes[1:]
	ino.Mode, ino.UID, ino.GID, ino.MTime, ino.Xattrs = e.mode, e.uid, e.gid, e.mtime, e.xattrs
	switch e.typ {
	case typeFile:
		ino.Type, ino.Size = tree.Regular, e.size
	case typeDir:
		ino.Type = tree.Directory
	case typeSymlink:
		ino.Type, ino.Link, ino.Size = tree.Symlink, e.link, int64(len(e.link))
		ino.Mode = 0o777 // Linux gives every symbolic link this mode, whatever its member says
	case typeChar:
		ino.Type, ino.Rdev = tree.CharDevice, e.dev
	case typeBlock:
		ino.Type, ino.Rdev = tree.BlockDevice, e.dev
	case typeFifo:
		ino.Type = tree.Fifo
	}
	return ino
}

// marker handles whiteouts and what looks like them. Done is false for a name that
// only contains the letters.
func (a *applier) marker(e *entry) (_ *tree.Inode, done bool, err error) {
	name := strings.TrimRight(e.name, "/")
	dirName, base := "", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dirName, base = name[:i], name[i+1:]
	}
	dir, err := tree.ParsePath(dirName)
	if err != nil {
		return nil, false, err
	}
	if dir == "" && strings.HasPrefix(base, metaPrefix) && base != opaqueMarker || strings.HasPrefix(string(dir), metaPrefix) {
		return a.meta(e, dir, base)
	}
	for part := range strings.SplitSeq(string(dir), "/") {
		if strings.HasPrefix(part, whiteoutPrefix) {
			return nil, false, invalid("a whiteout's name as a directory")
		}
	}
	target, ok := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case !ok:
		return nil, false, nil
	case base == opaqueMarker:
		return nil, true, a.builder.Opaque(dir)
	case target == "" || target == "." || target == "..":
		return nil, false, invalid("whiteout of %q", target)
	default:
		return nil, true, a.builder.Whiteout(dir.Join(target))
	}
}

// meta handles what AUFS kept for itself in the root of a branch. Only the files in
// one directory matter: hard links may lead to them.
func (a *applier) meta(e *entry, dir tree.Path, base string) (*tree.Inode, bool, error) {
	full := string(dir.Join(base))
	if e.typ != typeFile || !strings.HasPrefix(full, linkDir) {
		return nil, true, nil
	}
	if a.linked == nil {
		a.linked = make(map[string]*tree.Inode)
	}
	ino := a.inode(e)
	a.linked[full] = ino
	return ino, true, nil
}
