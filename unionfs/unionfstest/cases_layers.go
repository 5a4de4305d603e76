package unionfstest

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

// oneLayer is a small tree in one layer.
func oneLayer() [][]Entry {
	return [][]Entry{{
		Dir("d", 0o755), File("d/a", 0o644, "lower a"), File("d/b", 0o600, "lower b"),
		Dir("d/sub", 0o750), File("d/sub/x", 0o644, "lower x"), Dir("d/sub/deep", 0o755), File("d/sub/deep/y", 0o444, "lower y"),
		Dir("e", 0o755), File("e/1", 0o644, "one"),
		Dir("empty", 0o700),
		File("f", 0o644, "lower f"), File("g", 0o755, "lower g"),
		Symlink("s", "f"), Symlink("dangling", "nowhere"),
	}}
}

// twoLayers is oneLayer with a second one that adds to it, changes it and removes
// from it.
func twoLayers() [][]Entry {
	return append(oneLayer(), []Entry{
		Dir("d", 0o711), File("d/a", 0o640, "upper a"), File("d/c", 0o644, "upper c"), Whiteout("d/b"),
		Dir("d/sub", 0o755), File("d/sub/z", 0o644, "upper z"),
		OpaqueDir("e", 0o755), File("e/2", 0o644, "two"),
		File("h", 0o644, "upper h"),
	})
}

// manyLayers is a stack of n, each of which adds a file, changes one that all have
// and removes the one that the layer before it added.
func manyLayers(n int) [][]Entry {
	var layers [][]Entry
	for i := range n {
		layer := []Entry{
			Dir("d", 0o755), File("d/all", 0o644, fmt.Sprint("from ", i)), File(fmt.Sprintf("d/only%d", i), 0o644, fmt.Sprint(i)),
		}
		if i > 0 {
			layer = append(layer, Whiteout(fmt.Sprintf("d/only%d", i-1)))
		}
		layers = append(layers, layer)
	}
	return layers
}

