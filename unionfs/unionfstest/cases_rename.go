package unionfstest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

func renameCases() theme {
	return theme{"rename", []testCase{
		{name: "lower file", layers: oneLayer(), ops: []Op{Rename("f", "new"), Stat("f"), Read("new"), Rename("d/a", "a"), Rename("a", "d/sub/a"), Read("d/sub/a")}},
		{name: "lower file back and forth", layers: oneLayer(), ops: []Op{Rename("f", "x"), Rename("x", "f"), Read("f"), Append("f", "!")}},
		{name: "lower file over lower file", layers: oneLayer(), ops: []Op{Rename("f", "g"), Read("g"), Stat("f"), Unlink("g"), Stat("g")}},
		{name: "upper file over lower file", layers: oneLayer(), ops: []Op{WriteFile("new", "new"), Rename("new", "f"), Read("f"), Unlink("f"), Stat("f")}},
		{name: "lower file over upper file", layers: oneLayer(), ops: []Op{WriteFile("new", "new"), Rename("f", "new"), Read("new"), Stat("f")}},
		{name: "file over whiteout", layers: oneLayer(), ops: []Op{Unlink("f"), Rename("g", "f"), Read("f"), Stat("g"), WriteFile("new", ""), Rename("new", "g"), Unlink("g")}},
		{name: "file over whiteout in a lower layer", layers: twoLayers(), ops: []Op{Rename("d/a", "d/b"), Read("d/b"), Stat("d/a")}},
		{name: "symlink", layers: oneLayer(), ops: []Op{Rename("s", "t"), Read("t"), Rename("dangling", "s"), Stat("s")}},
		{name: "file onto itself and its link", layers: oneLayer(), ops: []Op{Rename("f", "f"), Read("f"), WriteFile("n", "n"), MakeLink("n", "m"), Rename("n", "m"), List("")}},
		{name: "file over directory and back", layers: oneLayer(), ops: []Op{Rename("f", "d"), Rename("f", "empty"), WriteFile("n", ""), Rename("n", "empty"), Rename("empty", "f")}},
		{name: "upper directory", layers: oneLayer(), ops: []Op{
			Mkdir("n"), WriteFile("n/x", "x"), Rename("n", "m"), Read("m/x"), Rename("m", "d/m"), Read("d/m/x"), Rename("d/m", "empty"), Read("empty/x"),
		}},
		{name: "upper directory over empty lower directory", layers: oneLayer(), ops: []Op{Mkdir("n"), WriteFile("n/x", "x"), Rename("n", "empty"), List("empty"), Rename("empty", "n"), Stat("empty")}},
		{name: "upper directory over full lower directory", layers: oneLayer(), ops: []Op{Mkdir("n"), Rename("n", "d"), RemoveAll("d/sub"), Unlink("d/a"), Unlink("d/b"), Rename("n", "d"), List("d")}},
		{name: "upper directory over whiteout", layers: oneLayer(), ops: []Op{Mkdir("n"), WriteFile("n/x", "x"), RemoveAll("d"), Rename("n", "d"), List("d"), Stat("d/a")}},
		{name: "upper directory over whiteouted file", layers: oneLayer(), ops: []Op{Mkdir("n"), WriteFile("n/x", "x"), Unlink("f"), Rename("n", "f"), List("f")}},
		{name: "upper directory with whiteouts under it", layers: oneLayer(), ops: []Op{RemoveAll("d"), Mkdir("d"), WriteFile("d/new", ""), Rename("d", "e/d"), List("e/d"), Stat("d"), Mkdir("d"), List("d")}},
		{name: "into itself", layers: oneLayer(), ops: []Op{Rename("d", "d/sub/d"), Mkdir("n"), Rename("n", "n/n")}},
		{name: "swap by three", layers: oneLayer(), ops: []Op{Rename("f", "tmp"), Rename("g", "f"), Rename("tmp", "g"), Read("f"), Read("g")}},

		{name: "lower directory", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{
			Rename("d", "n"), Stat("d"), List("n"), Read("n/a"), Read("n/sub/deep/y"), Append("n/a", "!"), Unlink("n/b"), WriteFile("n/sub/new", "new"), List("n/sub"),
		}},
		{name: "lower directory and one made in its place", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{Rename("d", "n"), Mkdir("d"), List("d"), WriteFile("d/a", "other"), Read("n/a"), Rename("d", "n/d"), List("n/d")}},
		{name: "merged directory", needs: []Power{DirRename}, layers: twoLayers(), ops: []Op{WriteFile("d/own", "own"), Rename("d", "n"), List("n"), Stat("n/b"), Read("n/a"), Read("n/sub/x"), Read("n/sub/z")}},
		{name: "lower directory into another", needs: []Power{DirRename}, layers: twoLayers(), ops: []Op{Rename("d/sub", "e/sub"), List("e/sub"), Rename("e", "empty/e"), Read("empty/e/sub/deep/y"), Append("empty/e/sub/x", "!")}},
		{name: "lower directory twice", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{Rename("d", "n"), Rename("n", "m"), Rename("m/sub", "m/bus"), Rename("m/bus/deep", "deep"), Read("deep/y"), Read("m/bus/x")}},
		{name: "lower directory back to its name", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{Rename("d", "n"), WriteFile("n/new", "new"), Rename("n", "d"), List("d"), Read("d/a")}},
		{name: "lower directory over empty directory", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{Rename("d", "empty"), List("empty"), Read("empty/sub/x"), Mkdir("d"), Rename("empty", "d"), Read("d/sub/x")}},
		{name: "lower directory over emptied directory", needs: []Power{DirRename}, layers: twoLayers(), ops: []Op{Rename("d", "e"), Unlink("e/2"), Rename("d", "e"), List("e"), Read("e/a")}},
		{name: "lower directory over whiteout", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{RemoveAll("e"), Rename("d", "e"), List("e"), Unlink("f"), Rename("e", "f"), List("f"), Read("f/a")}},
		{name: "child of a renamed directory over the old name", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{Rename("d", "n"), Rename("n/sub", "d"), List("d"), Read("d/x"), List("n")}},
		{name: "remove a renamed directory", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{Rename("d", "n"), RemoveAll("n"), Mkdir("n"), List("n"), Stat("d")}},
		{name: "renamed directory with a name from below", needs: []Power{DirRename}, layers: twoLayers(), ops: []Op{RemoveAll("d/sub"), Rename("e", "d/sub"), List("d/sub"), Stat("d/sub/x"), Stat("d/sub/deep")}},
		{name: "format of a redirect", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{Rename("d", "n"), Rename("n/sub", "sub")}, check: func(t *testing.T, u *Union) {
			if got, ok := u.upperXattr("n", unionfs.Redirect); !ok || got != "d" && got != "/d" {
				t.Errorf("the renamed directory has %s=%q, want \"d\" or \"/d\"", unionfs.Redirect, got)
			}
			if got, _ := u.upperXattr("sub", unionfs.Redirect); got != "/d/sub" {
				t.Errorf("the directory moved to another parent has %s=%q, want \"/d/sub\"", unionfs.Redirect, got)
			}
			entries, err := os.ReadDir(filepath.Join(u.layers.Upper, "n"))
			must(t, err)
			if len(entries) > 1 { // a whiteout for n/sub
				t.Errorf("the rename of a directory copied its entries into the upper: %v", entries)
			}
		}},
		{name: "refused without redirects", layers: twoLayers(), apart: true, check: func(t *testing.T, u *Union) {
			if _, lacking := u.h.lacks([]Power{DirRename}); !lacking {
				t.Skip("the driver renames directories of lower layers")
			}
			for _, path := range []string{"d", "e", "d/sub", "empty"} {
				if _, err := Rename(path, "n").Do(u.Root); errno(err) != unix.EXDEV {
					t.Errorf("rename of the lower directory %q ended with %v, want EXDEV", path, err)
				}
			}
			u.Apply(t, List(""), List("d"), RemoveAll("d"), Mkdir("d"), Rename("d", "n"), List("n"))
			u.Verify(t)
		}},

		{name: "noreplace", layers: oneLayer(), ops: []Op{
			Rename2("f", "g", unix.RENAME_NOREPLACE), Rename2("f", "n", unix.RENAME_NOREPLACE), Rename2("n", "d", unix.RENAME_NOREPLACE), Read("n"),
		}},
		{name: "noreplace onto whiteout", layers: twoLayers(), ops: []Op{
			Unlink("f"), Rename2("g", "f", unix.RENAME_NOREPLACE), Read("f"), Rename2("d/a", "d/b", unix.RENAME_NOREPLACE), Read("d/b"),
			Mkdir("n"), RemoveAll("e"), Rename2("n", "e", unix.RENAME_NOREPLACE), List("e"),
		}},
		{name: "whiteout flag", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			// Only a union that serves as another one's upper needs it. It either works or
			// is refused as unknown.
			_, err := Rename2("f", "n", unix.RENAME_WHITEOUT).Do(u.Root)
			switch errno(err) {
			case unix.EINVAL:
				u.Verify(t)
			case 0:
				if _, err := Read("n").Do(u.Root); err != nil {
					t.Error(err)
				}
			default:
				t.Errorf("RENAME_WHITEOUT ended with %v, want success or EINVAL", err)
			}
		}},
		{name: "unknown flags", layers: oneLayer(), ops: []Op{Rename2("f", "n", unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE), Rename2("f", "n", 1<<10)}},
	}}
}

