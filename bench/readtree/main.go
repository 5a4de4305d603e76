// Command readtree reads every file below a directory, one after another in the order
// of the directories, and prints how many there were and their bytes.
package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "readtree:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	var files, bytes int64
	buf := make([]byte, 256<<10)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return &fs.PathError{Op: "open", Path: path, Err: err}
		}
		for {
			n, err := unix.Read(fd, buf)
			if err != nil {
				return &fs.PathError{Op: "read", Path: path, Err: err}
			}
			if n == 0 {
				break
			}
			bytes += int64(n)
		}
		files++
		return unix.Close(fd)
	})
	fmt.Printf("%d files, %d bytes\n", files, bytes)
	return err
}
