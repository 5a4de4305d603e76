package unionfstest

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// fullDir is the number of entries in each layer of a large directory.
const fullDir = 600

func fullLayers() [][]Entry {
	first, second := []Entry{Dir("d", 0o755)}, []Entry{Dir("d", 0o755)}
	for i := range fullDir {
		first = append(first, File(fmt.Sprintf("d/first%04d", i), 0o644, ""))
		second = append(second, File(fmt.Sprintf("d/second%04d", i), 0o644, ""))
	}
	for i := 0; i < fullDir; i += 3 {
		second = append(second, Whiteout(fmt.Sprintf("d/first%04d", i)))
	}
	return [][]Entry{first, second}
}

func readdirCases() theme {
	return theme{"readdir", []testCase{
		{name: "large directory", layers: fullLayers(), ops: []Op{List("d"), WriteFile("d/new", ""), Unlink("d/second0000"), Append("d/first0001", "!"), List("d")}},
		{name: "small buffers", layers: fullLayers(), apart: true, check: func(t *testing.T, u *Union) {
			want := entryNames(t, u.At("d"), 64*1024)
			for _, size := range []int{64, 512, 4096} {
				if got := entryNames(t, u.At("d"), size); !slices.Equal(got, want) {
					t.Errorf("a buffer of %d bytes gives %d entries, a large one %d", size, len(got), len(want))
				}
			}
			if hasTwins(want) {
				t.Error("a name comes twice")
			}
			if !slices.Contains(want, ".") || !slices.Contains(want, "..") {
				t.Error("the entries . and .. are missing")
			}
		}},
		{name: "telldir and seekdir", layers: fullLayers(), apart: true, check: func(t *testing.T, u *Union) {
			dir := openDirFile(t, u.At("d"))
			all, err := readDirents(int(dir.Fd()), 1024)
			must(t, err)
			for i := 0; i+1 < len(all); i += 97 {
				if _, err := unix.Seek(int(dir.Fd()), all[i].off, unix.SEEK_SET); err != nil {
					t.Fatal(err)
				}
				next, err := nextDirents(int(dir.Fd()), 1024)
				must(t, err)
				if len(next) == 0 || next[0].name != all[i+1].name {
					t.Fatalf("after seeking to where %q ended comes %v, want %q", all[i].name, next, all[i+1].name)
				}
			}
			if _, err := unix.Seek(int(dir.Fd()), 0, unix.SEEK_SET); err != nil {
				t.Fatal(err)
			}
			again, err := readDirents(int(dir.Fd()), 4096)
			must(t, err)
			if len(again) != len(all) {
				t.Errorf("%d entries after rewinding, %d before", len(again), len(all))
			}
		}},
		{name: "rewind shows what is new", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			dir := openDirFile(t, u.At("d"))
			_, err := readDirents(int(dir.Fd()), 4096)
			must(t, err)
			u.Apply(t, WriteFile("d/new", ""), Unlink("d/a"))
			if _, err := unix.Seek(int(dir.Fd()), 0, unix.SEEK_SET); err != nil {
				t.Fatal(err)
			}
			entries, err := readDirents(int(dir.Fd()), 4096)
			must(t, err)
			var got []string
			for _, e := range entries {
				got = append(got, e.name)
			}
			if !slices.Contains(got, "new") || slices.Contains(got, "a") {
				t.Errorf("after rewinding the directory shows %q", got)
			}
			u.CloseAndVerify(t, dir)
		}},
		{name: "delete while reading", layers: fullLayers(), apart: true, check: func(t *testing.T, u *Union) {
			dir := openDirFile(t, u.At("d"))
			removed := 0
			for {
				batch, err := nextDirents(int(dir.Fd()), 1024)
				must(t, err)
				if len(batch) == 0 {
					break
				}
				for _, e := range batch {
					if e.name != "." && e.name != ".." {
						must(t, os.Remove(u.At("d/"+e.name)))
						removed++
					}
				}
			}
			if want := 2*fullDir - fullDir/3; removed != want {
				t.Errorf("met %d entries while deleting them, want %d", removed, want)
			}
			must(t, os.Remove(u.At("d")))
			must(t, os.RemoveAll(u.Control+"/d"))
			must(t, os.Mkdir(u.Control+"/d", 0o755))
			must(t, os.Mkdir(u.At("d"), 0o755))
			u.CloseAndVerify(t, dir)
		}},
		{name: "create while reading", layers: fullLayers(), apart: true, check: func(t *testing.T, u *Union) {
			// New names may or may not show; those that were there must, once each.
			want := entryNames(t, u.At("d"), 4096)
			dir := openDirFile(t, u.At("d"))
			var got []string
			for i := 0; ; i++ {
				batch, err := nextDirents(int(dir.Fd()), 2048)
				must(t, err)
				if len(batch) == 0 {
					break
				}
				for _, e := range batch {
					if _, isNew := os.Lstat(u.Control + "/d/" + e.name); isNew == nil || e.name == ".." {
						got = append(got, e.name)
					}
				}
				must(t, os.WriteFile(u.At(fmt.Sprintf("d/new%d", i)), nil, 0o644))
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("saw %d of the %d entries that were there before", len(got), len(want))
			}
		}},
		{name: "removed directory that is open", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			dir := openDirFile(t, u.At("d"))
			must(t, os.RemoveAll(u.At("d")))
			entries, err := readDirents(int(dir.Fd()), 4096)
			if err != nil && errno(err) != unix.ENOENT {
				t.Errorf("reading a removed directory ended with %v", err)
			}
			for _, e := range entries {
				if e.name != "." && e.name != ".." {
					t.Errorf("a removed directory shows %q", e.name)
				}
			}
			if err := unix.Mkdirat(int(dir.Fd()), "in", 0o755); errno(err) != unix.ENOENT {
				t.Errorf("making a directory in a removed one ended with %v, want ENOENT", err)
			}
		}},
		{name: "types", needs: []Power{Devices}, layers: [][]Entry{{
			Dir("dir", 0o755), File("file", 0o644, ""), Symlink("link", "x"), Node("fifo", unix.S_IFIFO|0o644, 0, 0), Node("sock", unix.S_IFSOCK|0o644, 0, 0),
			Node("char", unix.S_IFCHR|0o644, 1, 5), Node("block", unix.S_IFBLK|0o644, 7, 0),
		}}, ops: []Op{Chmod("dir", 0o700), Chmod("file", 0o600), Chmod("fifo", 0o600), Chmod("char", 0o600), Mkdir("newdir"), MakeSymlink("y", "newlink")}},
	}}
}

// entryNames returns the sorted names that readdir gives, with "." and "..".
func entryNames(t *testing.T, path string, buffer int) []string {
	t.Helper()
	dir, err := os.Open(path)
	must(t, err)
	defer dir.Close()
	entries, err := readDirents(int(dir.Fd()), buffer)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.name)
	}
	slices.Sort(names)
	return names
}

// hasTwins reports whether a sorted list has equal neighbours.
func hasTwins(sorted []string) bool {
	return len(slices.Compact(slices.Clone(sorted))) != len(sorted)
}
