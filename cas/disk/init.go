package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/layerfs/layerfs/internal/durable"
	"golang.org/x/sys/unix"
)

// layoutDirs are made with a store, in this order, with mode 0700.
var layoutDirs = [...]string{
	blobsDir, blobsDir + "/sha256", blobsDir + "/sha384", blobsDir + "/sha512",
	"layers", "layers/sha256", "stacks", "stacks/sha256", "refs", "snapshots", "containers",
	ingestDir, quarantineDir, locksDir,
}

// layoutFiles are made with a store, with mode 0600. The two of the OCI image layout
// have the content that its specification (version 1.1) gives an empty layout.
var layoutFiles = [...]struct{ name, content string }{
	{lockFile, ""},
	{namesFile, ""},
	{gateFile, ""},
	{ociLayoutFile, `{"imageLayoutVersion":"1.0.0"}` + "\n"},
	{indexFile, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}` + "\n"},
}

// init makes the store in an empty directory, or finishes what an interrupted init
// began. format.json comes last: a directory without it is not a store.
func (s *Store) init(ctx context.Context) (err error) {
	dir, err := s.root.Open(".")
	if err != nil {
		return err
	}
	unlock, err := waitLock(ctx, dir, flockOf(unix.LOCK_EX))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if _, err := s.root.Stat(formatFile); err == nil {
		return nil // another process was faster
	}
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("list directory: %w", err)
	}
	for _, e := range entries {
		if !partOfLayout(e.Name()) {
			return fmt.Errorf("the directory is not a store, and holds %q, so none is made in it: %w", e.Name(), fs.ErrInvalid)
		}
	}
	for _, name := range layoutDirs {
		if err := s.initDir(name, 0o700); err != nil {
			return err
		}
	}
	// The data of mounted files is opened through these by processes of any user, as
	// far as the root directory lets them come.
	if err := s.initDir(objectsDir, 0o755); err != nil {
		return err
	}
	for i := range 256 {
		if err := s.initDir(fmt.Sprintf("%s/%02x", objectsDir, i), 0o755); err != nil {
			return err
		}
	}
	for _, f := range layoutFiles {
		if err := s.initFile(f.name, []byte(f.content)); err != nil {
			return err
		}
	}
	if err := s.initFile(usageFile, usageRecord{}.encode()); err != nil {
		return err
	}
	flusher, err := durable.NewFlusher(s.root, s.opts.NoSync)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, flusher.Close()) }()
	if err := flusher.FlushAll(ctx); err != nil {
		return err
	}
	b, err := newFormat().encode()
	if err != nil {
		return err
	}
	// One that was killed while it wrote this may have left it.
	if err := s.root.Remove(ingestDir + "/" + formatFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.WriteFile(s.root, ingestDir+"/"+formatFile, formatFile, 0o600, b)
}

func partOfLayout(name string) bool {
	switch name {
	case objectsDir, usageFile, "lost+found": // a fresh file system has the last
		return true
	}
	for _, f := range layoutFiles {
		if f.name == name {
			return true
		}
	}
	return slices.Contains(layoutDirs[:], name)
}

func (s *Store) initDir(name string, perm fs.FileMode) error {
	if err := s.root.Mkdir(name, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create directory %s: %w", name, err)
	}
	return s.root.Chmod(name, perm)
}

// initFile writes a file that nobody else uses yet.
func (s *Store) initFile(name string, content []byte) (err error) {
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
