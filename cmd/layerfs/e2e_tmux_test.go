package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/testimage"
)

// screen is a terminal as a person has it: tmux interprets what programs write, and the
// test types keys and reads what stands there.
type screen struct {
	t      testing.TB
	socket string
	env    []string
}

// newScreen runs a shell with the prompt "host> " on a terminal of 80 columns and 24 rows.
func newScreen(t testing.TB, env ...string) *screen {
	t.Helper()
	testenv.Tools(t, "tmux")
	sc := &screen{t: t, socket: filepath.Join(shortPlace(t), "tmux")}
	sc.env = append(append(os.Environ(), "PS1=host> ", "SHELL=/bin/sh", "TMUX=", "LC_ALL=C.UTF-8"), env...)
	sc.tmux("new-session", "-d", "-x", "80", "-y", "24", "exec sh")
	t.Cleanup(func() {
		pid := strings.TrimSpace(sc.tmux("display-message", "-p", "#{pid}"))
		sc.tmux("kill-server")
		var n int
		if _, err := fmt.Sscan(pid, &n); err != nil {
			t.Errorf("tmux says it is process %q", pid)
			return
		}
		gone(t, n)
	})
	sc.tmux("set-option", "-g", "status", "off")
	sc.resize(80, 24)
	sc.shows("host>")
	return sc
}

func (sc *screen) tmux(args ...string) string {
	sc.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-S", sc.socket, "-f", "/dev/null"}, args...)...)
	cmd.Env = sc.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		sc.t.Fatalf("tmux %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (sc *screen) text() string { sc.t.Helper(); return sc.tmux("capture-pane", "-p") }

// line types a line.
func (sc *screen) line(text string) {
	sc.t.Helper()
	sc.tmux("send-keys", "-l", text)
	sc.keys("Enter")
}

// keys presses keys by tmux's names for them, such as "C-c".
func (sc *screen) keys(names ...string) {
	sc.t.Helper()
	sc.tmux(append([]string{"send-keys"}, names...)...)
}

func (sc *screen) resize(columns, rows int) {
	sc.t.Helper()
	sc.tmux("resize-window", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows))
}

// shows waits until a text stands on the screen.
func (sc *screen) shows(text string) {
	sc.t.Helper()
	sc.until("the text "+text, func(s string) bool { return strings.Contains(s, text) })
}

func (sc *screen) until(what string, is func(screen string) bool) {
	sc.t.Helper()
	defer func() {
		if sc.t.Failed() {
			sc.t.Logf("the screen:\n%s", sc.text())
		}
	}()
	eventually(sc.t, what, func() bool { return is(sc.text()) })
}

// asks waits for a prompt in the last line: what is typed before a shell has set its
// terminal up again may be lost.
func (sc *screen) asks(prompt string) {
	sc.t.Helper()
	prompt = strings.TrimSpace(prompt)
	sc.until("the prompt "+prompt, func(s string) bool {
		s = strings.TrimSpace(s)
		return s == prompt || strings.HasSuffix(s, "\n"+prompt)
	})
}

// clear empties the screen, so that nothing older is taken for an answer.
func (sc *screen) clear(prompt string) {
	sc.t.Helper()
	sc.asks(prompt)
	sc.line("clear")
	sc.until("an empty screen", func(s string) bool { return strings.TrimSpace(s) == strings.TrimSpace(prompt) })
}

// A shell on a terminal: its size, keys that send signals, an editor that takes the whole
// screen, and the keys that leave it running behind. What is looked for on the screen is
// typed in another way than it is printed, so that the echo is not taken for the answer.
func TestInteractiveScreen(t *testing.T) {
	testenv.Long(t)
	if os.Geteuid() != 0 && !mayUnshare() {
		t.Skip("needs root, or user namespaces for ordinary users")
	}
	s := newStore(t)
	image, _ := s.load(testimage.Busybox(t).OCI(t))
	t.Cleanup(func() {
		s.call("rm", "-f", "shell")
		if os.Geteuid() != 0 { // who owns files inside their namespace only
			s.call("unshare", "rm", "-rf", s.root)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sc := newScreen(t, asProgram+"=1", "LAYERFS_ROOT="+s.root, "L="+self)
	const prompt = "inside> "
	sc.line(`$L run -it --name shell --network none -e PS1='` + prompt + `' ` + image + ` sh; echo "co""de=$?"`)
	sc.shows("\n" + strings.TrimSpace(prompt))

	sc.line("stty size")
	sc.shows("\n24 80\n")
	sc.resize(100, 30)
	sc.line(`until [ "$(stty size)" = '30 100' ]; do sleep 0.1; done; echo re""sized`)
	sc.shows("\nresized\n")

	sc.clear(prompt)
	sc.line(`echo wait""ing; cat`)
	sc.shows("\nwaiting\n")
	sc.keys("C-c")
	sc.shows("^C")
	sc.asks(prompt)
	sc.line(`echo "interrupted: $?"`) // ash says what a signal did
	sc.shows("\ninterrupted: 130\n")

	sc.clear(prompt)
	sc.line(`echo wait""ing; cat`)
	sc.shows("\nwaiting\n")
	sc.keys("C-z")
	sc.shows("Stopped")
	sc.asks(prompt)
	sc.line(`jobs | sed 's/^/job: /'; fg`)
	sc.shows("\ncat\n")
	sc.line("echoed by cat")
	sc.until("the line, as it was typed and as cat prints it", func(s string) bool { return strings.Count(s, "echoed by cat\n") == 2 })
	sc.keys("C-d")

	sc.clear(prompt)
	sc.line("vi /tmp/text")
	tildes := func(n int) func(string) bool {
		return func(s string) bool { return strings.Count("\n"+s, "\n~") == n }
	}
	// All rows but the first, which is the text, and the last, which is the status.
	sc.until("an empty text in the editor", tildes(30-2))
	sc.resize(90, 20)
	sc.until("the editor to take the new size", tildes(20-2))
	sc.line("ifrom the editor")
	sc.tmux("send-keys", "-l", "second line")
	sc.shows("second line")
	sc.keys("Escape")
	sc.shows("\n- /tmp/text") // no more "I", for inserting
	sc.line(":wq")
	sc.asks(prompt)
	sc.line("clear; tr a-z A-Z </tmp/text")
	sc.shows("FROM THE EDITOR\nSECOND LINE\n")

	sc.keys("C-p", "C-q")
	sc.shows("\ncode=0\nhost>")
	if out := s.ok("ps", "--format", "{{.Names}} {{.State}}"); out != "shell running" {
		t.Errorf("after detaching: %q", out)
	}
	// The terminal is as it was.
	sc.clear("host> ")
	sc.line(`stty -a | grep -ow -e icanon -e echo -e isig | sort | tr '\n' +; echo`)
	sc.shows("echo+icanon+isig+")

	attach := func(flags string) {
		t.Helper()
		sc.clear("host> ")
		sc.line(`$L attach ` + flags + ` shell; echo "co""de=$?"`)
		// A shell says nothing of itself when somebody comes, but asks again at each line.
		sc.until("the shell's answer", func(s string) bool {
			sc.keys("Enter")
			return strings.Contains(s, strings.TrimSpace(prompt))
		})
		sc.clear(prompt)
	}
	attach("--detach-keys ctrl-x,d")
	sc.line(`echo a""gain; stty size`)
	sc.shows("\nagain\n20 90\n")
	sc.keys("C-x", "d")
	sc.shows("\ncode=0\nhost>")
	attach("")
	sc.line("exit 7")
	sc.shows("\ncode=7\nhost>")
	s.ok("rm", "shell")
	s.nothing()
}
