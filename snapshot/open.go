package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tarstream"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
)

// MountOptions says what a driver needs.
type MountOptions struct {
	// Single asks for one merged tree below the directories.
	Single bool
}

// Mounts returns what to give to a union file system driver to mount a snapshot. The
// trees it names are made if they are not there.
func (s *Store) Mounts(ctx context.Context, key Key, o MountOptions) (unionfs.Layers, error) {
	rec, err := s.Stat(ctx, key)
	if err != nil {
		return unionfs.Layers{}, err
	}
	if rec.Kind == Sealed {
		return unionfs.Layers{}, fmt.Errorf("mount snapshot %s: it is sealed; mount a fork of it: %w", key, errors.ErrUnsupported)
	}
	if err := s.mountable(rec); err != nil {
		return unionfs.Layers{}, fmt.Errorf("mount snapshot %s: %w", key, err)
	}
	st, err := s.Stack(ctx, rec.Layers, StackOptions{Single: o.Single})
	if err != nil {
		return unionfs.Layers{}, fmt.Errorf("mount snapshot %s: %w", key, err)
	}
	var l unionfs.Layers
	for _, k := range slices.Backward(rec.Below) {
		l.Lower = append(l.Lower, unionfs.Lower{Dir: s.Upper(k)})
	}
	for _, t := range st.Trees {
		l.Lower = append(l.Lower, unionfs.Lower{Tree: t})
	}
	if len(st.Trees) > 0 {
		l.Data = s.disk.ObjectsDirs()
	}
	if rec.Kind == Active {
		l.Upper, l.Work = s.Upper(key), s.dir(key)+"/work"
	}
	return l, nil
}

// mountable refuses a snapshot with uppers that mounts here would misread.
func (s *Store) mountable(rec *Record) error {
	if rec.Kind == View && len(rec.Below) == 0 || rec.namespace() == s.opts.Namespace {
		return nil
	}
	return fmt.Errorf("what was written to it is marked with attributes %s*, and mounts here use %s*; use it as the user who made it: %w",
		rec.namespace(), s.opts.Namespace, errors.ErrUnsupported)
}

// openUnion opens what is below a snapshot, and with upper its own upper on top, for
// reading without mounting.
func (s *Store) openUnion(ctx context.Context, rec *Record, upper bool) (_ *union, err error) {
	u := &union{}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.close())
		}
	}()
	keys := slices.Clone(rec.Below)
	if upper {
		keys = append(keys, rec.Key)
	}
	for _, k := range slices.Backward(keys) {
		if err := u.addUpper(ctx, s.Upper(k), rec.namespace()); err != nil {
			return nil, err
		}
	}
	return u, s.addStack(ctx, u, rec.Layers)
}

func (u *union) addUpper(ctx context.Context, path string, ns unionfs.Namespace) error {
	dir, err := openDir(path)
	if err != nil {
		return fmt.Errorf("open upper directory: %w", err)
	}
	n, err := readUpper(ctx, int(dir.Fd()), ns)
	if err != nil {
		return errors.Join(err, dir.Close())
	}
	u.sources = append(u.sources, source{upper: n, open: contentOpener{dir: dir}})
	return nil
}

// Reader reads a stack or a snapshot without mounting it and without privileges beyond
// those to read the store. The caller closes it. It is not safe for concurrent use.
type Reader struct {
	u *union
	s *Store
}

// OpenStack returns a reader of a stack of layers, bottom first.
func (s *Store) OpenStack(ctx context.Context, layers []DiffID) (*Reader, error) {
	u, err := s.openStack(ctx, layers)
	if err != nil {
		return nil, err
	}
	return &Reader{u: u, s: s}, nil
}

// OpenSnapshot returns a reader of what a mount of the snapshot would show.
func (s *Store) OpenSnapshot(ctx context.Context, key Key) (*Reader, error) {
	rec, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	u, err := s.openUnion(ctx, rec, rec.Kind != View)
	if err != nil {
		return nil, fmt.Errorf("open snapshot %s: %w", key, err)
	}
	return &Reader{u: u, s: s}, nil
}

// Close releases the reader.
func (r *Reader) Close() error { return r.u.close() }

// Tree returns the merged tree below the directory or file p; "" is everything.
func (r *Reader) Tree(p tree.Path) (*tree.Node, error) {
	f, at, err := r.u.followed(p)
	if err != nil {
		return nil, err
	}
	_, name := at.Split()
	return r.u.subtree(name, f)
}

// Entry is a name and its inode.
type Entry struct {
	Path  tree.Path
	Inode *tree.Inode
}

// List returns the children of the directory p, or a file itself. Symbolic links are
// followed inside the root, but for p itself when it is one.
func (r *Reader) List(p tree.Path) ([]Entry, error) {
	f, at, err := r.find(p)
	if err != nil {
		return nil, err
	}
	if !f.dir {
		return r.entry(f, at)
	}
	names, err := r.u.names(f)
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, name := range names {
		c, err := r.u.child(f, name)
		if err != nil {
			return nil, err
		}
		if !c.exists() {
			continue
		}
		e, err := r.entry(c, at.Join(name))
		if err != nil {
			return nil, err
		}
		out = append(out, e...)
	}
	return out, nil
}

// Stat returns the entry at p, which is not followed when it is a symbolic link.
func (r *Reader) Stat(p tree.Path) ([]Entry, error) {
	f, at, err := r.find(p)
	if err != nil {
		return nil, err
	}
	return r.entry(f, at)
}

