package unionfstest

import (
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func handleCases() theme {
	return theme{"open files", []testCase{
		{name: "reader sees a later copy-up", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			reader := open(t, u.At("d/big"), os.O_RDONLY)
			expectAt(t, reader, 0, bigText()[:10])
			u.Apply(t, WriteAt("d/big", "WRITTEN", 0), Append("d/big", "END"))
			expectAt(t, reader, 0, "WRITTEN")
			expectAt(t, reader, int64(len(bigText())), "END")
			st, err := reader.Stat()
			must(t, err)
			if st.Size() != int64(len(bigText()))+3 {
				t.Errorf("the descriptor shows size %d", st.Size())
			}
			u.CloseAndVerify(t, reader)
		}},
		{name: "reader sees a later truncate", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			reader := open(t, u.At("d/big"), os.O_RDONLY)
			u.Apply(t, Truncate("d/big", 5))
			all, err := io.ReadAll(reader)
			must(t, err)
			if string(all) != bigText()[:5] {
				t.Errorf("the descriptor reads %d bytes after truncation to 5", len(all))
			}
			u.CloseAndVerify(t, reader)
		}},
		{name: "reader after metadata copy-up and content copy-up", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			first := open(t, u.At("d/big"), os.O_RDONLY)
			u.Apply(t, Chmod("d/big", 0o600))
			second := open(t, u.At("d/big"), os.O_RDONLY)
			u.Apply(t, WriteAt("d/big", "X", 3))
			for _, f := range []*os.File{first, second} {
				expectAt(t, f, 3, "X")
			}
			u.CloseAndVerify(t, first, second)
		}},
		{name: "two writers", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			a, b := open(t, u.At("f"), os.O_RDWR), open(t, u.At("f"), os.O_RDWR|os.O_APPEND)
			for _, f := range []*os.File{a, b} {
				_, err := f.WriteString("12345678")
				must(t, err)
			}
			expectAt(t, a, 0, "1234567812345678")
			must(t, os.WriteFile(u.Control+"/f", []byte("1234567812345678"), 0o644))
			u.CloseAndVerify(t, a, b)
		}},
		{name: "unlinked upper file", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			u.Apply(t, WriteFile("new", "upper"))
			unlinked(t, u, open(t, u.At("new"), os.O_RDWR), "new")
		}},
		{name: "unlinked copied-up file", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			unlinked(t, u, open(t, u.At("f"), os.O_RDWR), "f")
		}},
		{name: "unlinked lower file stays readable", layers: bigLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("d/big"), os.O_RDONLY)
			u.Apply(t, Unlink("d/big"), WriteFile("d/big", "another"))
			expectAt(t, f, 0, bigText()[:20])
			_, err := f.Stat()
			must(t, err)
			u.CloseAndVerify(t, f)
		}},
		{name: "unlinked lower file can be changed", needs: []Power{UnlinkedLower}, layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("f"), os.O_RDONLY)
			u.Apply(t, Unlink("f"))
			var st unix.Stat_t
			must(t, unix.Fstat(int(f.Fd()), &st))
			if st.Nlink != 0 {
				t.Errorf("link count %d, want 0", st.Nlink)
			}
			must(t, f.Chmod(0o640))
			u.CloseAndVerify(t, f)
		}},
		{name: "renamed while open", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("f"), os.O_RDWR)
			u.Apply(t, Rename("f", "d/new"), WriteFile("f", "other"))
			_, err := f.WriteAt([]byte("LOWER"), 0)
			must(t, err)
			u.ApplyControl(t, WriteAt("d/new", "LOWER", 0))
			u.CloseAndVerify(t, f)
		}},
		{name: "replaced while open", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("f"), os.O_RDONLY)
			u.Apply(t, WriteFile("n", "replacement"), Rename("n", "f"))
			expectAt(t, f, 0, "lower f")
			u.CloseAndVerify(t, f)
		}},
		{name: "directory descriptor over copy-up", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			dir := openDirFile(t, u.At("d/sub"))
			u.Apply(t, Chmod("d/sub", 0o700), Append("d/sub/x", "!"))
			fd, err := unix.Openat(int(dir.Fd()), "new", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
			must(t, err)
			must(t, unix.Close(fd))
			must(t, unix.Unlinkat(int(dir.Fd()), "x", 0))
			u.ApplyControl(t, OpenClose("d/sub/new", unix.O_CREAT|unix.O_WRONLY, 0o644), Unlink("d/sub/x"))
			u.CloseAndVerify(t, dir)
		}},
		{name: "change through a read-only descriptor", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			f := open(t, u.At("f"), os.O_RDONLY)
			must(t, f.Chmod(0o640))
			must(t, unix.Fsetxattr(int(f.Fd()), "user.x", []byte("y"), 0))
			u.ApplyControl(t, Chmod("f", 0o640), Setxattr("f", "user.x", "y", 0))
			if _, err := f.WriteString("no"); errno(err) != unix.EBADF {
				t.Errorf("write to a read-only descriptor ended with %v, want EBADF", err)
			}
			u.CloseAndVerify(t, f)
		}},
		{name: "temporary file", needs: []Power{Tmpfile}, layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			for i, flags := range []int{unix.O_RDWR, unix.O_WRONLY | unix.O_EXCL} {
				for _, root := range []string{u.Root, u.Control} {
					fd, err := unix.Open(root+"/d", unix.O_TMPFILE|flags|unix.O_CLOEXEC, 0o640)
					must(t, err)
					_, err = unix.Write(fd, []byte("temporary"))
					must(t, err)
					name := fmt.Sprintf("%s/d/named%d", root, i)
					err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
					if want := map[int]error{0: nil, 1: unix.ENOENT}[i]; errno(err) != errno(want) {
						t.Errorf("linking a temporary file opened with %#x ended with %v, want %v", flags, err, want)
					}
					must(t, unix.Close(fd))
				}
			}
			u.Verify(t)
		}},
		{name: "temporary file over whiteout", needs: []Power{Tmpfile}, layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			u.Apply(t, Unlink("f"))
			for _, root := range []string{u.Root, u.Control} {
				fd, err := unix.Open(root, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o640)
				must(t, err)
				must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, root+"/f", unix.AT_SYMLINK_FOLLOW))
				must(t, unix.Close(fd))
			}
			u.Verify(t)
		}},
		{name: "path descriptor", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			fd, err := unix.Open(u.At("f"), unix.O_PATH|unix.O_CLOEXEC, 0)
			must(t, err)
			u.Apply(t, Append("f", "!"))
			got, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", fd))
			if err != nil || string(got) != "lower f!" {
				t.Errorf("a path descriptor from before copy-up gives %q, %v", got, err)
			}
			must(t, unix.Close(fd))
			u.Verify(t)
		}},
		{name: "fsync", layers: oneLayer(), apart: true, check: func(t *testing.T, u *Union) {
			for _, flags := range []int{os.O_RDONLY, os.O_RDWR} {
				must(t, open(t, u.At("f"), flags).Sync())
			}
			must(t, openDirFile(t, u.At("d")).Sync())
			f := open(t, u.At("f"), os.O_RDWR)
			must(t, unix.Fdatasync(int(f.Fd())))
			must(t, unix.Syncfs(int(f.Fd())))
		}},
	}}
}

