package snapshot_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/snapshot"
	"golang.org/x/sys/unix"
)

// Two forks at one moment of the clock seal under different names.
func TestForkWithAStandingClock(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	var err error
	e.snaps, err = snapshot.New(e.disk, snapshot.Options{Now: func() time.Time { return time.Unix(1, 0) }})
	e.ok(err)
	_, err = e.snaps.Prepare(e.ctx, "a", snapshot.PrepareOptions{})
	e.ok(err)
	for _, n := range []string{"one", "two"} {
		e.ok(os.WriteFile(filepath.Join(e.snaps.Upper("a"), n), []byte(n), 0o600))
		_, err = e.snaps.Fork(e.ctx, "a", snapshot.Key("fork-"+n))
		e.ok(err)
	}
	r, err := e.snaps.OpenSnapshot(e.ctx, "fork-two")
	e.ok(err)
	list, err := r.List("")
	e.ok(err)
	if len(list) != 2 {
		t.Errorf("the second fork has %v, want both files", list)
	}
	e.ok(r.Close())
}

// A directory whose record is of another snapshot, as a copy by hand leaves it, is not
// taken for a sealed one and so not collected.
func TestForeignRecordIsDamage(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	_, err := e.snaps.Prepare(e.ctx, "a", snapshot.PrepareOptions{})
	e.ok(err)
	home := filepath.Dir(e.snaps.Upper("a"))
	e.ok(os.Rename(home, filepath.Join(filepath.Dir(home), "b")))
	if _, err := e.snaps.Stat(e.ctx, "b"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("stat: %v, want ErrInvalid", err)
	}
	if _, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{}); err == nil {
		t.Error("collected beside a record that is not understood")
	}
	if _, err := os.Stat(e.snaps.Upper("b")); err != nil {
		t.Errorf("what was written: %v", err)
	}
}

// What a fork leaves when it is cut before the exchange is collected, and after it, is
// the sealed snapshot.
func TestForkCut(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	_, err := e.snaps.Prepare(e.ctx, "a", snapshot.PrepareOptions{})
	e.ok(err)
	e.ok(os.WriteFile(filepath.Join(e.snaps.Upper("a"), "f"), []byte("x"), 0o600))
	_, err = e.snaps.Fork(e.ctx, "a", "b")
	e.ok(err)
	e.ok(e.snaps.Remove(e.ctx, "b"))
	rec, err := e.snaps.Stat(e.ctx, "a")
	e.ok(err)
	sealed := rec.Below[0]
	homeA, homeS := filepath.Dir(e.snaps.Upper("a")), filepath.Dir(e.snaps.Upper(sealed))
	// The record as it was before the last step.
	data, err := os.ReadFile(filepath.Join(homeS, "snapshot.json"))
	e.ok(err)
	data = []byte(strings.Replace(strings.Replace(string(data), string(sealed), "a", 1), `"sealed"`, `"active"`, 1))
	e.ok(os.WriteFile(filepath.Join(homeS, "snapshot.json"), data, 0o600))
	if got, err := e.snaps.Stat(e.ctx, sealed); err != nil || got.Kind != snapshot.Sealed || got.Key != sealed {
		t.Errorf("after the exchange: %+v, %v, want a sealed snapshot", got, err)
	}
	_, err = e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{})
	e.ok(err)
	if _, err := os.Stat(filepath.Join(e.snaps.Upper(sealed), "f")); err != nil {
		t.Errorf("what was written before the fork: %v", err)
	}
	if tidied, err := os.ReadFile(filepath.Join(homeS, "snapshot.json")); err != nil || !strings.Contains(string(tidied), `"sealed"`) {
		t.Errorf("the record after a collection: %s, %v, want what the fork would have written", tidied, err)
	}
	// And now as it was before the exchange.
	e.ok(os.WriteFile(filepath.Join(homeS, "snapshot.json"), data, 0o600))
	e.ok(unix.Renameat2(unix.AT_FDCWD, homeA, unix.AT_FDCWD, homeS, unix.RENAME_EXCHANGE))
	_, err = e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{})
	e.ok(err)
	if _, err := os.Stat(homeS); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a fork left: %v, want it collected", err)
	}
	if _, err := os.Stat(filepath.Join(e.snaps.Upper("a"), "f")); err != nil {
		t.Errorf("what was written to the source: %v", err)
	}
}

// What a reset leaves when it is cut is collected.
func TestResetCut(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	_, err := e.snaps.Prepare(e.ctx, "a", snapshot.PrepareOptions{})
	e.ok(err)
	fresh := filepath.Join(filepath.Dir(e.snaps.Upper("a")), "fresh")
	e.ok(os.MkdirAll(filepath.Join(fresh, "upper/x"), 0o700))
	r, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{})
	e.ok(err)
	if _, err := os.Stat(fresh); !errors.Is(err, fs.ErrNotExist) || r.Snapshots != 1 {
		t.Errorf("what a reset left: %v, %d collected, want one", err, r.Snapshots)
	}
	if _, err := os.Stat(e.snaps.Upper("a")); err != nil {
		t.Error(err)
	}
}

// What is mounted in the directory of a snapshot is not removed with it.
func TestRemoveSparesMounts(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	_, err := e.snaps.Prepare(e.ctx, "a", snapshot.PrepareOptions{})
	e.ok(err)
	precious, at := t.TempDir(), e.snaps.MountDir("a")
	e.ok(os.WriteFile(filepath.Join(precious, "f"), nil, 0o600))
	e.ok(os.Mkdir(at, 0o700))
	e.ok(unix.Mount(precious, at, "", unix.MS_BIND, ""))
	t.Cleanup(func() { e.unmount(at) })
	if err := e.snaps.Remove(e.ctx, "a"); !errors.Is(err, snapshot.ErrInUse) {
		t.Errorf("remove: %v, want ErrInUse", err)
	}
	e.ok(os.Remove(filepath.Join(filepath.Dir(at), "snapshot.json")))
	_, err = e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{})
	e.ok(err)
	if _, err := os.Stat(filepath.Join(precious, "f")); err != nil {
		t.Errorf("a file of another file system: %v", err)
	}
}
