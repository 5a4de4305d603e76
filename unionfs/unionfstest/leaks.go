package unionfstest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/mountapi"
)

// Main runs the tests of a package in a temporary directory of their own. It returns
// the exit code, and an error when they leave a mount, a loop device or a file behind
// or could not be run. TestMain prints the one and exits with the other, which is not
// 0 if there is an error.
func Main(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "uniontest")
	if err == nil {
		err = os.Setenv("TMPDIR", dir) // the only way to tell testing.T.TempDir
	}
	if err != nil {
		return 1, fmt.Errorf("make a directory for tests: %w", err)
	}
	code = m.Run()
	left, err := leftovers(dir)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("the tests left behind %s: %w", strings.Join(left, ", "), fs.ErrExist)
	}
	if err == nil {
		err = os.Remove(dir)
	}
	if err != nil {
		return max(code, 1), err
	}
	return code, nil
}

// leftovers lists mounts below dir and loop devices that serve files in it. The
// kernel gives up a loop device a moment after the mount.
func leftovers(dir string) (found []string, err error) {
	for range 100 {
		found = nil
		mounts, err := mountapi.List(dir)
		if err != nil {
			return nil, err
		}
		for _, m := range mounts {
			found = append(found, fmt.Sprintf("the mount of %s at %s", m.Type, m.Target))
		}
		devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		if err != nil {
			return nil, err
		}
		for _, d := range devices {
			if file, err := os.ReadFile(d); err == nil && strings.HasPrefix(string(file), dir) {
				found = append(found, fmt.Sprintf("%s with %s", d, strings.TrimSpace(string(file))))
			}
		}
		if len(found) == 0 {
			return nil, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return found, nil
}
