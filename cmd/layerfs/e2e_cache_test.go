package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filesBelow lists the regular files below a directory.
func filesBelow(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// dropCached takes the pages of a file out of the page cache.
func dropCached(t testing.TB, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	// Only what is written to the disk can go.
	err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatalf("drop %s from the cache: %v", name, err)
	}
}

// cached returns how many bytes of a file are in the page cache, without reading it. It
// asks by a memory map, which on overlayfs is one of the file below.
func cached(t testing.TB, name string) (bytes int64) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() == 0 {
		return 0
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatalf("map %s: %v", name, err)
	}
	defer func() { _ = unix.Munmap(m) }()
	page := os.Getpagesize()
	resident := make([]byte, (len(m)+page-1)/page)
	// mincore(2): the lowest bit of each byte tells of one page.
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&resident[0]))); errno != 0 {
		t.Fatalf("mincore %s: %v", name, errno)
	}
	for _, r := range resident {
		bytes += int64(r&1) * int64(page)
	}
	return min(bytes, st.Size())
}
