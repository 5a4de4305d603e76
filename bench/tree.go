package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/layerfs/layerfs/bench/report"
	"golang.org/x/sys/unix"
)

// treeLine walks, reads and changes a small and a large image on every kind of mount there
// is of it. Each turn has a mount of its own, on which the same was done before for warm
// turns, and whose file system was mounted anew for cold ones.
func treeLine(ctx context.Context, b *bench) error {
	exercises := []struct {
		name, exercise string
		cold, fresh    bool
	}{
		{name: "walk, warm", exercise: "walk"},
		{name: "walk, cold", exercise: "walk", cold: true},
		{name: "read all, warm", exercise: "read"},
		{name: "read all, cold", exercise: "read", cold: true},
		{name: "write and remove 5,000 small files", exercise: "create"},
		{name: "copy up every 50th file", exercise: "copyup", fresh: true},
	}
	for _, image := range []string{"minbase", "layered"} {
		var mounts []*mountKind
		for _, x := range exercises {
			name := image + ", " + x.name
			if !b.wanted(name) {
				continue
			}
			if mounts == nil {
				if err := b.fresh(ctx); err != nil {
					return err
				}
				a, err := b.archive(ctx, image, dockerArchive)
				if err != nil {
					return err
				}
				if mounts, err = b.mountKinds(ctx, a); err != nil {
					return err
				}
			}
			var cs []contender
			for _, m := range mounts {
				cs = append(cs, m.turn(b, x.exercise, x.cold, x.fresh))
			}
			judge := report.CPU // of servers too
			if x.cold {
				judge = report.Wall
			}
			if _, err := b.compete(ctx, report.Work{Name: name, Judge: judge, About: treeAbout}, 10, cs...); err != nil {
				return err
			}
		}
	}
	return nil
}

const treeAbout = "minbase is one layer of 6,000 files, layered 11 of 52,126. The plain directory has the merged tree extracted on the same file system. " +
	"Docker, containerd and podman mount their extracted layers with the kernel's overlayfs as shown for containerd."

// dockerArchive is the form that every engine knows.
const dockerArchive = "docker-archive"

// mountKind is one way to show the image in a directory.
type mountKind struct {
	contender
	dir    string
	mount  func(ctx context.Context) error
	umount func(ctx context.Context) error // with what was written
	enter  []string                        // what a command begins with that shall see the mount
	as     []string                        // what a command of the user begins with; nil for root's
	lfs    func(args ...string) []string   // a layerfs command of the user
	// restore undoes changes, where umount does not; may be nil.
	restore func(ctx context.Context) error
	remount func(ref string) []string // the command that mounts an image, of layerfs
}

// turn is a contender that does an exercise on a mount made for the turn.
func (m *mountKind) turn(b *bench, exercise string, cold, fresh bool) contender {
	c := m.contender
	args := append(m.enter[:len(m.enter):len(m.enter)], b.tool("bench/exercise", exercise, m.dir)...)
	c.args = func() []string { return args }
	c.prepare = func(ctx context.Context) error {
		if cold {
			if err := b.disk.cold(); err != nil {
				return err
			}
		}
		err := m.mount(ctx)
		if err != nil || cold || fresh {
			return err
		}
		_, err = run(ctx, args)
		return err
	}
	c.check = m.umount
	return c
}

// mountKinds prepares every kind on the measured file system.
func (b *bench) mountKinds(ctx context.Context, a archive) ([]*mountKind, error) {
	nothing := func(context.Context) error { return nil }
	if _, err := run(ctx, b.lfs("load", "-q", "-i", a.file)); err != nil {
		return nil, err
	}
	plain := &mountKind{contender: contender{name: "plain directory", kind: report.Limit}, dir: b.disk.path("plain"), mount: nothing, umount: nothing}
	if _, err := run(ctx, []string{"cp", "-a", a.extracted, plain.dir}); err != nil {
		return nil, err
	}
	kinds := []*mountKind{b.layerfsKind(a, "overlay", false), plain, b.layerfsKind(a, "fuse", true), b.rootlessKind(ctx, a)}
	kinds = append(kinds, b.overlayKinds(ctx, a)...)
	for _, m := range kinds {
		if m.absent != "" {
			continue
		}
		err := m.mount(ctx)
		if err == nil {
			err = m.umount(ctx)
		}
		if err != nil && m != kinds[0] {
			m.absent = lastLine(err)
		} else if err != nil {
			return nil, err
		}
	}
	return kinds, nil
}

func (b *bench) layerfsKind(a archive, driver string, aside bool) *mountKind {
	m := &mountKind{contender: contender{name: "layerfs, " + driver, aside: aside}, dir: filepath.Join(b.work, "mnt", "layerfs-"+driver)}
	m.remount = func(ref string) []string { return b.lfs("mount", "--driver", driver, "--name", driver, ref, m.dir) }
	m.mount = func(ctx context.Context) error {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		_, err := run(ctx, m.remount(a.ref))
		return err
	}
	m.umount = func(ctx context.Context) error {
		_, err := run(ctx, b.lfs("umount", "--rm", driver))
		return err
	}
	return m
}

