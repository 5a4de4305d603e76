// Command rawmount does of a writable mount what cannot be left out: it makes an upper
// and a work directory in DIR and mounts them with overlayfs over DIR/lower on TARGET.
// With -u it unmounts TARGET and removes the two.
//
//	rawmount [-u] DIR TARGET
package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	args := os.Args[1:]
	do := mount
	if len(args) > 0 && args[0] == "-u" {
		do, args = unmount, args[1:]
	}
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: rawmount [-u] DIR TARGET")
		os.Exit(2)
	}
	if err := do(args[0], args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "rawmount:", err)
		os.Exit(1)
	}
}

func mount(dir, target string) error {
	err := errors.Join(unix.Mkdir(dir+"/upper", 0o755), unix.Mkdir(dir+"/work", 0o755))
	if err != nil {
		return err
	}
	return unix.Mount("overlay", target, "overlay", 0, "lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work")
}

func unmount(dir, target string) error {
	if err := unix.Unmount(target, 0); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(dir+"/upper"), os.RemoveAll(dir+"/work"))
}
