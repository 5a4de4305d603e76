package unionfstest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/mountapi"
)

// Main runs the tests of a package and makes the run fail when they leave a mount or
// a loop device behind. To be called from TestMain, which exits with the result.
func Main(m *testing.M) int {
	before, err := resources()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	after, err := resources()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for name := range after {
		if !before[name] && strings.Contains(name, os.TempDir()) {
			fmt.Fprintln(os.Stderr, "the tests left behind", name)
			code = 1
		}
	}
	return code
}

// resources lists what is mounted and which files loop devices serve.
func resources() (map[string]bool, error) {
	found := map[string]bool{}
	mounts, err := mountapi.List("")
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		found[fmt.Sprintf("mount %d (%s) at %s", m.ID, m.Type, m.Target)] = true
	}
	devices, err := os.ReadDir("/sys/block")
	if err != nil {
		return found, nil //nolint:nilerr // no block devices to look at
	}
	for _, d := range devices {
		if file, err := os.ReadFile("/sys/block/" + d.Name() + "/loop/backing_file"); err == nil {
			found[fmt.Sprintf("loop device %s of %s", d.Name(), strings.TrimSpace(string(file)))] = true
		}
	}
	return found, nil
}
