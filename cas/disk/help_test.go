package disk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

var farFuture = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

func idOf(content string) tree.ObjectID { return sha256.Sum256([]byte(content)) }

// objectPath is where an object lies below the root.
func objectPath(content string) string { return "objects/" + idOf(content).Path() }

// begin starts an ingest that is closed at the end of the test at the latest.
func begin(t *testing.T, s *disk.Store) *disk.Ingest {
	t.Helper()
	in, err := s.Begin(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { done(t, in) })
	return in
}

func done(t *testing.T, in *disk.Ingest) {
	t.Helper()
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}

func putAll(t *testing.T, in *disk.Ingest, contents ...string) {
	t.Helper()
	for _, content := range contents {
		if err := in.PutObject(t.Context(), idOf(content), []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
}

// put publishes objects in a batch of their own.
func put(t *testing.T, s *disk.Store, contents ...string) {
	t.Helper()
	in := begin(t, s)
	putAll(t, in, contents...)
	publish(t, in)
	done(t, in)
}

func publish(t *testing.T, in *disk.Ingest) {
	t.Helper()
	if err := in.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func wantObject(t *testing.T, s *disk.Store, content string) {
	t.Helper()
	r, err := s.OpenObject(t.Context(), idOf(content))
	if err != nil {
		t.Error(err)
		return
	}
	got := make([]byte, r.Size())
	if _, err := r.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if !bytes.Equal(got, []byte(content)) {
		t.Errorf("object %.20q has other content", content)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func wantNoObject(t *testing.T, s *disk.Store, content string) {
	t.Helper()
	r, err := s.OpenObject(t.Context(), idOf(content))
	if err == nil {
		err = r.Close()
		t.Errorf("object %.20q is there (%v)", content, err)
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("object %.20q: error %v, want fs.ErrNotExist", content, err)
	}
}

// list returns the paths of everything below dir.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
}

// mount mounts a file system until the end of the test.
func mount(t *testing.T, source, target, fstype string, flags uintptr, data string) {
	t.Helper()
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		t.Skipf("cannot mount %s: %v", fstype, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmount %s: %v", target, err)
			_ = unix.Unmount(target, unix.MNT_DETACH) // rather than leave it behind
		}
	})
}