func layerCases() theme {
	return theme{"layers", []testCase{
		{name: "no lower entries", ops: []Op{WriteFile("f", "new"), Mkdir("d")}},
		{name: "one layer", layers: oneLayer()},
		{name: "two layers", layers: twoLayers()},
		{name: "thirty layers", layers: manyLayers(30), ops: []Op{List("d"), Read("d/all"), Append("d/all", "!"), Unlink("d/only29")}},
		{name: "file over directory", layers: [][]Entry{
			{Dir("d", 0o755), File("d/a", 0o644, "a")}, {File("d", 0o644, "a file now")},
		}, ops: []Op{Read("d"), Append("d", "!"), Unlink("d"), Mkdir("d"), List("d")}},
		{name: "directory over file", layers: [][]Entry{
			{File("d", 0o644, "a file")}, {Dir("d", 0o755), File("d/a", 0o644, "a")},
		}, ops: []Op{List("d"), RemoveAll("d"), Stat("d"), WriteFile("d", "again")}},
		{name: "directory over file over directory", layers: [][]Entry{
			{Dir("d", 0o755), File("d/bottom", 0o644, "")}, {File("d", 0o644, "")}, {Dir("d", 0o755), File("d/top", 0o644, "")},
		}, ops: []Op{List("d"), Stat("d/bottom")}},
		{name: "symlink over directory", layers: [][]Entry{
			{Dir("d", 0o755), File("d/a", 0o644, "a"), Dir("real", 0o755), File("real/b", 0o644, "b")}, {Symlink("d", "real")},
		}, ops: []Op{List("d"), Read("d/b"), Append("d/b", "!"), Unlink("d")}},
		{name: "whiteout between layers", layers: [][]Entry{
			{Dir("d", 0o755), File("d/a", 0o644, "first"), File("f", 0o644, "first")}, {Whiteout("d"), Whiteout("f")}, {Dir("d", 0o755), File("d/b", 0o644, "third")},
		}, ops: []Op{List("d"), List(""), WriteFile("f", "again"), Stat("d/a")}},
		{name: "whiteout of nothing", layers: [][]Entry{{Whiteout("ghost"), File("f", 0o644, "")}}, ops: []Op{List(""), Stat("ghost"), Mkdir("ghost"), List("ghost")}},
		{name: "opaque directory between layers", layers: [][]Entry{
			{Dir("d", 0o755), File("d/bottom", 0o644, "")}, {OpaqueDir("d", 0o700), File("d/middle", 0o644, "")}, {Dir("d", 0o755), File("d/top", 0o644, "")},
		}, ops: []Op{List("d"), Unlink("d/middle"), Mkdir("d/bottom"), List("d")}},
		{name: "needless whiteout", needs: []Power{NeedlessWhiteouts}, layers: [][]Entry{
			{Dir("d", 0o755), File("d/a", 0o644, "")}, {OpaqueDir("d", 0o755), Whiteout("d/a"), File("d/b", 0o644, "")}, {Dir("alone", 0o755), Whiteout("alone/ghost")},
		}, ops: []Op{List("d"), List("alone"), RemoveAll("d"), Rmdir("alone")}},
		{name: "whiteouts as attributes", layers: [][]Entry{
			{Dir("d", 0o755), File("d/a", 0o644, "a"), File("d/b", 0o644, "b"), Dir("d/c", 0o755), File("d/c/x", 0o644, "x")},
			{Dir("d", 0o755, OverlayXattr(unionfs.Opaque, unionfs.OpaqueWhiteouts)), XattrWhiteout("d/a"), XattrWhiteout("d/c"), File("d/new", 0o644, "")},
		}, ops: []Op{List("d"), Stat("d/a"), WriteFile("d/a", "again"), Mkdir("d/c"), List("d/c"), Rename("d/new", "d/old"), Append("d/b", "!")}},
		{name: "removal of a directory with whiteouts as attributes", needs: []Power{XattrWhiteoutRemoval}, layers: [][]Entry{
			{Dir("d", 0o755), File("d/a", 0o644, "a"), File("d/b", 0o644, "b")},
			{Dir("d", 0o755, OverlayXattr(unionfs.Opaque, unionfs.OpaqueWhiteouts)), XattrWhiteout("d/a")},
		}, ops: []Op{RemoveAll("d"), Mkdir("d"), List("d")}},
		{name: "redirect of a directory in a lower layer", needs: []Power{DirRename}, layers: [][]Entry{
			{Dir("old", 0o755), File("old/a", 0o644, "a"), Dir("old/sub", 0o755), File("old/sub/b", 0o644, "b")},
			{MovedDir("new", "old"), File("new/c", 0o644, "c")},
		}, ops: []Op{List(""), List("new"), Read("new/sub/b"), Append("new/sub/b", "!"), Rename("new", "newer"), Mkdir("old"), List("old")}},
		{name: "root directory metadata", layers: [][]Entry{{Dir("", 0o700, Owner(1, 2), Xattr("user.root", "yes"))}}, needs: []Power{Users}, ops: []Op{
			Stat(""), Getxattr("", "user.root"), Chmod("", 0o1755), Setxattr("", "user.more", "x", 0), WriteFile("n", ""),
		}},
		{name: "names of any bytes", layers: [][]Entry{{
			File("new\nline", 0o644, "1"), File("tab\tand space ", 0o644, "2"), File("\xff\xfe not UTF-8", 0o644, "3"), File("-", 0o644, "4"),
			File("back\\slash", 0o644, "5"), File("comma,colon:", 0o644, "6"), Dir("\x01", 0o755), File("\x01/\x7f", 0o644, "7"),
		}}, ops: []Op{
			Append("new\nline", "!"), Unlink("\xff\xfe not UTF-8"), Rename("comma,colon:", "a:b,c"), RemoveAll("\x01"), WriteFile("\xc3\x28", "new"),
		}},
		{name: "reserved names are ordinary", layers: [][]Entry{{
			File(".wh.foo", 0o644, "1"), File("foo", 0o644, "2"), Dir("d", 0o755), File("d/.wh..wh..opq", 0o644, "3"), File("d/a", 0o644, "4"), File(".wh..opq", 0o644, "5"),
		}}, ops: []Op{
			Read("foo"), Read("d/a"), WriteFile(".wh.bar", "new"), WriteFile("bar", "new"), Unlink(".wh.foo"), Read("foo"), Mkdir("d/.wh.sub"), Unlink("d/.wh..wh..opq"),
			Rename(".wh..opq", "d/.wh..wh..orph"), List(""), List("d"),
		}},
		{name: "names of 255 bytes", layers: [][]Entry{{
			File(long('a'), 0o644, "lower"), Dir(long('d'), 0o755), File(long('d')+"/"+long('b'), 0o644, "lower"), File(long('c'), 0o644, ""),
		}}, ops: []Op{
			Unlink(long('a')), WriteFile(long('a'), "again"), Unlink(long('c')), Append(long('d')+"/"+long('b'), "!"), RemoveAll(long('d')), Mkdir(long('d')), List(long('d')),
			WriteFile(long('x')+"x", "one byte too long"),
		}},
		{name: "read-only view", layers: twoLayers(), apart: true, check: func(t *testing.T, u *Union) {
			detach(t, u.h.Driver, u.Root)
			views := []unionfs.Layers{
				{Lower: u.layers.Lower, Data: u.layers.Data},
				{Lower: u.layers.Lower, Data: u.layers.Data, Upper: u.layers.Upper, Work: u.layers.Work},
			}
			for _, layers := range views {
				attach(t, u.h.Driver, layers, unionfs.Options{ReadOnly: true}, u.Root)
				u.compare(t, "in a read-only view")
				for _, o := range []Op{
					Append("f", "!"), Mkdir("new"), Unlink("f"), Chmod("f", 0o600), Rename("f", "g"), Truncate("f", 0), Setxattr("f", "user.x", "y", 0), Utimes("f", epoch()),
				} {
					if _, err := o.Do(u.Root); errno(err) != unix.EROFS {
						t.Errorf("%s in a read-only view ended with %v, want EROFS", o.Name, err)
					}
				}
				detach(t, u.h.Driver, u.Root)
			}
		}},
		{name: "read-only view of one layer", layers: [][]Entry{{File("f", 0o644, "alone")}}, apart: true, check: func(t *testing.T, u *Union) {
			detach(t, u.h.Driver, u.Root)
			attach(t, u.h.Driver, unionfs.Layers{Lower: u.layers.Lower, Data: u.layers.Data}, unionfs.Options{ReadOnly: true}, u.Root)
			u.compare(t, "in a read-only view")
		}},
		{name: "upper alone", apart: true, check: func(t *testing.T, u *Union) {
			detach(t, u.h.Driver, u.Root)
			u.layers.Lower, u.dirs, u.before = nil, nil, nil
			attach(t, u.h.Driver, u.layers, unionfs.Options{}, u.Root)
			u.Apply(t, WriteFile("f", "new"), Mkdir("d"), Rename("f", "d/f"), Unlink("d/f"), List("d"))
			u.Verify(t)
		}},
		{name: "sealed upper as a layer", layers: twoLayers(), apart: true, check: func(t *testing.T, u *Union) {
			// What one union wrote is the topmost lower of the next one, twice over.
			u.Apply(t, Append("f", "!"), Unlink("d/a"), RemoveAll("e"), Mkdir("e"), WriteFile("e/new", "new"), Chmod("g", 0o700), Rename("h", "hh"))
			seal(t, u)
			u.Apply(t, Append("f", "?"), WriteFile("d/a", "again"), Unlink("e/new"), Chown("g", 3, 4), Append("hh", "!"), Unlink("s"))
			seal(t, u)
			u.Apply(t, List("e"), Append("g", "!"), RemoveAll("d"), MakeSymlink("g", "s"))
			u.Verify(t)
		}},
		{name: "sealed upper with renamed directories", needs: []Power{DirRename}, layers: twoLayers(), apart: true, check: func(t *testing.T, u *Union) {
			u.Apply(t, Rename("d", "moved"), WriteFile("moved/sub/new", "new"), Mkdir("d"))
			seal(t, u)
			u.Apply(t, Rename("moved/sub", "sub"), Append("sub/new", "!"), Append("sub/x", "!"), Rename("d", "moved/d"))
			seal(t, u)
			u.Apply(t, Rename("sub/deep", "moved/d/deep"), Read("moved/d/deep/y"), Chmod("moved/d/deep/y", 0o600), RemoveAll("moved/sub"))
			u.Verify(t)
		}},
	}}
}

// seal makes the union's upper its topmost lower layer and gives it a new upper.
func seal(t *testing.T, u *Union) {
	t.Helper()
	detach(t, u.h.Driver, u.Root)
	u.dirs = append([]string{u.layers.Upper}, u.dirs...)
	u.before = append([]snapshot{capture(t, u.layers.Upper)}, u.before...)
	u.layers.Lower = append([]unionfs.Lower{{Dir: u.layers.Upper}}, u.layers.Lower...)
	u.layers.Upper, u.layers.Work = u.layers.Upper+"+", u.layers.Work+"+"
	must(t, unix.Mkdir(u.layers.Upper, 0o755))
	must(t, unix.Mkdir(u.layers.Work, 0o755))
	u.inheritRoot(t)
	attach(t, u.h.Driver, u.layers, unionfs.Options{}, u.Root)
	u.compare(t, "after sealing the upper")
}

// long returns a name of the greatest length.
func long(c byte) string { return strings.Repeat(string(c), 255) }
