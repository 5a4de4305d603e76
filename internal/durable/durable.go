// Package durable makes changes to a file system that survive a power cut, or leave
// what was there before: never half of them. It is the one place where the engine
// orders writes, flushes and renames.
//
// A new file is written under a temporary name on the same file system, flushed,
// closed with its error checked, renamed, and then the directory is flushed. Many new
// files are flushed together by a [Flusher] before any of them is renamed.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
)

// WriteFile replaces the file name below root by one that holds data, with exactly
// the permissions perm whatever the umask is. The file temp, below root on the same
// file system, must not exist; it is gone afterwards in any case. The parent
// directories of both exist.
func WriteFile(root *os.Root, temp, name string, perm fs.FileMode, data []byte) error {
	if err := Create(root, temp, perm, data, true); err != nil {
		return err
	}
	if err := root.Rename(temp, name); err != nil {
		return errors.Join(fmt.Errorf("replace %s: %w", name, err), remove(root, temp))
	}
	return SyncDir(root, path.Dir(name))
}

// Create writes a new file with exactly the permissions perm, and with sync flushes its
// content; its name is not durable yet. After an error it is gone, unless it existed
// before, when the error wraps fs.ErrExist.
func Create(root *os.Root, name string, perm fs.FileMode, data []byte, sync bool) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	err = fill(f, perm, data, sync)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(fmt.Errorf("create %s: %w", name, err), remove(root, name))
	}
	return nil
}

func fill(f *os.File, perm fs.FileMode, data []byte, sync bool) error {
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	return f.Sync()
}

// remove removes name where it exists.
func remove(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// Remove removes the file or empty directory name below root and flushes its
// directory. It needs no free space.
func Remove(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return SyncDir(root, path.Dir(name))
}

// MkdirAll creates the directory name below root and every missing parent, with
// permissions perm whatever the umask is, and flushes each directory that received an
// entry. Directories that exist are left as they are.
func MkdirAll(root *os.Root, name string, perm fs.FileMode) error {
	if name == "." {
		return nil
	}
	err := root.Mkdir(name, perm)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := MkdirAll(root, path.Dir(name), perm); err != nil {
			return err
		}
		err = root.Mkdir(name, perm)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("create directory %s: %w", name, err)
	}
	if err := root.Chmod(name, perm); err != nil {
		return fmt.Errorf("set mode of %s: %w", name, err)
	}
	return SyncDir(root, path.Dir(name))
}

// SyncDir flushes the entries of the directory name below root; "." is root itself.
func SyncDir(root *os.Root, name string) error { return syncName(root, name) }

// syncName flushes a file or directory by name.
func syncName(root *os.Root, name string) (err error) {
	f, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("flush %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flush %s: %w", name, err)
	}
	return nil
}
