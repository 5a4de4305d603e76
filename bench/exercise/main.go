// Command exercise does one kind of work on a directory tree and prints how much it was:
//
//	exercise walk DIR        look at every entry, as find does
//	exercise read DIR        read every file, in the order of the directories
//	exercise hash DIR        compute the SHA-256 of every file
//	exercise create DIR      write 5,000 files of 2 KiB, in 50 new directories, and remove them
//	exercise copyup DIR      append a byte to every 50th file
//	exercise append DIR      append a byte to every file
//	exercise stat DIR        look at files 100,000 times, and absent at names that are not there
//	exercise open DIR        open and close files 20,000 times
//	exercise random FILE     read 50,000 pages here and there
//	exercise map FILE        map a file and touch every page
//	exercise write DIR       write 256 MiB into a file in a new directory
//	exercise make DIR        write 10,000 files of 4 KiB, in new directories
//	exercise unlink DIR      remove what make has written
//
// It does nothing else, so that what differs between two trees is what the file systems
// need. Everything is done one after another, by system calls on paths.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: exercise walk|read|hash|create|copyup|append|stat|absent|open|random|map|write|make|unlink DIR")
		os.Exit(2)
	}
	e := &exercise{buf: make([]byte, 256<<10)}
	if err := e.run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "exercise:", err)
		os.Exit(1)
	}
	fmt.Printf("%d entries, %d bytes\n", e.entries, e.bytes)
}

type exercise struct {
	entries, bytes int64
	buf            []byte
}

func (e *exercise) run(what, dir string) error {
	switch what {
	case "walk":
		return e.each(dir, false, func(path string) error {
			var st unix.Stat_t
			err := unix.Lstat(path, &st)
			e.bytes += st.Size
			return err
		})
	case "read":
		return e.each(dir, true, func(path string) error { return e.read(path, nil) })
	case "hash":
		sum := sha256.New()
		return e.each(dir, true, func(path string) error {
			sum.Reset()
			return e.read(path, sum)
		})
	case "create":
		return e.create(filepath.Join(dir, "exercise"))
	case "copyup":
		return e.copyUp(dir)
	case "append":
		return e.each(dir, true, e.appendTo)
	case "stat":
		return e.again(dir, manyStats, stat)
	case "absent":
		return e.again(dir, manyStats, absent)
	case "open":
		return e.again(dir, manyOpens, openClose)
	case "random":
		return e.random(dir)
	case "map":
		return e.mapped(dir)
	case "write":
		return e.write(dir)
	case "make":
		return e.makeMany(dir)
	case "unlink":
		return e.unlinkMany(dir)
	}
	return fmt.Errorf("%s: unknown exercise", what)
}

// each calls fn with everything below dir, or with the regular files.
func (e *exercise) each(dir string, files bool, fn func(path string) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || files && !d.Type().IsRegular() {
			return err
		}
		e.entries++
		if err := fn(path); err != nil {
			return &fs.PathError{Op: "use", Path: path, Err: err}
		}
		return nil
	})
}

func (e *exercise) read(path string, sum hash.Hash) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	for {
		n, err := unix.Read(fd, e.buf)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		if n == 0 {
			return unix.Close(fd)
		}
		if sum != nil {
			sum.Write(e.buf[:n])
		}
		e.bytes += int64(n)
	}
}

func (e *exercise) create(dir string) error {
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := range 50 {
		sub := filepath.Join(dir, strconv.Itoa(i))
		if err := unix.Mkdir(sub, 0o755); err != nil {
			return err
		}
		for j := range 100 {
			fd, err := unix.Open(filepath.Join(sub, strconv.Itoa(j)), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
			if err != nil {
				return err
			}
			n, err := unix.Write(fd, e.buf[:2048])
			e.entries, e.bytes = e.entries+1, e.bytes+int64(n)
			if err := errors.Join(err, unix.Close(fd)); err != nil {
				return err
			}
		}
	}
	for i := range 50 {
		sub := filepath.Join(dir, strconv.Itoa(i))
		for j := range 100 {
			if err := unix.Unlink(filepath.Join(sub, strconv.Itoa(j))); err != nil {
				return err
			}
		}
		if err := unix.Rmdir(sub); err != nil {
			return err
		}
	}
	return unix.Rmdir(dir)
}

// copyUp changes files as a package manager or an editor would, far apart from each other.
func (e *exercise) copyUp(dir string) error {
	var names []string
	seen := 0
	err := e.each(dir, true, func(path string) error {
		if seen++; seen%50 == 0 {
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	e.entries = 0
	for _, path := range names {
		e.entries++
		if err := e.appendTo(path); err != nil {
			return &fs.PathError{Op: "append to", Path: path, Err: err}
		}
	}
	return nil
}
