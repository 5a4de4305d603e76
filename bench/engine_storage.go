package main

import (
	"context"
	"strings"

	"github.com/layerfs/layerfs/bench/report"
)

// podmanEngine is podman on a store of this program's own; buildahEngine is buildah on
// another. Both are built on containers/storage, with its overlay driver.
type podmanEngine struct {
	lacking
	b    *bench
	is   about
	base []string
}

// overlayIgnores are differences of every overlay mount of extracted layers: the root
// directory is the engine's own, and a file goes on to count the names that a layer above
// has removed.
func overlayIgnores() []string { return []string{".:*", "*:nlink", "*:links"} }

func storageArgs(dir string) []string {
	return []string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "overlay"}
}

func newPodmanEngine(ctx context.Context, b *bench, dir string) *podmanEngine {
	e := &podmanEngine{lacking: lacking{"podman"}, b: b, is: about{name: "podman", kind: report.Peer}}
	path, version, err := find(ctx, "podman", "--version")
	if err != nil {
		e.is.absent = err.Error()
	}
	e.is.version = version
	e.base = append(append([]string{path}, storageArgs(dir)...), "--tmpdir", dir+"/tmp", "--events-backend", "none", "--cgroup-manager", "cgroupfs")
	return e
}

func (e *podmanEngine) about() about { return e.is }

func (e *podmanEngine) cmd(args ...string) []string {
	return append(e.base[:len(e.base):len(e.base)], args...)
}

func (e *podmanEngine) load(a archive) ([][]string, string) {
	return [][]string{e.cmd("load", "-q", "-i", a.file)}, ""
}

func (e *podmanEngine) mount(ref, key string) ([][]string, string) {
	return [][]string{e.cmd("create", "-q", "--name", key, "--network", "none", ref, "true"), e.cmd("mount", key)}, ""
}

// where asks for a mount, which is counted: drop removes all of them.
func (e *podmanEngine) where(ctx context.Context, key string) (string, error) {
	return output(ctx, e.cmd("mount", key)...)
}

func (e *podmanEngine) drop(key string) [][]string { return [][]string{e.cmd("rm", "-f", key)} }

func (e *podmanEngine) diff(key string) ([][]string, string) {
	return [][]string{e.cmd("diff", key)}, ""
}

func (e *podmanEngine) commit(key, ref string) ([][]string, string) {
	return [][]string{e.cmd("commit", "-q", "--pause=false", key, ref)}, ""
}

func (e *podmanEngine) save(ref, format, file string) ([][]string, string) {
	if format == dockerFormat {
		return [][]string{e.cmd("save", "-q", "--format", "docker-archive", "-o", file, ref)}, ""
	}
	return e.no("saves OCI archives without compression only")
}

func (e *podmanEngine) remove(ref string) ([][]string, string) {
	return [][]string{e.cmd("rmi", "-f", ref)}, ""
}

// run has limits that a machine without CAP_SYS_RESOURCE can grant.
func (e *podmanEngine) run(ref string, args ...string) ([][]string, string) {
	return [][]string{e.cmd(append([]string{"run", "--rm", "--network", "none", "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=4096:4096",
		"--cgroup-parent", e.b.group.containers(), ref}, args...)...)}, ""
}

func (e *podmanEngine) ignores() []string { return overlayIgnores() }

type buildahEngine struct {
	lacking
	b    *bench
	is   about
	base []string
}

func newBuildahEngine(ctx context.Context, b *bench, dir string) *buildahEngine {
	e := &buildahEngine{lacking: lacking{"buildah"}, b: b, is: about{name: "buildah", kind: report.Peer}}
	path, version, err := find(ctx, "buildah", "--version")
	if err != nil {
		e.is.absent = err.Error()
	}
	e.is.version = version
	e.base = append([]string{path}, storageArgs(dir)...)
	return e
}

func (e *buildahEngine) about() about { return e.is }

func (e *buildahEngine) cmd(args ...string) []string {
	return append(e.base[:len(e.base):len(e.base)], args...)
}

func (e *buildahEngine) load(a archive) ([][]string, string) {
	transport := "oci-archive:"
	if a.form == "docker-archive" {
		transport = "docker-archive:"
	}
	return [][]string{e.cmd("pull", "-q", transport+a.file)}, ""
}

func (e *buildahEngine) mount(ref, key string) ([][]string, string) {
	return [][]string{e.cmd("from", "--pull-never", "--name", key, ref), e.cmd("mount", key)}, ""
}

func (e *buildahEngine) where(ctx context.Context, key string) (string, error) {
	return output(ctx, e.cmd("mount", key)...)
}

func (e *buildahEngine) drop(key string) [][]string { return [][]string{e.cmd("rm", key)} }

func (e *buildahEngine) commit(key, ref string) ([][]string, string) {
	return [][]string{e.cmd("commit", "-q", key, ref)}, ""
}

func (e *buildahEngine) save(ref, format, file string) ([][]string, string) {
	if format == dockerFormat {
		return [][]string{e.cmd("push", "-q", ref, "docker-archive:"+file+":"+ref)}, ""
	}
	return [][]string{e.cmd("push", "-q", "--compression-format", compression(format), ref, "oci-archive:"+file+":"+tagOf(ref))}, ""
}

func (e *buildahEngine) remove(ref string) ([][]string, string) {
	return [][]string{e.cmd("rmi", "-f", ref)}, ""
}

func (e *buildahEngine) ignores() []string { return overlayIgnores() }

func tagOf(ref string) string { return ref[strings.LastIndexByte(ref, ':')+1:] }
