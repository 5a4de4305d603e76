package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/layerfs/layerfs/bench/report"
	"golang.org/x/sys/unix"
)

// state is what a mount has seen before the measured command.
type state int

const (
	warm  state = iota // the same command
	fresh              // nothing; what the layers lie on is cached as it may be
	cold               // nothing, and that is not cached either
)

// labour is one thing to do with the made-up tree.
type labour struct {
	name    string
	command []string // "exercise" is that program; DIR in an argument is the mount
	before  []string // done first, not measured
	state   state
	large   bool // needs the file of 1 GiB
	changes bool // leaves changes
}

func labours() []labour {
	x := func(words ...string) []string { return append([]string{"exercise"}, words...) }
	return []labour{
		{name: "walk, warm", command: x("walk", "DIR")},
		{name: "walk, cold", command: x("walk", "DIR"), state: cold},
		{name: "stat 100,000 paths", command: x("stat", "DIR/bulk")},
		{name: "stat 100,000 names that are not there", command: x("absent", "DIR/bulk")},
		{name: "tar of all small files, warm", command: []string{"sh", "-c", `tar -C "$0" -cf - tree | cat >/dev/null`, "DIR"}},
		{name: "tar of all small files, cold", command: []string{"sh", "-c", `tar -C "$0" -cf - tree | cat >/dev/null`, "DIR"}, state: cold},
		{name: "read 10,000 files of 4 KiB, first", command: x("read", "DIR/bulk"), state: fresh},
		{name: "read 10,000 files of 4 KiB, again", command: x("read", "DIR/bulk")},
		{name: "open and close 20,000 times", command: x("open", "DIR/bulk")},
		{name: "read 1 GiB, first", command: x("read", "DIR/large"), state: fresh, large: true},
		{name: "read 1 GiB, again", command: x("read", "DIR/large"), large: true},
		{name: "50,000 random reads of 4 KiB, first", command: x("random", "DIR/large/file"), state: fresh, large: true},
		{name: "map 1 GiB and touch every page, again", command: x("map", "DIR/large/file"), large: true},
		{name: "write 256 MiB", command: x("write", "DIR/new"), state: fresh, changes: true},
		{name: "create 10,000 files", command: x("make", "DIR/new"), state: fresh, changes: true},
		{name: "remove them", before: x("make", "DIR/new"), command: x("unlink", "DIR/new"), state: fresh, changes: true},
		{name: "untar 12,000 files", command: []string{"tar", "-C", "DIR", "--one-top-level=untar", "-xf", "DIR/src.tar"}, state: fresh, changes: true},
		{name: "chmod 10,000 files of the image", command: []string{"chmod", "-R", "g+w", "DIR/bulk"}, state: fresh, changes: true},
		{name: "change 10,000 files of the image", command: x("append", "DIR/bulk"), state: fresh, changes: true},
		{name: "remove 10,000 files of the image", command: []string{"rm", "-r", "DIR/bulk"}, state: fresh, changes: true},
		{name: "append to a file of 1 GiB of the image", command: x("append", "DIR/large"), state: fresh, large: true, changes: true},
		{name: "git status of 12,000 files", command: []string{"git", "-c", "safe.directory=*", "-C", "DIR/src", "status", "--porcelain"}},
		{name: "compile 40 files of C", before: []string{"make", "-s", "-C", "DIR/src/program", "clean"}, command: []string{"make", "-s", "-j2", "-C", "DIR/src/program"}, state: fresh, changes: true},
	}
}

// unprivilegedLine does what people do with files on every kind of mount that an ordinary
// user may have, beside those of root and a plain directory.
func unprivilegedLine(ctx context.Context, b *bench) error {
	if err := b.fresh(ctx); err != nil {
		return err
	}
	large := slices.ContainsFunc(labours(), func(l labour) bool { return l.large && b.wanted(l.name) })
	a, err := b.treeArchive(ctx, large)
	if err != nil {
		return err
	}
	kinds, err := b.treeKinds(ctx, a)
	if err != nil {
		return err
	}
	for _, l := range labours() {
		if !b.wanted(l.name) {
			continue
		}
		var cs []contender
		for _, m := range kinds {
			cs = append(cs, m.labour(b, l))
		}
		work := report.Work{Name: l.name, Judge: report.CPU, About: unprivilegedAbout}
		if l.state == cold {
			work.Judge = report.Wall
		}
		const rounds = 5
		entries, err := b.compete(ctx, work, rounds, cs...)
		if err != nil {
			return err
		}
		b.compareKinds(l, kinds, entries)
	}
	return errors.Join(b.serverMemory(ctx, kinds), b.mountCost(ctx, a, kinds))
}