func (r *Reader) entry(f found, at tree.Path) ([]Entry, error) {
	ino, err := r.u.inode(f)
	if err != nil {
		return nil, err
	}
	return []Entry{{Path: at, Inode: ino}}, nil
}

func (r *Reader) find(p tree.Path) (found, tree.Path, error) {
	if p == "" {
		return r.u.followed(p)
	}
	dir, name := p.Split()
	f, at, err := r.u.followed(dir)
	if err != nil {
		return found{}, "", err
	}
	c, err := r.u.child(f, name)
	if err != nil {
		return found{}, "", err
	}
	if !c.exists() {
		return found{}, "", fmt.Errorf("%s: %w", p.Abs(), fs.ErrNotExist)
	}
	return c, at.Join(name), nil
}

// Open opens the content of the regular file at p, following symbolic links inside the
// root. The caller closes it.
func (r *Reader) Open(ctx context.Context, p tree.Path) (io.ReadCloser, *tree.Inode, error) {
	f, at, err := r.u.followed(p)
	if err != nil {
		return nil, nil, err
	}
	ino, err := r.u.inode(f)
	if err != nil {
		return nil, nil, err
	}
	if ino.Type != tree.Regular {
		return nil, nil, fmt.Errorf("%s is a %s, not a file: %w", at.Abs(), ino.Type, fs.ErrInvalid)
	}
	c, err := r.Content(ctx, at, ino)
	return c, ino, err
}

// Content opens the content of an inode that this reader returned for the path p.
func (r *Reader) Content(ctx context.Context, p tree.Path, ino *tree.Inode) (io.ReadCloser, error) {
	switch {
	case !ino.Object.IsZero():
		o, err := r.s.disk.OpenObject(ctx, ino.Object)
		if err != nil {
			return nil, fmt.Errorf("open content of %s: %w", p.Abs(), err)
		}
		return struct {
			io.Reader
			io.Closer
		}{io.NewSectionReader(o, 0, o.Size()), o}, nil
	case ino.Size == int64(len(ino.Inline)):
		return io.NopCloser(strings.NewReader(ino.Inline)), nil
	default:
		return r.u.OpenContent(ctx, p, ino)
	}
}

// WriteTar writes a canonical tar of everything that the reader shows. Files that exist
// only in uppers are read twice, for their digests and for their bytes.
func (r *Reader) WriteTar(ctx context.Context, w io.Writer, o tarstream.WriteOptions) error {
	files := upperObjects{r: r, where: map[tree.ObjectID]upperFile{}}
	root, err := r.hashed(ctx, files.where)
	if err != nil {
		return err
	}
	return tarstream.WriteTree(ctx, w, root, files, o)
}

// upperObjects gives the contents of files in uppers by digest, as if they were objects,
// and objects from the store.
type upperObjects struct {
	r     *Reader
	where map[tree.ObjectID]upperFile
}

type upperFile struct {
	path tree.Path
	ino  *tree.Inode
}

func (u upperObjects) OpenObject(ctx context.Context, id tree.ObjectID) (cas.Reader, error) {
	at, ok := u.where[id]
	if !ok {
		o, err := u.r.s.disk.OpenObject(ctx, id)
		if err != nil {
			return nil, err
		}
		return newVerifiedObject(o, id), nil
	}
	f, err := u.r.u.open(at.path, at.ino)
	if err != nil {
		return nil, err
	}
	return fileReader{f, at.ino.Size}, nil
}

// fileReader is a file in an upper as a cas.Reader.
type fileReader struct {
	*os.File
	size int64
}

func (f fileReader) Size() int64 { return f.size }

// HashedTree returns everything that the reader shows, with the contents of files that
// exist only in uppers hashed, so that it can be compared with other trees.
func (r *Reader) HashedTree(ctx context.Context) (*tree.Node, error) {
	return r.hashed(ctx, nil)
}

// hashed notes in where, unless that is nil, which files it hashed.
func (r *Reader) hashed(ctx context.Context, where map[tree.ObjectID]upperFile) (*tree.Node, error) {
	root, err := r.Tree("")
	if err != nil {
		return nil, err
	}
	err = tree.Walk(root, func(p tree.Path, n *tree.Node) error {
		ino := n.Inode
		if ino.Type != tree.Regular || ino.Size == 0 || ino.Inline != "" || !ino.Object.IsZero() {
			return ctx.Err()
		}
		if err := r.hashContent(p, ino); err != nil {
			return fmt.Errorf("hash %s: %w", p.Abs(), err)
		}
		if where != nil && !ino.Object.IsZero() {
			where[ino.Object] = upperFile{p, ino}
		}
		return nil
	})
	return root, err
}

// hashContent completes an inode whose content is a file in an upper, inline where it
// would be kept so, that it may equal what is.
func (r *Reader) hashContent(p tree.Path, ino *tree.Inode) error {
	f, err := r.u.open(p, ino)
	if err != nil {
		return err
	}
	c := io.NewSectionReader(f, 0, ino.Size)
	if ino.Size <= int64(r.s.opts.InlineMax) {
		b := make([]byte, ino.Size)
		if _, err = io.ReadFull(c, b); err == nil {
			ino.Inline = string(b)
		}
	} else {
		h := sha256.New()
		if _, err = io.Copy(h, c); err == nil {
			h.Sum(ino.Object[:0])
		}
	}
	return errors.Join(err, f.Close())
}
