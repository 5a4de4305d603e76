package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/runtime"
)

// newRoot makes a root file system of a static busybox.
func newRoot(t testing.TB) string {
	t.Helper()
	testenv.Root(t)
	testenv.Tools(t, "busybox")
	from, err := exec.LookPath("busybox")
	must(t, err)
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	for _, dir := range []string{"bin", "etc", "tmp"} {
		must(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755))
	for _, name := range strings.Fields("sh cat ls id true false sleep readlink stat mount umount mkdir touch ps " +
		"grep kill hostname ip env chmod mknod dd setsid tty head wc od find echo test") {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", name)))
	}
	write(t, root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n7:x:0:0::/:/bin/sh\n")
	write(t, root, "etc/group", "root:x:0:\nalice:x:1000:\naudio:x:29:alice,bob\nvideo:x:44:alice\n")
	return root
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, root, name, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
	must(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
}

// settings are those of a shell script.
func script(text string) runtime.Settings {
	return runtime.Settings{Args: []string{"sh", "-c", text}}
}

// run starts a container and returns what it wrote and how it ended. The
// specification is passed to each of change first.
func run(t testing.TB, root runtime.Root, s runtime.Settings, change ...func(*runtime.Config)) (string, runtime.Status, error) {
	t.Helper()
	spec, err := runtime.SpecFor(root, s)
	must(t, err)
	r, w, err := os.Pipe()
	must(t, err)
	c := runtime.Config{Spec: spec, Root: root, Stdout: w, Stderr: w}
	for _, f := range change {
		f(&c)
	}
	out := make(chan []byte, 1)
	go func() {
		var b bytes.Buffer
		_, err := io.Copy(&b, r)
		if err = errors.Join(err, r.Close()); err != nil {
			b.WriteString(err.Error())
		}
		out <- b.Bytes()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	status, err := runtime.Run(ctx, c)
	must(t, w.Close())
	return string(<-out), status, err
}

// output runs a script that has to succeed, and returns what it wrote without the last
// line's end.
func output(t testing.TB, root runtime.Root, text string, change ...func(*runtime.Config)) string {
	t.Helper()
	out, status, err := run(t, root, script(text), change...)
	if err != nil || status.ExitCode != 0 {
		t.Fatalf("script %q: status %+v, error %v, output:\n%s", text, status, err, out)
	}
	return strings.TrimSuffix(out, "\n")
}

// detached returns the directory as a detached mount.
func detached(t testing.TB, dir string) int {
	t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(fd)) })
	return fd
}