// rootlessKind is layerfs of an ordinary user, with a store of that user's own.
func (b *bench) rootlessKind(ctx context.Context, a archive) *mountKind {
	m := &mountKind{contender: contender{name: "layerfs, rootless overlay", aside: true}, dir: b.disk.path("user/mnt")}
	u, err := user.Lookup(testUser)
	if err != nil {
		m.absent = err.Error()
		return m
	}
	home := b.disk.path("user")
	as := []string{"env", "-i", "PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home + "/run", "TMPDIR=" + home,
		"setpriv", "--reuid", u.Uid, "--regid", u.Gid, "--init-groups", "--inh-caps=-all"}
	lfs := func(args ...string) []string {
		return append(as[:len(as):len(as)], b.tool("cmd/layerfs", append([]string{"--root", home + "/store"}, args...)...)...)
	}
	m.enter, m.as, m.lfs = lfs("unshare"), as, lfs
	do := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := run(ctx, lfs(args...))
			return err
		}
	}
	inside := append([]string{"unshare"}, b.tool("cmd/layerfs", "--root", home+"/store")...)
	m.remount = func(ref string) []string {
		return lfs(append(inside[:len(inside):len(inside)], "mount", "--name", "user", ref, m.dir)...)
	}
	m.mount = func(ctx context.Context) error {
		_, err := run(ctx, m.remount(a.ref))
		return err
	}
	m.umount = do(append(inside[:len(inside):len(inside)], "umount", "--rm", "user")...)
	// The user reaches the file system of the measurement, and reads the archive itself.
	err = errors.Join(os.Chmod(b.work, 0o711), os.Chmod(b.disk.dir, 0o711))
	for _, dir := range []string{home, home + "/run", m.dir} {
		err = errors.Join(err, os.MkdirAll(dir, 0o700), chown(dir, u))
	}
	if err == nil {
		err = do("load", "-q", "-i", a.file)(ctx)
	}
	if err != nil {
		m.absent = lastLine(err)
	}
	return m
}

// testUser is whom tools/setup.sh makes for rootless tests.
const testUser = "layerfs-test"

func chown(path string, u *user.User) error {
	var uid, gid int
	if _, err := fmt.Sscan(u.Uid+" "+u.Gid, &uid, &gid); err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

// overlayKinds are the kernel's overlayfs and fuse-overlayfs on layers that containerd
// has extracted. Its daemon ends before anything is measured.
func (b *bench) overlayKinds(ctx context.Context, a archive) []*mountKind {
	kernel := &mountKind{contender: contender{name: "overlayfs on extracted layers", kind: report.Peer}, dir: filepath.Join(b.work, "mnt", "overlayfs")}
	fuse := &mountKind{contender: contender{name: "fuse-overlayfs", kind: report.Peer, aside: true}, dir: filepath.Join(b.work, "mnt", "fuse-overlayfs")}
	out := []*mountKind{kernel, fuse}
	var program string
	var err error
	if program, fuse.version, err = find(ctx, "fuse-overlayfs", "--version"); err != nil {
		fuse.absent = err.Error()
	}
	lower, err := b.extractedLayers(ctx, a)
	if err != nil {
		kernel.absent, fuse.absent = lastLine(err), lastLine(err)
		return out
	}
	for _, m := range out {
		upper := b.disk.path(filepath.Base(m.dir))
		options := "lowerdir=" + lower + ",upperdir=" + upper + "/upper,workdir=" + upper + "/work"
		m.mount = func(context.Context) error {
			err := errors.Join(os.MkdirAll(upper+"/upper", 0o755), os.MkdirAll(upper+"/work", 0o755), os.MkdirAll(m.dir, 0o755))
			if err != nil {
				return err
			}
			if m == kernel {
				return unix.Mount("overlay", m.dir, "overlay", 0, options)
			}
			_, err = run(ctx, []string{program, "-o", options, m.dir})
			return err
		}
		m.umount = func(context.Context) error {
			return errors.Join(unix.Unmount(m.dir, 0), os.RemoveAll(upper))
		}
	}
	return out
}

// extractedLayers returns the lower directories of a mount that containerd makes.
func (b *bench) extractedLayers(ctx context.Context, a archive) (lower string, err error) {
	e := newContainerdEngine(ctx, b)
	if e.is.absent != "" {
		return "", errors.New(e.is.absent)
	}
	if err := e.up(ctx); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, e.down(ctx)) }()
	load, _ := e.load(a)
	mount, lacks := e.mount(a.ref, "lower")
	if err := do(ctx, append(load, mount...), lacks); err != nil {
		return "", err
	}
	dir, err := e.where(ctx, "lower")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, do(ctx, e.drop("lower"), "")) }()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for l := range strings.Lines(string(data)) {
		f := strings.Fields(l)
		if f[4] != dir {
			continue
		}
		for o := range strings.SplitSeq(f[len(f)-1], ",") {
			if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
				lower = v
			}
			if v, ok := strings.CutPrefix(o, "lowerdir+="); ok {
				lower = strings.TrimPrefix(lower+":"+v, ":")
			}
		}
	}
	if lower == "" {
		return "", fmt.Errorf("containerd's mount on %s has no lower directories", dir)
	}
	return lower, nil
}
