package unionfstest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func inodeCases() theme {
	return theme{"inodes", []testCase{
		{name: "constant over copy-up", needs: []Power{StableInodes}, layers: twoLayers(), apart: true, check: func(t *testing.T, u *Union) {
			before := capture(t, u.Root)
			ops := []Op{
				Append("f", "!"), Chmod("g", 0o600), Append("d/a", "!"), Append("d/sub/x", "!"), Chmod("d/sub", 0o700), Chmod("e", 0o700), Utimes("s", epoch()), Append("d/sub/deep/y", "!"),
			}
			u.Apply(t, ops...)
			same(t, before, capture(t, u.Root), "after copy-up")
			u.Remount(t)
			same(t, before, capture(t, u.Root), "after a remount")
			u.Verify(t)
		}},
		{name: "constant over rename", needs: []Power{StableInodes}, layers: twoLayers(), apart: true, check: func(t *testing.T, u *Union) {
			before := capture(t, u.Root)
			u.Apply(t, Rename("f", "d/f"), Append("g", "!"), Rename("g", "gg"))
			for range 2 {
				after := capture(t, u.Root)
				for from, to := range map[string]string{"f": "d/f", "g": "gg"} {
					if before[from].ino != after[to].ino {
						t.Errorf("%s had inode %d, renamed to %s it has %d", from, before[from].ino, to, after[to].ino)
					}
				}
				u.Remount(t)
			}
		}},
		{name: "unique", layers: twoLayers(), apart: true, check: func(t *testing.T, u *Union) {
			u.Apply(t, Append("f", "!"), Mkdir("n"), WriteFile("n/1", ""), WriteFile("n/2", ""), Append("d/a", "!"))
			seen := map[[2]uint64]string{}
			for path, st := range capture(t, u.Root) {
				key := [2]uint64{st.dev, st.ino}
				if other, ok := seen[key]; ok {
					t.Errorf("%q and %q are both inode %d of device %d", path, other, st.ino, st.dev)
				}
				seen[key] = path
			}
		}},
		{name: "one device", needs: []Power{StableInodes}, layers: twoLayers(), apart: true, check: func(t *testing.T, u *Union) {
			u.Apply(t, Append("f", "!"), WriteFile("new", ""), Mkdir("dir"))
			s := capture(t, u.Root)
			for path, st := range s {
				if st.dev != s["."].dev {
					t.Errorf("%q is on device %d, the root on %d", path, st.dev, s["."].dev)
				}
			}
		}},
		{name: "same through descriptor and path", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f, err := os.Open(u.At("f"))
			must(t, err)
			defer f.Close()
			before, err := f.Stat()
			must(t, err)
			must(t, os.Chmod(u.At("f"), 0o600))
			after, err := f.Stat()
			must(t, err)
			path, err := os.Stat(u.At("f"))
			must(t, err)
			if !os.SameFile(before, path) || !os.SameFile(after, path) {
				t.Error("a descriptor opened before copy-up and the path are different files")
			}
			if after.Mode() != 0o600 {
				t.Errorf("the descriptor shows mode %v after a chmod by path", after.Mode())
			}
		}},
		{name: "links share a number", needs: []Power{LinkedNumbers}, layers: oneLayer(), ops: []Op{MakeLink("f", "l"), Append("f", "!")}, check: func(t *testing.T, u *Union) {
			var a, b unix.Stat_t
			must(t, unix.Stat(u.At("f"), &a))
			must(t, unix.Stat(u.At("l"), &b))
			if a.Ino != b.Ino || a.Dev != b.Dev {
				t.Errorf("two names of one file have inodes %d:%d and %d:%d", a.Dev, a.Ino, b.Dev, b.Ino)
			}
		}},
	}}
}

// same demands equal inode numbers of all that both snapshots have.
func same(t *testing.T, before, after snapshot, when string) {
	t.Helper()
	for path, b := range before {
		if a, ok := after[path]; ok && a.ino != b.ino {
			t.Errorf("%q: inode %d at first, %d %s", path, b.ino, a.ino, when)
		}
	}
}
