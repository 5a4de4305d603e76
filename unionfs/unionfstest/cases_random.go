package unionfstest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"testing"

	"golang.org/x/sys/unix"
)

// The random cases: many short walks find more than few long ones, and each can be
// read when it fails.
const (
	randomSeeds = 40
	randomOps   = 80
)

// randomCases apply operations drawn by a fixed seed to a small tree, where they
// meet each other's results all the time. Failing operations are as good as others:
// they must fail alike.
func randomCases() theme {
	th := theme{name: "random"}
	for seed := range uint64(randomSeeds) {
		th.cases = append(th.cases, testCase{
			name: fmt.Sprint("seed ", seed), layers: twoLayers(), apart: true, check: func(t *testing.T, u *Union) {
				_, noDirs := u.h.lacks([]Power{DirRename})
				r := rand.New(rand.NewPCG(seed, 0))
				for range 2 {
					for range randomOps / 2 {
						o := randomOp(r)
						if noDirs && refusedRename(u, o) {
							continue
						}
						u.Apply(t, o)
					}
					u.compare(t, "half-way")
					u.Remount(t)
				}
				u.Verify(t)
			},
		})
	}
	return th
}

// refusedRename reports whether the operation, tried on the union, is a rename that
// the driver refuses with EXDEV.
func refusedRename(u *Union, o Op) bool {
	if o.Name[:6] != "rename" {
		return false
	}
	_, err := o.Do(u.Root)
	if errno(err) == unix.EXDEV {
		return true
	}
	// It went as it should; let the control follow and both be compared later.
	_, _ = o.Do(u.Control)
	return true
}

// randomOp draws an operation on a few names, so that collisions are common.
func randomOp(r *rand.Rand) Op {
	names := []string{"a", "b", "c", "d", "e", "f", "sub", "x"}
	name := func() string {
		p := names[r.IntN(len(names))]
		for range r.IntN(3) {
			p = path.Join(names[3+r.IntN(4)], p)
		}
		return p
	}
	p, q := name(), name()
	switch r.IntN(17) {
	case 0:
		return WriteFile(p, fmt.Sprint("content ", r.IntN(100)))
	case 1:
		return Append(p, "+")
	case 2:
		return Truncate(p, int64(r.IntN(6000)))
	case 3, 4:
		return Unlink(p)
	case 5:
		return Rmdir(p)
	case 6:
		return RemoveAll(p)
	case 7, 8:
		return Mkdir(p)
	case 9, 10, 11:
		return Rename(p, q)
	case 12:
		return exchange(p, q)
	case 13:
		return Rename2(p, q, unix.RENAME_NOREPLACE)
	case 14:
		return MakeLink(p, q)
	case 15:
		return Chmod(p, uint32(r.IntN(0o1000))|usable())
	default:
		return MakeSymlink("f", p)
	}
}

// usable are the mode bits without which who runs the tests could not look at what came
// of them.
func usable() uint32 {
	if os.Geteuid() == 0 {
		return 0o100
	}
	return 0o700
}
