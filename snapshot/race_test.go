package snapshot_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/snapshot"
)

func noRoots(context.Context, *snapshot.Mark) error { return nil }

// A snapshot is not named for layers that a collector has taken, nor while it sweeps.
func TestPrepareNeedsItsLayers(t *testing.T) {
	e := newEnv(t)
	d := e.layer(baseEntries()...)
	unknown := snapshot.DiffID("sha256:" + strings.Repeat("0", 64))
	o := snapshot.PrepareOptions{Layers: []snapshot.DiffID{d, unknown}}
	if _, err := e.snaps.View(e.ctx, "view", o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("view of a layer that is not there: %v, want ErrNotExist", err)
	}
	unlock, err := e.disk.Exclusive(e.ctx)
	e.ok(err)
	ctx, cancel := context.WithTimeout(e.ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := e.snaps.View(ctx, "view", snapshot.PrepareOptions{Layers: []snapshot.DiffID{d}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("view during a sweep: %v, want it to wait", err)
	}
	e.ok(unlock())
	if _, err := e.snaps.Stat(e.ctx, "view"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after failures: %v, want ErrNotExist", err)
	}
}

// Trees of layers that have no name yet are collected under the hands of who makes them.
func TestStackBesideCollect(t *testing.T) {
	e := newEnv(t)
	d := e.layer(entry{name: "a", data: "x"})
	ctx, cancel := context.WithCancel(e.ctx)
	done := make(chan error)
	go func() {
		for ctx.Err() == nil {
			if _, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 40 {
		r, err := e.snaps.OpenStack(e.ctx, []snapshot.DiffID{d})
		if err != nil {
			t.Error(err)
			break
		}
		e.ok(r.Close())
	}
	cancel()
	e.ok(<-done)
}

// An import that found an object present ends well although a collector takes it.
func TestCollectSparesWhatAnImportFound(t *testing.T) {
	e := newEnv(t)
	e.layer(baseEntries()...)
	e.ok(e.sess.Close())
	data := tarOf(t, append(baseEntries(), entry{name: "z", data: big + "z"}))
	found := &pausing{Reader: bytes.NewReader(data), at: len(data) - 2000, pause: func() {
		_, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{})
		e.ok(err)
	}}
	sess, err := e.snaps.Begin(e.ctx)
	e.ok(err)
	_, _, err = e.snaps.ImportLayer(e.ctx, sess, found, snapshot.LayerExpect{BlobSize: -1})
	e.ok(err)
	report, err := e.snaps.Check(e.ctx, snapshot.CheckOptions{})
	e.ok(err)
	if len(report.Faults) > 0 {
		t.Errorf("fsck: %+v", report.Faults)
	}
	e.ok(sess.Close())
}

// pausing calls pause once, before the byte at is read.
type pausing struct {
	*bytes.Reader
	at    int
	pause func()
}

func (p *pausing) Read(b []byte) (int, error) {
	read := int(p.Size()) - p.Len()
	if p.pause != nil && read >= p.at {
		p.pause()
		p.pause = nil
	}
	if p.pause != nil {
		b = b[:min(len(b), p.at-read)]
	}
	return p.Reader.Read(b)
}

// One damaged record keeps nobody from the other snapshots, stops the collector, and can
// be removed.
func TestDamagedRecord(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	for _, k := range []snapshot.Key{"a", "bad", "c"} {
		_, err := e.snaps.Prepare(e.ctx, k, snapshot.PrepareOptions{})
		e.ok(err)
	}
	record := filepath.Join(filepath.Dir(e.snaps.Upper("bad")), "snapshot.json")
	e.ok(os.WriteFile(record, []byte("{"), 0o600))
	e.ok(os.WriteFile(filepath.Join(e.disk.Root(), "snapshots", "a stray file"), nil, 0o600))
	var keys []string
	e.ok(e.snaps.Walk(e.ctx, func(r *snapshot.Record) error { keys = append(keys, string(r.Key)); return nil }))
	if strings.Join(keys, " ") != "a c" {
		t.Errorf("snapshots %q, want a and c", keys)
	}
	if _, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{}); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "snapshot bad") {
		t.Errorf("collect: %v, want a refusal that names the snapshot", err)
	}
	if _, err := e.snaps.Prepare(e.ctx, "bad", snapshot.PrepareOptions{}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("prepare over a damaged record: %v, want ErrInvalid", err)
	}
	e.ok(e.snaps.Remove(e.ctx, "bad"))
	_, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{})
	e.ok(err)
}

