package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
)

// Names of features besides those of the contract.
const (
	featureUpper = "whiteouts and opaque directories"
)

// Probe mounts a small union in a temporary directory within dir and does to it what
// needs each power of the upper: copy-up, a whiteout, an opaque directory.
func (d *Driver) Probe(ctx context.Context, dir string) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, ".probe-")
	if err != nil {
		return fmt.Errorf("probe overlay: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := d.probe(ctx, tmp); err != nil {
		return fmt.Errorf("driver overlay cannot serve %s: %w", dir, err)
	}
	return nil
}

func (d *Driver) probe(ctx context.Context, tmp string) (err error) {
	at := func(names ...string) string { return filepath.Join(append([]string{tmp}, names...)...) }
	for _, name := range []string{"lower", "lower/dir", "data", "upper", "work"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(at("lower", "dir", "file"), nil, 0o644); err != nil {
		return err
	}
	m, err := d.Open(ctx, unionfs.Layers{
		Lower: []unionfs.Lower{{Dir: at("lower")}},
		Data:  []string{at("data")},
		Upper: at("upper"), Work: at("work"),
	}, unionfs.Options{Volatile: true}) // volatile: the end of the mount must not flush a whole disk
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	root := mountapi.FdPath(m.(*Mount).FD())
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"change a lower file", func() error { return os.Chmod(filepath.Join(root, "dir", "file"), 0o600) }},
		{"remove a lower directory (whiteout, a character device 0/0)", func() error { return os.RemoveAll(filepath.Join(root, "dir")) }},
		{"make it anew (trusted.overlay.opaque)", func() error { return os.Mkdir(filepath.Join(root, "dir"), 0o755) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %s: %w", featureUpper, step.what, err)
		}
	}
	value := make([]byte, 8)
	n, err := unix.Lgetxattr(at("upper", "dir"), unionfs.Trusted.Attr(unionfs.Opaque), value)
	if err != nil || string(value[:n]) != unionfs.OpaqueYes {
		return fmt.Errorf("%s: the file system of the upper directory keeps no trusted attributes: %w", featureUpper, errors.ErrUnsupported)
	}
	return nil
}

// Features tries out everything that the driver can make use of.
func (d *Driver) Features(ctx context.Context, dir string) []unionfs.Feature {
	err := d.Probe(ctx, dir)
	driver := unionfs.Feature{Name: unionfs.FeatureDriver, OK: err == nil, Why: "Linux overlayfs, mounted by root"}
	if err != nil {
		driver.Why = err.Error()
	}
	return []unionfs.Feature{driver}
}
