package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/layerfs/layerfs/bench/report"
)

// umociEngine is umoci, which unpacks OCI layouts, and skopeo, which makes them of other
// archives.
type umociEngine struct {
	lacking
	b      *bench
	is     about
	umoci  string
	skopeo string
	keys   map[string]string // which image each key stands for
}

func newUmociEngine(ctx context.Context, b *bench) *umociEngine {
	e := &umociEngine{lacking: lacking{"umoci"}, b: b, is: about{name: "umoci", kind: report.Peer}, keys: map[string]string{}}
	var err error
	if e.skopeo, _, err = find(ctx, "skopeo", "--version"); err == nil {
		e.umoci, e.is.version, err = find(ctx, "umoci", "--version")
	}
	if err != nil {
		e.is.absent = err.Error()
	}
	return e
}

func (e *umociEngine) about() about { return e.is }

// load copies the image into a layout and unpacks it, which is all there is of mounting.
func (e *umociEngine) load(a archive) ([][]string, string) {
	source := "oci-archive:" + a.file
	switch a.form {
	case "oci-zstd":
		return e.no(e.is.version + " does not know layers in zstd")
	case "docker-archive":
		source = "docker-archive:" + a.file
	}
	return [][]string{
		{e.skopeo, "--insecure-policy", "--tmpdir", e.b.disk.path("tmp"), "copy", "-q", source, "oci:" + e.layout(a.ref)},
		{e.umoci, "unpack", "--image", e.layout(a.ref), e.bundle(a.ref)},
	}, ""
}

// layout is an image in a layout that is named after the repository.
func (e *umociEngine) layout(ref string) string {
	name, tag, _ := strings.Cut(ref, ":")
	return e.b.disk.path("umoci-"+filepath.Base(name)) + ":" + tag
}

func (e *umociEngine) bundle(ref string) string {
	name, _, _ := strings.Cut(ref, ":")
	return e.b.disk.path("umoci-bundle-" + filepath.Base(name))
}

// mount has nothing to do: load has unpacked the image.
func (e *umociEngine) mount(ref, key string) ([][]string, string) {
	e.keys[key] = ref
	return [][]string{}, ""
}

// unpacked is the key of the first mount after a load.
const unpacked = "first"

func (e *umociEngine) where(_ context.Context, key string) (string, error) {
	return filepath.Join(e.bundle(e.keys[key]), "rootfs"), nil
}

// commit names the repacked image, in the layout of the image that was unpacked.
func (e *umociEngine) commit(_, ref string) ([][]string, string) {
	return [][]string{{e.umoci, "repack", "--image", e.layout(ref), e.bundle(ref)}}, ""
}

func (e *umociEngine) remove(ref string) ([][]string, string) {
	dir, _, _ := strings.Cut(e.layout(ref), ":")
	return [][]string{{e.umoci, "rm", "--image", e.layout(ref)}, {e.umoci, "gc", "--layout", dir}, {"rm", "-rf", e.bundle(ref)}}, ""
}

func (e *umociEngine) ignores() []string { return []string{"*:xattr user.empty"} }