// A record that could not be read again is not written.
func TestRecordTooLarge(t *testing.T) {
	e := newEnv(t)
	_, err := e.snaps.View(e.ctx, "view", snapshot.PrepareOptions{})
	e.ok(err)
	if _, err := e.snaps.SetLabels(e.ctx, "view", map[string]string{"x": strings.Repeat("y", 1<<20)}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("labels of a megabyte: %v, want ErrInvalid", err)
	}
	if _, err := e.snaps.Stat(e.ctx, "view"); err != nil {
		t.Error(err)
	}
}

// A damaged recipe is replaced by importing its layer again.
func TestImportRepairsRecipe(t *testing.T) {
	e := newEnv(t)
	d := e.layer(baseEntries()...)
	name := filepath.Join(e.disk.Root(), "layers/sha256", strings.TrimPrefix(d.String(), "sha256:"))
	e.ok(os.Chmod(name, 0o600))
	e.ok(os.Truncate(name, 100))
	_, _, err := e.snaps.ImportLayer(e.ctx, e.sess, bytes.NewReader(tarOf(t, baseEntries())), snapshot.LayerExpect{DiffID: d, BlobSize: -1})
	e.ok(err)
	if _, err := e.snaps.StatLayer(e.ctx, d); err != nil {
		t.Error(err)
	}
}

// A delta that differs from what its layers give is found, and a sound one is not.
func TestCheckComparesDeltas(t *testing.T) {
	e := newEnv(t)
	base := e.layer(baseEntries()...)
	stacks := [2][]snapshot.DiffID{
		{base, e.layer(entry{name: "tree/.wh.b"}, entry{name: "tree/a/small", data: "changed"})},
		{base, e.layer(entry{name: "usr/lib/.wh..wh..opq"}, entry{name: "usr/lib/so", data: "other"})},
	}
	_, err := e.snaps.Stack(e.ctx, stacks[0][:1], snapshot.StackOptions{})
	e.ok(err)
	var deltas []string
	for i, layers := range stacks {
		st, err := e.snaps.Stack(e.ctx, layers, snapshot.StackOptions{AnyDepth: true})
		e.ok(err)
		if len(st.Trees) != 2 {
			t.Fatalf("%d trees, want a delta on a merged one", len(st.Trees))
		}
		deltas = append(deltas, st.Trees[0])
		_, err = e.snaps.View(e.ctx, snapshot.Key("view"+string(rune('0'+i))), snapshot.PrepareOptions{Layers: layers})
		e.ok(err)
	}
	report, err := e.snaps.Check(e.ctx, snapshot.CheckOptions{})
	e.ok(err)
	if len(report.Faults) > 0 {
		t.Fatalf("faults of sound deltas: %+v", report.Faults)
	}
	e.ok(os.Rename(deltas[1], deltas[0])) // sound by itself
	report, err = e.snaps.Check(e.ctx, snapshot.CheckOptions{})
	e.ok(err)
	if len(report.Faults) != 1 || report.Faults[0].Kind != "tree" {
		t.Errorf("faults: %+v, want one tree", report.Faults)
	}
}

