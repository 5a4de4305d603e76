package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// walkChunk is how many directory entries are read at once, so that a directory of any
// size is walked in bounded memory.
const walkChunk = 1024

// fileStat is what is asked of a file.
type fileStat struct {
	size    int64
	mod     time.Time
	changed time.Time // of the inode: renaming a file sets it
}

// statAt returns the state of the regular file name in the directory f, without
// following a symbolic link. Anything else there wraps fs.ErrInvalid.
func statAt(f *os.File, name string) (fileStat, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(f.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fileStat{}, &fs.PathError{Op: "stat", Path: f.Name() + "/" + name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fileStat{}, fmt.Errorf("stat %s/%s: not a regular file: %w", f.Name(), name, fs.ErrInvalid)
	}
	return fileStat{st.Size, time.Unix(st.Mtim.Unix()), time.Unix(st.Ctim.Unix())}, nil
}

// openDir opens a directory below the root without following a symbolic link. What
// os.Root opens would ask for the state of every entry that it lists, again.
func (s *Store) openDir(name string) (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	for {
		fd, err := unix.Openat2(int(s.rootDir.Fd()), name, how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), s.dir+"/"+name), nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN): // EAGAIN: a rename elsewhere disturbed the look
		default:
			return nil, &fs.PathError{Op: "open", Path: s.dir + "/" + name, Err: err}
		}
	}
}

// walk calls fn for every regular file below the directory dir, at most depth levels
// down, in no order. What disappears meanwhile is passed over.
func (s *Store) walk(ctx context.Context, dir string, depth int, fn func(rel string, st fileStat) error) (err error) {
	f, err := s.openDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("walk: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		entries, err := f.ReadDir(walkChunk)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("walk: %w", err)
		}
		for _, e := range entries {
			rel := dir + "/" + e.Name()
			switch {
			case e.IsDir() && depth > 1:
				if err := s.walk(ctx, rel, depth-1, fn); err != nil {
					return err
				}
			case e.Type().IsRegular():
				st, err := statAt(f, e.Name())
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return fmt.Errorf("walk: %w", err)
				}
				if err := fn(rel, st); err != nil {
					return err
				}
			}
		}
	}
}
