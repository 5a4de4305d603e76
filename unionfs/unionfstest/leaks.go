package unionfstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/mountapi"
)

// Main runs the tests of a package in a temporary directory of their own and makes
// the run fail when they leave a mount, a loop device or a file behind. To be called
// from TestMain, which exits with the result.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "uniontest")
	if err == nil {
		err = os.Setenv("TMPDIR", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	left, err := leftovers(dir)
	if err != nil {
		left = append(left, err.Error())
	}
	for _, l := range left {
		fmt.Fprintln(os.Stderr, "the tests left behind", l)
		code = 1
	}
	if len(left) == 0 {
		if err := os.Remove(dir); err != nil {
			fmt.Fprintln(os.Stderr, "the tests left files behind:", err)
			code = 1
		}
	}
	return code
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
