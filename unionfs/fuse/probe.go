package fuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
)

// FeatureDirect is the power to mount without fusermount3.
const FeatureDirect = "direct mounts"

// Probe mounts a small union in a temporary directory within dir, removes a file of its
// lower layer and makes it anew.
func (d *Driver) Probe(ctx context.Context, dir string) error {
	if err := d.try(ctx, dir); err != nil {
		return fmt.Errorf("driver fuse cannot serve %s: %w", dir, err)
	}
	return nil
}

// Features tells what the driver can do in directory dir.
func (d *Driver) Features(ctx context.Context, dir string) []unionfs.Feature {
	feature := func(name string, ok bool, yes, no string) unionfs.Feature {
		if ok {
			return unionfs.Feature{Name: name, OK: true, Why: yes}
		}
		return unionfs.Feature{Name: name, Why: no}
	}
	if err := d.Probe(ctx, dir); err != nil {
		return []unionfs.Feature{{Name: unionfs.FeatureDriver, Why: err.Error()}}
	}
	p := privileges()
	const user = "overlayfs knows no such thing where attributes are user.overlay.*, so the upper must not have it"
	return []unionfs.Feature{
		{Name: unionfs.FeatureDriver, OK: true, Why: "a server of this program on /dev/fuse"},
		{Name: unionfs.FeatureStackedTrees, OK: true, Why: "a layer goes on top of a tree as it is"},
		feature(unionfs.FeatureMetadataCopyUp, p.trusted, "chmod and chown of a lower file copy no data", user),
		feature(unionfs.FeatureDirRename, p.trusted, "directories of the image can be renamed", user),
		feature(FeatureDirect, p.mount && !d.opts.Fusermount, "unions are mounted without help", "mounting needs fusermount3, which forces nosuid and nodev"),
	}
}

// try does what no union can do without.
func (d *Driver) try(ctx context.Context, dir string) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	at := func(name string) string { return filepath.Join(tmp, name) }
	for _, name := range []string{"lower", "upper", "work", "root"} {
		if err := os.Mkdir(at(name), 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(at("lower"), "file"), []byte("lower"), 0o600); err != nil {
		return err
	}
	layers := unionfs.Layers{Lower: []unionfs.Lower{{Dir: at("lower")}}, Upper: at("upper"), Work: at("work")}
	m, err := d.Open(ctx, layers, unionfs.Options{Volatile: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	own, ok := m.(*Mount)
	if !ok {
		return fmt.Errorf("mount is a %T: %w", m, errors.ErrUnsupported)
	}
	root := at("root")
	if own.FD() >= 0 {
		root = mountapi.FdPath(own.FD())
	} else {
		if err := m.Attach(ctx, root); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.Unmount(context.WithoutCancel(ctx), root, false)) }()
	}
	file := filepath.Join(root, "file")
	if text, err := os.ReadFile(file); err != nil || string(text) != "lower" {
		return fmt.Errorf("read a lower file: got %q: %w", text, errors.Join(err, errors.ErrUnsupported))
	}
	if err := os.Remove(file); err != nil {
		return fmt.Errorf("remove a lower file: %w", err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		return fmt.Errorf("make a directory in its place: %w", err)
	}
	return nil
}
