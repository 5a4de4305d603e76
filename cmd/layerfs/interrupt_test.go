package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInterrupt asserts that Ctrl-C ends a command that waits for a slow pipe, and that
// it leaves nothing behind.
func TestInterrupt(t *testing.T) {
	for _, args := range [][]string{{"load"}, {"import", "-", "name:1"}} {
		t.Run(args[0], func(t *testing.T) {
			s := newStore(t)
			if r := s.call("images"); r.code != 0 {
				t.Fatal(r)
			}
			before := s.contents()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			cmd := s.command(t.Context(), args...)
			var stderr strings.Builder
			cmd.Stdin, cmd.Stderr = r, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			// The beginning of an archive, so that it is reading when the signal comes.
			head := filesLayer(t, map[string]string{"blobs/sha256/" + strings.Repeat("ab", 32): strings.Repeat("x", 5000)})[:3000]
			if _, err := w.Write(head); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { n := unread(t, r); return n == 0 && ingests(t, s.root) > 0 })
			if err := cmd.Process.Signal(unix.SIGINT); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			select {
			case err = <-done:
			case <-time.After(time.Minute):
				t.Error("it goes on after a Ctrl-C", cmd.Process.Kill(), <-done)
			}
			if code := cmd.ProcessState.ExitCode(); code != codeInterrupted {
				t.Errorf("code %d (%v), want %d; it says %s", code, err, codeInterrupted, stderr.String())
			}
			if stderr.String() != "layerfs: interrupted\n" {
				t.Errorf("it says %q", stderr.String())
			}
			if n := ingests(t, s.root); n != 0 {
				t.Errorf("%d ingests are left", n)
			}
			if after := s.contents(); after != before {
				t.Errorf("the store was\n%s\nand is\n%s", before, after)
			}
			s.sound()
		})
	}
}

func ingests(t testing.TB, root string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, "ingest"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// unread returns how many bytes wait in a pipe.
func unread(t testing.TB, r *os.File) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for a minute")
		}
	}
}

// TestNoReader asserts that a reader that went away ends a command, as of a pipe in a
// shell.
func TestNoReader(t *testing.T) {
	s := newStore(t)
	cmd := s.command(t.Context(), "completion", "bash")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Run(); err == nil {
		t.Error("it wrote to nobody, and succeeded")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
