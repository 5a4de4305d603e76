// Package testimage gives tests real images: root file systems built from Debian's
// packages, written by the tools that people use, and an oracle for what they hold that
// shares no code with layerfs.
//
// Images are built once and kept below the cache directory under the name of their
// recipe, so that a changed recipe builds anew; `make images` builds all of them. A
// process that needs an image while another builds it waits. Building needs root;
// whoever is not root uses what root has built, or skips.
//
// Everything below an image's directory is shared by all tests: read it, never write it.
package testimage

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// cacheDir is where root builds images, so that unprivileged test runs find them too. It
// can be deleted at any time when no tests run.
const cacheDir = "/var/cache/layerfs-testimage"

//go:embed layered.sh
var layeredScript string

// recipe says how the layers of one image come to be.
type recipe struct {
	name    string
	version string // changes whenever the result should
	tools   []string
	long    bool // too large for short mode
	// layers writes the layers into dir as plain tars whose names sort bottom to top.
	layers func(ctx context.Context, dir string) error
}

func recipes() []recipe {
	return []recipe{
		{name: "busybox", version: "1", tools: []string{"busybox"}, layers: busybox},
		{name: "minbase", version: "1", tools: []string{"mmdebstrap"}, layers: minbase},
		{name: "web", version: "1", tools: []string{"mmdebstrap"}, layers: web},
		{name: "odd", version: "1", layers: odd},
		{name: "layered", version: layeredScript, tools: []string{"mmdebstrap"}, long: true, layers: layered("released")},
		{name: "upgraded", version: layeredScript, tools: []string{"mmdebstrap"}, long: true, layers: layered("updated")},
	}
}

// Names lists the images that can be built.
func Names() []string {
	var names []string
	for _, r := range recipes() {
		names = append(names, r.name)
	}
	return names
}

// Image is a built image. All files of it are shared and read-only.
type Image struct {
	Name string
	Ref  string // the reference it has in archives and layouts, "example.org/NAME:latest"
	dir  string
}

// Busybox is one layer: a static shell and its tools, hard links to one program.
func Busybox(t testing.TB) *Image { t.Helper(); return get(t, "busybox") }

// Minbase is one layer: Debian's smallest set of packages with apt, 170 MB.
func Minbase(t testing.TB) *Image { t.Helper(); return get(t, "minbase") }

// Web is one layer: nginx with what it needs of Debian, and busybox; the image that
// README.md makes.
func Web(t testing.TB) *Image { t.Helper(); return get(t, "web") }

// Layered is a Debian system in eleven layers with more than 80,000 files, as apt-get
// leaves them; the layers above the middle delete, replace and upgrade what is below.
// Skips in short mode.
func Layered(t testing.TB) *Image { t.Helper(); return get(t, "layered") }

// Upgraded is Layered built later: a few per cent of its packages are newer.
func Upgraded(t testing.TB) *Image { t.Helper(); return get(t, "upgraded") }

// Odd holds what archives may hold and images seldom do: every type of inode that a tar
// has, names with newlines and of raw bytes, file capabilities, ACLs, attributes of all
// namespaces, deep paths, 10,000 links to one file, sparse files in each of tar's
// formats, ids and times beyond the classical fields, whiteouts and replacements.
func Odd(t testing.TB) *Image { t.Helper(); return get(t, "odd") }

func get(t testing.TB, name string) *Image {
	t.Helper()
	r := recipeOf(name)
	if r.long && testing.Short() {
		t.Skipf("image %s is large; skipped in short mode, runs in make test", name)
	}
	dir, err := ensure(t.Context(), r)
	if err != nil {
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		t.Fatalf("build image %s: %v", name, err)
	}
	return &Image{Name: name, Ref: reference(name), dir: dir}
}

func reference(name string) string { return "example.org/" + name + ":latest" }

func recipeOf(name string) recipe {
	all := recipes()
	return all[slices.IndexFunc(all, func(r recipe) bool { return r.name == name })]
}

