package aufs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestConformance runs where the kernel has AUFS.
func TestConformance(t *testing.T) {
	unionfstest.Run(t, unionfstest.Harness{Driver: New(Options{Namespace: unionfs.Trusted}), Namespace: unionfs.Trusted})
}

func TestListed(t *testing.T) {
	for list, want := range map[string]bool{
		"nodev\tsysfs\n\text4\nnodev\taufs\n": true, "nodev\taufs": true, "\taufsx\n": false, "nodev\toverlay\n": false, "": false,
	} {
		if got, err := listed(strings.NewReader(list)); got != want || err != nil {
			t.Errorf("%q has AUFS: %v, %v, want %v", list, got, err, want)
		}
	}
}

func TestOptionStrings(t *testing.T) {
	got, err := optionStrings([]branch{{"/upper", true}, {"/top", false}, {"/bottom", false}}, "/work/x")
	must(t, err)
	if len(got) != 1 || got[0] != "xino=/work/x,dirperm1,br:/upper=rw:/top=ro+wh:/bottom=ro+wh" {
		t.Errorf("options %q", got)
	}
	if got, err = optionStrings([]branch{{"/only", false}}, ""); err != nil || got[0] != "noxino,dirperm1,br:/only=ro+wh" {
		t.Errorf("options of a view %q, %v", got, err)
	}
	// As many as fit into a page, and the rest one by one, in order.
	var many []branch
	for i := range 200 {
		many = append(many, branch{path: fmt.Sprintf("/%s/%03d", strings.Repeat("d", 50), i)})
	}
	got, err = optionStrings(many, "")
	must(t, err)
	var order []string
	for i, o := range got {
		if len(o) > maxOptions {
			t.Errorf("option string %d has %d bytes", i, len(o))
		}
		_, list, _ := strings.Cut(o, ":")
		order = append(order, strings.Split(list, ":")...)
		if i > 0 && !strings.HasPrefix(o, "append:") {
			t.Errorf("a later branch is added by %q", o)
		}
	}
	if len(order) != len(many) || len(got) < 100 || order[0] != many[0].String() || order[199] != many[199].String() {
		t.Errorf("%d branches in %d strings, from %s to %s", len(order), len(got), order[0], order[len(order)-1])
	}
	for _, path := range []string{"/a:b", "/a,b", "/a=b", `/a\b`, "/" + strings.Repeat("n", maxOptions)} {
		if _, err := optionStrings([]branch{{path: path}}, ""); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%.20q: %v, want a refusal", path, err)
		}
	}
}

// kinds describes a directory: names with their type, "opaque" behind those that are.
func kinds(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		s := rel + " " + d.Type().String()[:1]
		if _, xerr := unix.Lgetxattr(path, "user.overlay.opaque", make([]byte, 1)); xerr == nil {
			s += " opaque"
		}
		out = append(out, s)
		return err
	}))
	return strings.Join(out, ", ")
}

