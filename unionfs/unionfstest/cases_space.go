package unionfstest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs"
)

func spaceCases() theme {
	return theme{"full disk", []testCase{
		{name: "copy-up fails cleanly", needs: []Power{SmallUpper}, layers: largeFile(), apart: true, check: func(t *testing.T, u *Union) {
			onSmallUpper(t, u)
			for _, o := range []Op{Append("large", "!"), WriteAt("large", "x", 0), Truncate("large", 15<<20)} {
				if _, err := o.Do(u.Root); errno(err) != unix.ENOSPC {
					t.Errorf("%s on a full disk ended with %v, want ENOSPC", o.Name, err)
				}
				u.compare(t, "after a copy-up that found no space")
			}
			nothingLeft(t, u)
			// Once there is need for less, all is well.
			u.Apply(t, WriteFile("large", "small now"), Unlink("small"))
			u.Remount(t)
			u.compare(t, "after less was asked for")
		}},
		{name: "a write that does not fit", needs: []Power{SmallUpper}, layers: largeFile(), apart: true, check: func(t *testing.T, u *Union) {
			onSmallUpper(t, u)
			f, err := os.Create(u.At("filler"))
			must(t, err)
			block := make([]byte, 1<<20)
			for err == nil {
				_, err = f.Write(block)
			}
			if errno(err) != unix.ENOSPC {
				t.Errorf("filling the disk ended with %v, want ENOSPC", err)
			}
			must(t, f.Close())
			if _, err := Append("small", "!").Do(u.Root); errno(err) != unix.ENOSPC {
				t.Errorf("a copy-up onto a full disk ended with %v, want ENOSPC", err)
			}
			u.ApplyControl(t, WriteFile("filler", ""))
			u.Apply(t, Unlink("filler"))
			u.Apply(t, Append("small", "!"))
			u.compare(t, "after space was made")
		}},
	}}
}

func largeFile() [][]Entry {
	return [][]Entry{{File("small", 0o644, bigText()[:10000]), File("large", 0o644, largeText())}}
}

func largeText() string {
	text := make([]byte, 0, 16<<20)
	for len(text) < 16<<20 {
		text = append(text, bigText()...)
	}
	return string(text)
}

// onSmallUpper mounts the union anew with an upper on a small file system.
func onSmallUpper(t *testing.T, u *Union) {
	t.Helper()
	detach(t, u.h.Driver, u.Root)
	small := filepath.Join(t.TempDir(), "small")
	must(t, os.Mkdir(small, 0o755))
	must(t, mountSmall(small))
	t.Cleanup(func() {
		u.cleanup(t)
		must(t, mountapi.Unmount(t.Context(), small, true))
	})
	for _, dir := range []string{"upper", "work"} {
		must(t, os.Mkdir(filepath.Join(small, dir), 0o755))
	}
	u.layers.Upper, u.layers.Work = filepath.Join(small, "upper"), filepath.Join(small, "work")
	u.inheritRoot(t)
	attach(t, u.h.Driver, u.layers, unionfs.Options{}, u.Root)
}

// mountSmall mounts a file system of 4 MiB, into which a copy of the large file does
// not fit.
func mountSmall(target string) error {
	return unix.Mount("layerfs-test", target, "tmpfs", 0, "size=4m,mode=0755")
}

// nothingLeft demands that failed copy-ups left no data behind.
func nothingLeft(t *testing.T, u *Union) {
	t.Helper()
	for _, dir := range []string{u.layers.Upper, u.layers.Work} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				t.Errorf("a failed copy-up left %s", path)
			}
			return err
		})
		must(t, err)
	}
}
