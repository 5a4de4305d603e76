package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/layerfs/layerfs/bench/report"
	"golang.org/x/sys/unix"
)

// dockerEngine is a Docker daemon of this program's own, with the overlay2 driver.
type dockerEngine struct {
	lacking
	b      *bench
	is     about
	client string
	server string
	d      *daemon
}

func newDockerEngine(ctx context.Context, b *bench) *dockerEngine {
	e := &dockerEngine{lacking: lacking{"docker"}, b: b, is: about{name: "docker", kind: report.Peer, aside: true}}
	var err error
	if e.client, _, err = find(ctx, "docker", "--version"); err == nil {
		e.server, e.is.version, err = find(ctx, "dockerd", "--version")
	}
	if err != nil {
		e.is.absent = err.Error()
	}
	return e
}

func (e *dockerEngine) about() about { return e.is }

func (e *dockerEngine) cmd(args ...string) []string {
	return append([]string{e.client, "--host", "unix://" + e.b.disk.path("docker.sock")}, args...)
}

func (e *dockerEngine) up(ctx context.Context) (err error) {
	if e.d != nil {
		return nil
	}
	e.d, err = startDaemon(ctx, filepath.Join(e.b.work, "dockerd.log"), e.cmd("version"),
		e.server, "--host", "unix://"+e.b.disk.path("docker.sock"), "--data-root", e.b.disk.path("docker"),
		"--exec-root", e.b.disk.path("docker-exec"), "--pidfile", e.b.disk.path("docker.pid"),
		"--cgroup-parent", e.b.group.containers(), "--iptables=false", "--ip6tables=false", "--bridge=none",
		"--storage-driver", "overlay2", "--log-level", "error")
	return err
}

func (e *dockerEngine) down(context.Context) error {
	err := e.d.stop()
	e.d = nil
	return err
}

func (e *dockerEngine) load(a archive) ([][]string, string) {
	if a.form != "docker-archive" && e.is.version < "25" {
		return e.no(e.is.version + " loads docker archives only")
	}
	return [][]string{e.cmd("load", "-q", "-i", a.file)}, ""
}

// mount creates a container: Docker mounts it when it starts.
func (e *dockerEngine) mount(ref, key string) ([][]string, string) {
	return [][]string{e.cmd("create", "--name", key, "--network", "none", ref, "true")}, ""
}

// where mounts the container's layers as Docker would.
func (e *dockerEngine) where(ctx context.Context, key string) (string, error) {
	out, err := output(ctx, e.cmd("inspect", "--format", "{{json .GraphDriver.Data}}", key)...)
	if err != nil {
		return "", err
	}
	var dirs struct{ LowerDir, UpperDir, WorkDir string }
	if err := json.Unmarshal([]byte(out), &dirs); err != nil {
		return "", err
	}
	dir, err := e.b.mountPoint("docker", key)
	if err != nil {
		return "", err
	}
	data := "lowerdir=" + dirs.LowerDir + ",upperdir=" + dirs.UpperDir + ",workdir=" + dirs.WorkDir
	if err := unix.Mount("overlay", dir, "overlay", 0, data); err != nil {
		return "", fmt.Errorf("mount container %s: %w", key, err)
	}
	return dir, nil
}

func (e *dockerEngine) leave(key string) error {
	dir, err := e.b.mountPoint("docker", key)
	if err != nil {
		return err
	}
	return unix.Unmount(dir, 0)
}

func (e *dockerEngine) drop(key string) [][]string { return [][]string{e.cmd("rm", "-f", key)} }

func (e *dockerEngine) diff(key string) ([][]string, string) {
	return [][]string{e.cmd("diff", key)}, ""
}

func (e *dockerEngine) commit(key, ref string) ([][]string, string) {
	return [][]string{e.cmd("commit", key, ref)}, ""
}

func (e *dockerEngine) save(ref, format, file string) ([][]string, string) {
	if format != dockerFormat {
		return e.no(e.is.version + " saves docker archives without compression only")
	}
	return [][]string{e.cmd("save", "-o", file, ref)}, ""
}

func (e *dockerEngine) remove(ref string) ([][]string, string) {
	return [][]string{e.cmd("rmi", "-f", ref)}, ""
}

func (e *dockerEngine) run(ref string, args ...string) ([][]string, string) {
	return [][]string{e.cmd(append([]string{"run", "--rm", "--network", "none", ref}, args...)...)}, ""
}

// ignores: the init layer makes mount points for what the daemon mounts into containers.
func (e *dockerEngine) ignores() []string {
	return append(overlayIgnores(), "dev:*", "dev/*:*", "etc:mtime", "etc/hosts:*", "etc/hostname:*", "etc/resolv.conf:*", "etc/mtab:*", "proc:*", "sys:*", ".dockerenv:*")
}
