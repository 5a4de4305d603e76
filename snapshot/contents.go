package snapshot

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

// contentOpener opens the contents of files that exist only in upper directories, not
// yet as objects. Which file an inode's content lies in is noted when a union hands
// the inode out.
type contentOpener struct {
	dir   *os.File // the upper directory; nil for a tree image
	where map[*tree.Inode]location
}

// location is where the content of an inode lies: a path in an upper directory.
type location struct {
	dir  *os.File
	path tree.Path
}

func (c *contentOpener) remember(ino *tree.Inode, p tree.Path) {
	if c.where == nil {
		c.where = map[*tree.Inode]location{}
	}
	if _, ok := c.where[ino]; !ok {
		c.where[ino] = location{dir: c.dir, path: p}
	}
}

// alias notes that ino has the content of from, which other opens.
func (c *contentOpener) alias(ino *tree.Inode, other contentOpener, from *tree.Inode) {
	if c.where == nil {
		c.where = map[*tree.Inode]location{}
	}
	c.where[ino] = other.where[from]
}

func (c *contentOpener) close() error {
	if c.dir == nil {
		return nil
	}
	return c.dir.Close()
}

// OpenContent opens the content of an inode that the union handed out and that has
// neither inline content nor an object. It implements tarstream.Contents.
func (u *union) OpenContent(_ context.Context, p tree.Path, ino *tree.Inode) (io.ReadCloser, error) {
	f, err := u.open(p, ino)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (u *union) open(p tree.Path, ino *tree.Inode) (*os.File, error) {
	for i := range u.sources {
		l, ok := u.sources[i].open.where[ino]
		if !ok {
			continue
		}
		dir, name := l.path.Split()
		fd, err := u.last.enter(l.dir, dir)
		var f *os.File
		if err == nil {
			f, err = openUpperFile(fd, name)
		}
		if err != nil {
			return nil, fmt.Errorf("open content of %s: %w", p.Abs(), err)
		}
		return f, nil
	}
	return nil, fmt.Errorf("content of %s: %w", p.Abs(), fs.ErrNotExist)
}

// lastDir is the directory in which a file was opened last: the next is mostly beside it.
// The zero lastDir is none.
type lastDir struct {
	top  *os.File // upper directory
	path tree.Path
	fd   int
}

// enter returns a handle of the directory at p below top, good until the next call.
func (l *lastDir) enter(top *os.File, p tree.Path) (int, error) {
	if l.top == top && l.path == p {
		return l.fd, nil
	}
	l.close()
	fd, err := openUpperDir(int(top.Fd()), p)
	if err != nil {
		return -1, err
	}
	*l = lastDir{top: top, path: p, fd: fd}
	return fd, nil
}

func (l *lastDir) close() {
	if l.top != nil {
		_ = unix.Close(l.fd) // only a path
	}
	*l = lastDir{}
}

func openDir(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
