package unionfstest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func mappingCases() theme {
	return theme{"mappings", []testCase{
		{name: "shared write", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("d/big"), os.O_RDWR)
			m := mapFile(t, f, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			copy(m[1000:], "MAPPED")
			must(t, unix.Msync(m, unix.MS_SYNC))
			reader := open(t, u.At("d/big"), os.O_RDONLY)
			expectAt(t, reader, 1000, "MAPPED")
			_, err := f.WriteAt([]byte("WRITTEN"), 2000)
			must(t, err)
			if got := string(m[2000:2007]); got != "WRITTEN" {
				t.Errorf("the mapping shows %q after a write", got)
			}
			must(t, unix.Munmap(m))
			u.ApplyControl(t, WriteAt("d/big", "MAPPED", 1000), WriteAt("d/big", "WRITTEN", 2000))
			u.CloseAndVerify(t, f, reader)
		}},
		{name: "private write", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("d/big"), os.O_RDONLY)
			m := mapFile(t, f, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
			copy(m, "PRIVATE")
			expectAt(t, f, 0, bigText()[:7])
			must(t, unix.Munmap(m))
			u.CloseAndVerify(t, f)
		}},
		{name: "survives unlink", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("d/big"), os.O_RDONLY)
			m := mapFile(t, f, unix.PROT_READ, unix.MAP_SHARED)
			must(t, f.Close())
			u.Apply(t, Unlink("d/big"))
			if string(m) != bigText() {
				t.Error("the mapping of an unlinked file differs")
			}
			must(t, unix.Munmap(m))
			u.Verify(t)
		}},
		{name: "after the descriptor is closed", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("d/big"), os.O_RDWR)
			m := mapFile(t, f, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(t, f.Close())
			copy(m[5000:], "LATE")
			must(t, unix.Munmap(m))
			u.ApplyControl(t, WriteAt("d/big", "LATE", 5000))
			u.Verify(t)
		}},
		{name: "fresh after copy-up", needs: []Power{FreshMappings}, layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("d/big"), os.O_RDONLY)
			m := mapFile(t, f, unix.PROT_READ, unix.MAP_SHARED)
			if m[0] != bigText()[0] {
				t.Fatal("wrong content before copy-up")
			}
			u.Apply(t, WriteAt("d/big", "WRITTEN", 0))
			if got := string(m[:7]); got != "WRITTEN" {
				t.Errorf("the mapping shows %q after copy-up and write", got)
			}
			must(t, unix.Munmap(m))
			u.CloseAndVerify(t, f)
		}},
	}}
}

func mapFile(t *testing.T, f *os.File, prot, flags int) []byte {
	t.Helper()
	st, err := f.Stat()
	must(t, err)
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), prot, flags)
	must(t, err)
	return m
}
