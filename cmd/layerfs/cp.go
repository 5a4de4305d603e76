package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/rootfs"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

type cpOptions struct {
	archive, follow bool
}

func newCpCmd(a *app) *cobra.Command {
	var o cpOptions
	cmd := &cobra.Command{
		Use:   "cp [flags] CONTAINER:PATH DEST|- | SOURCE|- CONTAINER:PATH",
		Short: "Copy files out of a container, or into it",
		Long: `Cp copies a file or a directory with all in it. A directory that is there is copied into,
and SOURCE/. stands for what is in a directory. With - a tar is written to standard
output, or read from standard input. The container need not run; while it does, its
volumes are seen. Files belong to root in the container and to the user outside of it,
unless -a keeps their owners.`,
		Example: `  layerfs cp web:/etc/nginx/. ./nginx
  tar -c site | layerfs cp - web:/srv`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeContainers(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runCp(cmd.Context(), o, args[0], args[1]) },
	}
	cmd.Flags().BoolVarP(&o.archive, "archive", "a", false, "keep owners")
	cmd.Flags().BoolVarP(&o.follow, "follow-link", "L", false, "copy what a link at the end of SOURCE leads to")
	return cmd
}

// containerPath splits CONTAINER:PATH; a path of this machine has a '/' or a '.' before
// its first colon.
func containerPath(arg string) (name, in string, ok bool) {
	name, in, ok = strings.Cut(arg, ":")
	if !ok || name == "" || strings.HasPrefix(name, ".") || strings.Contains(name, "/") {
		return "", "", false
	}
	return name, in, true
}

func (a *app) runCp(ctx context.Context, o cpOptions, from, to string) error {
	fromName, fromPath, out := containerPath(from)
	toName, toPath, in := containerPath(to)
	if out == in {
		return usageError{errors.New("want one of both to be CONTAINER:PATH")}
	}
	if err := a.enter(); err != nil {
		return err
	}
	if out {
		return a.withRoot(ctx, fromName, func(root *rootfs.Root) error { return a.copyOut(ctx, o, root, fromPath, to) })
	}
	return a.withRoot(ctx, toName, func(root *rootfs.Root) error { return a.copyIn(ctx, o, from, root, toPath) })
}

// withRoot gives the root of a container: as its processes see it, or of one that does
// not run, its snapshot.
func (a *app) withRoot(ctx context.Context, word string, do func(*rootfs.Root) error) (err error) {
	_, c, err := a.container(ctx, word)
	if err != nil {
		return err
	}
	if c.State.Active() && c.State.Process.Pid != 0 {
		root, err := rootfs.Open("/proc/" + strconv.Itoa(c.State.Process.Pid) + "/root")
		if err != nil {
			return fmt.Errorf("root of container %s: %w", c.Name, err)
		}
		defer join(&err, root.Close)
		if !c.State.Process.Alive() {
			return fmt.Errorf("root of container %s: %w", c.Name, container.ErrNotActive)
		}
		return do(root)
	}
	key, err := snapshot.ParseKey(c.Snapshot)
	if err != nil {
		return err
	}
	drivers, err := a.candidates(c.Driver)
	if err != nil {
		return err
	}
	unlock, err := a.snaps.Claim(ctx, key)
	if err != nil {
		return err
	}
	defer unlock() // only now: nobody else mounts it meanwhile
	m, err := a.openMount(ctx, a.snaps, drivers, key, false)
	if err != nil {
		return err
	}
	defer join(&err, m.Close)
	d, ok := m.(detached)
	if !ok {
		return fmt.Errorf("root of container %s: the driver gives no detached mounts: %w", c.Name, errors.ErrUnsupported)
	}
	root, err := rootfs.FromFD(d.FD())
	if err != nil {
		return err
	}
	defer join(&err, root.Close)
	return do(root)
}

// copyPlace is where a copy goes: a directory that is there, and the name in it, "." for the
// directory itself.
type copyPlace struct{ dir, name string }

