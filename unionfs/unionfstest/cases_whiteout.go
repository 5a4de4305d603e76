package unionfstest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

func whiteoutCases() theme {
	return theme{"whiteouts", []testCase{
		{name: "unlink lower file", layers: oneLayer(), ops: []Op{Unlink("f"), Stat("f"), List("")}},
		{name: "unlink and create again", layers: oneLayer(), ops: []Op{Unlink("f"), WriteFile("f", "again"), Read("f"), Unlink("f"), Stat("f"), WriteFile("f", "third")}},
		{name: "unlink changed file", layers: oneLayer(), ops: []Op{Append("f", "!"), Unlink("f"), Stat("f")}},
		{name: "unlink lower symlink", layers: oneLayer(), ops: []Op{Unlink("s"), Read("f"), MakeSymlink("g", "s"), Read("s")}},
		{name: "unlink file of the middle layer", layers: twoLayers(), ops: []Op{Unlink("d/a"), Stat("d/a"), Unlink("h")}},
		{name: "create exclusively over whiteout", layers: oneLayer(), ops: []Op{
			OpenClose("f", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600), Unlink("f"), OpenClose("f", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600), Stat("f"),
		}},
		{name: "every type over whiteout", needs: []Power{Devices}, layers: oneLayer(), ops: []Op{
			Unlink("f"), Mkdir("f"), List("f"), Rmdir("f"), MakeSymlink("g", "f"), Unlink("f"), Mknod("f", unix.S_IFIFO|0o600, 0, 0), Unlink("f"),
			Mknod("f", unix.S_IFCHR|0o600, 1, 3), Unlink("f"), MakeLink("g", "f"), Read("f"), Unlink("f"), Mknod("f", unix.S_IFSOCK|0o600, 0, 0), Stat("f"),
		}},
		{name: "remove lower directory", layers: oneLayer(), ops: []Op{Rmdir("d"), RemoveAll("d"), Stat("d"), Stat("d/a"), Rmdir("empty"), Stat("empty")}},
		{name: "remove and make directory", layers: oneLayer(), ops: []Op{RemoveAll("d"), Mkdir("d"), List("d"), Stat("d/a"), Stat("d/sub"), WriteFile("d/a", "new"), List("d")}},
		{name: "remove and make directory twice", layers: twoLayers(), ops: []Op{RemoveAll("d"), Mkdir("d"), WriteFile("d/sub", "a file now"), RemoveAll("d"), Mkdir("d"), Mkdir("d/sub"), List("d/sub")}},
		{name: "file in place of a directory", layers: oneLayer(), ops: []Op{RemoveAll("d"), WriteFile("d", "file"), Stat("d/a"), Unlink("d"), Mkdir("d"), List("d")}},
		{name: "directory in place of a file", layers: oneLayer(), ops: []Op{Unlink("f"), Mkdir("f"), WriteFile("f/in", "x"), List("f")}},
		{name: "rmdir with whiteouted lower entries", layers: oneLayer(), ops: []Op{
			Unlink("d/a"), Unlink("d/b"), Rmdir("d"), RemoveAll("d/sub"), List("d"), Rmdir("d"), Stat("d"), Mkdir("d"), List("d"),
		}},
		{name: "rmdir of nested directories", layers: twoLayers(), ops: []Op{
			Unlink("d/sub/x"), Unlink("d/sub/z"), Rmdir("d/sub"), Unlink("d/sub/deep/y"), Rmdir("d/sub/deep"), Rmdir("d/sub"), Unlink("d/a"), Unlink("d/c"), Rmdir("d"), Stat("d"),
		}},
		{name: "rmdir of upper directory with whiteouts", layers: oneLayer(), ops: []Op{
			RemoveAll("d"), Mkdir("d"), WriteFile("d/a", "x"), Unlink("d/a"), Rmdir("d"), Mkdir("d"), List("d"),
		}},
		{name: "remove everything", layers: twoLayers(), ops: []Op{
			RemoveAll("d"), RemoveAll("e"), RemoveAll("empty"), Unlink("f"), Unlink("g"), Unlink("h"), Unlink("s"), Unlink("dangling"), List(""), WriteFile("f", "first"),
		}},
		{name: "errors", layers: oneLayer(), ops: []Op{
			Unlink("nothing"), Rmdir("nothing"), Rmdir("f"), Unlink("d"), Unlink("f/under"), Rmdir("d/sub"), Mkdir("d"), Mkdir("f"), Mkdir("nothing/in"), OpenClose("d", unix.O_WRONLY, 0),
			OpenClose("d/sub", unix.O_CREAT, 0o600), OpenClose("s", unix.O_NOFOLLOW, 0), OpenClose("f", unix.O_DIRECTORY, 0), OpenClose("f/", unix.O_RDONLY, 0), Rename("nothing", "x"),
		}},
		{name: "device 0/0 by hand", needs: []Power{Devices}, layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			// It would be a whiteout: making it must fail and leave nothing.
			if _, err := Mknod("zero", unix.S_IFCHR|0o600, 0, 0).Do(u.Root); errno(err) != unix.EPERM {
				t.Errorf("mknod of a character device 0/0 ended with %v, want EPERM", err)
			}
			u.Verify(t)
		}},
		{name: "format of a whiteout", layers: oneLayer(), ops: []Op{Unlink("f"), Unlink("d/a"), RemoveAll("e")}, check: func(t *testing.T, u *Union) {
			for _, path := range []string{"f", "d/a", "e"} {
				if !u.isWhiteout(t, path) {
					t.Errorf("the upper has no whiteout at %q", path)
				}
			}
		}},
		{name: "format of an opaque directory", layers: oneLayer(), ops: []Op{RemoveAll("d"), Mkdir("d")}, check: func(t *testing.T, u *Union) {
			if got, _ := u.upperXattr("d", unionfs.Opaque); got != unionfs.OpaqueYes {
				t.Errorf("the upper's directory made over a whiteout has %s=%q, want %q", unionfs.Opaque, got, unionfs.OpaqueYes)
			}
		}},
		{name: "no whiteout without need", layers: oneLayer(), ops: []Op{
			WriteFile("new", "x"), Unlink("new"), Mkdir("dir"), WriteFile("dir/in", "x"), Unlink("dir/in"), Rmdir("dir"), Mkdir("d/new"), Rmdir("d/new"),
		}, check: func(t *testing.T, u *Union) {
			for _, path := range []string{"new", "dir", "d/new"} {
				if _, err := os.Lstat(filepath.Join(u.layers.Upper, path)); !os.IsNotExist(err) {
					t.Errorf("the upper keeps %q, which no layer has: %v", path, err)
				}
			}
		}},
		{name: "whiteout hidden from file systems below", layers: oneLayer(), ops: []Op{Unlink("f")}, check: func(t *testing.T, u *Union) {
			if _, err := os.Lstat(u.At("f")); !os.IsNotExist(err) {
				t.Errorf("the whiteout shows: %v", err)
			}
		}},
	}}
}

// isWhiteout reports whether the upper has a whiteout at path, in either form.
func (u *Union) isWhiteout(t *testing.T, path string) bool {
	t.Helper()
	full := filepath.Join(u.layers.Upper, path)
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		t.Error(err)
		return false
	}
	return formatReader{namespace: u.h.Namespace}.whiteout(place{0, full}, st)
}

// upperXattr returns one of the format's own attributes in the upper.
func (u *Union) upperXattr(path, name string) (string, bool) {
	return formatReader{namespace: u.h.Namespace}.attr(place{0, filepath.Join(u.layers.Upper, path)}, name)
}
