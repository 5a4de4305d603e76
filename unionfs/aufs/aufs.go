// Package aufs mounts unions with AUFS, for kernels that carry it.
//
// AUFS knows directories only, so trees are checked out first, with contents. It keeps
// what was removed as files whose names begin with ".wh." (its manual, aufs(5)), which is
// not the upper format of package unionfs. So an upper is translated before it is mounted
// and back when it is unmounted, see [ToAUFS] and [FromAUFS]; it must not be read in
// between, and after a crash it is translated by the next mount and unmount.
//
// What the format of AUFS cannot say is refused: names that begin with ".wh.", and an
// upper with metadata-only copies or redirects, which root's overlayfs writes.
package aufs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
)

// maxOptions is the longest option string in bytes that mount(2) takes: a page with its
// NUL.
const maxOptions = 4095

// Checkout returns a directory with all that a tree has, contents included.
type Checkout func(ctx context.Context, tree string, data []string) (dir string, err error)

// Options of the driver.
type Options struct {
	Namespace unionfs.Namespace // of the marks in uppers
	Trees     Checkout
}

// Driver is the driver "aufs".
type Driver struct{ opts Options }

// New returns the driver. It looks at nothing: see Probe.
func New(o Options) *Driver { return &Driver{opts: o} }

var (
	_ unionfs.Driver    = (*Driver)(nil)
	_ unionfs.Unmounter = (*Driver)(nil)
)

// Name returns "aufs".
func (d *Driver) Name() string { return fsType }

const fsType = "aufs"

// Probe reports whether the kernel has AUFS.
func (d *Driver) Probe(_ context.Context, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	f, err := os.Open("/proc/filesystems")
	if err != nil {
		return err
	}
	ok, err := listed(f)
	if err = errors.Join(err, f.Close()); err == nil && !ok {
		err = fmt.Errorf("driver aufs: the kernel has no AUFS (it is not in /proc/filesystems): %w", errors.ErrUnsupported)
	}
	return err
}

// listed reports whether a list in the form of /proc/filesystems has AUFS.
func listed(r io.Reader) (bool, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 0 && f[len(f)-1] == fsType {
			return true, nil
		}
	}
	return false, lines.Err()
}

// branch is a directory of the union.
type branch struct {
	path     string
	writable bool
}

// String is the branch as options have it. Whiteouts of a read-only branch count (+wh).
func (b branch) String() string {
	if b.writable {
		return b.path + "=rw"
	}
	return b.path + "=ro+wh"
}

// optionStrings returns the options of the mount, and of the remounts that add the
// branches that were too many for it, the topmost first.
func optionStrings(branches []branch, xino string) ([]string, error) {
	first := "noxino"
	if xino != "" {
		first = "xino=" + xino
	}
	first += ",dirperm1,br:" // dirperm1: the topmost directory's mode counts, as in overlayfs
	out := []string{first}
	for i, b := range branches {
		if strings.ContainsAny(b.path, ":,=\\") || strings.ContainsAny(xino, ",") {
			return nil, fmt.Errorf("branch %q: AUFS takes no path with a colon, comma, equals sign or backslash: %w", b.path, errors.ErrUnsupported)
		}
		word, last := b.String(), len(out)-1
		switch {
		case i == 0:
			out[0] += word
		case len(out) == 1 && len(out[0])+1+len(word) <= maxOptions:
			out[0] += ":" + word
		default:
			out, last = append(out, "append:"+word), last+1
		}
		if len(out[last]) > maxOptions {
			return nil, fmt.Errorf("branch %q: options of more than %d bytes: %w", b.path, maxOptions, errors.ErrUnsupported)
		}
	}
	return out, nil
}

// Open mounts the layers, detached.
func (d *Driver) Open(ctx context.Context, layers unionfs.Layers, opts unionfs.Options) (_ unionfs.Mount, err error) {
	if err := layers.Validate(); err != nil {
		return nil, fmt.Errorf("mount aufs: %w", err)
	}
	if err := d.Probe(ctx, "/"); err != nil {
		return nil, err
	}
	branches, err := d.branches(ctx, layers, opts)
	if err != nil {
		return nil, fmt.Errorf("mount aufs: %w", err)
	}
	xino := ""
	if !opts.ReadOnly && layers.Work != "" {
		xino = filepath.Join(layers.Work, "aufs.xino")
	}
	options, err := optionStrings(branches, xino)
	if err != nil {
		return nil, fmt.Errorf("mount aufs: %w", err)
	}
	m, err := mount(options, opts)
	if err != nil {
		return nil, fmt.Errorf("mount aufs: %w", err)
	}
	return &Mount{Mount: m}, nil
}

