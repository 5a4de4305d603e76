package unionfstest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

// bigText is a content larger than anything that is kept inline anywhere.
func bigText() string { return strings.Repeat("0123456789abcdef\n", 64*1024) }

func copyUpCases() theme {
	return theme{"copy-up", []testCase{
		{name: "by append", layers: oneLayer(), ops: []Op{Append("d/sub/deep/y", "!"), Read("d/sub/deep/y"), Append("s", "through a symlink")}},
		{name: "by write in the middle", layers: bigLayer(), ops: []Op{WriteAt("d/big", "HERE", 500_000), Read("d/big"), WriteAt("d/big", "beyond", 3_000_000)}},
		{name: "by truncate", layers: bigLayer(), ops: []Op{Truncate("d/big", 100), Read("d/big"), Truncate("d/big", 2_000_000), Truncate("d/empty", 10), Truncate("d/big2", 0), Read("d/big2")}},
		{name: "by O_TRUNC", layers: bigLayer(), ops: []Op{OpenClose("d/big", unix.O_WRONLY|unix.O_TRUNC, 0), Stat("d/big"), OpenClose("d/big2", unix.O_RDONLY|unix.O_TRUNC, 0), Stat("d/big2")}},
		{name: "by open for writing", layers: oneLayer(), ops: []Op{OpenClose("f", unix.O_RDWR, 0), OpenClose("g", unix.O_WRONLY|unix.O_CREAT, 0o777), Stat("g"), Read("f")}},
		{name: "by chmod", layers: bigLayer(), ops: []Op{Chmod("d/big", 0o4711), Chmod("d", 0o1777), Stat("d/big"), Read("d/big"), Append("d/big", "!")}},
		{name: "by chown", needs: []Power{Users}, layers: bigLayer(), ops: []Op{Chown("d/big", 1000, -1), Chown("d/big2", -1, 1000), Chown("d", 7, 8), Read("d/big"), Chown("link", 5, 6), Stat("link"), Append("d/big2", "!")}},
		{name: "by time", layers: bigLayer(), ops: []Op{Utimes("d/big", time.Unix(7, 8)), Utimes("d", time.Unix(9, 10)), Utimes("link", time.Unix(11, 12)), Read("d/big2")}},
		{name: "by attribute", layers: bigLayer(), ops: []Op{Setxattr("d/big", "user.new", "value", 0), Setxattr("d", "user.dir", "value", 0), Getxattr("d/big", "user.new"), Read("d/big")}},
		{name: "metadata then content", needs: []Power{LinkedNumbers}, layers: bigLayer(), ops: []Op{
			Chmod("d/big", 0o600), Rename("d/big", "moved"), Read("moved"), Chmod("moved", 0o640), MakeLink("moved", "d/link"), WriteAt("d/link", "X", 10), Read("moved"), Truncate("moved", 20),
		}},
		{name: "metadata then removal", layers: bigLayer(), ops: []Op{Chmod("d/big", 0o600), Unlink("d/big"), Stat("d/big"), Chmod("d/big2", 0o600), Rename("d/big2", "d/big"), Read("d/big"), RemoveAll("d")}},
		{name: "times of parent and content", layers: bigLayer(), ops: []Op{Chmod("d/big", 0o600), Append("d/big2", "")}, check: func(t *testing.T, u *Union) {
			// A copy-up changes directories of the upper, which must not show.
			for _, path := range []string{"d", "."} {
				st, err := look(u.At(path))
				must(t, err)
				if got := time.Unix(st.mtime.Unix()); !got.Equal(epoch()) {
					t.Errorf("after the copy-up of a child, %s has the time %v, want %v", path, got, epoch())
				}
			}
		}},
		{name: "access time is kept", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			before := atime(t, u.At("d/big"))
			must(t, os.Chmod(u.At("d/big"), 0o600))
			if after := atime(t, u.At("d/big")); after != before {
				t.Errorf("access time %v before copy-up, %v after", before, after)
			}
		}},
		{name: "reading copies nothing", layers: twoLayers(), ops: []Op{Read("f"), List("d"), Stat("d/a"), OpenClose("g", unix.O_RDONLY, 0), Read("s")}, check: func(t *testing.T, u *Union) {
			entries, err := os.ReadDir(u.layers.Upper)
			must(t, err)
			if len(entries) != 0 {
				t.Errorf("after reading only, the upper holds %v", entries)
			}
		}},
		{name: "metadata only", needs: []Power{MetadataCopyUp}, layers: bigLayer(), ops: []Op{Chmod("d/big", 0o600), Chown("d/big2", 1, 1)}, check: func(t *testing.T, u *Union) {
			for _, path := range []string{"d/big", "d/big2"} {
				var st unix.Stat_t
				must(t, unix.Lstat(filepath.Join(u.layers.Upper, path), &st))
				if st.Blocks*512 >= int64(len(bigText())) || st.Size != int64(len(bigText())) {
					t.Errorf("after a change of metadata the upper's %s has %d bytes in %d blocks, want the size and no data", path, st.Size, st.Blocks)
				}
				if _, ok := u.upperXattr(path, unionfs.Metacopy); !ok {
					t.Errorf("the upper's %s has no attribute %s", path, unionfs.Metacopy)
				}
			}
		}},
		{name: "work directory stays clean", layers: bigLayer(), ops: []Op{Append("d/big", "!"), Chmod("d/big2", 0o600), RemoveAll("d"), Mkdir("d"), Rename("link", "d/link")}, check: func(t *testing.T, u *Union) {
			detach(t, u.h.Driver, u.Root)
			defer attach(t, u.h.Driver, u.layers, unionfs.Options{}, u.Root)
			err := filepath.WalkDir(u.layers.Work, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					t.Errorf("the work directory keeps %s", path)
				}
				return err
			})
			must(t, err)
		}},
		{name: "sparse file", layers: [][]Entry{{Sparse("sparse", 64<<20, 32<<20, "in the middle")}}, ops: []Op{Append("sparse", "!"), Stat("sparse")}},
		{name: "sparse file keeps holes", needs: []Power{SparseCopyUp}, layers: [][]Entry{{Sparse("sparse", 64<<20, 32<<20, "in the middle")}}, ops: []Op{Append("sparse", "!")}, check: func(t *testing.T, u *Union) {
			var st unix.Stat_t
			must(t, unix.Stat(u.At("sparse"), &st))
			if used := st.Blocks * 512; used > 8<<20 {
				t.Errorf("a copied-up sparse file of 64 MiB uses %d bytes", used)
			}
		}},
	}}
}

func bigLayer() [][]Entry {
	return [][]Entry{{
		Dir("d", 0o755), File("d/big", 0o644, bigText()), File("d/big2", 0o755, bigText(), Xattr("user.a", "b")), File("d/empty", 0o644, ""), Symlink("link", "d/big"),
	}}
}

func atime(t *testing.T, path string) unix.Timespec {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Atim
}