// unlinked checks a file that is open for writing and has lost its only name.
func unlinked(t *testing.T, u *Union, f *os.File, name string) {
	t.Helper()
	must(t, os.Remove(u.At(name)))
	_, err := f.WriteAt([]byte("written when unlinked"), 0)
	must(t, err)
	expectAt(t, f, 8, "when")
	must(t, f.Truncate(7))
	must(t, f.Chmod(0o640))
	must(t, unix.Fsetxattr(int(f.Fd()), "user.x", []byte("y"), 0))
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	if st.Nlink != 0 || st.Size != 7 || st.Mode&0o777 != 0o640 {
		t.Errorf("unlinked: link count %d, size %d, mode %o, want 0, 7, 640", st.Nlink, st.Size, st.Mode&0o777)
	}
	if _, err := os.Lstat(u.At(name)); !os.IsNotExist(err) {
		t.Errorf("the name is there: %v", err)
	}
	u.ApplyControl(t, Unlink(name))
	u.CloseAndVerify(t, f)
}

// CloseAndVerify closes files, which would keep the union busy, and verifies.
func (u *Union) CloseAndVerify(t *testing.T, files ...*os.File) {
	t.Helper()
	for _, f := range files {
		must(t, f.Close())
	}
	u.Verify(t)
}

// ApplyControl does to the control what the case did to the union by other means.
func (u *Union) ApplyControl(t *testing.T, ops ...Op) {
	t.Helper()
	for _, o := range ops {
		if _, err := o.Do(u.Control); err != nil {
			t.Fatalf("%s on the control: %v", o.Name, err)
		}
	}
}

// open opens a file for the length of the test.
func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() }) // often closed already
	return f
}

func openDirFile(t *testing.T, path string) *os.File {
	t.Helper()
	return open(t, path, os.O_RDONLY|unix.O_DIRECTORY)
}

func expectAt(t *testing.T, f *os.File, offset int64, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := f.ReadAt(got, offset)
	if err != nil || string(got[:n]) != want {
		t.Errorf("read at %d: %q, %v, want %q", offset, got[:n], err, want)
	}
}
