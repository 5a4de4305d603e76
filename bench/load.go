package main

import (
	"context"
	"fmt"
	"strings"
)

// loadLine loads the layered image in each form into a new store, against the floor,
// against the floor that also writes each file once, and against GNU tar, which extracts
// the same layers into a directory. These flush nothing: tar is also run with a flush of
// the file system at the end, to compare like with like.
func loadLine(ctx context.Context, b *bench) error {
	all, err := forms(ctx, "layered")
	if err != nil {
		return err
	}
	for _, f := range all {
		if b.form != "" && f.name != b.form {
			continue
		}
		floor := command(f.name+": floor", b.tool("bench/floor", f.layers...)...)
		load := contender{name: f.name + ": layerfs load", prepare: b.disk.fresh,
			args: func() []string { return b.lfs("load", "-q", "-i", f.input) }}
		tar := contender{name: f.name + ": tar -x", prepare: b.disk.fresh,
			args: func() []string { return extract(f.layers, b.disk.dir, "") }}
		synced := contender{name: f.name + ": tar -x, then sync", prepare: b.disk.fresh,
			args: func() []string { return extract(f.layers, b.disk.dir, "sync -f "+b.disk.dir) }}
		writing := contender{name: f.name + ": floor, writing files", prepare: b.disk.fresh,
			args: func() []string {
				return b.tool("bench/floor", append([]string{"-write", b.disk.path("files")}, f.layers...)...)
			}}
		r, err := b.inTurns(ctx, b.rounds, floor, load, tar, synced, writing)
		if err != nil {
			return err
		}
		b.report.compare(f.name+": cpu of load / floor", r[1], r[0], cpu, 1.25)
		b.report.compare(f.name+": cpu of load / floor, writing files", r[1], r[4], cpu, 0)
		b.report.compare(f.name+": cpu of load / tar -x", r[1], r[2], cpu, tarTarget(f))
		b.report.compare(f.name+": wall of load / tar -x", r[1], r[2], wall, tarTarget(f))
		b.report.compare(f.name+": wall of load / tar -x and sync", r[1], r[3], wall, tarTarget(f))
	}
	return nil
}

func tarTarget(f form) float64 {
	if f.name == "docker-archive" {
		return 0 // no target: tar has neither digest to compute
	}
	return 1
}

// extract is a shell's command line that extracts layers one upon the other, whiteouts
// left out, and then runs another command. Tar does not put a symbolic link in the place
// of a directory, goes on, and ends with status 2.
func extract(layers []string, dir, then string) []string {
	var s strings.Builder
	s.WriteString("set -e\n")
	for _, l := range layers {
		fmt.Fprintf(&s, "tar -x --numeric-owner --exclude='.wh.*' -f %q -C %q || [ $? = 2 ]\n", l, dir)
	}
	s.WriteString(then)
	return []string{"sh", "-c", s.String()}
}