func exchangeCases() theme {
	return theme{"exchange", []testCase{
		{name: "lower files", layers: oneLayer(), ops: []Op{exchange("f", "g"), Read("f"), Read("g"), Unlink("f"), Stat("f")}},
		{name: "lower and upper file", layers: oneLayer(), ops: []Op{WriteFile("n", "new"), exchange("n", "f"), Read("f"), Read("n"), exchange("f", "d/a"), Read("d/a"), Unlink("n")}},
		{name: "file and symlink", layers: oneLayer(), ops: []Op{exchange("f", "s"), Read("s"), Stat("f")}},
		{name: "upper directories", layers: oneLayer(), ops: []Op{Mkdir("n"), WriteFile("n/1", ""), Mkdir("m"), WriteFile("m/2", ""), exchange("n", "m"), List("n"), List("m")}},
		{name: "upper directory and lower file", layers: oneLayer(), ops: []Op{Mkdir("n"), WriteFile("n/1", ""), exchange("n", "f"), List("f"), Read("n"), exchange("f", "d/a"), List("d/a"), Read("f")}},
		{name: "with nothing", layers: oneLayer(), ops: []Op{exchange("f", "nothing"), Unlink("g"), exchange("f", "g"), exchange("g", "f")}},
		{name: "lower directories", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{exchange("d", "e"), List("d"), List("e"), Read("e/sub/x"), Append("d/1", "!"), Unlink("e/a")}},
		{name: "lower directories twice", needs: []Power{DirRename}, layers: twoLayers(), ops: []Op{exchange("d", "e"), exchange("d", "e"), List("d"), List("e"), Read("d/a"), Append("e/2", "!")}},
		{name: "lower directory and lower file", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{exchange("d", "f"), Read("d"), List("f"), Read("f/sub/x"), Unlink("d"), Mkdir("d"), List("d")}},
		{name: "upper directory and lower directory", needs: []Power{DirRename}, layers: twoLayers(), ops: []Op{Mkdir("n"), WriteFile("n/1", "1"), exchange("n", "d"), List("d"), Stat("d/a"), List("n"), Read("n/a"), RemoveAll("n"), Mkdir("n"), List("n")}},
		{name: "directory and its child", needs: []Power{DirRename}, layers: oneLayer(), ops: []Op{exchange("d", "d/sub"), exchange("d/sub", "d"), List("d")}},
		{name: "across parents", needs: []Power{DirRename}, layers: twoLayers(), ops: []Op{exchange("d/sub", "empty"), List("empty"), List("d/sub"), Read("empty/x"), Read("empty/z"), WriteFile("d/sub/n", "")}},
	}}
}

func exchange(a, b string) Op { return Rename2(a, b, unix.RENAME_EXCHANGE) }