// branches returns the directories of the union, the topmost first, with the upper
// translated.
func (d *Driver) branches(ctx context.Context, layers unionfs.Layers, opts unionfs.Options) ([]branch, error) {
	var out []branch
	trees := 0
	for _, l := range layers.Lower {
		if l.Tree != "" {
			trees++
		}
	}
	if trees > 1 {
		return nil, fmt.Errorf("%d trees, whose whiteouts AUFS does not know; merge the stack into one: %w", trees, errors.ErrUnsupported)
	}
	if layers.Upper != "" {
		translate := ToAUFS
		if opts.ReadOnly {
			translate = Plain
		}
		if err := translate(layers.Upper, d.opts.Namespace); err != nil {
			return nil, err
		}
		out = append(out, branch{path: layers.Upper, writable: !opts.ReadOnly})
	}
	for _, l := range layers.Lower {
		dir := l.Dir
		if dir != "" {
			if err := Plain(dir, d.opts.Namespace); err != nil {
				return nil, err
			}
		} else {
			var err error
			if dir, err = d.opts.Trees(ctx, l.Tree, layers.Data); err != nil {
				return nil, err
			}
		}
		out = append(out, branch{path: dir})
	}
	return out, nil
}

// mount mounts on a directory of its own and takes the mount from there.
func mount(options []string, opts unionfs.Options) (_ *mountapi.Mount, err error) {
	dir, err := os.MkdirTemp("", "aufs-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	flags := uintptr(0)
	if opts.ReadOnly {
		flags = unix.MS_RDONLY
	}
	source := opts.Source
	if source == "" {
		source = "layerfs"
	}
	for i, o := range options {
		if i > 0 {
			flags |= unix.MS_REMOUNT
		}
		if err := unix.Mount(source, dir, fsType, flags, o); err != nil {
			err = &mountapi.Error{Op: "mount", Object: fsType, Err: err}
			if i > 0 {
				err = errors.Join(err, unix.Unmount(dir, 0))
			}
			return nil, err
		}
	}
	m, err := mountapi.OpenTree(dir, true)
	return m, errors.Join(err, unix.Unmount(dir, 0))
}

// Mount is a mounted union.
type Mount struct{ *mountapi.Mount }

// Attach makes the union visible at the directory target.
func (m *Mount) Attach(ctx context.Context, target string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return m.Mount.Attach(target)
}

// Unmount unmounts target and translates its upper back.
func (d *Driver) Unmount(ctx context.Context, target string, force bool) error {
	upper, err := writableBranch("/sys/fs/aufs", target)
	if err != nil {
		return err
	}
	if err := mountapi.Unmount(ctx, target, force); err != nil || upper == "" {
		return err
	}
	return FromAUFS(upper, d.opts.Namespace)
}

// writableBranch returns the writable branch of a mount, "" if it has none or is not of
// AUFS. sysfs is where AUFS tells of its mounts, by the id in their options.
func writableBranch(sysfs, target string) (string, error) {
	infos, err := mountapi.List(target)
	if err != nil {
		return "", err
	}
	for _, m := range infos {
		if m.Target == target && m.Type == fsType {
			return topBranch(sysfs, m.Options)
		}
	}
	return "", nil
}

func topBranch(sysfs, options string) (string, error) {
	for o := range strings.SplitSeq(options, ",") {
		id, ok := strings.CutPrefix(o, "si=")
		if !ok {
			continue
		}
		b, err := os.ReadFile(filepath.Join(sysfs, "si_"+id, "br0"))
		if err != nil {
			return "", fmt.Errorf("find the upper directory of an AUFS mount: %w", err)
		}
		path, writable := strings.CutSuffix(strings.TrimSpace(string(b)), "=rw")
		if !writable {
			return "", nil
		}
		return path, nil
	}
	return "", fmt.Errorf("AUFS mount with options %q has no id: %w", options, fs.ErrInvalid)
}
