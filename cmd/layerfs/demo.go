package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newDemoCmd(a *app) *cobra.Command {
	var keep bool
	var dir string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Walk through load, mount, change, diff, commit, run and save with an image made here",
		Long: `Demo makes an image from this machine's own shell and a few tools, with the libraries
that they need, and takes it through the main commands in a store of its own, saying
what it does and how long each step took. It downloads nothing. An ordinary user's demo
runs where "layerfs unshare" leads.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runDemo(cmd.Context(), dir, keep) },
	}
	const dirFlag = "dir"
	cmd.Flags().StringVar(&dir, dirFlag, "", "where to work; it is there already")
	cobra.CheckErr(cmd.Flags().MarkHidden(dirFlag)) // for the demo itself, when it goes on inside a namespace
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the demo's store and files")
	return cmd
}

// demo is one walk.
type demo struct {
	app *app
	dir string
}

func (a *app) runDemo(ctx context.Context, dir string, keep bool) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "layerfs-demo-"); err != nil {
			return err
		}
	}
	d := &demo{app: a, dir: dir}
	if os.Geteuid() != 0 {
		a.root = d.path("store")
		a.args = append(slices.Clone(a.args), "--dir", dir)
		err := a.enter()
		var exit *exitError
		if errors.As(err, &exit) {
			return err
		}
		d.say("Mounting needs root, or a user namespace, which is not to be had here: %v", err)
	}
	a.catchSignals()
	defer func() {
		if keep {
			fmt.Fprintf(a.stdout, "\nKept in %s; look around with: layerfs --root %s images\n", dir, d.path("store"))
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if err := d.walk(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.app.stdout, format+"\n", args...) }

// layerfs runs one command as a user would type it, shows it with its output and the
// time it took.
func (d *demo) layerfs(ctx context.Context, args ...string) error {
	d.say("\n$ layerfs %s", strings.Join(args, " "))
	var out bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: d.app.stderr, root: d.path("store"), verbose: d.app.verbose}
	// The flags' defaults would reset the fields, so the store is given as a flag too.
	cmd := newRootCmd(a, append([]string{"--root", d.path("store")}, args...))
	start := time.Now()
	err := errors.Join(cmd.ExecuteContext(ctx), a.close())
	took := time.Since(start)
	if err != nil {
		return fmt.Errorf("layerfs %s: %w", args[0], err)
	}
	lines := strings.SplitAfter(out.String(), "\n")
	const most = 12
	for i, l := range lines {
		if i == most {
			d.say("  … %d more lines", len(lines)-most-1)
			break
		}
		if l != "" {
			d.say("  %s", strings.TrimSuffix(l, "\n"))
		}
	}
	d.say("  [%s]", took.Round(10*time.Microsecond))
	return nil
}

func (d *demo) walk(ctx context.Context) error {
	d.say("layerfs demo: everything happens below %s and is removed at the end.", d.dir)
	files, err := hostFiles([]string{"sh", "ls", "cat", "cp", "mv", "rm", "mkdir", "chmod", "ln", "id", "uname", "echo", "ps"})
	if err != nil {
		return err
	}
	start := time.Now()
	n, err := writeHostTar(d.path("rootfs.tar"), files)
	if err != nil {
		return err
	}
	d.say("\nMade a root file system of this machine's shell and tools with their libraries: %d files, %s [%s]",
		len(files), size(n), time.Since(start).Round(time.Millisecond))
	do := func(args ...string) error { return d.layerfs(ctx, args...) }
	if err := errors.Join(
		do("import", "--change", `CMD ["/bin/sh"]`, "--change", "ENV PATH=/usr/bin:/bin", d.path("rootfs.tar"), "demo:v1"),
		do("save", "-o", d.path("demo.tar"), "--format", "docker", "demo:v1"),
		do("rmi", "demo:v1"),
		do("gc"),
	); err != nil {
		return err
	}
	d.say("\nLoad the archive, as docker load would. Every file becomes an object, stored once:")
	if err := do("load", "-i", d.path("demo.tar")); err != nil {
		return err
	}
	if err := errors.Join(do("images"), do("ls", "-l", "demo:v1", "/bin/")); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		d.say("\nThe rest mounts: run the demo as root for it.")
		return nil
	}
	return d.mounted(ctx)
}

// mounted is the part of the walk that mounts.
func (d *demo) mounted(ctx context.Context) (err error) {
	do := func(args ...string) error { return d.layerfs(ctx, args...) }
	mnt := d.path("mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		return err
	}
	d.say("\nMount it writable. Nothing is copied or extracted:")
	if err := do("mount", "--name", "work", "demo:v1", mnt); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.layerfs(context.WithoutCancel(ctx), "umount", "--force", "work"))
		}
	}()
	d.say("\nChange it: write a file, change a mode, remove a tool, rename a directory.")
	if err := d.change(mnt); err != nil {
		return err
	}
	if err := errors.Join(
		do("diff", "work"),
		do("umount", "work"),
		do("commit", "-m", "say hello", "work", "demo:v2"),
		do("fork", "work", "play"),
		do("history", "demo:v2"),
		do("diff", "demo:v1", "demo:v2"),
		do("run", "--rm", "--network", "none", "demo:v2", "/bin/sh", "-c", "cat /hello.txt; uname -s; id -u; ls /"),
	); err != nil {
		return err
	}
	d.say("\nSave it for docker, podman or skopeo, and check the store:")
	return errors.Join(
		do("save", "-o", d.path("demo-v2.tar"), "--format", "docker", "demo:v2"),
		do("fsck"),
		do("df"),
	)
}

func (d *demo) change(mnt string) error {
	err := os.Rename(filepath.Join(mnt, "etc"), filepath.Join(mnt, "settings"))
	if errors.Is(err, unix.EXDEV) {
		d.say("(In a user namespace overlayfs renames no directory of an image; mv copies it.)")
		err = nil
	}
	return errors.Join(err,
		os.WriteFile(filepath.Join(mnt, "hello.txt"), []byte("Hello from a layer of its own.\n"), 0o644),
		os.Chmod(filepath.Join(mnt, "usr/bin/cat"), 0o700),
		os.Remove(filepath.Join(mnt, "usr/bin/mv")),
	)
}

// writeHostTar writes files of this machine, and the directories and links that a root
// file system wants, to a tar, and returns its size.
func writeHostTar(name string, files map[string]string) (n int64, err error) {
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	when := time.Unix(0, 0)
	for _, dir := range []string{"usr/", "usr/bin/", "usr/lib/", "usr/lib64/", "etc/", "dev/", "proc/", "sys/", "run/", "tmp/", "root/"} {
		mode := int64(0o755)
		if dir == "tmp/" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: mode, ModTime: when}); err != nil {
			return 0, err
		}
	}
	for _, l := range []string{"bin", "lib", "lib64"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: l, Linkname: "usr/" + l, Mode: 0o777, ModTime: when}); err != nil {
			return 0, err
		}
	}
	for _, etc := range []struct{ name, text string }{
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"},
		{"etc/group", "root:x:0:\n"},
		{"etc/os-release", "NAME=\"layerfs demo\"\nID=layerfs-demo\n"},
	} {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: etc.name, Mode: 0o644, Size: int64(len(etc.text)), ModTime: when}
		if err := w.WriteHeader(h); err != nil {
			return 0, err
		}
		if _, err := io.WriteString(w, etc.text); err != nil {
			return 0, err
		}
	}
	for _, to := range sortedKeys(files) {
		if err := addHostFile(w, files[to], to); err != nil {
			return 0, err
		}
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	return f.Seek(0, io.SeekCurrent)
}

func addHostFile(w *tar.Writer, from, to string) (err error) {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s: %w", from, fs.ErrInvalid)
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: to, Mode: int64(st.Mode().Perm()), Size: st.Size(), ModTime: time.Unix(st.ModTime().Unix(), 0)}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
