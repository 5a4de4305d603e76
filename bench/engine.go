package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/bench/report"
	"golang.org/x/sys/unix"
)

// about says what an engine is.
type about struct {
	name    string
	kind    report.Kind
	version string
	absent  string // why it cannot be measured at all
	aside   bool   // daemons or monitors of its own do part of the work
}

// engine is a program, or several that are used together, which keep images and mount
// them. Its storage lies on the measured file system. Methods that return steps return
// the commands that do a piece of work, or say what the engine lacks for it.
//
// References are complete names; a key names a writable mount and is made of letters,
// digits and hyphens.
type engine interface {
	about() about
	// up prepares the storage and starts daemons; it does nothing when they run.
	up(ctx context.Context) error
	// down ends daemons. What is mounted on the measured file system is unmounted for it.
	down(ctx context.Context) error

	load(a archive) (steps [][]string, lacks string)
	// mount makes a writable mount of an image, or comes as close as the engine can.
	mount(ref, key string) (steps [][]string, lacks string)
	// where is the directory that shows it.
	where(ctx context.Context, key string) (string, error)
	// leave ends what where needed to show it.
	leave(key string) error
	// drop unmounts and removes what mount made.
	drop(key string) [][]string
	diff(key string) (steps [][]string, lacks string)
	commit(key, ref string) (steps [][]string, lacks string)
	save(ref, format, file string) (steps [][]string, lacks string)
	remove(ref string) (steps [][]string, lacks string)
	run(ref string, args ...string) (steps [][]string, lacks string)
	// ignores lists fields in which its mounts rightly differ from what was extracted.
	ignores() []string
}

// Formats of save.
const (
	dockerFormat = "docker-archive"
	gzipFormat   = "OCI, gzip"
	zstdFormat   = "OCI, zstd"
)

// findEngines looks which engines are on the machine.
func (b *bench) findEngines(ctx context.Context) []engine {
	places := []string{b.disk.path("podman"), b.disk.path("buildah")}
	all := []engine{
		newLayerfsEngine(b),
		newDockerEngine(ctx, b),
		newContainerdEngine(ctx, b),
		newPodmanEngine(ctx, b, places[0]),
		newBuildahEngine(ctx, b, places[1]),
		newUmociEngine(ctx, b),
	}
	var out []engine
	for _, e := range all {
		if a := e.about(); a.kind == report.Layerfs || b.with == nil || slices.Contains(b.with, a.name) {
			out = append(out, e)
		}
	}
	return out
}

// upAll prepares every engine that is there on a new file system.
func (b *bench) upAll(ctx context.Context) error {
	if err := b.fresh(ctx); err != nil {
		return err
	}
	for _, e := range b.engines {
		if e.about().absent != "" {
			continue
		}
		if err := e.up(ctx); err != nil {
			return fmt.Errorf("start %s: %w", e.about().name, err)
		}
	}
	return nil
}

// downAll unmounts what engines have mounted and ends their daemons.
func (b *bench) downAll(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	errs := []error{unmountBelow(b.work + "/mnt")}
	for _, e := range b.engines {
		errs = append(errs, e.down(ctx))
	}
	endBystanders()
	// The overlay drivers of containers/storage and Docker keep their directories mounted.
	return errors.Join(append(errs, unmountBelow(b.disk.dir))...)
}

