package main

import (
	"context"
	"os"

	"github.com/layerfs/layerfs/bench/report"
)

// saveLine writes loaded images as archives.
func saveLine(ctx context.Context, b *bench) error {
	if err := b.upAll(ctx); err != nil {
		return err
	}
	for _, image := range []string{"minbase", "layered"} {
		a, err := b.archive(ctx, image, dockerArchive)
		if err != nil {
			return err
		}
		lacks := b.loadAll(ctx, a)
		formats := []string{dockerFormat, gzipFormat, zstdFormat}
		if image == "layered" {
			formats = formats[:1] // compressing more bytes shows nothing else
		}
		for _, format := range formats {
			if name := image + ", " + format; b.wanted(name) && (b.form == "" || b.form == format) {
				if err := b.saveWork(ctx, name, a, format, lacks); err != nil {
					return err
				}
			}
		}
		if err := b.removeAll(ctx, a, lacks); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) saveWork(ctx context.Context, name string, a archive, format string, lacks map[string]string) error {
	file := b.disk.path("saved.tar")
	gone := func(context.Context) error { return os.Remove(file) }
	var cs []contender
	for _, e := range b.engines {
		c := b.contend(e, func() ([][]string, string) {
			if no := lacks[e.about().name]; no != "" {
				return nil, no
			}
			return e.save(a.ref, format, file)
		})
		c.verify = func(ctx context.Context) error {
			_, err := run(ctx, b.tool("bench/same", "-archives", file, a.file))
			return err
		}
		c.check = gone
		cs = append(cs, c)
	}
	limit := contender{name: "cp of such an archive", kind: report.Limit, check: gone,
		args: func() []string { return []string{"cp", "--reflink=never", a.file, file} }}
	if format != dockerFormat {
		program := map[string]string{gzipFormat: "gzip", zstdFormat: "zstd -3"}[format]
		limit = contender{name: program + " of such an archive", kind: report.Other, check: gone,
			args: func() []string { return []string{"sh", "-c", program + " <" + a.file + " >" + file} }}
	}
	_, err := b.compete(ctx, report.Work{Name: name, Judge: report.CPU, About: saveAbout}, 10, append(cs, limit)...)
	return err
}

const saveAbout = "Writing a loaded image to a file. Docker, podman and ctr write a docker archive with the tars of the layers; " +
	"OCI with gzip and zstd is compressed on the way, which is also what a push of such an image costs. layerfs flushes the archive before it ends. The archives are compared by the digests of their layers."

// removeLine removes an image that shares nothing with another and frees its space.
func removeLine(ctx context.Context, b *bench) error {
	if err := b.upAll(ctx); err != nil {
		return err
	}
	a, err := b.archive(ctx, "minbase", dockerArchive)
	if err != nil {
		return err
	}
	var cs []contender
	for _, e := range b.engines {
		c := b.contend(e, func() ([][]string, string) { return e.remove(a.ref) })
		c.prepare = func(ctx context.Context) error {
			steps, lacks := e.load(a)
			return do(ctx, steps, lacks)
		}
		cs = append(cs, c)
	}
	plain := b.disk.path("plain")
	cs = append(cs, contender{name: "rm -rf of the extracted tree", kind: report.Limit,
		prepare: func(ctx context.Context) error {
			_, err := run(ctx, []string{"cp", "-a", a.extracted, plain})
			return err
		},
		args: func() []string { return []string{"rm", "-rf", plain} }})
	_, err = b.compete(ctx, report.Work{Name: "remove minbase", Judge: report.Wall, About: removeAbout}, 10, cs...)
	return err
}

const removeAbout = "Removing the only image of a store and what it occupies: layerfs rmi and gc; docker, podman and buildah rmi; " +
	"ctr images rm --sync; umoci rm, gc and rm -rf of what it unpacked."

func (b *bench) removeAll(ctx context.Context, a archive, lacks map[string]string) error {
	for _, e := range b.engines {
		if lacks[e.about().name] != "" {
			continue
		}
		if steps, no := e.remove(a.ref); no == "" {
			if err := do(ctx, steps, no); err != nil {
				return err
			}
		}
	}
	return nil
}
