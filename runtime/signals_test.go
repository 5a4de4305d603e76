package runtime_test

import (
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/layerfs/layerfs/runtime"
)

func TestIgnoredSignals(t *testing.T) {
	dir := newRoot(t)
	signal.Ignore(syscall.SIGUSR1, syscall.SIGHUP)
	defer signal.Reset(syscall.SIGUSR1, syscall.SIGHUP)
	// Not by a shell, which ignores some itself.
	out, _, err := run(t, runtime.RootPath(dir), runtime.Settings{Args: []string{"cat", "/proc/self/status"}})
	must(t, err)
	if !strings.Contains(out, "\nSigIgn:\t0000000000000000\n") {
		t.Errorf("the program ignores signals:\n%s", out)
	}
}
