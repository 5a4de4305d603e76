package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/layerfs/layerfs/bench/report"
)

const formNames = "docker-archive oci-gzip oci-zstd"

// loadLine loads a small and a large image in each form into an empty store and makes the
// first writable mount of it, against the floor, against the floor that also writes each
// file once, and against GNU tar, which extracts the same layers into a directory. Only a
// load of layerfs ends with everything on the disk: tar is also run with a flush of the
// file system at the end, and the column of flushes says what the others have left. Into
// the store that then has the large image goes a newer build of it.
func loadLine(ctx context.Context, b *bench) error {
	for _, image := range []string{"minbase", "layered"} {
		for _, name := range strings.Fields(formNames) {
			if b.form != "" && name != b.form || !b.wanted(image+", "+name) {
				continue
			}
			if err := b.loadWork(ctx, image, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) loadWork(ctx context.Context, image, form string) error {
	a, err := b.archive(ctx, image, form)
	if err != nil {
		return err
	}
	work := &report.Work{Name: image + ", " + form, Judge: report.CPU, About: loadAbout}
	works := []*report.Work{work}
	engines := make([]contender, 0, len(b.engines)+4)
	for _, e := range b.engines {
		c := b.loading(e, a, unpacked)
		if image == "layered" && e.about().name == "umoci" && c.absent == "" {
			c.absent = "umoci takes a minute a turn with this image"
		}
		engines = append(engines, c)
	}
	cs := append(engines, b.floors(a, "files")...)
	if image == "layered" {
		newer, err := b.archive(ctx, "upgraded", form)
		if err != nil {
			return err
		}
		works = append(works, &report.Work{Name: "upgraded after layered, " + form, Judge: report.CPU, About: upgradeAbout})
		for i, e := range b.engines {
			then := b.loading(e, newer, "second")
			then.absent = cs[i].absent
			cs[i].then = &then
		}
		for i, c := range b.floors(newer, "newer") {
			cs[len(b.engines)+i].then = &c
		}
	}
	all, err := b.contest(ctx, works, 5, cs)
	if err != nil {
		return err
	}
	for n, r := range all {
		load, last, name := r[0], r[len(b.engines):], works[n].Name
		b.report.compare(name+": cpu of load / floor", load, last[0], cpu, 1.25)
		b.report.compare(name+": cpu of load / floor, writing files", load, last[1], cpu, 0)
		b.report.compare(name+": cpu of load / tar -x", load, last[2], cpu, tarTarget(a))
		b.report.compare(name+": wall of load / tar -x", load, last[2], wall, tarTarget(a))
		b.report.compare(name+": wall of load / tar -x and sync", load, last[3], wall, tarTarget(a))
	}
	return nil
}

const (
	loadAbout = "Loading the archive into an empty store and making the first writable mount. " +
		"docker load and docker create (Docker mounts when a container starts); ctr images import and images mount --rw; " +
		"podman load, create and mount; buildah pull, from and mount; skopeo copy and umoci unpack. " +
		"The floor decompresses, parses and hashes, and writes nothing."
	upgradeAbout = "The same with a newer build of the image, in which 32 of 564 packages changed, into the store that has the older one. " +
		"Layers below the changed ones are the same; those above differ in few files."
)

// loading is a contender that loads an archive into a new store, and mounts it as key.
func (b *bench) loading(e engine, a archive, key string) contender {
	c := b.contend(e, func() ([][]string, string) {
		load, lacks := e.load(a)
		if lacks != "" {
			return nil, lacks
		}
		mount, lacks := e.mount(a.ref, key)
		return append(load, mount...), lacks
	})
	c.disk = true
	c.prepare = func(ctx context.Context) error {
		if err := b.fresh(ctx); err != nil {
			return err
		}
		return e.up(ctx)
	}
	// That a form is understood is seen on the small image; the large ones take minutes to compare.
	if a.image == "minbase" || a.form == dockerArchive {
		c.verify = func(ctx context.Context) error { return b.verify(ctx, e, key, a.extracted) }
	}
	return c
}

// floors are contenders that do a part of a load into a directory of the file system.
func (b *bench) floors(a archive, dir string) []contender {
	floor := command("floor: decompress, parse, hash", b.tool("bench/floor", a.layers...)...)
	floor.kind = report.Limit
	writing := contender{name: "floor that also writes files", prepare: b.fresh, disk: true,
		args: func() []string {
			return b.tool("bench/floor", append([]string{"-write", b.disk.path(dir)}, a.layers...)...)
		}}
	tar := contender{name: "tar -x", prepare: b.fresh, disk: true,
		args: func() []string { return extract(a.layers, b.disk.path(dir), "") }}
	synced := contender{name: "tar -x, then sync", prepare: b.fresh, disk: true,
		args: func() []string { return extract(a.layers, b.disk.path(dir), "sync -f "+b.disk.dir) }}
	return []contender{floor, writing, tar, synced}
}

// verify compares what an engine shows with a directory.
func (b *bench) verify(ctx context.Context, e engine, key, want string) error {
	dir, err := e.where(ctx, key)
	if err != nil {
		return err
	}
	return b.same(ctx, dir, want, e.ignores())
}

func tarTarget(a archive) float64 {
	if a.form == "docker-archive" {
		return 0 // no target: tar has neither digest to compute
	}
	return 1
}

// extract is a shell's command line that extracts layers one upon the other, whiteouts
// left out, and then runs another command. Tar does not put a symbolic link in the place
// of a directory, goes on, and ends with status 2.
func extract(layers []string, dir, then string) []string {
	var s strings.Builder
	fmt.Fprintf(&s, "set -e\nmkdir -p %q\n", dir)
	for _, l := range layers {
		fmt.Fprintf(&s, "tar -x --numeric-owner --exclude='.wh.*' -f %q -C %q || [ $? = 2 ]\n", l, dir)
	}
	s.WriteString(then)
	return []string{"sh", "-c", s.String()}
}
