package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/layerfs/layerfs/bench/report"
)

// containerdEngine is a containerd of this program's own and its client ctr, with the
// overlayfs snapshotter.
type containerdEngine struct {
	lacking
	b      *bench
	is     about
	client string
	server string
	d      *daemon
	serial int
}

func newContainerdEngine(ctx context.Context, b *bench) *containerdEngine {
	e := &containerdEngine{lacking: lacking{"ctr"}, b: b, is: about{name: "containerd", kind: report.Peer, aside: true}}
	var err error
	if e.client, _, err = find(ctx, "ctr", "--version"); err == nil {
		e.server, e.is.version, err = find(ctx, "containerd", "--version")
	}
	if err != nil {
		e.is.absent = err.Error()
	}
	return e
}

func (e *containerdEngine) about() about { return e.is }

func (e *containerdEngine) cmd(args ...string) []string {
	return append([]string{e.client, "--address", e.b.disk.path("containerd.sock")}, args...)
}

func (e *containerdEngine) up(ctx context.Context) (err error) {
	if e.d != nil {
		return nil
	}
	config := filepath.Join(e.b.work, "containerd.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [%q, %q]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n[plugins.%q]\npath = %q\n",
		e.b.disk.path("containerd"), e.b.disk.path("containerd-state"), "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime",
		e.b.disk.path("containerd.sock"), e.b.disk.path("containerd.ttrpc"), "io.containerd.internal.v1.opt", e.b.disk.path("containerd-opt"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	e.d, err = startDaemon(ctx, filepath.Join(e.b.work, "containerd.log"), e.cmd("version"),
		e.server, "--config", config, "--log-level", "error")
	return err
}

func (e *containerdEngine) down(context.Context) error {
	err := e.d.stop()
	e.d = nil
	return err
}

func (e *containerdEngine) load(a archive) ([][]string, string) {
	return [][]string{e.cmd("images", "import", a.file)}, ""
}

func (e *containerdEngine) mount(ref, key string) ([][]string, string) {
	dir, err := e.b.mountPoint("containerd", key)
	if err != nil {
		return nil, err.Error()
	}
	return [][]string{e.cmd("images", "mount", "--rw", ref, dir)}, ""
}

func (e *containerdEngine) where(_ context.Context, key string) (string, error) {
	return e.b.mountPoint("containerd", key)
}

func (e *containerdEngine) drop(key string) [][]string {
	dir, err := e.b.mountPoint("containerd", key)
	if err != nil {
		return nil
	}
	return [][]string{e.cmd("images", "unmount", "--rm", dir)}
}

// commit makes the layer that a commit consists of; ctr has nothing to make an image of it.
func (e *containerdEngine) commit(key, ref string) ([][]string, string) {
	dir, err := e.b.mountPoint("containerd", key)
	if err != nil {
		return nil, err.Error()
	}
	layer := e.b.disk.path(strings.NewReplacer("/", "-", ":", "-").Replace(ref) + ".layer")
	diff := e.cmd("snapshots", "diff", "--media-type", "application/vnd.oci.image.layer.v1.tar", dir)
	return [][]string{{"sh", "-c", strings.Join(diff, " ") + " >" + layer}}, ""
}

func (e *containerdEngine) save(ref, format, file string) ([][]string, string) {
	if format != dockerFormat {
		return e.no("writes layers as they were imported")
	}
	return [][]string{e.cmd("images", "export", file, ref)}, ""
}

func (e *containerdEngine) remove(ref string) ([][]string, string) {
	return [][]string{e.cmd("images", "rm", "--sync", ref)}, ""
}

func (e *containerdEngine) run(ref string, args ...string) ([][]string, string) {
	e.serial++
	id := fmt.Sprintf("run-%d", e.serial)
	return [][]string{e.cmd(append([]string{"run", "--rm", "--cgroup", e.b.group.containers() + "/" + id, ref, id}, args...)...)}, ""
}

func (e *containerdEngine) ignores() []string { return overlayIgnores() }
