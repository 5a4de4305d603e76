package union

import (
	"errors"
	"fmt"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

// Unlink removes a name of a file.
func (f *FS) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return f.status(f.unlink(in.NodeId, name))
}

func (f *FS) unlink(parent uint64, name string) error {
	dir, err := f.parent(parent)
	if err != nil {
		return err
	}
	victim, err := f.peek(dir, name)
	if err != nil {
		return err
	}
	unlock := f.ids.lock(victim.id)
	defer unlock()
	f.names.RLock()
	defer f.names.RUnlock()
	d, err := f.dir(dir)
	if err != nil {
		return err
	}
	defer f.dirs.release(d)
	below, err := f.child(dir.lowers, name)
	if err != nil {
		return err
	}
	if n := victim.n; n != nil && n.upper.Load() {
		return f.unlinkUpper(n, dir, d, name, below.ok())
	}
	if err := f.whiteout(dir, d, name); err != nil {
		return err
	}
	return f.lostName(victim, dir, name)
}

// peek is find without giving the id away.
func (f *FS) peek(dir *node, name string) (file, error) {
	f.names.RLock()
	defer f.names.RUnlock()
	return f.find(dir, name, false)
}

// unlinkUpper removes a name of a file in the upper and, if a lower layer has the name
// too, puts a whiteout there in the same step.
func (f *FS) unlinkUpper(n, dir *node, d *dirHold, name string, white bool) error {
	pin, err := openAt(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	if white {
		err = f.replaceByWhiteout(dir, d, name)
	} else {
		err = unix.Unlinkat(d.fd, name, 0)
	}
	if err != nil {
		closeFD(pin)
		return err
	}
	f.unnamed(n, dir, name, pin)
	return nil
}

// unnamed notes that a file has lost a name. It stays reachable by the descriptor pin,
// which may be needed by who has the file open, and until another name is looked up.
func (f *FS) unnamed(n, dir *node, name string, pin int) {
	var st unix.Stat_t
	gone := unix.Fstat(pin, &st) != nil || st.Nlink == 0 || n.isDir()
	f.tables.mu.Lock()
	n.mu.Lock()
	keep := n.pin < 0 && (gone || n.parent == dir && n.name == name)
	if keep {
		n.pin = pin
		f.unlinked.Store(time.Now().UnixNano())
	}
	n.gone = gone
	if gone && n.uino != 0 && f.tables.byIno[n.uino] == n {
		delete(f.tables.byIno, n.uino) // the number may be given to another file
	}
	// The kernel may have forgotten the file already.
	drop := gone && n.lookups <= 0 && n.counted && n.kids == 0
	n.mu.Unlock()
	var pins []int
	if drop {
		pins = f.tables.drop(n, nil)
	}
	f.tables.mu.Unlock()
	if !keep {
		closeFD(pin)
	}
	for _, fd := range pins {
		closeFD(fd)
	}
}

// lostName notes that a name of a lower file is hidden now.
func (f *FS) lostName(victim file, dir *node, name string) error {
	r := victim.r
	n := victim.n
	if n != nil {
		r = n.lowers[0]
	}
	if im := f.lower[r.layer].image; im != nil {
		st, err := im.Stat(r.nid)
		if err != nil {
			return err
		}
		if st.Nlink > 1 && victim.n == nil {
			return nil // what is left is counted when somebody asks
		}
		if st.Nlink > 1 {
			names, err := f.visible(r)
			if err != nil {
				return err
			}
			if len(names) > 0 {
				return f.otherName(n, dir, name, names[0])
			}
		}
	}
	f.tables.mu.Lock()
	defer f.tables.mu.Unlock()
	if n == nil {
		if n = f.tables.byID[victim.id]; n == nil {
			f.tables.gone[victim.id] = struct{}{}
			return nil
		}
	}
	n.mu.Lock()
	n.gone = true
	n.mu.Unlock()
	if n.path != "" {
		delete(f.tables.byPath, pathKey{n.layer, n.path})
	}
	return nil
}

// otherName notes a name that a lower file has still, if it was known by the one that
// it has lost.
func (f *FS) otherName(n, dir *node, name string, to shown) error {
	if parent, base, _ := n.where(); parent != dir || base != name {
		return nil
	}
	parent, err := f.object(treeID(to.dir.layer, to.dir.nid))
	if err != nil {
		return err
	}
	f.tables.move(n, parent, to.base)
	return nil
}

// whiteout hides a name of the lower layers that the upper does not have.
func (f *FS) whiteout(dir *node, d *dirHold, name string) error {
	attr, err := f.work.whiteoutAt(d.fd, name)
	if err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	return f.allowWhiteout(dir, d, attr)
}

// allowWhiteout marks a directory for whiteouts that are attributes.
func (f *FS) allowWhiteout(dir *node, d *dirHold, attr bool) error {
	if !attr || dir.xwhite.Load() {
		return nil
	}
	if err := setXattr(fdPath(d.fd, ""), f.ns.Attr(unionfs.Opaque), unionfs.OpaqueWhiteouts, 0); err != nil {
		return err
	}
	dir.xwhite.Store(true)
	return nil
}

// replaceByWhiteout puts a whiteout in the place of a file that is no directory.
func (f *FS) replaceByWhiteout(dir *node, d *dirHold, name string) error {
	tmp, attr, err := f.work.whiteout()
	if err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	if err = f.allowWhiteout(dir, d, attr); err == nil {
		err = unix.Renameat(f.work.dir, tmp, d.fd, name)
	}
	if err != nil {
		f.work.drop(tmp)
	}
	return err
}

// Rmdir removes an empty directory.
func (f *FS) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return f.status(f.rmdir(in.NodeId, name))
}

