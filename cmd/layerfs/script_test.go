package main

import (
	"archive/tar"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestScript runs testdata/script, one script per command. The program under test is
// this test program, entered where main is entered. Beyond what testscript has,
// scripts know
//
//	code N PROGRAM ARG...    run it, and want the exit code N
//	mktar FILE ENTRY...      write a tar, see mktar
//	flip GLOB                turn a bit in each file that matches
//	[root]                   whether this is root, which mounting needs
//	[userns]                 whether an ordinary user may mount, in a user namespace
//	[static]                 whether the program under test needs no dynamic linker, as the
//	                         init of a container may not; under the race detector it does
//	[cgroup]                 whether control groups may be made, which limits and pausing take
func TestScript(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "layerfs")); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		WorkdirRoot:        place(t),
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			e.Setenv(asProgram, "1")
			e.Setenv("LAYERFS_ROOT", filepath.Join(e.WorkDir, "store"))
			e.Setenv("SOURCE_DATE_EPOCH", "")
			e.Defer(func() { cleanAsUser(t, e) })
			e.Defer(func() { endContainers(t, self, e.Vars) })
			e.Defer(func() {
				for _, dir := range mountsBelow(t, e.WorkDir) {
					t.Errorf("the script left a mount on %s", dir)
					if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
						t.Error(err)
					}
				}
			})
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "userns":
				return mayUnshare(), nil
			case "static":
				return static(self)
			case "cgroup":
				return mayMakeCgroups(t.Context())
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":  scriptCode,
			"mktar": scriptTar,
			"flip":  scriptFlip,
		},
	})
}

// TestScriptInNamespace runs all scripts as the root of an ordinary user's namespace:
// what they show of root's layerfs, they show of it there.
func TestScriptInNamespace(t *testing.T) {
	testenv.Rootless(t)
	if !mayUnshare() {
		t.Skip("needs user namespaces for ordinary users, and /dev/fuse")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "unshare", "env", "-u", asProgram, self, "-test.run=^TestScript$", "-test.v")
	cmd.Env = append(os.Environ(), asProgram+"=1", "LAYERFS_ROOT="+place(t))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestScript/mount") {
		t.Errorf("%v:\n| %s", err, strings.ReplaceAll(string(out), "\n", "\n| "))
	}
}

// cleanAsUser removes the store of a script of an ordinary user, who owns what is in it
// inside their namespace only.
func cleanAsUser(t testing.TB, e *testscript.Env) {
	t.Helper()
	store := filepath.Join(e.WorkDir, "store")
	if _, err := os.Stat(filepath.Join(store, "locks", "userns")); err != nil || os.Geteuid() == 0 {
		return
	}
	cmd := exec.Command("layerfs", "unshare", "rm", "-rf", store)
	self, err := os.Executable()
	if err != nil {
		t.Error(err)
		return
	}
	cmd.Path, cmd.Err, cmd.Env, cmd.Dir = self, nil, e.Vars, e.WorkDir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("remove the script's store: %v: %s", err, out)
	}
}

// mayUnshare reports whether this user may make user namespaces and use FUSE.
func mayUnshare() bool {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS}
	return errors.Join(f.Close(), cmd.Run()) == nil
}

// static reports whether a program needs no dynamic linker.
func static(program string) (bool, error) {
	f, err := elf.Open(program)
	if err != nil {
		return false, err
	}
	dynamic := slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	return !dynamic, f.Close()
}

// mayMakeCgroups reports whether control groups may be made here.
func mayMakeCgroups(ctx context.Context) (bool, error) {
	group, err := cgroup.Open(ctx, cgroup.Options{Path: "layerfs-test-" + strconv.Itoa(os.Getpid())})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, group.Remove(ctx)
}

// endContainers removes what a script that failed left running.
func endContainers(t testing.TB, self string, env []string) {
	t.Helper()
	call := func(args ...string) string {
		cmd := exec.Command(self, args...)
		cmd.Env = env
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("layerfs %s: %v", strings.Join(args, " "), err)
		}
		return string(out)
	}
	if _, err := os.Stat(envValue(env, "LAYERFS_ROOT") + "/containers"); err != nil {
		return
	}
	if ids := strings.Fields(call("ps", "-q")); len(ids) > 0 {
		t.Errorf("the script left %d containers running", len(ids))
		call(append([]string{"rm", "-f"}, ids...)...)
	}
}

func envValue(env []string, name string) string {
	value := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}

func mountsBelow(t testing.TB, dir string) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			out = append(out, f[4])
		}
	}
	return out
}

func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if code != want {
		ts.Fatalf("%s ended with code %d, want %d", strings.Join(args[1:], " "), code, want)
	}
}

// scriptTar writes a tar of entries NAME/ (a directory), NAME=CONTENT and NAME->TARGET,
// in which \n, \xff and so on are as in Go.
func scriptTar(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: mktar FILE ENTRY...")
	}
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	w := tar.NewWriter(f)
	for _, entry := range args[1:] {
		entry, err := strconv.Unquote(`"` + entry + `"`)
		ts.Check(err)
		h := &tar.Header{Mode: 0o755, ModTime: time.Unix(1_600_000_000, 0), Format: tar.FormatPAX}
		var content string
		if i := strings.LastIndex(entry, "->"); i >= 0 {
			h.Typeflag, h.Name, h.Linkname = tar.TypeSymlink, entry[:i], entry[i+2:]
		} else if name, text, ok := strings.Cut(entry, "="); ok {
			h.Typeflag, h.Name, h.Size, h.Mode = tar.TypeReg, name, int64(len(text)), 0o644
			content = text
		} else {
			h.Typeflag, h.Name = tar.TypeDir, entry
		}
		ts.Check(w.WriteHeader(h))
		_, err = w.Write([]byte(content))
		ts.Check(err)
	}
	ts.Check(w.Close())
	ts.Check(f.Close())
}

func scriptFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flip GLOB")
	}
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(names) == 0 {
		ts.Fatalf("no file matches %s", args[0])
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		ts.Check(err)
		data[len(data)/2] ^= 1
		ts.Check(os.Chmod(name, 0o600))
		ts.Check(os.WriteFile(name, data, 0o600))
	}
}
