package unionfstest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// workers is the number of goroutines in the cases below.
const workers = 8

func concurrentCases() theme {
	return theme{"concurrency", []testCase{
		{name: "one copy-up of many writers", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			const each = 50
			together(t, func(int) error {
				f, err := os.OpenFile(u.At("d/big"), os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					return err
				}
				for range each {
					if _, err := f.WriteString("x"); err != nil {
						return errors.Join(err, f.Close())
					}
				}
				return f.Close()
			})
			u.ApplyControl(t, Append("d/big", strings.Repeat("x", workers*each)))
			u.Verify(t)
		}},
		{name: "copy-up and readers", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			together(t, func(i int) error {
				if i == 0 {
					for n := range 20 {
						if _, err := Chmod("d/big", uint32(0o600+n%8)).Do(u.Root); err != nil {
							return err
						}
					}
					_, err := Append("d/big", "!").Do(u.Root)
					return err
				}
				for range 20 {
					content, err := os.ReadFile(u.At("d/big"))
					if err != nil || !strings.HasPrefix(string(content), bigText()) {
						return fmt.Errorf("read %d bytes: %w", len(content), errors.Join(err, errWrong))
					}
				}
				return nil
			})
			u.ApplyControl(t, Chmod("d/big", 0o603), Append("d/big", "!"))
			u.Verify(t)
		}},
		{name: "each in its directory", needs: []Power{LinkedNumbers}, layers: workerDirs(), apart: true, check: func(t *testing.T, u *Union) {
			for _, root := range []string{u.Root, u.Control} {
				together(t, func(i int) error {
					_, err := all(root, busyOps(fmt.Sprintf("w%d", i)))
					return err
				})
			}
			u.Verify(t)
		}},
		{name: "one name by many", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			// Exactly one wins each race for a name.
			for round := range 20 {
				var mu sync.Mutex
				won := map[string]int{}
				together(t, func(i int) error {
					name := fmt.Sprintf("race%d", round)
					for kind, err := range map[string]error{
						"mkdir":  unix.Mkdir(u.At(name), 0o755),
						"unlink": unix.Unlink(u.At(fmt.Sprintf("d/sub/%d-%d", round, i))),
					} {
						if err == nil {
							mu.Lock()
							won[kind]++
							mu.Unlock()
						} else if kind == "mkdir" && errno(err) != unix.EEXIST || kind == "unlink" && errno(err) != unix.ENOENT {
							return err
						}
					}
					return nil
				})
				if won["mkdir"] != 1 || won["unlink"] != 0 {
					t.Fatalf("round %d: %v", round, won)
				}
			}
			won := make(chan int, workers)
			together(t, func(i int) error {
				err := unix.Unlink(u.At("f"))
				if err == nil {
					won <- i
				} else if errno(err) != unix.ENOENT {
					return err
				}
				return nil
			})
			if len(won) != 1 {
				t.Errorf("%d removed the same lower file", len(won))
			}
		}},
		{name: "readdir while names come and go", layers: fullLayers(), apart: true, check: func(t *testing.T, u *Union) {
			together(t, func(i int) error {
				for n := range 30 {
					if i%2 == 0 {
						path := fmt.Sprintf("d/temporary%d-%d", i, n)
						if _, err := all(u.Root, []Op{WriteFile(path, "x"), Chmod(fmt.Sprintf("d/second%04d", i*50+n), 0o600), Unlink(path)}); err != nil {
							return err
						}
						continue
					}
					entries, err := os.ReadDir(u.At("d"))
					if err != nil {
						return err
					}
					seen := map[string]bool{}
					for _, e := range entries {
						if seen[e.Name()] {
							return fmt.Errorf("%s comes twice: %w", e.Name(), errWrong)
						}
						seen[e.Name()] = true
					}
					if kept := 2*fullDir - fullDir/3; len(entries) < kept || len(entries) > kept+workers {
						return fmt.Errorf("%d entries, want %d and a few: %w", len(entries), kept, errWrong)
					}
				}
				return nil
			})
		}},
		{name: "renames over one name", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			// The name is always there, with one whole content or another.
			must(t, os.WriteFile(u.At("target"), []byte("whole 0"), 0o644))
			together(t, func(i int) error {
				for n := range 50 {
					if i%2 == 0 {
						tmp := fmt.Sprintf("tmp%d", i)
						if _, err := all(u.Root, []Op{WriteFile(tmp, fmt.Sprintf("whole %d", n)), Rename(tmp, "target")}); err != nil {
							return err
						}
						continue
					}
					content, err := os.ReadFile(u.At("target"))
					if err != nil || !strings.HasPrefix(string(content), "whole ") {
						return fmt.Errorf("read %q: %w", content, errors.Join(err, errWrong))
					}
				}
				return nil
			})
		}},
		{name: "removal of one tree by many", layers: fullLayers(), apart: true, check: func(t *testing.T, u *Union) {
			together(t, func(int) error { return os.RemoveAll(u.At("d")) })
			u.ApplyControl(t, RemoveAll("d"))
			u.Verify(t)
		}},
	}}
}

var errWrong = errors.New("not what was written")

// together runs do in several goroutines and fails the test for each error.
func together(t *testing.T, do func(i int) error) {
	t.Helper()
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			if err := do(i); err != nil {
				t.Errorf("worker %d: %v", i, err)
			}
		})
	}
	group.Wait()
}

func workerDirs() [][]Entry {
	var layer []Entry
	for i := range workers {
		dir := fmt.Sprintf("w%d", i)
		layer = append(layer, Dir(dir, 0o755), Dir(dir+"/sub", 0o755))
		for n := range 20 {
			layer = append(layer, File(fmt.Sprintf("%s/f%d", dir, n), 0o644, fmt.Sprint(n)), File(fmt.Sprintf("%s/sub/g%d", dir, n), 0o644, fmt.Sprint(n)))
		}
	}
	return [][]Entry{layer}
}

func busyOps(dir string) []Op {
	var ops []Op
	for n := range 20 {
		f := fmt.Sprintf("%s/f%d", dir, n)
		switch n % 5 {
		case 0:
			ops = append(ops, Append(f, "!"))
		case 1:
			ops = append(ops, Unlink(f), WriteFile(f, "again"))
		case 2:
			ops = append(ops, Rename(f, dir+"/sub/moved"+fmt.Sprint(n)))
		case 3:
			ops = append(ops, Chmod(f, 0o600), MakeLink(f, f+"link"))
		case 4:
			ops = append(ops, Unlink(f), Mkdir(f), WriteFile(f+"/in", "x"))
		}
	}
	return append(ops, RemoveAll(dir+"/sub"), Mkdir(dir+"/sub"), WriteFile(dir+"/sub/new", "new"))
}