func (f *FS) rmdir(parent uint64, name string) error {
	dir, err := f.parent(parent)
	if err != nil {
		return err
	}
	victim, err := f.peek(dir, name)
	if err != nil {
		return err
	}
	unlock := f.ids.lock(victim.id)
	defer unlock()
	f.names.RLock()
	defer f.names.RUnlock()
	if err := f.checkEmpty(victim); err != nil {
		return err
	}
	d, err := f.dir(dir)
	if err != nil {
		return err
	}
	defer f.dirs.release(d)
	below, err := f.child(dir.lowers, name)
	if err != nil {
		return err
	}
	n := victim.n
	if n == nil || !n.upper.Load() {
		if err := f.whiteout(dir, d, name); err != nil {
			return err
		}
		f.removedDir(victim, dir, name, -1)
		return nil
	}
	pin, err := openAt(d.fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	if err := f.removeUpperDir(dir, d, name, below.ok()); err != nil {
		closeFD(pin)
		return err
	}
	f.removedDir(victim, dir, name, pin)
	return nil
}

func (f *FS) removedDir(victim file, dir *node, name string, pin int) {
	n := victim.n
	if n == nil {
		f.tables.mu.Lock()
		f.tables.gone[victim.id] = struct{}{}
		f.tables.mu.Unlock()
		return
	}
	f.dirs.forget(n)
	if pin >= 0 {
		f.unnamed(n, dir, name, pin)
		return
	}
	f.tables.mu.Lock()
	n.mu.Lock()
	n.gone = true
	n.mu.Unlock()
	if n.path != "" {
		delete(f.tables.byPath, pathKey{n.layer, n.path})
	}
	f.tables.mu.Unlock()
}

// checkEmpty fails with ENOTEMPTY if the union shows a file in the directory.
func (f *FS) checkEmpty(dir file) error {
	if dir.n == nil {
		for e, err := range f.lower[dir.r.layer].image.ReadDir(dir.r.nid, 0) {
			white := false
			if err == nil {
				white, err = f.isTreeWhiteout(dir.r.layer, &e)
			}
			if err != nil {
				return err
			}
			if !white {
				return unix.ENOTEMPTY
			}
		}
		return nil
	}
	all, err := f.list(dir.n)
	if err == nil && len(all) > 0 {
		err = unix.ENOTEMPTY
	}
	return err
}

// removeUpperDir removes a directory of the upper that the union shows as empty, with
// the whiteouts in it.
func (f *FS) removeUpperDir(dir *node, d *dirHold, name string, white bool) error {
	if !white {
		err := unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return err
		}
		tmp := f.work.name()
		if err := unix.Renameat(d.fd, name, f.work.dir, tmp); err != nil {
			return err
		}
		return f.work.empty(tmp)
	}
	tmp, attr, err := f.work.whiteout()
	if err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	if err = f.allowWhiteout(dir, d, attr); err == nil {
		err = unix.Renameat2(f.work.dir, tmp, d.fd, name, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		f.work.drop(tmp)
		return err
	}
	return f.work.empty(tmp)
}
