package overlay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/erofs"
	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/tree"
	"github.com/layerfs/layerfs/unionfs"
)

// Names of features besides those of the contract.
const (
	FeatureTrees       = "trees from files"
	FeatureDirectData  = "direct data"
	FeatureDescriptors = "layers by descriptor"
	FeatureDetached    = "detached layers"
	FeatureReflink     = "copy-up that shares data"
)

// Probe mounts a small tree with an object in a temporary directory within dir and
// does what needs each power of the kernel and of the upper's file system: reading
// the object, a copy-up, a whiteout, an opaque directory.
func (d *Driver) Probe(ctx context.Context, dir string) error {
	err := d.try(ctx, dir, 1, func(t *trial) error {
		for _, step := range t.steps() {
			if err := step.do(); err != nil {
				return fmt.Errorf("%s: %w", step.what, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("driver overlay cannot serve %s: %w", dir, err)
	}
	return nil
}

// Features tries out, in directory dir, all that the driver can make use of.
func (d *Driver) Features(ctx context.Context, dir string) []unionfs.Feature {
	driver := d.Probe(ctx, dir)
	features := []unionfs.Feature{feature(unionfs.FeatureDriver, driver, d.opts.describe())}
	if driver != nil {
		return features
	}
	var used plan
	var stacked, metadata, rename error
	err := d.try(ctx, dir, 2, func(t *trial) error {
		used = *t.plan
		stacked, metadata, rename = t.readTop(), t.metadataOnly(), t.renameDir()
		return nil
	})
	if err != nil {
		stacked = err
		err = d.try(ctx, dir, 1, func(t *trial) error {
			used = *t.plan
			metadata, rename = t.metadataOnly(), t.renameDir()
			return nil
		})
	}
	if err != nil {
		return append(features, feature(unionfs.FeatureStackedTrees, err, ""))
	}
	return append(features,
		feature(unionfs.FeatureStackedTrees, stacked, "a layer goes on top of a tree as it is"),
		feature(unionfs.FeatureMetadataCopyUp, metadata, "chmod and chown of a lower file copy no data"),
		feature(unionfs.FeatureDirRename, rename, "directories of the image can be renamed"),
		feature(FeatureDirectData, missing(used.treeData, "the kernel wants root to follow redirects (before Linux 6.16); contents go through the server of trees"), "contents are read from the store's files"),
		feature(FeatureTrees, treesFromFiles(&used), "EROFS is mounted from the file itself, without loop devices"),
		feature(FeatureDescriptors, missing(used.paths, "Linux before 6.13; layers are given as paths in /proc/self/fd"), "layers may have paths of any length"),
		feature(FeatureDetached, missing(used.staged, "Linux before 6.15; mounting takes place in a mount name space of its own"), "layers are mounted nowhere"),
		feature(FeatureReflink, reflink(dir), "a copied-up file shares its blocks with the object until it is written"),
	)
}

func feature(name string, err error, why string) unionfs.Feature {
	if err != nil {
		why = err.Error()
	}
	return unionfs.Feature{Name: name, OK: err == nil, Why: why}
}

// describe says in a line what the driver is.
func (o Options) describe() string {
	if o.UserNamespace {
		return "Linux overlayfs, mounted by the root of a user namespace"
	}
	return "Linux overlayfs, mounted by root"
}

// treesFromFiles returns what is in the way of having EROFS read the file of a tree.
func treesFromFiles(p *plan) error {
	if p.trees != nil {
		return errors.New("EROFS is not used: a server (FUSE) or directories show the trees")
	}
	return missing(p.loop, "EROFS wants a block device (Linux before 6.12, or a stacked file system below); trees go through loop devices")
}

// missing returns an error where something had to be done in another way.
func missing(otherwise bool, why string) error {
	if otherwise {
		return errors.New(why)
	}
	return nil
}

// trial is a small union for trying things out.
type trial struct {
	plan  *plan
	root  string // a path to the mounted root
	upper string
}

// object is the content of the trial's file, larger than anything kept inline.
func object() string { return strings.Repeat("layerfs\n", 1024) }

// try mounts so many trees with an object and an upper, runs use, and removes it all.
func (d *Driver) try(ctx context.Context, dir string, trees int, use func(*trial) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	layers, err := trialLayers(tmp, trees)
	if err != nil {
		return err
	}
	// Volatile: the end of the mount must not flush a whole disk.
	p := newPlan(layers, unionfs.Options{Volatile: true}, d.opts)
	m, err := p.mount(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return use(&trial{plan: p, root: mountapi.FdPath(m.FD()), upper: layers.Upper})
}

// trialLayers writes trees that have the directories d0, d1 and so on, each with a
// file whose content is an object.
func trialLayers(tmp string, trees int) (unionfs.Layers, error) {
	layers := unionfs.Layers{
		Data: []string{filepath.Join(tmp, "data")}, Upper: filepath.Join(tmp, "upper"), Work: filepath.Join(tmp, "work"),
	}
	ino := &tree.Inode{Type: tree.Regular, Mode: 0o644, Size: int64(len(object())), Object: sha256.Sum256([]byte(object()))}
	data := filepath.Join(layers.Data[0], ino.Object.Path())
	for _, dir := range []string{filepath.Dir(data), layers.Upper, layers.Work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return layers, err
		}
	}
	if err := os.WriteFile(data, []byte(object()), 0o444); err != nil {
		return layers, err
	}
	for i := range trees {
		name := fmt.Sprint("d", i)
		root := &tree.Node{Inode: tree.Implied(), Children: []*tree.Node{{
			Name: name, Inode: tree.Implied(), Children: []*tree.Node{{Name: "file", Inode: ino}},
		}}}
		path := filepath.Join(tmp, name)
		if err := writeImage(path, root, byte(i+1)); err != nil {
			return layers, err
		}
		layers.Lower = append(layers.Lower, unionfs.Lower{Tree: path})
	}
	return layers, nil
}

func writeImage(path string, root *tree.Node, id byte) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = erofs.Write(f, root, erofs.Options{Namespace: erofs.Trusted, Layer: true, UUID: [16]byte{15: id}})
	return err
}

type step struct {
	what string
	do   func() error
}

// steps are what no union can do without.
func (t *trial) steps() []step {
	dir := filepath.Join(t.root, "d0")
	return []step{
		{"read an object through a tree", t.readTop},
		{"change a lower file", func() error { return os.WriteFile(filepath.Join(dir, "file"), nil, 0o600) }},
		{"remove a lower directory (whiteout, a character device 0/0)", func() error { return os.RemoveAll(dir) }},
		{"make it anew (opaque directory)", func() error { return os.Mkdir(dir, 0o755) }},
		{"keep attributes in the upper directory", func() error { return t.hasXattr("d0", unionfs.Opaque) }},
	}
}

// readTop reads the file of the topmost tree, whose content is in the data directory.
func (t *trial) readTop() error {
	got, err := os.ReadFile(filepath.Join(t.root, "d0", "file"))
	if err == nil && string(got) != object() {
		err = fmt.Errorf("%d bytes of other content: %w", len(got), errors.ErrUnsupported)
	}
	return err
}

func (t *trial) metadataOnly() error {
	if err := os.Chmod(filepath.Join(t.root, "d0", "file"), 0o600); err != nil {
		return err
	}
	return t.hasXattr(filepath.Join("d0", "file"), unionfs.Metacopy)
}

func (t *trial) renameDir() error {
	return os.Rename(filepath.Join(t.root, "d0"), filepath.Join(t.root, "renamed"))
}

// hasXattr reports whether the union wrote an attribute of its own into the upper.
func (t *trial) hasXattr(path, name string) error {
	attr := t.plan.ns.Attr(name)
	if _, err := unix.Lgetxattr(filepath.Join(t.upper, path), attr, nil); err != nil {
		return fmt.Errorf("%s is missing: %w", attr, errors.Join(err, errors.ErrUnsupported))
	}
	return nil
}

// reflink tries to clone a file in dir.
func reflink(dir string) (err error) {
	from, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close(), os.Remove(from.Name())) }()
	if _, err := from.WriteString(object()); err != nil {
		return err
	}
	to, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close(), os.Remove(to.Name())) }()
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		return fmt.Errorf("the file system cannot clone files: %w", err)
	}
	return nil
}
