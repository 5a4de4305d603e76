package container_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/layerfs/layerfs/runtime/container"
)

func newStore(t testing.TB) *container.Store {
	t.Helper()
	var mu sync.Mutex
	locks := map[string]*sync.Mutex{}
	s, err := container.Open(container.Options{Dir: filepath.Join(t.TempDir(), "containers"), Lock: func(_ context.Context, name string) (func() error, error) {
		mu.Lock()
		l := locks[name]
		if l == nil {
			l = &sync.Mutex{}
			locks[name] = l
		}
		mu.Unlock()
		l.Lock()
		return func() error { l.Unlock(); return nil }, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func create(t testing.TB, s *container.Store, name string) *container.Record {
	t.Helper()
	rec := &container.Record{Name: name, Image: "image:1", Snapshot: "snap"}
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	return rec
}

func change(t testing.TB, s *container.Store, id container.ID, f func(*container.State)) *container.State {
	t.Helper()
	st, err := s.Change(t.Context(), id, func(st *container.State) error { f(st); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestNamesAreUnique(t *testing.T) {
	s := newStore(t)
	web := create(t, s, "web")
	if err := s.Create(t.Context(), &container.Record{Name: "web"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second container of that name: %v, want %v", err, fs.ErrExist)
	}
	for _, bad := range []string{"a", "-ab", "a b", "a/b", strings.Repeat("a", 129), string(web.ID)} {
		if err := s.Create(t.Context(), &container.Record{Name: bad}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("name %q: %v, want %v", bad, err, fs.ErrInvalid)
		}
	}
	create(t, s, strings.Repeat("a", 128))
	made := map[string]bool{}
	for range 200 {
		rec := create(t, s, "")
		if _, err := container.ParseName(rec.Name); err != nil || made[rec.Name] || !strings.Contains(rec.Name, "_") {
			t.Errorf("made-up name %q (%v)", rec.Name, err)
		}
		made[rec.Name] = true
	}
}

// Two who want one name at once do not both get it.
func TestNameRace(t *testing.T) {
	s := newStore(t)
	const many = 16
	var wg sync.WaitGroup
	errs := make([]error, many)
	for i := range many {
		wg.Go(func() { errs[i] = s.Create(t.Context(), &container.Record{Name: "race"}) })
	}
	wg.Wait()
	got := 0
	for _, err := range errs {
		if err == nil {
			got++
		} else if !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	}
	if got != 1 {
		t.Errorf("%d got the name", got)
	}
}

func TestFind(t *testing.T) {
	s := newStore(t)
	a := &container.Record{ID: container.ID("abc1" + strings.Repeat("0", 60)), Name: "one"}
	b := &container.Record{ID: container.ID("abc2" + strings.Repeat("0", 60)), Name: "two"}
	c := &container.Record{ID: container.ID("def0" + strings.Repeat("0", 60)), Name: "abc2"} // a name that could be an id
	for _, rec := range []*container.Record{a, b, c} {
		if err := s.Create(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	for word, want := range map[string]*container.Record{"one": a, "/one": a, string(b.ID): b, "abc1": a, "abc2": c, "d": c, "abc20": b} {
		got, err := s.Find(t.Context(), word)
		if err != nil || got.ID != want.ID {
			t.Errorf("%q is %v (%v), want %s", word, got, err, want.Name)
		}
	}
	for word, want := range map[string]error{"abc": container.ErrAmbiguous, "nothing": fs.ErrNotExist, "": fs.ErrNotExist, "abc3": fs.ErrNotExist, "../one": fs.ErrNotExist} {
		if _, err := s.Find(t.Context(), word); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", word, err, want)
		}
	}
}

func TestRename(t *testing.T) {
	s := newStore(t)
	a, b := create(t, s, "aa"), create(t, s, "bb")
	if err := s.Rename(t.Context(), a.ID, "bb"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("rename to a name that is taken: %v", err)
	}
	if err := s.Rename(t.Context(), a.ID, "cc"); err != nil {
		t.Fatal(err)
	}
	if err := s.Rename(t.Context(), b.ID, "aa"); err != nil {
		t.Errorf("rename to a name that was given up: %v", err)
	}
	for word, want := range map[string]container.ID{"cc": a.ID, "aa": b.ID} {
		if c, err := s.Find(t.Context(), word); err != nil || c.ID != want || c.Name != word {
			t.Errorf("%s is %v (%v)", word, c, err)
		}
	}
	if _, err := s.Find(t.Context(), "bb"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old name: %v", err)
	}
}

// sleeper is a process that stands for a container's.
func sleeper(t testing.TB) (*exec.Cmd, container.Proc) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p, err := container.Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, p
}

func TestProc(t *testing.T) {
	cmd, p := sleeper(t)
	if !p.Alive() {
		t.Error("a process that runs is not alive")
	}
	for what, other := range map[string]container.Proc{
		"started later":   {Pid: p.Pid, Start: p.Start + 1, Boot: p.Boot, NS: p.NS},
		"before a reboot": {Pid: p.Pid, Start: p.Start, Boot: "another", NS: p.NS},
		"none":            {},
	} {
		if other.Alive() {
			t.Errorf("the process of another time (%s) is alive", what)
		}
		if err := other.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal to it (%s): %v", what, err)
		}
		if err := other.Verify(); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("its pid is taken for it (%s): %v", what, err)
		}
	}
	elsewhere := container.Proc{Pid: p.Pid, Start: p.Start, Boot: p.Boot, NS: "pid:[1]"}
	if !elsewhere.Alive() {
		t.Error("a process of another pid namespace is called dead")
	}
	if err := elsewhere.Signal(syscall.SIGKILL); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("signal to it: %v", err)
	}
	if err := elsewhere.Verify(); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("its pid is taken for one of here: %v", err)
	}
	if err := p.Verify(); err != nil {
		t.Error(err)
	}
	if !p.Alive() {
		t.Fatal("it was killed by mistake")
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Not waited for yet: a zombie has ended.
	if err := container.Gone(t.Context(), p); err != nil || p.Alive() {
		t.Errorf("a killed process is alive (%v)", err)
	}
	_ = cmd.Wait()
}

// A container whose monitor was killed has ended, and nobody knows how.
func TestLostMonitor(t *testing.T) {
	s := newStore(t)
	monitor, m := sleeper(t)
	process, p := sleeper(t)
	rec := create(t, s, "web")
	change(t, s, rec.ID, func(st *container.State) {
		st.Status, st.Monitor, st.Process, st.Started = container.Running, m, p, time.Now()
	})
	if err := s.Remove(t.Context(), rec.ID); !errors.Is(err, container.ErrActive) {
		t.Errorf("remove one that runs: %v", err)
	}
	if st, err := s.Settle(t.Context(), rec.ID); err != nil || st.Status != container.Running || !p.Alive() {
		t.Errorf("one that is attended was settled: %v (%v)", st, err)
	}
	_ = monitor.Process.Kill()
	_ = monitor.Wait()
	st, err := s.State(rec.ID)
	if err != nil || st.Status != container.Running || !st.Unattended {
		t.Errorf("with its process alive: %+v (%v)", st, err)
	}
	reaped := make(chan struct{})
	go func() {
		_ = process.Wait()
		close(reaped)
	}()
	st, err = s.Settle(t.Context(), rec.ID)
	<-reaped
	if err != nil || st.Status != container.Exited || st.ExitCode != container.ExitLost || st.Error == "" || p.Alive() {
		t.Errorf("settled: %+v (%v)", st, err)
	}
	if err := s.Remove(t.Context(), rec.ID); err != nil {
		t.Error(err)
	}
	if _, err := s.Find(t.Context(), "web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after removal: %v", err)
	}
}

func TestTornState(t *testing.T) {
	s := newStore(t)
	rec := create(t, s, "web")
	if err := os.WriteFile(filepath.Join(s.Dir(rec.ID), "state.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := s.State(rec.ID); err != nil || st.Status != container.Exited {
		t.Errorf("a state that was lost with the power: %+v (%v)", st, err)
	}
}

// What a power cut leaves of a container that was to go is swept; a record that is empty
// for another reason is kept for people to look at.
func TestTornRecord(t *testing.T) {
	s := newStore(t)
	keep := create(t, s, "keep")
	cut := func(rec *container.Record, files ...string) {
		for _, name := range files {
			if err := os.Truncate(filepath.Join(s.Dir(rec.ID), name), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	cut(keep, "container.json")
	for i, files := range [][]string{{"container.json"}, {"container.json", "state.json"}} {
		rec := &container.Record{Name: fmt.Sprintf("gone%d", i), Image: "image:1", Snapshot: "snap", Remove: true}
		if err := s.Create(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		cut(rec, files...)
	}
	if n, err := s.Sweep(t.Context(), false); err != nil || n != 4 { // two directories and their names
		t.Errorf("swept %d (%v), want 4", n, err)
	}
	if _, err := os.Stat(s.Dir(keep.ID)); err != nil {
		t.Error(err)
	}
}

func TestWaitSeesChangesAndRemoval(t *testing.T) {
	s := newStore(t)
	rec := create(t, s, "web")
	_, p := sleeper(t)
	waited := make(chan error, 2)
	wait := func() {
		st, err := s.Wait(t.Context(), rec.ID, func(st *container.State) bool { return st.ExitCode == 7 })
		if err == nil && st.ExitCode != 7 {
			err = fmt.Errorf("exit code %d", st.ExitCode)
		}
		waited <- err
	}
	go wait()
	change(t, s, rec.ID, func(st *container.State) { st.Status, st.Monitor = container.Running, p })
	change(t, s, rec.ID, func(st *container.State) { st.Status, st.ExitCode = container.Exited, 7 })
	if err := <-waited; err != nil {
		t.Error(err)
	}
	change(t, s, rec.ID, func(st *container.State) { st.ExitCode = 0 })
	go wait()
	if err := s.Remove(t.Context(), rec.ID); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("wait for one that is removed: %v", err)
	}
}

func TestSweep(t *testing.T) {
	s := newStore(t)
	keep, lost := create(t, s, "keep"), create(t, s, "lost")
	if err := os.Remove(filepath.Join(s.Dir(lost.ID), "container.json")); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} { // the directory and the name
		if n, err := s.Sweep(t.Context(), dry); err != nil || n != 2 {
			t.Errorf("swept %d (%v)", n, err)
		}
	}
	if n, err := s.Sweep(t.Context(), false); err != nil || n != 0 {
		t.Errorf("swept %d again (%v)", n, err)
	}
	if c, err := s.Find(t.Context(), "keep"); err != nil || c.ID != keep.ID {
		t.Errorf("%v (%v)", c, err)
	}
	create(t, s, "lost")
}

func TestEvents(t *testing.T) {
	s := newStore(t)
	rec := create(t, s, "web")
	s.Emit("create", rec, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- s.Events(ctx, time.Time{}, time.Time{}, true, func(e container.Event) error { got <- e.Action; return nil })
	}()
	if a := <-got; a != "create" {
		t.Errorf("got %s", a)
	}
	s.Emit("start", rec, nil)
	if a := <-got; a != "start" {
		t.Errorf("got %s", a)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	var all []string
	err := s.Events(t.Context(), time.Time{}, time.Now(), false, func(e container.Event) error {
		all = append(all, e.Action+" "+e.Attrs["name"])
		return nil
	})
	if want := "create web,start web"; err != nil || strings.Join(all, ",") != want {
		t.Errorf("events %q (%v), want %q", all, err, want)
	}
}

func TestRestartPolicy(t *testing.T) {
	for _, c := range []struct {
		policy         string
		code, restarts int
		stopped, again bool
	}{
		{"no", 1, 0, false, false}, {"", 1, 0, false, false},
		{"always", 0, 99, false, true}, {"always", 1, 0, true, false},
		{"unless-stopped", 0, 5, false, true}, {"unless-stopped", 0, 5, true, false},
		{"on-failure", 0, 0, false, false}, {"on-failure", 1, 99, false, true}, {"on-failure", 1, 0, true, false},
		{"on-failure:2", 1, 1, false, true}, {"on-failure:2", 1, 2, false, false},
	} {
		p, err := container.ParseRestartPolicy(c.policy)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Again(c.code, c.restarts, c.stopped); got != c.again {
			t.Errorf("%q after code %d, %d restarts, stopped %v: %v", c.policy, c.code, c.restarts, c.stopped, got)
		}
	}
	for _, bad := range []string{"sometimes", "always:3", "on-failure:-1", "on-failure:x", "on-failure:"} {
		if _, err := container.ParseRestartPolicy(bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	var p container.RestartPolicy
	var wait time.Duration
	var waits []time.Duration
	for range 12 {
		wait = p.Delay(wait, time.Second)
		waits = append(waits, wait)
	}
	if waits[0] != 100*time.Millisecond || waits[1] != 200*time.Millisecond || waits[11] != time.Minute {
		t.Errorf("delays %v", waits)
	}
	if d := p.Delay(wait, time.Minute); d != 100*time.Millisecond {
		t.Errorf("delay after a long run %s", d)
	}
}

// What starts made is kept with the container; of two of a path the later one is.
func TestMountPoints(t *testing.T) {
	s := newStore(t)
	rec := create(t, s, "points")
	if points, err := s.MountPoints(rec.ID); err != nil || points != nil {
		t.Errorf("of a container that was never started: %v, %v", points, err)
	}
	at := time.Unix(1e9, 123456789).UTC()
	first := []container.MountPoint{{Path: "/etc", Dir: true, Made: at}, {Path: "/etc/hosts", Made: at}}
	again := container.MountPoint{Path: "/etc/hosts", Made: at.Add(1)}
	for _, made := range [][]container.MountPoint{first, nil, {again}} {
		if err := s.AddMountPoints(t.Context(), rec.ID, made); err != nil {
			t.Fatal(err)
		}
	}
	points, err := s.MountPoints(rec.ID)
	if want := []container.MountPoint{first[0], again}; err != nil || !slices.Equal(points, want) {
		t.Errorf("%v, %v; want %v", points, err, want)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(rec.ID), "mountpoints.json"), []byte("[{]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MountPoints(rec.ID); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("of a damaged file: %v", err)
	}
}