const unprivilegedAbout = "One layer of 72,000 files. The plain directory is on the same file system, and is the only lower directory of overlayfs and of fuse-overlayfs. " +
	"Processor time includes that of the servers."

// compareKinds notes how the kinds compare by wall time to those that they are to be
// compared to.
func (b *bench) compareKinds(l labour, kinds []*mountKind, entries []*report.Entry) {
	at := map[string]*report.Entry{}
	for i, m := range kinds {
		at[m.name] = entries[i]
	}
	most := rootlessWarm
	if l.state == cold {
		most = rootlessCold
	}
	b.report.compare(l.name+": rootless overlay / overlayfs", at[nameRootless], at[nameOverlayfs], wall, most)
	for _, name := range []string{nameFuse, nameFuseUser} {
		b.report.compare(l.name+": "+name+" / fuse-overlayfs", at[name], at[nameFuseOverlayfs], wall, 1)
	}
}

// How much longer the rootless overlay may take than root's.
const (
	rootlessWarm = 1.15
	rootlessCold = 1.5
)

const (
	namePlain         = "plain directory"
	nameOverlayfs     = "overlayfs"
	nameFuseOverlayfs = "fuse-overlayfs"
	nameOverlay       = "layerfs, overlay"
	nameFuse          = "layerfs, fuse"
	nameFuseUser      = "layerfs, fuse of a user"
	nameRootless      = "layerfs, rootless overlay"
)

// labour is a contender that does the labour on a mount made for the turn.
func (m *mountKind) labour(b *bench, l labour) contender {
	c := m.contender
	line := func(words []string) []string {
		args := m.enter[:len(m.enter):len(m.enter)]
		for _, w := range words {
			if w == "exercise" {
				w = b.program("bench/exercise")
			}
			args = append(args, replaceDir(w, m.dir))
		}
		return args
	}
	args := line(l.command)
	c.args = func() []string { return args }
	c.prepare = func(ctx context.Context) error {
		if l.state == cold {
			if err := b.disk.cold(); err != nil {
				return err
			}
		}
		if err := m.mount(ctx); err != nil {
			return err
		}
		if l.before != nil {
			if _, err := run(ctx, line(l.before)); err != nil {
				return err
			}
		}
		if l.state != warm {
			return nil
		}
		_, err := run(ctx, args)
		return err
	}
	c.check = m.umount
	if l.changes && m.restore != nil {
		c.check = m.restore
	}
	return c
}

// replaceDir puts the directory in the place of the word DIR at the start of an argument.
func replaceDir(word, dir string) string {
	if len(word) >= 3 && word[:3] == "DIR" {
		return dir + word[3:]
	}
	return word
}

// treeKinds prepares the kinds of mounts of the made-up tree.
func (b *bench) treeKinds(ctx context.Context, a archive) ([]*mountKind, error) {
	if _, err := run(ctx, b.lfs("load", "-q", "-i", a.file)); err != nil {
		return nil, err
	}
	plain := b.plainKind(a)
	if _, err := run(ctx, []string{"cp", "-a", a.extracted, plain.dir}); err != nil {
		return nil, err
	}
	kinds := []*mountKind{
		plain,
		b.lowerKind(ctx, a, nameOverlayfs),
		b.lowerKind(ctx, a, nameFuseOverlayfs),
		b.layerfsKind(a, "overlay", false),
		b.layerfsKind(a, "fuse", true),
		b.rootlessKind(ctx, a),
		b.userKind(ctx, a),
	}
	for i, m := range kinds {
		if m.absent != "" {
			continue
		}
		err := m.mount(ctx)
		if err == nil {
			err = m.umount(ctx)
		}
		if err != nil && i > 0 {
			m.absent = lastLine(err)
		} else if err != nil {
			return nil, err
		}
	}
	return kinds, nil
}

// plainKind is a copy of the tree, of which a labour that has changed it makes anew what
// it may have changed.
func (b *bench) plainKind(a archive) *mountKind {
	nothing := func(context.Context) error { return nil }
	m := &mountKind{contender: contender{name: namePlain, kind: report.Limit}, dir: b.disk.path("plain"), mount: nothing, umount: nothing}
	m.restore = func(ctx context.Context) error {
		for _, name := range []string{"bulk", "new", "untar"} {
			if err := os.RemoveAll(filepath.Join(m.dir, name)); err != nil {
				return err
			}
		}
		_, err := run(ctx, []string{"cp", "-a", filepath.Join(a.extracted, "bulk"), m.dir})
		if terr := os.Truncate(filepath.Join(m.dir, largeFile), largeSize); !errors.Is(terr, fs.ErrNotExist) {
			err = errors.Join(err, terr)
		}
		return err
	}
	return m
}

