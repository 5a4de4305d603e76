package suites

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse"
)

// The first argument of this program as one of those that unionmount-testsuite calls.
const (
	mountCommand   = "mount-for-suite"
	unmountCommand = "unmount-for-suite"
)

// mountForSuite mounts as `mount -t fuse.TYPE NAME TARGET -o OPTIONS…` asks for, with
// the options of overlayfs.
func mountForSuite(args []string) (err error) {
	var layers unionfs.Layers
	var words []string
	for i := 0; i < len(args); i++ {
		options, ok := strings.CutPrefix(args[i], "-o")
		switch {
		case args[i] == "-t":
			i++
		case !ok:
			words = append(words, args[i])
		default:
			for option := range strings.SplitSeq(options, ",") {
				name, value, _ := strings.Cut(option, "=")
				switch name {
				case "lowerdir":
					for dir := range strings.SplitSeq(value, ":") {
						layers.Lower = append(layers.Lower, unionfs.Lower{Dir: dir})
					}
				case "upperdir":
					layers.Upper = value
				case "workdir":
					layers.Work = value
				}
			}
		}
	}
	if len(words) != 2 {
		return fmt.Errorf("mount of %q: %w", args, fs.ErrInvalid)
	}
	ctx := context.Background()
	m, err := fuse.New(fuse.Options{}).Open(ctx, layers, unionfs.Options{})
	if err != nil {
		return err
	}
	return errors.Join(m.Attach(ctx, words[1]), m.Close())
}

// unionmountSample are the tests that the short form runs.
var unionmountSample = []string{"open-trunc", "hard-link", "rmtree", "rename-pop-dir", "rename-mass-3", "impermissible"}

type suiteRun struct {
	name string
	args []string
}

// TestUnionmount runs unionmount-testsuite, renames of directories included, in a mount
// name space of its own: it leaves its last union mounted.
func TestUnionmount(t *testing.T) {
	testenv.Root(t)
	testenv.Long(t)
	testenv.Tools(t, "unshare", "python3")
	suite := program(t, "sources", "unionmount-testsuite")
	cases := []suiteRun{
		{"one file system", []string{"--ov"}},
		{"terminal slashes", []string{"--ov", "--ts=1"}},
		{"checks of copies and inodes", []string{"--ov", "--samefs", "--xino", "--verify"}},
		{"layers that become lower", []string{"--ov=10", "--verify"}},
		{"three file systems", []string{"--ov=3", "--maxfs=2"}},
	}
	if !*long {
		cases = []suiteRun{{"some tests", append([]string{"--ov=10", "--verify"}, unionmountSample...)}}
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			dir := t.TempDir()
			base, shim := filepath.Join(dir, "base"), filepath.Join(dir, "bin")
			must(t, errors.Join(os.Mkdir(base, 0o755), os.Mkdir(shim, 0o755)))
			passable(t, base)
			self, err := os.Executable()
			must(t, err)
			must(t, os.WriteFile(filepath.Join(shim, "mount"), fmt.Appendf(nil, mountScript, self, mountCommand), 0o755))
			must(t, os.WriteFile(filepath.Join(shim, "umount"), fmt.Appendf(nil, unmountScript, self, unmountCommand), 0o755))
			args := append([]string{c.args[0], "--fuse=layerfs"}, c.args[1:]...)
			// The suite empties the machine's caches; nothing here depends on that. With
			// private mounts its name space would keep other tests' unions in use.
			out, err := run(t, suite, "unshare", append([]string{"--mount", "--propagation", "slave", "sh", "-c",
				`set -e; mount --bind /dev/null /proc/sys/vm/drop_caches; cd "$1"; export UNIONMOUNT_BASEDIR="$2" PATH="$3:$PATH" PYTHONDONTWRITEBYTECODE=1; shift 3; exec ./run "$@"`,
				"sh", suite, base, shim}, args...)...)
			must(t, err)
			t.Logf("%d tests", strings.Count(out, "*** ./run"))
		})
	}
}

// The programs that the suite finds. Layers can be unmounted as soon as the union is: who
// waits for that is the driver.
const (
	mountScript = `#!/bin/sh
case "$*" in
*"-t fuse."*) exec %s %s "$@" ;;
esac
exec /bin/mount "$@"
`
	unmountScript = `#!/bin/sh
case "$(stat -f -c %%T "$1")" in
fuse*) exec %s %s "$1" ;;
esac
exec /bin/umount "$@"
`
)