func TestFormats(t *testing.T) {
	upper := t.TempDir()
	for _, d := range []string{"dir", "dir/sub"} {
		must(t, os.Mkdir(filepath.Join(upper, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(upper, "dir/file"), []byte("x"), 0o644))
	for _, gone := range []string{"gone", "dir/gone"} {
		if err := unix.Mknod(filepath.Join(upper, gone), unix.S_IFCHR, 0); err != nil {
			t.Skipf("needs whiteouts as devices: %v", err)
		}
	}
	must(t, unix.Setxattr(filepath.Join(upper, "dir/sub"), "user.overlay.opaque", []byte("y"), 0))
	before := kinds(t, upper)
	must(t, ToAUFS(upper, unionfs.User))
	const want = ". d, .wh..wh.aufs -, .wh.gone -, dir d, dir/.wh.gone -, dir/file -, dir/sub d, dir/sub/.wh..wh..opq -"
	if got := kinds(t, upper); got != want {
		t.Errorf("for AUFS the upper is %s, want %s", got, want)
	}
	must(t, ToAUFS(upper, unionfs.User)) // as after a crash
	if got := kinds(t, upper); got != want {
		t.Errorf("translated again the upper is %s, want %s", got, want)
	}
	// What AUFS adds by itself goes.
	must(t, os.MkdirAll(filepath.Join(upper, ".wh..wh.plnk", "x"), 0o700))
	must(t, FromAUFS(upper, unionfs.User))
	if got := kinds(t, upper); got != before {
		t.Errorf("translated back the upper is %s, was %s", got, before)
	}
	if err := Plain(upper, unionfs.User); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("an upper with marks as a lower: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for name, make := range map[string]func(upper string) error{
		"a file named as AUFS's own": func(u string) error { return os.WriteFile(filepath.Join(u, ".wh.x"), nil, 0o644) },
		"a metadata-only copy": func(u string) error {
			path := filepath.Join(u, "f")
			return errors.Join(os.WriteFile(path, nil, 0o644), unix.Setxattr(path, "user.overlay.metacopy", nil, 0))
		},
		"a redirect": func(u string) error {
			path := filepath.Join(u, "d")
			return errors.Join(os.Mkdir(path, 0o755), unix.Setxattr(path, "user.overlay.redirect", []byte("/elsewhere"), 0))
		},
	} {
		upper := t.TempDir()
		must(t, make(upper))
		if err := ToAUFS(upper, unionfs.User); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func TestBranches(t *testing.T) {
	upper, below := t.TempDir(), t.TempDir()
	d := New(Options{Namespace: unionfs.User, Trees: func(_ context.Context, tree string, data []string) (string, error) {
		return "/out" + tree + data[0], nil
	}})
	layers := unionfs.Layers{Lower: []unionfs.Lower{{Dir: below}, {Tree: "/tree"}}, Data: []string{"/data"}, Upper: upper, Work: "/work"}
	for readOnly, want := range map[bool][]branch{
		true:  {{upper, false}, {below, false}, {"/out/tree/data", false}},
		false: {{upper, true}, {below, false}, {"/out/tree/data", false}},
	} {
		got, err := d.branches(t.Context(), layers, unionfs.Options{ReadOnly: readOnly})
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("read-only %v: branches %v, %v, want %v", readOnly, got, err, want)
		}
		must(t, FromAUFS(upper, unionfs.User))
	}
	layers.Lower = append(layers.Lower, unionfs.Lower{Tree: "/tree2"})
	if _, err := d.branches(t.Context(), layers, unionfs.Options{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("two trees: %v, want a refusal", err)
	}
}

func TestTopBranch(t *testing.T) {
	sysfs := t.TempDir()
	must(t, os.Mkdir(filepath.Join(sysfs, "si_abc"), 0o755))
	for content, want := range map[string]string{"/store/upper=rw\n": "/store/upper", "/store/upper=ro+wh\n": ""} {
		must(t, os.WriteFile(filepath.Join(sysfs, "si_abc", "br0"), []byte(content), 0o644))
		if got, err := topBranch(sysfs, "rw,si=abc,dirperm1"); got != want || err != nil {
			t.Errorf("the writable branch of %q is %q, %v, want %q", content, got, err, want)
		}
	}
	if _, err := topBranch(sysfs, "rw,si=other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a mount that sysfs does not know: %v", err)
	}
	if _, err := topBranch(sysfs, "rw"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a mount without an id: %v", err)
	}
}

func TestProbe(t *testing.T) {
	d := New(Options{Namespace: unionfs.Trusted})
	err := d.Probe(t.Context(), t.TempDir())
	if err == nil {
		t.Skip("the kernel has AUFS")
	}
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "/proc/filesystems") {
		t.Errorf("probing without AUFS: %v", err)
	}
	dir := t.TempDir()
	if _, err := d.Open(context.Background(), unionfs.Layers{Lower: []unionfs.Lower{{Dir: dir}}}, unionfs.Options{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("mounting without AUFS: %v", err)
	}
}
