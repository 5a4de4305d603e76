package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// This file makes and removes the directory of a snapshot, its home. A home is made
// durable before the record in it, and removed after it: one without a record is a
// leftover, whatever it holds.

func (s *Store) dir(key Key) string {
	return filepath.Join(s.disk.Root(), "snapshots", string(key))
}

// Upper returns the directory that holds what was written to an active or sealed
// snapshot, in the format described in package unionfs.
func (s *Store) Upper(key Key) string { return filepath.Join(s.dir(key), "upper") }

// ephemeralFile is the name of an empty file in the home of an ephemeral snapshot: of
// such a one the record is not flushed, so that a power cut can leave it empty, which of
// any other would be damage.
const ephemeralFile = "ephemeral"

// makeHome creates the directory of a snapshot, which must not exist, and in it, with
// root, an empty upper directory with that metadata. It flushes them, but for an
// ephemeral one: what goes with its process has nothing to lose in a power cut, and its
// home need only be recognizable as a leftover.
func (s *Store) makeHome(key Key, root *tree.Inode, ephemeral bool) error {
	dir := s.dir(key)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if ephemeral {
		if err := unix.Mknod(filepath.Join(dir, ephemeralFile), unix.S_IFREG|0o600, 0); err != nil {
			return &fs.PathError{Op: "make", Path: filepath.Join(dir, ephemeralFile), Err: err}
		}
	}
	made := []string{filepath.Dir(dir)}
	if root != nil {
		if err := s.makeUpper(dir, root); err != nil {
			return err
		}
		made = []string{filepath.Join(dir, "upper"), filepath.Join(dir, "work"), dir, filepath.Dir(dir)}
	}
	if ephemeral {
		return nil
	}
	for _, d := range made {
		if err := syncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// removeHome removes the directory of a snapshot, a record first. It refuses where
// something is mounted inside, whose files would be removed with it.
func (s *Store) removeHome(key Key) error {
	dir := s.dir(key)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("remove %s: unmount %s first: %w", dir, mounts[0].Mountpoint, ErrInUse)
	}
	if err := os.Remove(filepath.Join(s.disk.Root(), recordName(key))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// makeUpper creates the empty upper and work directories of a snapshot. The root of
// an overlay mount shows the metadata of the upper directory, so that begins as the
// image's root directory.
func (s *Store) makeUpper(dir string, root *tree.Inode) error {
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	upper := filepath.Join(dir, "upper")
	for _, x := range root.Xattrs {
		if s.opts.Namespace == unionfs.User && privileged(x.Name) {
			continue // nor do the layers show it in a user namespace
		}
		// An image may have attributes that overlayfs would take for its own.
		if err := unix.Lsetxattr(upper, s.opts.Namespace.Escape(x.Name), []byte(x.Value), 0); err != nil {
			return fmt.Errorf("set %s of the root directory: %w", x.Name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(upper, &st); err != nil {
		return err
	}
	if uid, gid := s.opts.Owners(root.UID, root.GID); st.Uid != uid || st.Gid != gid {
		if err := os.Lchown(upper, int(uid), int(gid)); err != nil {
			return fmt.Errorf("set owner of the root directory: %w", err)
		}
	}
	if err := unix.Chmod(upper, uint32(root.Mode)); err != nil {
		return fmt.Errorf("set mode of the root directory: %w", err)
	}
	ts := unix.Timespec{Sec: root.MTime.Sec, Nsec: int64(root.MTime.Nsec)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, upper, []unix.Timespec{ts, ts}, 0); err != nil {
		return fmt.Errorf("set time of the root directory: %w", err)
	}
	return nil
}

// privileged reports whether an attribute can be set in the initial user namespace only.
func privileged(name string) bool {
	return strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "security.") && name != "security.capability"
}

// rootInode returns the metadata of the root directory below a snapshot.
func (s *Store) rootInode(ctx context.Context, rec *Record) (*tree.Inode, error) {
	if n := len(rec.Below); n > 0 {
		return s.upperRoot(rec.Below[n-1], rec.namespace())
	}
	if len(rec.Layers) == 0 {
		return tree.Implied(), nil
	}
	u, err := s.openStack(ctx, rec.Layers)
	if err != nil {
		return nil, err
	}
	ino, err := u.inode(u.root(0))
	return ino, errors.Join(err, u.close())
}

// upperRoot returns the metadata of the root directory of a snapshot as it is now.
func (s *Store) upperRoot(key Key, ns unionfs.Namespace) (_ *tree.Inode, err error) {
	dir, err := openDir(s.Upper(key))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	var n upperNode
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, err
	}
	r := upperReader{ns: ns, buf: make([]byte, 64<<10)}
	if err := r.fill(&n, int(dir.Fd()), &st); err != nil {
		return nil, err
	}
	return n.inode, nil
}

func syncDir(path string) error {
	d, err := openDir(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
