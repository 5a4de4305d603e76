package main

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// How much the exercises on single calls do.
const (
	manyStats   = 100_000
	manyOpens   = 20_000
	manyReads   = 50_000
	manyFiles   = 10_000
	perDir      = 100
	page        = 4 << 10
	written     = 256 << 20
	writtenOnce = 1 << 20
)

// names returns the paths of all regular files.
func (e *exercise) names(dir string) ([]string, error) {
	var names []string
	err := e.each(dir, true, func(path string) error {
		names = append(names, path)
		return nil
	})
	if err == nil && len(names) == 0 {
		err = &fs.PathError{Op: "find files in", Path: dir, Err: fs.ErrNotExist}
	}
	e.entries = 0
	return names, err
}

// again calls fn so many times with the files in turn.
func (e *exercise) again(dir string, times int, fn func(path string) error) error {
	names, err := e.names(dir)
	if err != nil {
		return err
	}
	for i := range times {
		e.entries++
		if err := fn(names[i%len(names)]); err != nil {
			return &fs.PathError{Op: "use", Path: names[i%len(names)], Err: err}
		}
	}
	return nil
}

func stat(path string) error {
	var st unix.Stat_t
	return unix.Lstat(path, &st)
}

func absent(path string) error {
	if err := stat(path + ".absent"); !errors.Is(err, unix.ENOENT) {
		return errors.Join(errors.New("a name that nobody made is there"), err)
	}
	return nil
}

func openClose(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// appendTo writes a byte at the end of every file.
func (e *exercise) appendTo(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	n, err := unix.Write(fd, e.buf[:1])
	e.bytes += int64(n)
	return errors.Join(err, unix.Close(fd))
}

// random reads pages of a file here and there, the same ones every time.
func (e *exercise) random(path string) error {
	return e.open(path, func(fd int, size int64) error {
		r := rand.New(rand.NewPCG(1, 2))
		for range manyReads {
			n, err := unix.Pread(fd, e.buf[:page], r.Int64N(size/page)*page)
			if err != nil {
				return err
			}
			e.entries, e.bytes = e.entries+1, e.bytes+int64(n)
		}
		return nil
	})
}

// mapped reads a byte of each page of a file through a mapping.
func (e *exercise) mapped(path string) error {
	return e.open(path, func(fd int, size int64) error {
		data, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		for at := 0; at < len(data); at += page {
			e.entries++
			e.bytes += int64(data[at])
		}
		return unix.Munmap(data)
	})
}

func (e *exercise) open(path string, fn func(fd int, size int64) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = fn(fd, st.Size)
	}
	return errors.Join(err, unix.Close(fd))
}

// write writes one large file.
func (e *exercise) write(dir string) error {
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return err
	}
	fd, err := unix.Open(filepath.Join(dir, "large"), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	buf := make([]byte, writtenOnce)
	for e.bytes < written && err == nil {
		var n int
		n, err = unix.Write(fd, buf)
		e.bytes += int64(n)
	}
	e.entries++
	return errors.Join(err, unix.Close(fd))
}

// made calls fn with the paths of the many files, and with their directories before them.
func made(dir string, mkdir, fn func(path string) error) error {
	if err := mkdir(dir); err != nil {
		return err
	}
	for i := range manyFiles {
		sub := filepath.Join(dir, strconv.Itoa(i/perDir))
		if i%perDir == 0 {
			if err := mkdir(sub); err != nil {
				return err
			}
		}
		if err := fn(filepath.Join(sub, strconv.Itoa(i%perDir))); err != nil {
			return err
		}
	}
	return nil
}

// makeMany writes many small files.
func (e *exercise) makeMany(dir string) error {
	return made(dir, func(path string) error { return unix.Mkdir(path, 0o755) }, func(path string) error {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		n, err := unix.Write(fd, e.buf[:page])
		e.entries, e.bytes = e.entries+1, e.bytes+int64(n)
		return errors.Join(err, unix.Close(fd))
	})
}

// unlinkMany removes what makeMany has written, but for the directories.
func (e *exercise) unlinkMany(dir string) error {
	return made(dir, func(string) error { return nil }, func(path string) error {
		e.entries++
		return unix.Unlink(path)
	})
}