// Build makes sure that an image is in the cache in every form, and returns its
// directory. An unknown name is an error.
func Build(ctx context.Context, name string) (string, error) {
	if !slices.Contains(Names(), name) {
		return "", fmt.Errorf("image %q: %w; there are %s", name, fs.ErrNotExist, strings.Join(Names(), ", "))
	}
	dir, err := ensure(ctx, recipeOf(name))
	if err != nil {
		return "", err
	}
	for _, f := range []form{rawOCI, dockerArchive, gzipOCI, zstdOCI} {
		if _, err := convert(ctx, dir, name, f); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// Layers returns the layers as plain tars, bottom to top.
func (im *Image) Layers(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(im.dir, "layers", "*.tar"))
	if err != nil || len(names) == 0 {
		t.Fatalf("layers of image %s: %v", im.Name, err)
	}
	return names
}

// DockerArchive returns the image as skopeo writes an archive for `docker load`.
func (im *Image) DockerArchive(t testing.TB) string { t.Helper(); return im.form(t, dockerArchive) }

// OCI returns the image as an OCI layout directory with uncompressed layers.
func (im *Image) OCI(t testing.TB) string { t.Helper(); return im.form(t, rawOCI) }

// OCIGzip returns the image as skopeo writes an OCI layout directory, layers in gzip.
func (im *Image) OCIGzip(t testing.TB) string { t.Helper(); return im.form(t, gzipOCI) }

// OCIZstd returns the image as skopeo writes an OCI layout directory, layers in zstd.
func (im *Image) OCIZstd(t testing.TB) string { t.Helper(); return im.form(t, zstdOCI) }

func (im *Image) form(t testing.TB, f form) string {
	t.Helper()
	path, err := convert(t.Context(), im.dir, im.Name, f)
	if err != nil {
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		t.Fatalf("convert image %s to %s: %v", im.Name, f, err)
	}
	return path
}

// Extracted returns a directory with what [Extract] makes of the layers, kept in the
// cache. Needs root, and skips without.
func (im *Image) Extracted(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("extracting owners and devices needs root")
	}
	root, err := extractedOf(t.Context(), im.dir)
	if err != nil {
		t.Fatalf("extract image %s: %v", im.Name, err)
	}
	return root
}

// BuildExtracted is [Build], and returns the directory with what [Extract] makes of the
// layers. Needs root.
func BuildExtracted(ctx context.Context, name string) (string, error) {
	dir, err := Build(ctx, name)
	if err != nil {
		return "", err
	}
	return extractedOf(ctx, dir)
}

func extractedOf(ctx context.Context, dir string) (string, error) {
	path, err := once(ctx, filepath.Join(dir, "extracted"), func(tmp string) error {
		// Programs with setuid bits in old versions are nobody else's business.
		if err := os.Mkdir(tmp, 0o700); err != nil {
			return err
		}
		root := filepath.Join(tmp, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			return err
		}
		layers, err := filepath.Glob(filepath.Join(dir, "layers", "*.tar"))
		if err != nil {
			return err
		}
		return extract(ctx, root, layers)
	})
	return filepath.Join(path, "root"), err
}

// ensure returns the directory of an image whose layers are complete.
func ensure(ctx context.Context, r recipe) (string, error) {
	sum := sha256.Sum256([]byte(r.version))
	dir := filepath.Join(cacheDir, r.name+"-"+hex.EncodeToString(sum[:6]))
	if os.Geteuid() != 0 {
		if _, err := os.Stat(dir); err != nil {
			return "", fmt.Errorf("image %s is not there, and building it needs root (make images): %w", r.name, errors.ErrUnsupported)
		}
		return dir, nil
	}
	for _, tool := range append([]string{"tar"}, r.tools...) {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("building image %s needs %s (make setup): %w", r.name, tool, errors.ErrUnsupported)
		}
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return "", err
	}
	return once(ctx, dir, func(tmp string) error {
		layers := filepath.Join(tmp, "layers")
		if err := os.MkdirAll(layers, 0o755); err != nil {
			return err
		}
		return r.layers(ctx, layers)
	})
}

// once makes sure that path exists, by calling create with the path to create and
// renaming the result. One process at a time does so; others wait for it.
func once(ctx context.Context, path string, create func(tmp string) error) (result string, err error) {
	if _, err := os.Stat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("%s is not there, and making it needs root (make images): %w", path, errors.ErrUnsupported)
	} else if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	// Holding the lock, what a dead process left of an earlier try is ours to remove.
	tmp := path + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if err := create(tmp); err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	return path, os.Rename(tmp, path)
}

// command runs a program and returns an error that holds what it said.
func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// packTar writes the contents of dir as a layer with GNU tar, whose output does not
// depend on the order in which directories are read.
func packTar(ctx context.Context, dir, file string, args ...string) error {
	base := []string{
		"--create", "--file", file, "--directory", dir, "--sort=name", "--numeric-owner", "--one-file-system",
	}
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--format") }) {
		base = append(base, "--format=pax", "--pax-option=delete=atime,delete=ctime",
			"--acls", "--xattrs", "--xattrs-include=*")
	}
	return command(ctx, "", "tar", append(append(base, args...), ".")...)
}

func layerFile(dir string, n int) string {
	return filepath.Join(dir, strconv.Itoa(100 + n)[1:]+".tar")
}
