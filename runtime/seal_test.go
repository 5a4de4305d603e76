package runtime_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/runtime"
	"golang.org/x/sys/unix"
)

// The test program is also a launcher that a container got hold of.
const asSealed = "RUNTIME_TEST_SEALED"

// sealAndWait seals this program, says so and waits for the end of its input.
func sealAndWait() {
	if err := runtime.Seal(os.Args, os.Environ()); err != nil {
		panic(err)
	}
	_, err := os.Stdout.WriteString("sealed\n")
	if _, rerr := io.Copy(io.Discard, os.Stdin); err != nil || rerr != nil {
		panic(errors.Join(err, rerr))
	}
}

// What a container gets of the launcher by /proc/PID/exe stays read-only when nobody
// executes the launcher any more, and its kernel would let everybody else write to it.
func TestSealedProgramIsNotWritten(t *testing.T) {
	testenv.Root(t)
	program := filepath.Join(t.TempDir(), "launcher")
	self, err := os.Open("/proc/self/exe")
	must(t, err)
	defer self.Close()
	file, err := os.OpenFile(program, os.O_WRONLY|os.O_CREATE, 0o755)
	must(t, err)
	_, err = io.Copy(file, self)
	must(t, errors.Join(err, file.Close()))
	cmd := exec.CommandContext(t.Context(), program, "argument")
	cmd.Env = append(os.Environ(), asSealed+"=1")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "sealed\n" {
		t.Errorf("launcher says %q, %v", line, err)
	}
	held, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/exe")
	must(t, err)
	defer held.Close()
	must(t, errors.Join(in.Close(), cmd.Wait()))
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(held.Fd())), os.O_WRONLY, 0)
	if !errors.Is(err, unix.EROFS) {
		t.Errorf("open the launcher for writing: %v, want %v", err, unix.EROFS)
	}
	if err == nil {
		f.Close()
	}
}
