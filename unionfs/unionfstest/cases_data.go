package unionfstest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func dataCases() theme {
	return theme{"data", []testCase{
		{name: "append", layers: oneLayer(), ops: []Op{Append("f", "1"), Append("f", "2"), Read("f"), Append("new", "x"), WriteFile("new", "x"), Append("new", "y"), Read("new")}},
		{name: "overwrite", layers: bigLayer(), ops: []Op{WriteFile("d/big", "short"), Read("d/big"), WriteFile("d/big2", bigText()+bigText()), Read("d/big2")}},
		{name: "write past the end", layers: oneLayer(), ops: []Op{WriteAt("f", "x", 100_000), Stat("f"), Read("f")}},
		{name: "exclusive create", layers: oneLayer(), ops: []Op{
			OpenClose("f", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644), OpenClose("s", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644),
			OpenClose("n", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o604), Stat("n"), OpenClose("dangling", unix.O_CREAT|unix.O_WRONLY, 0o644), Stat("nowhere"),
		}},
		{name: "fallocate", layers: bigLayer(), ops: []Op{
			Fallocate("d/big", 0, 1_000_000, 1_000_000), Stat("d/big"), Fallocate("d/big2", unix.FALLOC_FL_KEEP_SIZE, 2_000_000, 1_000_000), Stat("d/big2"),
		}},
		{name: "punch and zero", layers: bigLayer(), ops: []Op{
			Fallocate("d/big", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 8192), Read("d/big"), Fallocate("d/big", unix.FALLOC_FL_ZERO_RANGE, 100, 50), Read("d/big"),
		}},
		{name: "collapse and insert", needs: []Power{ShiftFallocate}, layers: bigLayer(), ops: []Op{
			Fallocate("d/big", unix.FALLOC_FL_COLLAPSE_RANGE, 4096, 4096), Read("d/big"), Fallocate("d/big2", unix.FALLOC_FL_INSERT_RANGE, 4096, 4096), Read("d/big2"),
		}},
		{name: "holes", layers: [][]Entry{{Sparse("sparse", 8<<20, 4<<20, "in the middle")}}, apart: true, check: func(t *testing.T, u *Union) {
			for range 2 {
				f := open(t, u.At("sparse"), os.O_RDONLY)
				at, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
				if err != nil || at > 4<<20 {
					t.Errorf("SEEK_DATA gives %d, %v, want at most %d", at, err, 4<<20)
				}
				if hole, err := unix.Seek(int(f.Fd()), 4<<20, unix.SEEK_HOLE); err != nil || hole <= 4<<20 {
					t.Errorf("SEEK_HOLE gives %d, %v", hole, err)
				}
				if _, err := unix.Seek(int(f.Fd()), 9<<20, unix.SEEK_DATA); errno(err) != unix.ENXIO {
					t.Errorf("SEEK_DATA past the end ended with %v, want ENXIO", err)
				}
				must(t, f.Close())
				u.Apply(t, Append("sparse", "!"))
			}
		}},
		{name: "copy_file_range", needs: []Power{LowerCopyRange}, layers: bigLayer(), ops: []Op{copyRange("d/big", "copy"), copyRange("d/big", "d/big2"), Read("copy"), Read("d/big2"), copyRange("copy", "d/empty"), Read("d/empty")}},
		{name: "sendfile", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			out, err := os.Create(filepath.Join(t.TempDir(), "out"))
			must(t, err)
			in := open(t, u.At("d/big"), os.O_RDONLY)
			n, err := unix.Sendfile(int(out.Fd()), int(in.Fd()), nil, len(bigText()))
			if err != nil || n != len(bigText()) {
				t.Errorf("sendfile gives %d, %v", n, err)
			}
			must(t, out.Close())
		}},
		{name: "vectors", layers: oneLayer(), ops: []Op{on("f", "pwritev", func(full string) (err error) {
			fd, err := unix.Open(full, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, unix.Close(fd)) }()
			_, err = unix.Pwritev(fd, [][]byte{[]byte("one"), []byte("two")}, 3)
			return err
		}), Read("f")}},
		{name: "large offsets", layers: oneLayer(), ops: []Op{Truncate("f", 5<<30), Stat("f"), Truncate("f", 3), Read("f"), Truncate("f", -1)}},
	}}
}

// copyRange copies a file with copy_file_range(2), overwriting the start of the other.
func copyRange(from, to string) Op {
	return op(func(root string) (err error) {
		in, err := os.Open(filepath.Join(root, from))
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(filepath.Join(root, to), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, out.Close()) }()
		for {
			n, err := unix.CopyFileRange(int(in.Fd()), nil, int(out.Fd()), nil, 1<<20, 0)
			if n == 0 || err != nil {
				return err
			}
		}
	}, "copy_file_range %s to %s", from, to)
}
