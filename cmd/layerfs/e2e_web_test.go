package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/testimage"
)

// TestWebServer runs README.md's example of a web server word for word, but for the making
// of its image, and looks at what it does: as root, and as an ordinary user with what that
// user has of control groups.
func TestWebServer(t *testing.T) {
	testenv.Long(t)
	testenv.Tools(t, "curl")
	if os.Geteuid() != 0 && !mayUnshare() {
		t.Skip("needs root, or user namespaces for ordinary users")
	}
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	making, example, ok := strings.Cut(string(readme), "```sh\nmmdebstrap ")
	if ok {
		making, example, ok = strings.Cut(example, "\n")
	}
	if !ok || !strings.HasSuffix(making, " bookworm web.tar") {
		t.Fatal("README.md has no example of a web server")
	}
	example, _, _ = strings.Cut(example, "```")
	limited, err := mayMakeCgroups(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	s := newStore(t)
	dir := place(t)
	t.Cleanup(func() {
		s.call("rm", "-f", "-v", "web")
		if os.Geteuid() != 0 { // who owns files inside their namespace only
			s.call("unshare", "rm", "-rf", s.root)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	work := filepath.Join(dir, "work")
	for _, err := range []error{
		os.Mkdir(bin, 0o755), os.Mkdir(work, 0o755),
		os.Symlink(self, filepath.Join(bin, "layerfs")),
		os.Symlink(testimage.Web(t).Layers(t)[0], filepath.Join(work, "web.tar")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	shell := func(script string) (string, error) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", script)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), asProgram+"=1", "LAYERFS_ROOT="+s.root, "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if !limited {
		// What takes a control group says so, and nothing is begun.
		out, err := shell(example)
		if err == nil || !strings.Contains(out, "its limits take a control group, which this user was not given the right to make") {
			t.Fatalf("without a control group: %v\n%s", err, out)
		}
		s.ok("rm", "web")
		s.ok("network", "rm", "app")
		example = strings.ReplaceAll(example, " --memory 64m", "")
		example = strings.ReplaceAll(example, "layerfs stats --no-stream web\n", "")
		example = strings.ReplaceAll(example, "mkdir site conf\n", "")
	}
	out, err := shell(example)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(out, "hello from a container\n"); n != 2 {
		t.Errorf("the page was read %d times, want once from here and once from a container:\n%s", n, out)
	}
	if n := strings.Count(out, `"GET / HTTP/1.1" 200`); n != 2 {
		t.Errorf("the log has %d requests, want 2:\n%s", n, out)
	}
	if limited && !strings.Contains(out, " / 64MiB") {
		t.Errorf("stats do not show the limit:\n%s", out)
	}
	eventually(t, "a restart after the kill", func() bool {
		return s.ok("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "web") == "1 running"
	})

	// The page and the configuration are the directories' of the machine, as they are now.
	if out, err := shell(`echo 'another page' >site/index.html
		echo 'server { listen 80; root /site; access_log /dev/stdout; add_header X-Site two; }' >conf/site
		layerfs restart web`); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	follow := s.command(t.Context(), "logs", "-f", "--tail", "0", "web")
	var followed bytes.Buffer
	follow.Stdout = &followed
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new page under the new configuration", func() bool {
		out, err := shell("curl -si http://127.0.0.1:8088/seen || true; curl -si http://127.0.0.1:8088/ || true")
		return err == nil && strings.Contains(out, "X-Site: two") && strings.Contains(out, "another page")
	})
	s.ok("stop", "web")
	if err := follow.Wait(); err != nil { // it ends with the container
		t.Error("logs -f:", err)
	}
	if !strings.Contains(followed.String(), `"GET / HTTP/1.1" 200`) {
		t.Errorf("followed: %q", followed.String())
	}
	s.ok("rm", "web")
	s.ok("network", "rm", "app")
	s.nothing()
}

// eventually fails the test unless something comes to be within a minute.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("waited a minute for %s", what)
}
