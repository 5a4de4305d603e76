package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/layerfs/layerfs/bench/report"
)

// commitLine lists and commits what k files changed of an image of 50,000 files, and
// forks it. The first 1,000 of the k are files of the image, further ones are new. Each
// turn has a snapshot of its own that is mounted and at rest. layerfs alone does the same
// on an image of 1,000 files, where it is to need as much.
func commitLine(ctx context.Context, b *bench) error {
	if err := b.upAll(ctx); err != nil {
		return err
	}
	sizes := []int{1000, 50000}
	images := make([]archive, len(sizes))
	lacks := make([]map[string]string, len(sizes))
	for i, n := range sizes {
		var err error
		if images[i], err = b.madeUpArchive(fmt.Sprintf("files%d", n), n, 1, n); err != nil {
			return err
		}
		engines := b.engines
		if i == 0 {
			engines = engines[:1]
		}
		lacks[i] = loadInto(ctx, engines, images[i])
	}
	for _, k := range []int{1, 100, 10000} {
		var commits []*report.Entry
		for i, n := range sizes {
			c := changing{b: b, engines: b.engines, image: images[i], lacks: lacks[i], files: n, changes: k}
			if i == 0 {
				c.engines = b.engines[:1]
			}
			for _, kind := range []string{"diff", "commit", "fork"} {
				name := fmt.Sprintf("%s %d of %d files", kind, k, n)
				if !b.wanted(name) {
					continue
				}
				cs, err := c.contenders(kind)
				if err != nil {
					return err
				}
				r, err := b.compete(ctx, report.Work{Name: name, Judge: report.Wall, About: changingAbout[kind]}, 10, cs...)
				if err != nil {
					return err
				}
				if kind == "commit" {
					commits = append(commits, r[0])
					b.report.bytes(name+": bytes read by layerfs", r[0].Median(func(s report.Sample) float64 { return float64(s.Read) }))
				}
			}
		}
		if len(commits) == 2 {
			v := commits[1].Median(cpu) / commits[0].Median(cpu)
			b.report.ratio(report.Ratio{Name: fmt.Sprintf("commit %d files: median cpu on 50,000 / on 1,000", k), Value: v, Low: v, High: v})
		}
	}
	return nil
}

var changingAbout = map[string]string{
	"diff": "Listing the changed paths. The limit walks a directory that has the changed files only.",
	"commit": "Making an image of a mounted snapshot. ctr writes the new layer and has no command for the image; umoci repacks what it unpacked. " +
		"The limit computes the SHA-256 of the changed files.",
	"fork": "A second writable snapshot with the state of the first. No peer forks: they commit and create a container of the result. " +
		"cp -a copies the changed files.",
}

// changing is work on snapshots of one image in which so many files were changed.
type changing struct {
	b       *bench
	engines []engine // layerfs first
	image   archive
	lacks   map[string]string
	files   int
	changes int
	serial  int
	plain   string // a directory with only the changed files
}

func (c *changing) contenders(kind string) ([]contender, error) {
	c.plain = c.b.disk.path(fmt.Sprintf("changed-%d-of-%d", c.changes, c.files))
	if err := os.MkdirAll(c.plain, 0o755); err != nil {
		return nil, err
	}
	if err := c.change(c.plain); err != nil {
		return nil, err
	}
	var out []contender
	for _, e := range c.engines {
		out = append(out, c.contender(kind, e))
	}
	switch kind {
	case "diff":
		walk := command("walk of the changed files", c.b.tool("bench/exercise", "walk", c.plain)...)
		walk.kind = report.Limit
		return append(out, walk), nil
	case "commit":
		hash := command("SHA-256 of the changed files", c.b.tool("bench/exercise", "hash", c.plain)...)
		hash.kind = report.Limit
		return append(out, hash), nil
	default:
		to := c.b.disk.path("copied")
		return append(out, contender{name: "cp -a of the changed files",
			args:  func() []string { return []string{"cp", "-a", c.plain, to} },
			check: func(context.Context) error { return os.RemoveAll(to) }}), nil
	}
}

func (c *changing) contender(kind string, e engine) contender {
	var key string
	a := e.about()
	repo := c.image.ref[:len(c.image.ref)-len("latest")]
	out := c.b.contend(e, func() ([][]string, string) {
		if c.lacks[a.name] != "" {
			return nil, c.lacks[a.name]
		}
		result := repo + key
		switch kind {
		case "diff":
			return e.diff(key)
		case "commit":
			return e.commit(key, result)
		}
		if l, ok := e.(*layerfsEngine); ok {
			return [][]string{l.b.lfs("fork", key, key+"-fork")}, ""
		}
		commit, lacks := e.commit(key, result)
		if lacks != "" {
			return nil, lacks
		}
		create, lacks := lacksMount(e, result, key+"-fork")
		if a.name == "containerd" {
			lacks = "ctr makes no image of a snapshot that another could be made of"
		}
		return append(commit, create...), lacks
	})
	out.prepare = func(ctx context.Context) error {
		c.serial++
		key = fmt.Sprintf("%s-%d-%d-%d", kind, c.files, c.changes, c.serial)
		steps, lacks := e.mount(c.image.ref, key)
		if err := do(ctx, steps, lacks); err != nil {
			return err
		}
		dir, err := e.where(ctx, key)
		if err != nil {
			return err
		}
		err = errors.Join(c.change(dir), e.leave(key))
		if l, ok := e.(*layerfsEngine); ok && kind == "fork" && err == nil {
			_, err = run(ctx, l.b.lfs("umount", key)) // what is mounted is not forked
		}
		return err
	}
	out.check = func(ctx context.Context) error {
		if kind != "fork" {
			return do(ctx, e.drop(key), "")
		}
		if _, ok := e.(*layerfsEngine); ok {
			return do(ctx, [][]string{c.b.lfs("snapshots", "rm", key, key+"-fork")}, "")
		}
		return do(ctx, append(e.drop(key+"-fork"), e.drop(key)...), "")
	}
	return out
}

// change writes the k files in a directory that shows the image, with contents that no
// other snapshot has, half of them too large for any inline threshold.
func (c *changing) change(dir string) error {
	c.serial++
	for i := range c.changes {
		path := filepath.Join(dir, madeUpName(0, i))
		if i >= 1000 {
			path = filepath.Join(dir, fmt.Sprintf("new/%d", i/100), fmt.Sprint(i))
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		data := make([]byte, 200+(i%2)*8000)
		copy(data, fmt.Sprintf("%d of snapshot %d", i, c.serial))
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