// endBystanders ends what daemons and engines have left: containers, monitors, servers.
func endBystanders() {
	limit := time.Now().Add(daemonStop)
	for pids := bystanders(); len(pids) > 0 && time.Now().Before(limit); pids = bystanders() {
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// unmountBelow unmounts everything below dir, the latest first.
func unmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var mounts []string
	for l := range strings.Lines(string(data)) {
		if f := strings.Fields(l); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			mounts = append(mounts, f[4])
		}
	}
	for _, m := range slices.Backward(mounts) {
		// What a daemon has just left is busy until its last process has gone.
		limit := time.Now().Add(daemonStop)
		err := unix.Unmount(m, 0)
		for ; errors.Is(err, unix.EBUSY) && time.Now().Before(limit); err = unix.Unmount(m, 0) {
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	return nil
}

// contend makes a contender of an engine. The steps of each turn are asked for anew.
func (b *bench) contend(e engine, steps func() ([][]string, string)) contender {
	a := e.about()
	c := contender{name: a.name, kind: a.kind, version: a.version, absent: a.absent, aside: a.aside}
	if c.absent != "" {
		return c
	}
	if _, c.absent = steps(); c.absent != "" {
		return c
	}
	c.steps = func() [][]string {
		s, _ := steps()
		return s
	}
	return c
}

// do runs steps that are not measured.
func do(ctx context.Context, steps [][]string, lacks string) error {
	if lacks != "" {
		return errors.New(lacks)
	}
	for _, args := range steps {
		if _, err := run(ctx, args); err != nil {
			return err
		}
	}
	return nil
}

// lacksMount is what engines lack whose mount is no work at all.
func lacksMount(e engine, ref, key string) ([][]string, string) {
	steps, lacks := e.mount(ref, key)
	if lacks == "" && len(steps) == 0 {
		lacks = e.about().name + " does not mount: it unpacks"
	}
	return steps, lacks
}

// same compares a directory with the extracted image, in a process of its own because of
// the memory that takes.
func (b *bench) same(ctx context.Context, got, image string, ignore []string) error {
	_, err := run(ctx, b.tool("bench/same", "-ignore", strings.Join(ignore, ","), got, image))
	return err
}

// find looks for a program and asks it for its version: the first word that begins with
// a digit on the line that names the program, or else at all.
func find(ctx context.Context, name string, args ...string) (path, version string, err error) {
	if path, err = exec.LookPath(name); err != nil {
		return "", "", err
	}
	out, err := output(ctx, append([]string{path}, args...)...)
	if err != nil {
		return "", "", err
	}
	for l := range strings.Lines(out) {
		if strings.HasPrefix(l, name) {
			out = l
			break
		}
	}
	for _, w := range strings.Fields(out) {
		w = strings.Trim(strings.TrimPrefix(w, "v"), ",")
		if w != "" && w[0] >= '0' && w[0] <= '9' {
			version, _, _ = strings.Cut(w, "+")
			version, _, _ = strings.Cut(version, "~")
			break
		}
	}
	return path, version, nil
}

// compression is the algorithm of a format of save.
func compression(format string) string {
	if format == zstdFormat {
		return "zstd"
	}
	return "gzip"
}

// mountPoint is the directory on which an engine mounts what key names.
func (b *bench) mountPoint(engine, key string) (string, error) {
	dir := filepath.Join(b.work, "mnt", engine+"-"+key)
	return dir, os.MkdirAll(dir, 0o755)
}

// daemon is a server of a peer that this program runs.
type daemon struct {
	cmd   *exec.Cmd
	ended chan error
	log   string
}

const (
	daemonStart = 30 * time.Second
	daemonStop  = 30 * time.Second
)

// startDaemon starts a server and waits until a command that asks it succeeds.
func startDaemon(ctx context.Context, log string, ask []string, args ...string) (*daemon, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // the process has it
	cmd := exec.CommandContext(context.WithoutCancel(ctx), args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &daemon{cmd: cmd, ended: make(chan error, 1), log: log}
	go func() { d.ended <- cmd.Wait() }()
	for limit := time.Now().Add(daemonStart); ; time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-d.ended:
			return nil, fmt.Errorf("%s ended: %w\n%s", args[0], err, d.said())
		default:
		}
		if _, err := run(ctx, ask); err == nil {
			return d, nil
		}
		if time.Now().After(limit) {
			return nil, errors.Join(fmt.Errorf("%s does not answer within %v\n%s", args[0], daemonStart, d.said()), d.stop())
		}
	}
}

func (d *daemon) said() string {
	data, err := os.ReadFile(d.log)
	if err != nil {
		return ""
	}
	const most = 1000
	return string(data[max(0, len(data)-most):])
}

func (d *daemon) stop() error {
	if d == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.ended: //nolint:errcheck // it was told to end
		return nil
	case <-time.After(daemonStop):
		err := d.cmd.Process.Kill()
		<-d.ended //nolint:errcheck // it was killed
		return errors.Join(fmt.Errorf("%s did not end in %v", d.cmd.Path, daemonStop), err)
	}
}

// lacking is what an engine embeds for the work that it cannot do.
type lacking struct{ who string }

func (l lacking) no(what string) ([][]string, string) { return nil, l.who + " " + what }

func (l lacking) load(archive) ([][]string, string)         { return l.no("does not load images") }
func (l lacking) mount(string, string) ([][]string, string) { return l.no("does not mount images") }
func (l lacking) where(context.Context, string) (string, error) {
	return "", errors.New(l.who + " does not mount images")
}
func (l lacking) leave(string) error                         { return nil }
func (l lacking) drop(string) [][]string                     { return nil }
func (l lacking) diff(string) ([][]string, string)           { return l.no("does not list changes") }
func (l lacking) commit(string, string) ([][]string, string) { return l.no("does not commit") }
func (l lacking) save(string, string, string) ([][]string, string) {
	return l.no("does not write image archives")
}
func (l lacking) remove(string) ([][]string, string)         { return l.no("has nothing to remove images") }
func (l lacking) run(string, ...string) ([][]string, string) { return l.no("does not run containers") }
func (l lacking) up(context.Context) error                   { return nil }
func (l lacking) down(context.Context) error                 { return nil }
func (l lacking) ignores() []string                          { return nil }
