package disk

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/internal/durable"
	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Space is one of the two content-addressed parts of a store. It implements
// [cas.Store].
type Space struct {
	s   *Store
	top string // blobsDir or objectsDir
}

var _ cas.Store = (*Space)(nil)

// Blobs returns the blobs: content of any algorithm, as an OCI image layout has it.
func (s *Store) Blobs() *Space { return &Space{s, blobsDir} }

// Objects returns the file contents, which are named by sha256 only.
func (s *Store) Objects() *Space { return &Space{s, objectsDir} }

// path returns where content lies below the root.
func (p *Space) path(d digest.Digest) (string, error) {
	if err := cas.CheckDigest(d); err != nil {
		return "", err
	}
	if p.top == blobsDir {
		return blobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded(), nil
	}
	id, err := objectID(d)
	if err != nil {
		return "", err
	}
	return objectsDir + "/" + id.Path(), nil
}

// objectID converts a digest that passes cas.CheckDigest.
func objectID(d digest.Digest) (id tree.ObjectID, err error) {
	if d.Algorithm() != digest.SHA256 {
		return id, fmt.Errorf("digest %s: objects are named by sha256: %w", d, fs.ErrInvalid)
	}
	_, err = hex.Decode(id[:], []byte(d.Encoded()))
	return id, err
}

// digestOf is the inverse of path; ok is false for a file that does not belong there.
func (p *Space) digestOf(rel string) (d digest.Digest, ok bool) {
	rest := strings.TrimPrefix(rel, p.top+"/")
	if p.top == objectsDir {
		id, ok := tree.ParseObjectPath(rest)
		return id.Digest(), ok
	}
	alg, encoded, _ := strings.Cut(rest, "/")
	d = digest.NewDigestFromEncoded(digest.Algorithm(alg), encoded)
	return d, cas.CheckDigest(d) == nil
}

// Open implements [cas.Provider].
func (p *Space) Open(ctx context.Context, d digest.Digest) (cas.Reader, error) {
	rel, err := p.path(d)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p.noun(), err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := openContent(p.s.rootDir, rel)
	if err == nil {
		return r, nil
	}
	err = fmt.Errorf("open %s %s: %w", p.noun(), d, err)
	return p.s.openElsewhere(err, func(below *Store) (cas.Reader, error) { return (&Space{below, p.top}).Open(ctx, d) })
}

// Stat implements [cas.Provider]. Of objects it knows the store's own only.
func (p *Space) Stat(ctx context.Context, d digest.Digest) (cas.Info, error) {
	rel, err := p.path(d)
	if err != nil {
		return cas.Info{}, fmt.Errorf("stat %s: %w", p.noun(), err)
	}
	if err := ctx.Err(); err != nil {
		return cas.Info{}, err
	}
	st, err := statAt(p.s.rootDir, rel)
	for i := 0; p.top == blobsDir && i < len(p.s.additional) && errors.Is(err, fs.ErrNotExist); i++ {
		st, err = statAt(p.s.additional[i].rootDir, rel)
	}
	if err != nil {
		return cas.Info{}, fmt.Errorf("stat %s %s: %w", p.noun(), d, err)
	}
	return cas.Info{Digest: d, Size: st.size, ModTime: st.mod}, nil
}

// Walk implements [cas.Walker]. Files that do not belong there are passed over.
func (p *Space) Walk(ctx context.Context, fn func(cas.Info) error) error {
	return p.s.walk(ctx, p.top, 2, func(rel string, st fileStat) error {
		d, ok := p.digestOf(rel)
		if !ok {
			return nil
		}
		return fn(cas.Info{Digest: d, Size: st.size, ModTime: st.mod})
	})
}

// Remove implements [cas.Remover]. It is durable when it returns, and needs no free
// space. To remove what nothing reaches, beside others who add, use [Store.Sweep].
func (p *Space) Remove(ctx context.Context, d digest.Digest) error {
	rel, err := p.path(d)
	if err == nil {
		err = p.s.removeFile(ctx, rel)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", p.noun(), err)
	}
	return nil
}

// Begin implements [cas.Store].
func (p *Space) Begin(ctx context.Context) (cas.Batch, error) {
	in, err := p.s.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &batch{in, p}, nil
}

func (p *Space) noun() string { return strings.TrimSuffix(p.top, "s") }

// OpenObject implements [cas.ObjectSource].
func (s *Store) OpenObject(ctx context.Context, id tree.ObjectID) (cas.Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := openContent(s.objects, id.Path())
	if err == nil {
		return r, nil
	}
	err = fmt.Errorf("open object %s: %w", id.Digest(), err)
	return s.openElsewhere(err, func(below *Store) (cas.Reader, error) { return below.OpenObject(ctx, id) })
}

// openContent opens a regular file below dir. A tar export opens tens of thousands, so it
// is one system call, which neither follows a link nor waits for the other end of a fifo.
func openContent(dir *os.File, name string) (*Reader, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return newReader(os.NewFile(uintptr(fd), name))
}

// Reader is an open blob, object or record. It implements [cas.Reader].
type Reader struct {
	*os.File
	size int64
}

// Size returns the number of bytes.
func (r *Reader) Size() int64 { return r.size }

// newReader takes over f.
func newReader(f *os.File) (*Reader, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.Join(fmt.Errorf("not a regular file: %w", fs.ErrInvalid), f.Close())
	}
	return &Reader{f, st.Size}, nil
}

// removeFile removes one counted file at once and durably.
func (s *Store) removeFile(ctx context.Context, rel string) error {
	if err := s.writable(); err != nil {
		return err
	}
	if _, err := s.root.Lstat(rel); err != nil {
		return err
	}
	return s.takeAway(ctx, func(r *usageRecord) error {
		fi, err := s.root.Lstat(rel)
		if err != nil {
			return err
		}
		if err := s.root.Remove(rel); err != nil {
			return err
		}
		r.add(r.of(rel), -1, -fi.Size())
		return s.syncDir(path.Dir(rel))
	})
}

// syncDir flushes a directory below the root.
func (s *Store) syncDir(rel string) error {
	if s.opts.NoSync {
		return nil
	}
	return durable.SyncDir(s.root, rel)
}
