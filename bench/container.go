package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/layerfs/layerfs/bench/report"
)

// runLine runs a program that does nothing in a new container of a small image, from the
// start of the command to its end.
func runLine(ctx context.Context, b *bench) error {
	a, bundle, err := b.smallContainers(ctx)
	if err != nil {
		return err
	}
	var cs []contender
	for _, e := range b.engines {
		c := b.contend(e, func() ([][]string, string) { return e.run(a.ref, "/bin/true") })
		if e.about().name == "podman" {
			c.aside = true // its monitor lives on
		}
		cs = append(cs, c)
	}
	serial := 0
	for _, name := range []string{"crun", "runc"} {
		c := b.runtimeContender(ctx, name)
		c.args = func() []string {
			serial++
			return []string{name, "--root", b.disk.path(name), "run", "--bundle", bundle, fmt.Sprintf("run-%d", serial)}
		}
		cs = append(cs, c)
	}
	bwrap := b.runtimeContender(ctx, "bwrap")
	bwrap.args = func() []string {
		return []string{"bwrap", "--unshare-all", "--bind", filepath.Join(bundle, "rootfs"), "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"}
	}
	empty := command("fork and exec of a static program", b.tool("bench/empty")...)
	empty.kind = report.Limit
	_, err = b.compete(ctx, report.Work{Name: "run true in a container", Judge: report.Wall, About: runAbout}, 20, append(cs, bwrap, empty)...)
	return err
}

const runAbout = "From the command to its end, without network. layerfs, Docker, ctr and podman make a writable layer of an image, mount it and remove it; " +
	"crun, runc and bwrap start on a directory that is there."

// execLine starts a program that does nothing in a container that runs.
func execLine(ctx context.Context, b *bench) error {
	a, _, err := b.smallContainers(ctx)
	if err != nil {
		return err
	}
	const box = "box"
	type execution struct {
		contender
		start, exec []string
	}
	lfs := execution{contender: contender{name: "layerfs", kind: report.Layerfs}, start: b.lfs("run", "-d", "--name", box, a.ref, "sleep", "1000"), exec: b.lfs("exec", box, "/bin/true")}
	all := []execution{lfs}
	for _, e := range b.engines {
		x := execution{contender: contender{name: e.about().name, kind: report.Peer, version: e.about().version, absent: e.about().absent, aside: true}}
		switch e := e.(type) {
		case *dockerEngine:
			x.start, x.exec = e.cmd("run", "-d", "--name", box, "--network", "none", a.ref, "sleep", "1000"), e.cmd("exec", box, "/bin/true")
		case *containerdEngine:
			x.start, x.exec = e.cmd("run", "-d", "--cgroup", b.group.containers()+"/"+box, a.ref, box, "sleep", "1000"), e.cmd("tasks", "exec", "--exec-id", "one", box, "/bin/true")
		case *podmanEngine:
			steps, _ := e.run(a.ref, "sleep", "1000")
			start := append(e.cmd("run", "-d", "--name", box), steps[0][len(e.cmd("run", "--rm")):]...)
			x.start, x.exec = start, e.cmd("exec", box, "/bin/true")
		default:
			continue
		}
		all = append(all, x)
	}
	for _, name := range []string{"crun", "runc"} {
		base := []string{name, "--root", b.disk.path(name)}
		sleeping, err := b.bundle(ctx, "sleeping-"+name, a, "/bin/sleep", "1000")
		if err != nil {
			return err
		}
		all = append(all, execution{contender: b.runtimeContender(ctx, name),
			start: append(base[:3:3], "run", "--detach", "--bundle", sleeping, box), exec: append(base[:3:3], "exec", box, "/bin/true")})
	}
	var cs []contender
	for _, x := range all {
		c := x.contender
		c.args = func() []string { return x.exec }
		if c.absent == "" {
			if err := detached(ctx, x.start); err != nil {
				c.absent = lastLine(err)
			} else {
				// Monitors and shims report a start before the first program has begun.
				_, err = output(ctx, x.exec...)
				if err != nil {
					c.absent = lastLine(err)
				}
			}
		}
		cs = append(cs, c)
	}
	if pid, err := firstPID(ctx, b.disk.path("crun"), box); err == nil {
		limit := command("nsenter into its namespaces", "nsenter", "-t", pid, "-m", "-u", "-i", "-n", "-p", "/bin/true")
		limit.kind = report.Limit
		cs = append(cs, limit)
	}
	empty := command("fork and exec of a static program", b.tool("bench/empty")...)
	_, err = b.compete(ctx, report.Work{Name: "exec true in a running container", Judge: report.Wall}, 20, append(cs, empty)...)
	return err
}

// detached runs a command that leaves a process behind, which must not hold our pipes.
func detached(ctx context.Context, args []string) error {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = "'" + a + "'"
	}
	log := filepath.Join(os.TempDir(), "detached.log")
	_, err := run(ctx, []string{"sh", "-c", strings.Join(quoted, " ") + " </dev/null >" + log + " 2>&1"})
	if err == nil {
		return nil
	}
	said, rerr := os.ReadFile(log)
	if rerr != nil {
		return err
	}
	return fmt.Errorf("%w\n%s", err, said)
}

func firstPID(ctx context.Context, root, id string) (string, error) {
	out, err := output(ctx, "crun", "--root", root, "state", id)
	if err != nil {
		return "", err
	}
	var state struct{ Pid int }
	if err := json.Unmarshal([]byte(out), &state); err != nil {
		return "", err
	}
	return fmt.Sprint(state.Pid), nil
}

func (b *bench) runtimeContender(ctx context.Context, name string) contender {
	c := contender{name: name, kind: report.Peer}
	var err error
	if _, c.version, err = find(ctx, name, "--version"); err != nil {
		c.absent = err.Error()
	}
	return c
}

// smallContainers starts engines with a small image loaded, and a bundle of it.
func (b *bench) smallContainers(ctx context.Context) (archive, string, error) {
	if err := b.upAll(ctx); err != nil {
		return archive{}, "", err
	}
	a, err := b.archive(ctx, "busybox", dockerArchive)
	if err != nil {
		return a, "", err
	}
	for name, no := range b.loadAll(ctx, a) {
		if no != "" {
			fmt.Printf("  %s: %s\n", name, no)
		}
	}
	bundle, err := b.bundle(ctx, "true", a, "/bin/true")
	return a, bundle, err
}

// bundle makes a runtime bundle of an image, with the configuration that runc proposes.
func (b *bench) bundle(ctx context.Context, name string, a archive, args ...string) (string, error) {
	dir := b.disk.path("bundle-" + name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if _, err := run(ctx, []string{"cp", "-a", a.extracted, filepath.Join(dir, "rootfs")}); err != nil {
		return "", err
	}
	if _, err := output(ctx, "runc", "spec", "--bundle", dir); err != nil {
		return dir, nil //nolint:nilerr // runc is absent, which its line says; nobody else needs the file
	}
	file := filepath.Join(dir, "config.json")
	var spec map[string]any
	if err := readJSON(file, &spec); err != nil {
		return "", err
	}
	process, ok := spec["process"].(map[string]any)
	linux, ok2 := spec["linux"].(map[string]any)
	if !ok || !ok2 {
		return "", fmt.Errorf("%s has no process or no linux", file)
	}
	process["args"], process["terminal"] = args, false
	linux["cgroupsPath"] = b.group.containers() + "/" + name
	data, err := json.Marshal(spec)
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(file, data, 0o600)
}
