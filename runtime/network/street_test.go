package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"golang.org/x/sys/unix"
)

// asStranger marks the test program that stranger runs.
const asStranger = "LAYERFS_TEST_STRANGER"

// stranger runs a test anew in a user and mount namespace of its own, in which the
// network is somebody else's; there it returns false.
func stranger(t *testing.T) bool {
	t.Helper()
	if os.Getenv(asStranger) != "" {
		return false
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), asStranger+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		Pdeathsig:   unix.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as a stranger: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if reason, ok := strings.CutPrefix(strings.TrimSpace(line), "--- SKIP"); ok {
			t.Skip("as a stranger:", reason)
		}
	}
	return true
}

// Who may not change the host's network has one of their own, with all the rest.
func TestStreet(t *testing.T) {
	for _, program := range []string{"pasta", "slirp4netns", "nothing"} {
		t.Run(program, func(t *testing.T) { testStreet(t, program) })
	}
}

func testStreet(t *testing.T, program string) {
	if program != "nothing" {
		testenv.Tools(t, program)
	}
	if os.Getenv(asStranger) == "" {
		w := newWorld(t)
		echo(t, w.street, "outside", 80)
	}
	if stranger(t) {
		return
	}
	only := t.TempDir()
	if path, err := exec.LookPath(program); err == nil {
		if err := os.Symlink(path, only+"/"+program); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", only)
	w := &world{dir: t.TempDir()}
	var err error
	if w.Networks, err = Open(w.dir, Options{Resolv: "/dev/null"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if w.owner {
		t.Fatal("a stranger owns the network")
	}
	w.create(t, Spec{Name: "app"})
	both := []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: TCP}, {HostPort: 8080, ContainerPort: 80, Protocol: UDP}}
	a := w.attach(t, Request{ID: "a", Name: "web", Network: joined("app"), Ports: both})
	b := w.attach(t, Request{ID: "b", Network: joined("app")})
	c := w.attach(t, Request{ID: "c"})
	serve(t, a)
	serve(t, b)
	echo(t, a.File(), "a", 80)
	gw := a.rec.Networks[0].Gateway4.String()
	for _, protocol := range []string{"tcp", "udp"} {
		wantAnswer(t, b.File(), protocol, fmt.Sprintf("%s:80", a.ip()), "a "+b.ip().String())
		wantSilence(t, c.File(), protocol, fmt.Sprintf("%s:80", a.ip()))
		for range 2 {
			wantAnswer(t, nil, protocol, "127.0.0.1:8080", "a "+gw)
			wantAnswer(t, nil, protocol, "198.51.100.1:8080", "a "+gw)
		}
		if program == "nothing" {
			wantSilence(t, b.File(), protocol, "198.51.100.2:80")
		} else {
			wantAnswer(t, b.File(), protocol, "198.51.100.2:80", "outside 198.51.100.1")
		}
	}
	if got, err := resolve(b, "udp", "web."); err != nil || len(got) != 1 || got[0] != a.ip().String() {
		t.Errorf("web is %v, %v", got, err)
	}
	if _, err := w.Attach(t.Context(), Request{ID: "x", Ports: both}); !contains(err, "container web has published it") {
		t.Errorf("a port given twice: %v", err)
	}
	var up uplink
	if program != "nothing" {
		if up, err = w.uplink(); err != nil || up.Program != program {
			t.Errorf("uplink %+v, %v", up, err)
		}
	}
	// By its last container or by a sweep.
	if err := w.Detach(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if program == "slirp4netns" {
		err = w.Sweep(context.Background(), func(string) bool { return false })
	} else {
		err = errors.Join(w.Detach(t.Context(), "b"), w.Detach(t.Context(), "c"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if left := testenv.Mounts(t, w.dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if up.PID != 0 {
		if started, err := startTime(up.PID); err == nil && started == up.Started {
			state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", up.PID))
			if !strings.Contains(string(state), "zombie") {
				t.Errorf("left: %s\n%s", program, state)
			}
		}
	}
	if names, err := w.names("."); err != nil || len(names) != 4 {
		t.Errorf("left: %v, %v", names, err)
	}
}
