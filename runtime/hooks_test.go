package runtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/layerfs/layerfs/runtime"
)

// hook appends a line to a file when it runs: its name, its status in the state and what
// a script says.
func hook(file, name, text string) []specs.Hook {
	script := `s=$(cat); case "$s" in *'"id":"box"'*) ;; *) exit 3;; esac; st=${s#*'"status":"'}; echo "` + name + ` ${st%%\"*} $(` + text + `)" >>` + file
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}}
}

func TestHooks(t *testing.T) {
	dir := newRoot(t)
	log := filepath.Join(t.TempDir(), "log")
	must(t, os.WriteFile(log, nil, 0o666))
	hooks := &specs.Hooks{
		Prestart:        hook(log, "prestart", "echo"), //nolint:staticcheck // tools still use it
		CreateRuntime:   hook(log, "createRuntime", "test -e /etc/debian_version && echo host; test -e /proc/self/ns/net && echo"),
		CreateContainer: hook(log, "createContainer", "hostname"),
		StartContainer:  hook("/log", "startContainer", "hostname"),
		Poststart:       hook(log, "poststart", "echo"),
		Poststop:        hook(log, "poststop", "echo"),
	}
	_, status, err := run(t, runtime.RootPath(dir), script("cat /log; cp /log /seen 2>/dev/null; exit 0"), func(c *runtime.Config) {
		c.ID, c.Bundle = "box", dir
		c.Spec.Hostname = "inside"
		c.Spec.Hooks = hooks
	})
	if err != nil || status.ExitCode != 0 {
		t.Fatalf("status %+v, error %v", status, err)
	}
	b, err := os.ReadFile(log)
	must(t, err)
	var names []string
	for line := range strings.Lines(string(b)) {
		names = append(names, strings.Join(strings.Fields(line), " "))
	}
	want := "prestart created|createRuntime creating host|createContainer creating inside|poststart running|poststop stopped"
	if got := strings.Join(names, "|"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "log")); err != nil || strings.TrimSpace(string(b)) != "startContainer created inside" {
		t.Errorf("in the container: %q, %v", b, err)
	}
}

func TestFailedHookEndsTheStart(t *testing.T) {
	dir := newRoot(t)
	second := 1
	for name, h := range map[string]specs.Hook{
		"code":    {Path: "/bin/sh", Args: []string{"sh", "-c", "echo because >&2; exit 4"}},
		"missing": {Path: "/no/such"},
		"timeout": {Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 1000"}, Timeout: &second},
	} {
		for kind, hooks := range map[string]*specs.Hooks{
			"createRuntime": {CreateRuntime: []specs.Hook{h}}, "createContainer": {CreateContainer: []specs.Hook{h}},
			"startContainer": {StartContainer: []specs.Hook{h}}, "poststart": {Poststart: []specs.Hook{h}},
		} {
			began := time.Now()
			_, status, err := run(t, runtime.RootPath(dir), script("sleep 1000"), func(c *runtime.Config) {
				c.ID, c.Bundle = "box", dir
				c.Spec.Hooks = hooks
			})
			if err == nil || status.ExitCode != runtime.ExitFailed || !strings.Contains(err.Error(), kind) || time.Since(began) > 30*time.Second {
				t.Errorf("%s %s: status %+v, error %v", kind, name, status, err)
			}
			if name == "code" && (err == nil || !strings.Contains(err.Error(), "because")) {
				t.Errorf("%s: error %v does not tell the output", kind, err)
			}
		}
	}
	// Hooks of the caller's namespaces start in the bundle, as does what they start.
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	must(t, err)
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == dir {
			t.Errorf("%s is left of a hook", filepath.Dir(l))
		}
	}
}

func TestGate(t *testing.T) {
	dir := newRoot(t)
	path := filepath.Join(t.TempDir(), "gate")
	for _, c := range []struct {
		name string
		args []string
		code int
		err  error
	}{
		{"program", []string{"/bin/sh", "-c", "test -e /hooked && exit 9"}, 9, nil},
		{"no program", []string{"nosuch"}, runtime.ExitNotFound, os.ErrNotExist},
	} {
		l, err := net.Listen("unix", path)
		must(t, err)
		file, err := l.(*net.UnixListener).File()
		must(t, err)
		spec, err := runtime.SpecFor(runtime.RootPath(dir), runtime.Settings{Args: c.args})
		must(t, err)
		spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/touch", Args: []string{"touch", "/hooked"}}}}
		config := runtime.Config{Spec: spec, Root: runtime.RootPath(dir), Gate: file, Detach: true, ID: "box"}
		p, err := runtime.Start(t.Context(), config)
		must(t, errors.Join(err, file.Close()))
		if _, err := os.Stat(filepath.Join(dir, "hooked")); err == nil {
			t.Error("the hook did not wait")
		}
		text, err := json.Marshal(p.GateSteps())
		must(t, err)
		var steps runtime.GateSteps
		must(t, json.Unmarshal(text, &steps))
		// Nobody in the container may get at the launcher while it waits.
		out, _, err := inside(t, p, "readlink /proc/1/exe; head -c1 /proc/1/mem; ls /proc/1/fd; true")
		if err != nil || strings.Contains(out, "runtime.test") {
			t.Errorf("the launcher can be seen: %q, error %v", out, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err = runtime.OpenGate(ctx, path, p.Pid(), &steps, config)
		if !errors.Is(err, c.err) || runtime.StartCode(err) != 0 && runtime.StartCode(err) != c.code {
			t.Errorf("%s: error %v", c.name, err)
		}
		status, err := p.Wait()
		if c.err != nil {
			c.code = runtime.ExitFailed
		}
		if err != nil || status.ExitCode != c.code {
			t.Errorf("%s: status %+v, error %v", c.name, status, err)
		}
		must(t, errors.Join(p.Close(), l.Close()))
		_ = os.Remove(filepath.Join(dir, "hooked"))
	}
}

func TestGateIsGivenUp(t *testing.T) {
	dir := newRoot(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "gate"))
	must(t, err)
	file, err := l.(*net.UnixListener).File()
	must(t, err)
	spec, err := runtime.SpecFor(runtime.RootPath(dir), script("true"))
	must(t, err)
	p, err := runtime.Start(t.Context(), runtime.Config{Spec: spec, Root: runtime.RootPath(dir), Gate: file, Detach: true})
	must(t, errors.Join(err, file.Close(), l.Close()))
	must(t, p.Signal(syscall.SIGKILL))
	if status, err := p.Wait(); err != nil || status.Signal != syscall.SIGKILL {
		t.Errorf("status %+v, error %v", status, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runtime.OpenGate(ctx, "/no/such", 1, &runtime.GateSteps{}, runtime.Config{Spec: spec}); err == nil {
		t.Error("a gate that is not there was opened")
	}
	must(t, p.Close())
}