// placeFor decides as Docker does. What is copied has a name; it is "." for what is in a
// directory.
func placeFor(root *rootfs.Root, to, name string, dir bool) (copyPlace, error) {
	isDir, err := root.IsDir(to)
	switch {
	case err == nil && isDir:
		return copyPlace{to, name}, nil
	case err == nil && dir:
		return copyPlace{}, fmt.Errorf("copy a directory to the file %s: %w", to, fs.ErrInvalid)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return copyPlace{}, err
	case err != nil && strings.HasSuffix(to, "/") && !dir:
		return copyPlace{}, fmt.Errorf("directory %s: %w", to, fs.ErrNotExist)
	}
	clean := path.Clean("/" + to)
	parent := path.Dir(clean)
	if isDir, err := root.IsDir(parent); err != nil || !isDir {
		return copyPlace{}, errors.Join(fmt.Errorf("copy to %s: directory %s: %w", to, parent, fs.ErrNotExist), err)
	}
	return copyPlace{parent, path.Base(clean)}, nil
}

// sourceName is the name that a copy has by itself.
func sourceName(from string) string {
	if from == "." || strings.HasSuffix(from, "/.") || path.Clean("/"+from) == "/" {
		return "."
	}
	return path.Base(path.Clean(from))
}

func (a *app) copyOut(ctx context.Context, o cpOptions, root *rootfs.Root, from, to string) (err error) {
	name := sourceName(from)
	if to == "-" {
		tw := tar.NewWriter(a.stdout)
		if err := root.Pack(ctx, tw, from, name, o.follow); err != nil {
			return err
		}
		return tw.Close()
	}
	host, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	if strings.HasSuffix(to, "/") {
		host += "/"
	}
	mine, err := rootfs.Open("/")
	if err != nil {
		return err
	}
	defer join(&err, mine.Close)
	opts := rootfs.UnpackOptions{Owner: &rootfs.Owner{UID: os.Geteuid(), GID: os.Getegid()}}
	if o.archive {
		opts.Owner = nil
	}
	return transfer(ctx, root, from, name, o.follow, mine, host, opts)
}

func (a *app) copyIn(ctx context.Context, o cpOptions, from string, root *rootfs.Root, to string) (err error) {
	opts := rootfs.UnpackOptions{Owner: &rootfs.Owner{}}
	if o.archive {
		opts.Owner = nil
	}
	if from == "-" {
		if dir, err := root.IsDir(to); err != nil || !dir {
			return errors.Join(fmt.Errorf("copy to %s: want a directory that is there: %w", to, fs.ErrInvalid), err)
		}
		opts.Owner = nil // the stream says whose they are
		return root.Unpack(ctx, tar.NewReader(a.stdin), to, opts)
	}
	host, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	mine, err := rootfs.Open("/")
	if err != nil {
		return err
	}
	defer join(&err, mine.Close)
	return transfer(ctx, mine, host, sourceName(from), o.follow, root, to, opts)
}

// transfer copies from one root to another.
func transfer(ctx context.Context, src *rootfs.Root, from, name string, follow bool, dst *rootfs.Root, to string, opts rootfs.UnpackOptions) error {
	dir, err := src.IsDir(from)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a link to nothing can be copied
		return err
	}
	where, err := placeFor(dst, to, name, dir)
	if err != nil {
		return err
	}
	return pipeTar(
		func(tw *tar.Writer) error { return src.Pack(ctx, tw, from, where.name, follow || where.name == ".") },
		func(tr *tar.Reader) error { return dst.Unpack(ctx, tr, where.dir, opts) })
}

// pipeTar connects who writes a tar with who reads it.
func pipeTar(pack func(*tar.Writer) error, unpack func(*tar.Reader) error) error {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		tw := tar.NewWriter(w)
		err := pack(tw)
		if err == nil {
			err = tw.Close()
		}
		_ = w.CloseWithError(err) // always nil
		packed <- err
	}()
	err := unpack(tar.NewReader(r))
	if err == nil {
		_, err = io.Copy(io.Discard, r) // what pads the end
	}
	_ = r.CloseWithError(err) // always nil
	// Each ends with the error of the other if that was first.
	if perr := <-packed; perr != nil && !errors.Is(perr, io.ErrClosedPipe) && (err == nil || errors.Is(err, perr)) {
		return perr
	}
	return err
}
