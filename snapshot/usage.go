package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

// Usage is what a snapshot occupies by itself: what was written to it, not what is
// below.
type Usage struct {
	Bytes  int64 `json:"bytes"`  // allocated on disk, hard links once
	Inodes int64 `json:"inodes"` // hard links once
}

// Usage walks the upper directory of a snapshot; a view has none. What lies deeper than
// tree.MaxDepth is not counted.
func (s *Store) Usage(ctx context.Context, key Key) (Usage, error) {
	rec, err := s.Stat(ctx, key)
	if err != nil {
		return Usage{}, err
	}
	if rec.Kind == View {
		return Usage{}, nil
	}
	u, err := UsageOf(ctx, s.Upper(key))
	if err != nil {
		return Usage{}, fmt.Errorf("usage of snapshot %s: %w", key, err)
	}
	return u, nil
}

// UsageOf is what is in any directory, by the same rules.
func UsageOf(ctx context.Context, path string) (Usage, error) {
	dir, err := openDir(path)
	if err != nil {
		return Usage{}, err
	}
	defer func() { _ = dir.Close() }() // opened for reading
	var u Usage
	err = u.add(ctx, int(dir.Fd()), 0, map[[2]uint64]bool{})
	return u, err
}

// add counts what is in the directory behind fd, which lies depth directories deep.
func (u *Usage) add(ctx context.Context, fd, depth int, linked map[[2]uint64]bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			return err
		}
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if st.Nlink > 1 && !isDir {
			id := [2]uint64{st.Dev, st.Ino}
			if linked[id] {
				continue
			}
			linked[id] = true
		}
		u.Bytes += st.Blocks * 512
		u.Inodes++
		if !isDir || depth == tree.MaxDepth {
			continue
		}
		sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // removed or replaced while we look
		}
		if err != nil {
			return err
		}
		err = u.add(ctx, sub, depth+1, linked)
		_ = unix.Close(sub)
		if err != nil {
			return err
		}
	}
	return nil
}
