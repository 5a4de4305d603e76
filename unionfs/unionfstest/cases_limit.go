package unionfstest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

func limitCases() theme {
	return theme{"limits", []testCase{
		{name: "tree deeper than PATH_MAX", layers: nil, apart: true, check: func(t *testing.T, u *Union) {
			// 30 levels of 200 bytes, made in the lower by hand, as no path reaches the end.
			const levels = 30
			name := strings.Repeat("n", 200)
			detach(t, u.h.Driver, u.Root)
			lower := filepath.Join(t.TempDir(), "deep")
			must(t, os.Mkdir(lower, 0o755))
			descend(t, lower, name, levels, true, func(dir int) {
				must(t, writeAt(dir, "file", "at the bottom"))
			})
			u.layers.Lower = append([]unionfs.Lower{{Dir: lower}}, u.layers.Lower...)
			if u.h.Layer != nil {
				layer, data := u.h.Layer(t, lower)
				u.layers.Lower[0] = layer
				u.layers.Data = append(u.layers.Data, data...)
			}
			attach(t, u.h.Driver, u.layers, unionfs.Options{}, u.Root)
			for range 2 {
				descend(t, u.Root, name, levels, false, func(dir int) {
					got, err := readAt(dir, "file")
					if err != nil || !strings.HasPrefix(got, "at the bottom") {
						t.Errorf("%d levels down: %q, %v", levels, got, err)
					}
					must(t, appendAt(dir, "file", "!"))
					must(t, unix.Mkdirat(dir, fmt.Sprint("new", len(got)), 0o755))
				})
				u.Remount(t)
			}
			must(t, os.RemoveAll(u.At(name)))
			if _, err := os.Lstat(u.At(name)); !os.IsNotExist(err) {
				t.Errorf("the tree is there after its removal: %v", err)
			}
			u.Remount(t)
			if _, err := os.Lstat(u.At(name)); !os.IsNotExist(err) {
				t.Errorf("the tree is back after a remount: %v", err)
			}
		}},
		{name: "one hundred levels", layers: deepLayer(100), ops: []Op{
			Append(deepPath(100)+"/file", "!"), Chmod(deepPath(50), 0o700), Unlink(deepPath(99) + "/file"), RemoveAll(deepPath(80)), Mkdir(deepPath(80)), List(deepPath(80)),
		}},
		{name: "path of the greatest length", layers: oneLayer(), ops: []Op{
			Stat(strings.Repeat("d/../", 780) + "f"), Stat(strings.Repeat("./", 2100)), Stat(strings.Repeat("x", 256)), MakeSymlink(strings.Repeat("t", 4095), "longlink"), MakeSymlink(strings.Repeat("t", 4096), "toolong"),
		}},
		{name: "many files", layers: fullLayers(), ops: []Op{RemoveAll("d"), Mkdir("d"), List("d")}},
	}}
}

func deepPath(levels int) string { return strings.TrimSuffix(strings.Repeat("l/", levels), "/") }

func deepLayer(levels int) [][]Entry {
	var layer []Entry
	for i := 1; i <= levels; i++ {
		layer = append(layer, Dir(deepPath(i), 0o755), File(deepPath(i)+"/file", 0o644, fmt.Sprint(i)))
	}
	return [][]Entry{layer}
}

// descend walks down levels directories of one name by descriptors, making them if
// asked, and calls bottom with the last.
func descend(t *testing.T, root, name string, levels int, create bool, bottom func(dir int)) {
	t.Helper()
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range levels {
		if create {
			must(t, unix.Mkdirat(dir, name, 0o755))
		}
		next, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, errors.Join(err, unix.Close(dir)))
		dir = next
	}
	bottom(dir)
	must(t, unix.Close(dir))
}

func writeAt(dir int, name, text string) error {
	return withFile(dir, name, unix.O_CREAT|unix.O_WRONLY, func(f *os.File) error { _, err := f.WriteString(text); return err })
}

func appendAt(dir int, name, text string) error {
	return withFile(dir, name, unix.O_APPEND|unix.O_WRONLY, func(f *os.File) error { _, err := f.WriteString(text); return err })
}

func readAt(dir int, name string) (text string, err error) {
	err = withFile(dir, name, unix.O_RDONLY, func(f *os.File) error {
		all, err := io.ReadAll(f)
		text = string(all)
		return err
	})
	return text, err
}

func withFile(dir int, name string, flags int, do func(*os.File) error) error {
	fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	return errors.Join(do(f), f.Close())
}
