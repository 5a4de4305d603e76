package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// disk is the file system to measure on: ext4 with a journal, in a file without a name
// behind a loop device that goes away with the last handle. The file is allocated
// beforehand, so that the file system it lies on has nothing to decide meanwhile, and
// read and written around the page cache.
type disk struct {
	device *os.File
	dir    string
	up     bool // mounted
}

func newDisk(work string, size int64) (_ *disk, err error) {
	path := filepath.Join(work, "image")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := unix.Fallocate(int(file.Fd()), 0, 0, size); err != nil {
		return nil, fmt.Errorf("allocate %d bytes in %s: %w", size, work, err)
	}
	d := &disk{dir: filepath.Join(work, "disk")}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		return nil, err
	}
	if d.device, err = attach(file); err != nil {
		return nil, err
	}
	return d, os.Remove(path)
}

// attach makes the file a block device for as long as the device is open or mounted.
func attach(file *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close() //nolint:errcheck // a handle to ask with
	for range 64 {        // another process may be faster with the free one
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd())}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
		if err = unix.IoctlLoopConfigure(int(device.Fd()), &config); err == nil {
			return device, nil
		}
		if err = errors.Join(fmt.Errorf("attach %s: %w", device.Name(), err), device.Close()); !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, errors.New("find a free loop device: lost every race")
}

func (d *disk) path(name string) string { return filepath.Join(d.dir, name) }

// fresh mounts a new, empty file system.
func (d *disk) fresh(ctx context.Context) error {
	if err := d.unmount(); err != nil {
		return err
	}
	// Discarding would give the file's blocks back, lazy initialisation would write later.
	_, err := run(ctx, []string{"mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", d.device.Name()})
	if err != nil {
		return err
	}
	if err := d.mount(); err != nil {
		return err
	}
	return os.Mkdir(d.path("tmp"), 0o1777)
}

func (d *disk) mount() error {
	if err := unix.Mount(d.device.Name(), d.dir, "ext4", unix.MS_RELATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", d.device.Name(), err)
	}
	d.up = true
	return nil
}

func (d *disk) unmount() error {
	if !d.up {
		return nil
	}
	if err := unix.Unmount(d.dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", d.device.Name(), err)
	}
	d.up = false
	return nil
}

// cold empties the caches of this file system, and of no other, by mounting it again.
func (d *disk) cold() error {
	if err := d.unmount(); err != nil {
		return err
	}
	return d.mount()
}

// sync waits until the file system has written everything.
func (d *disk) sync() error {
	if !d.up {
		return nil
	}
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
}

// written returns how many bytes have been written to the device so far.
func (d *disk) written() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.device.Fd()), &st); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if err != nil {
		return 0, err
	}
	// The seventh field is sectors of 512 bytes, see the kernel's block/stat.rst.
	f := strings.Fields(string(data))
	if len(f) < 7 {
		return 0, fmt.Errorf("%q is no block/stat", data)
	}
	n, err := strconv.ParseInt(f[6], 10, 64)
	return n * 512, err
}

// used returns how many bytes are allocated, once everything is written.
func (d *disk) used() (int64, error) {
	dir, err := os.Open(d.dir)
	if err != nil {
		return 0, err
	}
	err = unix.Syncfs(int(dir.Fd()))
	var st unix.Statfs_t
	if err == nil {
		err = unix.Fstatfs(int(dir.Fd()), &st)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize, errors.Join(err, dir.Close())
}

func (d *disk) close() error {
	// What a failed line left mounted inside goes with the mount namespace.
	err := d.unmount()
	if err != nil {
		err = errors.Join(err, unix.Unmount(d.dir, unix.MNT_DETACH))
	}
	return errors.Join(err, d.device.Close())
}