// A snapshot is in use as long as any mount namespace has its mount, though the process
// that mounted it was killed and its lock is free.
func TestInUseElsewhere(t *testing.T) {
	testenv.Root(t)
	testenv.Tools(t, "unshare")
	e := newEnv(t)
	_, err := e.snaps.Prepare(e.ctx, "a", snapshot.PrepareOptions{})
	e.ok(err)
	use, err := e.snaps.Use("a")
	e.ok(err)
	e.ok(use.Close())
	cmd := exec.CommandContext(e.ctx, "unshare", "-m", "sh", "-c", `mount -t tmpfs "$0" "$1" && echo mounted && read -r end`,
		e.snaps.Source("a"), t.TempDir())
	in, err := cmd.StdinPipe()
	e.ok(err)
	out, err := cmd.StdoutPipe()
	e.ok(err)
	e.ok(cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "mounted\n" {
		t.Fatalf("mount in a namespace of its own: %q, %v", line, err)
	}
	if err := e.snaps.Remove(e.ctx, "a"); !errors.Is(err, snapshot.ErrInUse) {
		t.Errorf("remove of a snapshot that is mounted elsewhere: %v, want ErrInUse", err)
	}
	if _, err := e.snaps.Claim(e.ctx, "a"); !errors.Is(err, snapshot.ErrInUse) {
		t.Errorf("claim of a snapshot that is mounted elsewhere: %v, want ErrInUse", err)
	}
	e.ok(in.Close())
	e.ok(ignoreExit(cmd.Wait()))
	e.ok(e.snaps.Remove(e.ctx, "a"))
}

func ignoreExit(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

// An ephemeral snapshot is not collected while its process lives.
func TestEphemeral(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	_, err := e.snaps.Prepare(e.ctx, "a", snapshot.PrepareOptions{Ephemeral: true})
	e.ok(err)
	other, err := snapshot.New(e.disk, snapshot.Options{})
	e.ok(err)
	collect := func() int {
		r, err := other.Collect(e.ctx, noRoots, snapshot.CollectOptions{})
		e.ok(err)
		return r.Snapshots
	}
	if n := collect(); n != 0 {
		t.Errorf("%d snapshots were collected while the process lives", n)
	}
	if _, err := other.Prepare(e.ctx, "a", snapshot.PrepareOptions{Ephemeral: true}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second one of that name: %v, want ErrExist", err)
	}
	// Removed, its name is free; that it is collected after a kill is shown by TestKill of
	// internal/crashtest.
	e.ok(e.snaps.Remove(e.ctx, "a"))
	_, err = other.Prepare(e.ctx, "a", snapshot.PrepareOptions{Ephemeral: true})
	e.ok(err)
}

// The record of an ephemeral snapshot is not flushed: what a power cut leaves of it is a
// leftover, where the same of any other snapshot is damage. A fork of one is no longer
// ephemeral below.
func TestEphemeralCut(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	prepare := func(key snapshot.Key, ephemeral bool) string {
		_, err := e.snaps.Prepare(e.ctx, key, snapshot.PrepareOptions{Ephemeral: ephemeral})
		e.ok(err)
		return filepath.Join(filepath.Dir(e.snaps.Upper(key)), "snapshot.json")
	}
	e.ok(os.Truncate(prepare("gone", true), 0))
	if r, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{}); err != nil || r.Snapshots != 1 {
		t.Errorf("collected %+v (%v), want the snapshot", r, err)
	}
	if _, err := os.Stat(filepath.Dir(e.snaps.Upper("gone"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its home: %v, want fs.ErrNotExist", err)
	}
	prepare("source", true)
	e.ok(os.WriteFile(filepath.Join(e.snaps.Upper("source"), "file"), nil, 0o600))
	fork, err := e.snaps.Fork(e.ctx, "source", "fork")
	e.ok(err)
	e.ok(os.Truncate(filepath.Join(filepath.Dir(e.snaps.Upper(fork.Below[0])), "snapshot.json"), 0))
	if _, err := e.snaps.Stat(e.ctx, fork.Below[0]); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("an empty record of a sealed snapshot: %v, want fs.ErrInvalid", err)
	}
	e.ok(os.Truncate(prepare("kept", false), 0))
	if _, err := e.snaps.Stat(e.ctx, "kept"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("an empty record of a snapshot that is to stay: %v, want fs.ErrInvalid", err)
	}
}
