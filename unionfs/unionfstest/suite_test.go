package unionfstest_test

import (
	"context"
	"flag"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/overlay"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

func TestMain(m *testing.M) {
	code, err := unionfstest.Main(m)
	if err != nil {
		log.Print(err)
	}
	os.Exit(code)
}

var broken = flag.String("broken", "", "run the suite with a driver that has this flaw")

// flaw is a way in which drivers of the field were or could be wrong, and a case
// that has to notice it.
type flaw struct {
	notices string
	opts    overlay.Options
	options func(unionfs.Options) unionfs.Options
	spoil   func(path string, d os.DirEntry) error // done to all of the upper after an unmount
}

var flaws = map[string]flaw{
	"opaque marks are not kept": {notices: "whiteouts/remove-and-make-directory", spoil: dropXattr("trusted.overlay.opaque")},
	"redirects are not kept":    {notices: "rename/lower-directory", spoil: dropXattr("trusted.overlay.redirect")},
	"attributes are not kept":   {notices: "copy-up/by-attribute", spoil: dropXattr("user.new")},
	"whiteouts are not kept": {notices: "whiteouts/unlink-lower-file", spoil: func(path string, d os.DirEntry) error {
		if d.Type()&os.ModeCharDevice == 0 {
			return nil
		}
		return os.Remove(path)
	}},
	"modes are not kept": {notices: "copy-up/by-chmod", spoil: func(path string, d os.DirEntry) error {
		if !d.Type().IsRegular() {
			return nil
		}
		return os.Chmod(path, 0o644)
	}},
	"times are not kept": {notices: "copy-up/by-attribute", spoil: func(path string, d os.DirEntry) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, nil, unix.AT_SYMLINK_NOFOLLOW)
	}},
	"directories cannot be renamed": {notices: "exchange/lower-directories", opts: overlay.Options{NoMetacopy: true}},
	"metadata copies content":       {notices: "copy-up/metadata-only", opts: overlay.Options{NoMetacopy: true}},
	"read-only is writable": {notices: "layers/read-only-view", options: func(o unionfs.Options) unionfs.Options {
		o.ReadOnly = false
		return o
	}},
}

func dropXattr(name string) func(path string, d os.DirEntry) error {
	return func(path string, _ os.DirEntry) error {
		if err := unix.Lremovexattr(path, name); err != nil && err != unix.ENODATA && err != unix.EPERM {
			return err
		}
		return nil
	}
}

// brokenDriver is overlayfs with a flaw.
type brokenDriver struct {
	*overlay.Driver
	flaw   flaw
	uppers map[string]string // by target
}

func (b *brokenDriver) Open(ctx context.Context, l unionfs.Layers, o unionfs.Options) (unionfs.Mount, error) {
	if b.flaw.options != nil && l.Upper != "" {
		o = b.flaw.options(o)
	}
	m, err := b.Driver.Open(ctx, l, o)
	return &brokenMount{Mount: m, driver: b, upper: l.Upper}, err
}

func (b *brokenDriver) Unmount(ctx context.Context, target string, force bool) error {
	if err := b.Driver.Unmount(ctx, target, force); err != nil || b.flaw.spoil == nil {
		return err
	}
	upper := b.uppers[target]
	return filepath.WalkDir(upper, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == upper {
			return err
		}
		return b.flaw.spoil(path, d)
	})
}

type brokenMount struct {
	unionfs.Mount
	driver *brokenDriver
	upper  string
}

func (m *brokenMount) Attach(ctx context.Context, target string) error {
	m.driver.uppers[target] = m.upper
	return m.Mount.Attach(ctx, target)
}

// TestBrokenDriver runs the suite with the driver that the flag names, and is of no
// use but to the test below.
func TestBrokenDriver(t *testing.T) {
	if *broken == "" {
		t.Skip("run by TestSuiteNoticesFlaws")
	}
	f := flaws[*broken]
	unionfstest.Run(t, unionfstest.Harness{
		Driver:    &brokenDriver{Driver: overlay.New(f.opts), flaw: f, uppers: map[string]string{}},
		Namespace: unionfs.Trusted,
	})
}

func TestSuiteNoticesFlaws(t *testing.T) {
	if err := overlay.New(overlay.Options{}).Probe(t.Context(), t.TempDir()); err != nil {
		t.Skip(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range flaws {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			pattern := "^TestBrokenDriver$/^" + strings.ReplaceAll(f.notices, "/", "$/^") + "$"
			out, err := exec.CommandContext(t.Context(), program, "-test.run="+pattern, "-broken="+name).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestBrokenDriver/"+f.notices) {
				t.Errorf("the case %s does not notice that %s: %v\n%s", f.notices, name, err, out)
			}
		})
	}
}
