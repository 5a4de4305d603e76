package disk_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/cas/disk"
)

// helperEnv names the part that this test binary plays when another one started it.
const helperEnv = "LAYERFS_DISK_TEST_PART"

func TestMain(m *testing.M) {
	part := os.Getenv(helperEnv)
	if part == "" {
		os.Exit(m.Run())
	}
	parts := map[string]func(context.Context, *disk.Store) error{
		"lock":    holdLock,
		"share":   holdShare,
		"put":     putMany,
		"blob":    putBlob,
		"die":     dieInIngest,
		"publish": publishForever,
		"nosync":  publishForever,
	}
	ctx := context.Background()
	s, err := disk.Open(ctx, os.Args[1], disk.Options{NoSync: part == "nosync"})
	if err == nil {
		err = errors.Join(parts[part](ctx, s), s.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// process is another process that plays a part.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// start starts a process that opens the store in dir and plays a part on it. It is
// killed at the end of the test at the latest.
func start(t *testing.T, dir, part string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), exe, dir)
	cmd.Env = append(os.Environ(), helperEnv+"="+part)
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd, in, bufio.NewScanner(out)}
	t.Cleanup(func() { p.kill(t) })
	return p
}

// expect waits for a line from the process.
func (p *process) expect(t *testing.T, line string) {
	t.Helper()
	if !p.out.Scan() || p.out.Text() != line {
		t.Fatalf("the other process says %q (%v), want %q", p.out.Text(), p.out.Err(), line)
	}
}

// kill ends the process as a crash would.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if p.cmd.ProcessState != nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := p.cmd.Wait(); !errors.As(err, &exit) {
		t.Errorf("the killed process ended with %v", err)
	}
}

// wait waits until the process ends by itself.
func (p *process) wait(t *testing.T) {
	t.Helper()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the other process: %v", err)
	}
}

// pause returns when the process is killed or its input ends.
func pause() error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func holdLock(ctx context.Context, s *disk.Store) error {
	if _, err := s.Lock(ctx, "work"); err != nil {
		return err
	}
	fmt.Println("locked")
	return pause()
}

func holdShare(ctx context.Context, s *disk.Store) error {
	if _, err := s.Share(ctx); err != nil {
		return err
	}
	fmt.Println("shared")
	return pause()
}

// A process that dies has released its locks.
func TestLocksOfTheDead(t *testing.T) {
	s := newStore(t)
	p := start(t, s.Root(), "lock")
	p.expect(t, "locked")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Lock(ended, "work"); !errors.Is(err, context.Canceled) {
		t.Errorf("lock with an ended context: %v", err)
	}
	unlockOther, err := s.Lock(t.Context(), "other work") // is free
	if err != nil {
		t.Fatal(err)
	}
	if err := unlockOther(); err != nil {
		t.Error(err)
	}
	// One who gives up waiting does not get in the way of one who goes on.
	giveUp, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	for _, ctx := range []context.Context{t.Context(), giveUp} {
		go func() {
			unlock, err := s.Lock(ctx, "work")
			if err == nil {
				err = unlock()
			}
			got <- err
		}()
	}
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v, want context.Canceled", err)
	}
	p.kill(t)
	if err := <-got; err != nil {
		t.Errorf("lock after the death of its holder: %v", err)
	}

	p = start(t, s.Root(), "share")
	p.expect(t, "shared")
	go func() { got <- s.Sweep(t.Context(), func(*disk.Sweep) error { return nil }) }()
	p.kill(t)
	if err := <-got; err != nil {
		t.Errorf("sweep after the death of one who shared the lock: %v", err)
	}
}