// lowerKind is a peer that mounts the tree as it lies in a directory.
func (b *bench) lowerKind(ctx context.Context, a archive, name string) *mountKind {
	m := &mountKind{contender: contender{name: name, kind: report.Peer, aside: name != nameOverlayfs}, dir: filepath.Join(b.work, "mnt", name)}
	var program string
	if name != nameOverlayfs {
		var err error
		if program, m.version, err = find(ctx, name, "--version"); err != nil {
			m.absent = err.Error()
		}
	}
	upper := b.disk.path(name)
	options := "lowerdir=" + a.extracted + ",upperdir=" + upper + "/upper,workdir=" + upper + "/work"
	m.mount = func(context.Context) error {
		err := errors.Join(os.MkdirAll(upper+"/upper", 0o755), os.MkdirAll(upper+"/work", 0o755), os.MkdirAll(m.dir, 0o755))
		if err != nil || program == "" {
			return errors.Join(err, unix.Mount("overlay", m.dir, "overlay", 0, options))
		}
		_, err = run(ctx, []string{program, "-o", options, m.dir})
		return err
	}
	m.umount = func(context.Context) error {
		return errors.Join(unix.Unmount(m.dir, 0), os.RemoveAll(upper))
	}
	return m
}

// mountCost compares mounts of the tree with mounts of an image of one file.
func (b *bench) mountCost(ctx context.Context, a archive, kinds []*mountKind) error {
	const name = "mount 72,000 files and one"
	if !b.wanted(name) {
		return nil
	}
	layer := filepath.Join(b.work, "one.tar")
	one := archive{image: "one", form: dockerArchive, ref: "example.org/one:latest", file: filepath.Join(b.work, "one-image.tar")}
	if _, err := run(ctx, []string{"tar", "-C", filepath.Join(a.extracted, "tree/00/00"), "-cf", layer, "file-00"}); err != nil {
		return err
	}
	if err := packLayer(layer, one.file, one.ref); err != nil {
		return err
	}
	if _, err := run(ctx, b.lfs("load", "-q", "-i", one.file)); err != nil {
		return err
	}
	var cs []contender
	for _, m := range kinds {
		if m.absent != "" || m.remount == nil {
			continue
		}
		if m.as != nil {
			if _, err := run(ctx, m.lfs("load", "-q", "-i", one.file)); err != nil {
				return err
			}
		}
		for _, what := range []archive{a, one} {
			c := m.contender
			c.name += " of " + what.image
			c.args = func() []string { return m.remount(what.ref) }
			c.check = m.umount
			cs = append(cs, c)
		}
	}
	const rounds = 20
	entries, err := b.compete(ctx, report.Work{Name: name, Judge: report.Wall}, rounds, cs...)
	if err != nil {
		return err
	}
	for i := 0; i+1 < len(entries); i += 2 {
		more := entries[i].Median(wall) - entries[i+1].Median(wall)
		b.report.figure("mounting 72,000 files takes longer than one by, "+cs[i].name, more*1e3, "ms")
	}
	return nil
}

// userKind is a whole union of an ordinary user, who mounts by fusermount3.
func (b *bench) userKind(ctx context.Context, a archive) *mountKind {
	m := b.rootlessKind(ctx, a) // for the user's store, which is loaded by now
	m.name, m.enter = nameFuseUser, m.as
	m.dir = b.disk.path("user/fuse")
	if m.absent != "" {
		return m
	}
	if _, err := run(ctx, append(m.as[:len(m.as):len(m.as)], "mkdir", "-p", m.dir)); err != nil {
		m.absent = lastLine(err)
		return m
	}
	m.remount = func(ref string) []string { return m.lfs("mount", "--driver", "fuse", "--name", "fuse", ref, m.dir) }
	m.mount = func(ctx context.Context) error {
		_, err := run(ctx, m.remount(a.ref))
		return err
	}
	m.umount = func(ctx context.Context) error {
		_, err := run(ctx, m.lfs("umount", "--rm", "fuse"))
		return err
	}
	return m
}

// serverMemory notes what a server needs after a walk of the whole tree.
func (b *bench) serverMemory(ctx context.Context, kinds []*mountKind) error {
	if !b.wanted("memory of servers") {
		return nil
	}
	for _, m := range kinds {
		if m.absent != "" || !m.aside {
			continue
		}
		before := bystanders()
		if err := m.mount(ctx); err != nil {
			return err
		}
		c := m.labour(b, labours()[0])
		if _, err := run(ctx, c.args()); err != nil {
			return err
		}
		var sum int64
		for _, pid := range bystanders() {
			if !slices.Contains(before, pid) {
				sum += resident(pid)
			}
		}
		b.report.bytes("memory of the server after a walk of everything: "+m.name, float64(sum))
		if err := m.umount(ctx); err != nil {
			return err
		}
	}
	return nil
}
