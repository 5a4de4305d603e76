package main

import (
	"context"

	"github.com/layerfs/layerfs/bench/report"
)

// layerfsEngine is the layerfs that was built for this run.
type layerfsEngine struct {
	lacking
	b *bench
}

func newLayerfsEngine(b *bench) *layerfsEngine { return &layerfsEngine{lacking{"layerfs"}, b} }

func (e *layerfsEngine) about() about { return about{name: "layerfs", kind: report.Layerfs} }

func (e *layerfsEngine) load(a archive) ([][]string, string) {
	return [][]string{e.b.lfs("load", "-q", "-i", a.file)}, ""
}

func (e *layerfsEngine) mount(ref, key string) ([][]string, string) {
	dir, err := e.b.mountPoint("layerfs", key)
	if err != nil {
		return nil, err.Error()
	}
	return [][]string{e.b.lfs("mount", "--name", key, ref, dir)}, ""
}

func (e *layerfsEngine) where(_ context.Context, key string) (string, error) {
	return e.b.mountPoint("layerfs", key)
}

func (e *layerfsEngine) drop(key string) [][]string {
	return [][]string{e.b.lfs("umount", "--rm", key)}
}

func (e *layerfsEngine) diff(key string) ([][]string, string) {
	return [][]string{e.b.lfs("diff", key)}, ""
}

func (e *layerfsEngine) commit(key, ref string) ([][]string, string) {
	return [][]string{e.b.lfs("commit", key, ref)}, ""
}

func (e *layerfsEngine) save(ref, format, file string) ([][]string, string) {
	if format == dockerFormat {
		return [][]string{e.b.lfs("save", "-q", "--format", "docker", "-o", file, ref)}, ""
	}
	return [][]string{e.b.lfs("save", "-q", "--format", "oci", "--compress", compression(format), "-o", file, ref)}, ""
}

func (e *layerfsEngine) remove(ref string) ([][]string, string) {
	return [][]string{e.b.lfs("rmi", ref), e.b.lfs("gc", "--grace", "0s")}, ""
}

func (e *layerfsEngine) run(ref string, args ...string) ([][]string, string) {
	return [][]string{e.b.lfs(append([]string{"run", "--rm", ref}, args...)...)}, ""
}
