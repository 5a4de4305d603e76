package unionfstest

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func linkCases() theme {
	return theme{"links", []testCase{
		{name: "of a lower file", needs: []Power{LinkedNumbers}, layers: oneLayer(), ops: []Op{MakeLink("f", "l"), Stat("f"), Stat("l"), Append("l", "!"), Read("f"), Append("f", "?"), Read("l")}},
		{name: "of a lower file then removed", layers: oneLayer(), ops: []Op{MakeLink("f", "l"), Unlink("f"), Read("l"), Stat("l"), MakeLink("l", "f"), Stat("f"), Unlink("l"), Unlink("f"), Stat("f")}},
		{name: "of an upper file", layers: oneLayer(), ops: []Op{WriteFile("n", "n"), MakeLink("n", "d/l"), MakeLink("d/l", "l2"), Append("l2", "!"), Read("n"), Chmod("n", 0o400), Stat("d/l"), Unlink("n"), Stat("l2")}},
		{name: "onto whiteout", needs: []Power{LinkedNumbers}, layers: oneLayer(), ops: []Op{Unlink("g"), MakeLink("f", "g"), Read("g"), Stat("f"), RemoveAll("d"), MakeLink("f", "d"), Stat("d")}},
		{name: "of a lower symlink", layers: oneLayer(), ops: []Op{MakeLink("s", "t"), Read("t"), Stat("s"), Unlink("s"), Read("t")}},
		{name: "of special files", needs: []Power{Devices}, layers: [][]Entry{{
			Node("fifo", unix.S_IFIFO|0o600, 0, 0), Node("null", unix.S_IFCHR|0o666, 1, 3),
		}}, ops: []Op{MakeLink("fifo", "fifo2"), MakeLink("null", "null2"), Stat("fifo"), Stat("null2"), Unlink("fifo"), Stat("fifo2")}},
		{name: "errors", layers: oneLayer(), ops: []Op{MakeLink("d", "l"), MakeLink("f", "g"), MakeLink("nothing", "l"), MakeLink("f", "nothing/l"), MakeLink("f", "d")}},
		{name: "of links", needs: []Power{LinkedNumbers}, layers: oneLayer(), ops: []Op{
			MakeLink("f", "1"), MakeLink("1", "2"), MakeLink("2", "3"), Rename("1", "one"), Unlink("2"), Stat("one"), MakeLink("3", "d/4"), Rename("d/4", "f"), Stat("f"),
		}},
		{name: "many", layers: oneLayer(), ops: manyLinks(200)},
		{name: "lower links read", layers: lowerLinks(), ops: []Op{Stat("h1"), Stat("h2"), Read("d/h3"), WriteFile("other", "")}},
		{name: "lower links after a change of one", layers: lowerLinks(), apart: true, check: func(t *testing.T, u *Union) {
			if _, lacking := u.h.lacks([]Power{KeptHardLinks}); !lacking {
				t.Skip("the driver keeps them together")
			}
			// The documented deviation: names part, but each keeps a whole content.
			if _, err := Append("h1", " more").Do(u.Root); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				for path, want := range map[string]string{"h1": "linked more", "h2": "linked", "d/h3": "linked"} {
					if got, err := Read(path).Do(u.Root); err != nil || got != want {
						t.Errorf("%s holds %q, %v, want %q", path, got, err, want)
					}
				}
				u.Remount(t)
			}
		}},
		{name: "lower links kept together", needs: []Power{KeptHardLinks}, layers: lowerLinks(), ops: []Op{
			Append("h1", " more"), Read("h2"), Read("d/h3"), Stat("h2"), Unlink("h2"), Stat("h1"), Append("d/h3", "!"), Read("h1"), Rename("h1", "d/h1"),
		}},
	}}
}

func lowerLinks() [][]Entry {
	return [][]Entry{{Dir("d", 0o755), File("h1", 0o644, "linked"), Hardlink("h2", "h1"), Hardlink("d/h3", "h1")}}
}

func manyLinks(n int) []Op {
	ops := []Op{Mkdir("links")}
	for i := range n {
		ops = append(ops, MakeLink("f", filepath.Join("links", string(rune('a'+i%26))+string(rune('A'+i/26)))))
	}
	return append(ops, Stat("f"), Append("links/aA", "!"), Read("f"), Unlink("f"))
}
