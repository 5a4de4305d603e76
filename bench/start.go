package main

import (
	"context"

	"github.com/layerfs/layerfs/bench/report"
)

// startLine starts the command, against a Go program that does nothing and the commands
// of peers.
func startLine(ctx context.Context, b *bench) error {
	empty := command("empty static Go program", b.tool("bench/empty")...)
	empty.kind = report.Limit
	cs := []contender{command("layerfs", b.tool("cmd/layerfs", "version")...), empty}
	for _, name := range []string{"crun", "runc", "bwrap", "ctr", "docker", "podman", "buildah", "umoci", "skopeo"} {
		path, version, err := find(ctx, name, "--version")
		c := command(name, path, "--version")
		c.kind, c.version = report.Peer, version
		if err != nil {
			c.absent = err.Error()
		}
		cs = append(cs, c)
	}
	r, err := b.compete(ctx, report.Work{Name: "print the version", Judge: report.Wall}, 100, cs...)
	if err != nil {
		return err
	}
	for _, m := range []report.Measure{report.Wall, report.CPU} {
		v := r[0].Median(m.Of) / r[1].Median(m.Of)
		b.report.ratio(report.Ratio{Name: "median " + string(m) + " of layerfs version / empty program", Value: v, Low: v, High: v, Target: 2})
	}
	return nil
}