func TestLockExcludes(t *testing.T) {
	s := newStore(t)
	const n = 200
	var inside atomic.Int32
	done := make(chan error)
	for range 4 {
		go func() {
			for range n {
				unlock, err := s.Lock(t.Context(), "counter")
				if err != nil {
					done <- err
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				inside.Add(-1)
				if err := errors.Join(unlock(), unlock()); err != nil { // twice is allowed
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

const sharedObjects = 1500

// putMany puts the same objects as others of its kind, at the same time.
func putMany(ctx context.Context, s *disk.Store) error {
	in, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	for i := range sharedObjects {
		content := fmt.Sprint("shared ", i)
		if err := in.PutObject(ctx, idOf(content), []byte(content)); err != nil {
			return errors.Join(err, in.Close())
		}
	}
	fmt.Println("ready")
	if err := pause(); err != nil {
		return err
	}
	return errors.Join(in.Publish(ctx), in.Close())
}

// Processes that store the same objects at the same time store each once.
func TestProcessesPutTheSame(t *testing.T) {
	s := newStore(t) // its check compares the kept sums with a walk
	var all []*process
	for range 3 {
		all = append(all, start(t, s.Root(), "put"))
	}
	for _, p := range all {
		p.expect(t, "ready")
	}
	for _, p := range all {
		if err := p.in.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, p := range all {
		p.wait(t)
	}
	if n := checkContents(t, s); n != sharedObjects {
		t.Errorf("the store holds %d objects, want %d", n, sharedObjects)
	}
}

const sharedBlob = "a blob that is dear to make"

func sharedExpect() cas.Expect {
	return cas.Expect{Digest: idOf(sharedBlob).Digest(), Size: int64(len(sharedBlob))}
}

// putBlob says whether it had to write the blob itself.
func putBlob(ctx context.Context, s *disk.Store) error {
	in, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	fmt.Println("begun")
	w, err := in.Blobs().Create(ctx, sharedExpect())
	if err == nil {
		if _, err = io.WriteString(w, sharedBlob); err == nil {
			_, err = w.Commit(ctx)
		}
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return errors.Join(err, in.Close())
	}
	fmt.Println("wrote", in.Stats().Blobs.Count)
	if err := pause(); err != nil {
		return err
	}
	return errors.Join(in.Publish(ctx), in.Close())
}

// Of processes that put one blob, whose digest is known, one does the work: the others
// wait and find it. One that dies at it is followed by the next.
func TestProcessesPutOneBlob(t *testing.T) {
	s := newStore(t)
	first := start(t, s.Root(), "blob")
	first.expect(t, "begun")
	first.expect(t, "wrote 1")
	second := start(t, s.Root(), "blob")
	second.expect(t, "begun")
	first.kill(t)
	second.expect(t, "wrote 1")
	third := start(t, s.Root(), "blob")
	third.expect(t, "begun")
	if err := second.in.Close(); err != nil {
		t.Error(err)
	}
	second.wait(t)
	third.expect(t, "wrote 0")
	if err := third.in.Close(); err != nil {
		t.Error(err)
	}
	third.wait(t)
	if _, err := s.Blobs().Stat(t.Context(), sharedExpect().Digest); err != nil {
		t.Error(err)
	}
	if n, err := s.CleanIngests(t.Context()); err != nil || n != 1 {
		t.Errorf("cleaned %d dead ingests, %v, want 1", n, err)
	}
}

// dieInIngest waits to be killed with an ingest half done.
func dieInIngest(ctx context.Context, s *disk.Store) error {
	in, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	for i := range 1200 {
		content := fmt.Sprint("unpublished ", i)
		if err := in.PutObject(ctx, idOf(content), []byte(content)); err != nil {
			return err
		}
	}
	fmt.Println(in.ID())
	return pause()
}

// What a killed process leaves is recognised, and swept.
func TestDeadIngest(t *testing.T) {
	s := newStore(t)
	p := start(t, s.Root(), "die")
	if !p.out.Scan() {
		t.Fatal(p.out.Err())
	}
	id := p.out.Text()
	infos, err := s.Ingests(t.Context())
	if err != nil || len(infos) != 1 || !infos[0].Live || infos[0].ID != id || infos[0].PID != p.cmd.Process.Pid {
		t.Errorf("ingests %+v, %v, want a live one of the other process", infos, err)
	}
	if err := s.CleanIngest(t.Context(), id); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("cleaning a live ingest: %v, want fs.ErrPermission", err)
	}
	p.kill(t)
	infos, err = s.Ingests(t.Context())
	if err != nil || len(infos) != 1 || infos[0].Live {
		t.Errorf("ingests %+v, %v, want a dead one", infos, err)
	}
	// Half begun, by one that died in Begin; and the rest of a record's writer.
	if err := os.Mkdir(s.Root()+"/ingest/"+strings.Repeat("A", 26), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Root()+"/ingest/"+strings.Repeat("B", 26), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := s.CleanIngests(t.Context()); err != nil || n != 2 {
		t.Errorf("cleaned %d ingests, %v, want 2", n, err)
	}
	if n := checkContents(t, s); n != 0 {
		t.Errorf("the store holds %d contents that were not published", n)
	}
}

// awaitMark returns when an ingest of the store in dir has the mark, or the process that
// sets it has had plenty of opportunity.
func awaitMark(t *testing.T, dir, mark string) {
	t.Helper()
	for range 1_000_000 {
		marks, err := filepath.Glob(filepath.Join(dir, "ingest", "*", mark))
		if err != nil {
			t.Fatal(err)
		}
		if len(marks) > 0 {
			return
		}
	}
	t.Fatalf("no ingest is %s", mark)
}

// One that is killed while it publishes leaves a store that is whole, and says that its
// sums may be off, until they are counted.
func TestKilledWhilePublishing(t *testing.T) {
	for _, mark := range []string{"publishing", "moving"} {
		t.Run(mark, func(t *testing.T) {
			s := newStore(t)
			p := start(t, s.Root(), "publish")
			acknowledged := 0
			for acknowledged < 3 && p.out.Scan() {
				acknowledged++
			}
			awaitMark(t, s.Root(), mark)
			p.kill(t)
			for p.out.Scan() {
				acknowledged++
			}
			before, err := s.Usage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.CleanIngests(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantRounds(t, s, acknowledged)
			checkContents(t, s)
			cleaned, err := s.Usage(t.Context())
			if err != nil || cleaned != before {
				t.Errorf("cleaning has changed the sums from %+v to %+v (%v)", before, cleaned, err)
			}
			after, err := s.Recount(t.Context())
			if err != nil || before.Exact && before != after {
				t.Errorf("sums said to be exact are %+v, a walk counts %+v (%v)", before, after, err)
			}
		})
	}
}

// roundObjects is how many objects a round of publishForever stores: too many to be
// flushed one by one in every other round.
func roundObjects(round int) int { return 5 + 300*(round%2) }

func roundContent(round, i int) string {
	return strings.Repeat(fmt.Sprintf("round %d object %d ", round, i), 1+i*7%400)
}

func roundRecord(round int) string { return fmt.Sprintf("layers/sha256/round%d", round) }

// publishForever publishes round after round and says which is done. Beside it, there is
// a batch that it never publishes.
func publishForever(ctx context.Context, s *disk.Store) error {
	in, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	if err := in.PutObject(ctx, idOf("unpublished"), []byte("unpublished")); err != nil {
		return err
	}
	for round := 0; ; round++ {
		if err := publishRound(ctx, s, round); err != nil {
			return err
		}
		fmt.Println("round", round)
	}
}

func publishRound(ctx context.Context, s *disk.Store, round int) error {
	in, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	for i := range roundObjects(round) {
		content := roundContent(round, i)
		if err := in.PutObject(ctx, idOf(content), []byte(content)); err != nil {
			return errors.Join(err, in.Close())
		}
	}
	err = in.PutRecord(ctx, roundRecord(round), func(w io.Writer) error {
		_, err := io.WriteString(w, "recipe "+fmt.Sprint(round))
		return err
	})
	if err != nil {
		return errors.Join(err, in.Close())
	}
	if err := in.Publish(ctx); err != nil {
		return errors.Join(err, in.Close())
	}
	name := fmt.Sprintf("refs/round%d", round)
	return errors.Join(s.WriteRecord(ctx, name, []byte(roundRecord(round))), in.Close())
}

// wantRounds asserts that the rounds below n are whole, and that a later one whose
// record is there is whole too.
func wantRounds(t *testing.T, s *disk.Store, n int) {
	t.Helper()
	for round := 0; ; round++ {
		b, err := s.ReadRecord(roundRecord(round))
		if errors.Is(err, fs.ErrNotExist) && round >= n {
			return
		}
		if err != nil || string(b) != "recipe "+fmt.Sprint(round) {
			t.Errorf("record of round %d, of which %d were acknowledged: %q, %v", round, n, b, err)
			return
		}
		for i := range roundObjects(round) {
			wantObject(t, s, roundContent(round, i))
		}
		name, err := s.ReadRecord(fmt.Sprintf("refs/round%d", round))
		if err != nil && round < n {
			t.Errorf("name of round %d: %v", round, err)
		} else if err == nil && string(name) != roundRecord(round) {
			t.Errorf("name of round %d is %q", round, name)
		}
	}
}
