package unionfstest

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func metadataCases() theme {
	return theme{"metadata", []testCase{
		{name: "times", layers: [][]Entry{{
			File("negative", 0o644, "", ModTime(time.Unix(-1, 500_000_000))), File("1902", 0o644, "", ModTime(time.Unix(-2_100_000_000, 0))), File("2100", 0o644, "", ModTime(time.Unix(4_102_444_800, 999_999_999))),
			File("epoch", 0o644, "", ModTime(time.Unix(0, 1))), Symlink("link", "x", ModTime(time.Unix(123, 456))), Dir("d", 0o755),
		}}, ops: []Op{
			Chmod("negative", 0o600), Chmod("1902", 0o600), Chmod("2100", 0o600), Chmod("epoch", 0o600), Utimes("link", time.Unix(-5, 6)), Utimes("d", time.Unix(4_102_444_800, 1)), WriteFile("n", ""), Utimes("n", time.Unix(-1, 999_999_999)),
		}},
		{name: "special files", needs: []Power{Devices}, layers: [][]Entry{{
			Node("fifo", unix.S_IFIFO|0o640, 0, 0), Node("sock", unix.S_IFSOCK|0o755, 0, 0), Node("null", unix.S_IFCHR|0o666, 1, 3), Node("large", unix.S_IFCHR|0o600, 259, 70000), Node("block", unix.S_IFBLK|0o660, 7, 1),
			Node("zero-one", unix.S_IFCHR|0o600, 0, 1), Node("blockzero", unix.S_IFBLK|0o600, 0, 0),
		}}, ops: []Op{
			Chmod("fifo", 0o600), Chmod("null", 0o600), Chmod("sock", 0o700), Rename("large", "moved"), Unlink("block"), Mknod("block", unix.S_IFBLK|0o660, 8, 1), Mknod("n", unix.S_IFCHR|0o600, 4095, 1<<20-1), Mknod("p", unix.S_IFIFO|0o600, 0, 0),
			Chmod("zero-one", 0o640), Chmod("blockzero", 0o640),
		}},
		{name: "device works", needs: []Power{Devices}, layers: [][]Entry{{Node("null", unix.S_IFCHR|0o666, 1, 3), Node("zero", unix.S_IFCHR|0o666, 1, 5)}}, apart: true, check: func(t *testing.T, u *Union) {
			var f unix.Statfs_t
			must(t, unix.Statfs(u.Root, &f))
			if f.Flags&unix.ST_NODEV != 0 {
				t.Skip("the mount forbids devices")
			}
			zero := open(t, u.At("zero"), unix.O_RDONLY)
			expectAt(t, zero, 0, "\x00\x00\x00")
			must(t, zero.Close())
			u.Apply(t, Append("null", "swallowed"))
		}},
		{name: "fifo carries data", needs: []Power{Devices}, layers: [][]Entry{{Node("fifo", unix.S_IFIFO|0o600, 0, 0)}}, apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("fifo"), unix.O_RDWR)
			_, err := f.WriteString("through")
			must(t, err)
			got := make([]byte, 7)
			if n, err := f.Read(got); err != nil || string(got[:n]) != "through" {
				t.Errorf("read %q, %v", got, err)
			}
		}},
		{name: "symlinks", layers: [][]Entry{{
			Dir("d", 0o755), File("d/f", 0o644, "found"), Symlink("rel", "d/f"), Symlink("dir", "d"), Symlink("up", "d/../d/f"), Symlink("loop", "loop"), Symlink("binary", "\xff\n "), Symlink("d/back", "../rel"),
		}}, ops: []Op{
			Read("rel"), Read("dir/f"), Read("up"), Read("loop"), Read("d/back"), Append("d/back", "!"), Read("rel"), Chown("rel", 0, 0), Utimes("up", time.Unix(1, 2)), WriteFile("dir/new", "x"), RemoveAll("dir"), Read("d/new"), Rename("d", "d"), Unlink("rel"), MakeSymlink("d/new", "rel"), Read("rel"),
		}},
		{name: "space is the upper's", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			var union, upper unix.Statfs_t
			must(t, unix.Statfs(u.Root, &union))
			must(t, unix.Statfs(u.layers.Upper, &upper))
			if union.Blocks*uint64(union.Bsize) != upper.Blocks*uint64(upper.Bsize) || union.Namelen != upper.Namelen {
				t.Errorf("statfs: %d blocks of %d, names of %d; the upper has %d of %d, %d", union.Blocks, union.Bsize, union.Namelen, upper.Blocks, upper.Bsize, upper.Namelen)
			}
		}},
		{name: "inode flags", needs: []Power{InodeFlags}, layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			u.Apply(t, Append("f", "!"))
			appendOnly(t, u)
		}},
		{name: "inode flags of a lower file", needs: []Power{InodeFlags, LowerInodeFlags}, layers: oneLayer(), apart: true, check: appendOnly},
	}}
}

// appendOnly makes a file append-only and checks that it is.
func appendOnly(t *testing.T, u *Union) {
	t.Helper()
	for _, root := range []string{u.Control, u.Root} {
		setAppendOnly(t, root+"/f", true)
		if _, err := WriteAt("f", "x", 0).Do(root); errno(err) != unix.EPERM {
			t.Errorf("overwriting an append-only file ended with %v, want EPERM", err)
		}
		if _, err := Append("f", "!").Do(root); err != nil {
			t.Errorf("appending to an append-only file: %v", err)
		}
		if _, err := Unlink("f").Do(root); errno(err) != unix.EPERM {
			t.Errorf("removing an append-only file ended with %v, want EPERM", err)
		}
		setAppendOnly(t, root+"/f", false)
	}
	u.Verify(t)
}

// setAppendOnly sets or clears a file's flag FS_APPEND_FL.
func setAppendOnly(t *testing.T, path string, on bool) {
	t.Helper()
	f := open(t, path, unix.O_RDONLY)
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	must(t, err)
	flags &^= unix.STATX_ATTR_APPEND // which has the same value
	if on {
		flags |= unix.STATX_ATTR_APPEND
	}
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags))
	must(t, f.Close())
}
